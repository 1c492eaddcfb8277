# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the policy, starts the module row_retention and shows what is due or gone; documented in the module of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils import encryption
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import declared_retention
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class ActionModule(MigrationAction):
    """In check mode it counts, else what is due goes."""

    PHASE = "retention"
    MODULE = "row_retention"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own, and the policy.
        :raises AnsibleActionFail: no policy that can be read, no folder for the archives, or a key that is none."""
        given = {name: value for name, value in self._task.args.items() if value not in (None, "")}
        named = given.get("policy_file")
        path = Path(str(named)).expanduser() if named else self.sql_directory(task_vars) / declared_retention.FILE
        try:
            if not given.get("policy"):
                given["policy"] = declared_retention.read(path)
            given["encrypt_to"] = encryption.refuse_recipients(given.get("encrypt_to") or [])
        except PgopsError as error:
            raise AnsibleActionFail(error.message, result={"msg": error.message, **error.as_dict()}) from None
        if not self._task.check_mode and not given.get("archive_directory"):
            raise AnsibleActionFail(
                "Nothing was deleted: rows are archived before they go, and retention_archive_directory names no folder for that. "
                f"What is due is counted by: {self.again(task_vars)} --check"
            )
        return {**given, "run": self.run_of(task_vars)}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """A line a table."""
        for database, found in (result.get("databases") or {}).items():
            for table in found["tables"]:
                kept = f"; {table['referenced']:,} stay, since others point at them" if table["referenced"] else ""
                of = f"rows of {table['table']} from before {table['cutoff'][:10]}"
                if self._task.check_mode:
                    self.say(f"    {database}: {table['due']:,} {of} would go{kept}")
                else:
                    files = f", archived in {len(table['files'])} files" if table["files"] else ""
                    self.say(f"    {database}: {table['deleted']:,} of {table['due']:,} {of} are gone{files}{kept}")
            if found.get("ended", "done") != "done":
                self.say(f"    {database}: {found['ended']}; the next run goes on")
        return result
