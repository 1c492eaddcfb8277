# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks an audit as the auditor's own file does; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction

OPTIONS = ("folder", "export", "dsn", "anchors", "rows", "signers")
_FILES = {"export": "audit.jsonl", "anchors": "anchors.jsonl", "rows": "rows.jsonl"}


class ActionModule(TreeAction):
    """Reads on the controller only."""

    PLAYBOOK = "audit_verify"
    VARIABLES = tuple(f"audit_verify_{name}" for name in OPTIONS)
    _VALID_ARGS = frozenset(OPTIONS)

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: what was found, under ``audit``. :raises PgopsError: nothing can be looked at."""
        given = {name: str(self._task.args[name]) for name in OPTIONS if self._task.args.get(name)}
        folder = given.pop("folder", None)
        if folder:
            for name, file in _FILES.items():
                path = Path(folder).expanduser() / file
                if name not in given and path.exists():
                    given[name] = str(path)
        if ("export" in given) == ("dsn" in given):
            raise PgopsError(
                "Either an export or a database is checked; name one with -e audit_verify_folder=FOLDER, "
                "-e audit_verify_export=FILE or -e \"audit_verify_dsn='host=HOST dbname=DATABASE user=USER'\""
            )
        files = {name: str(Path(path).expanduser()) for name, path in given.items() if name != "dsn"}
        try:
            result = audit_verifier.verify(
                files.get("export"), given.get("dsn"), files.get("anchors"), files.get("rows"), files.get("signers")
            )
        except audit_verifier.CannotLook as fault:
            raise PgopsError(f"The audit was not looked at: {fault}") from None
        for line in audit_verifier.lines(result):
            self.say(line)
        told = {"changed": False, "audit": result.as_dict()}
        if result.exit_code == audit_verifier.HOLDS:
            return told
        grave = [finding for finding in result.findings if finding.gravity != audit_verifier.NOTE]
        word = "was tampered with" if result.exit_code == audit_verifier.EXIT_TAMPERED else "needs an explanation"
        more = f" ({len(grave) - 1} more findings)" if len(grave) > 1 else ""
        return {
            **told,
            "failed": True,
            "msg": f"The audit of {result.database} {word}: {grave[0].sentence.rstrip('.')}{more}",
        }
