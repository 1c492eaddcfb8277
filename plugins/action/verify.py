# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module verify and shows what passed and what did not; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import rendered_tree, verification
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class ActionModule(MigrationAction):
    """Verify; a difference fails the task after everything was shown."""

    PHASE = "verify"
    MODULE = "verify"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own, the checks of the tree, and what this run has applied: it must be applied still.

        :raises AnsibleActionFail: a check that cannot be read.
        """
        applied = self._applied(task_vars)
        try:
            checks = rendered_tree.checks(self.sql_directory(task_vars))
        except PgopsError as error:
            raise AnsibleActionFail(error.message, result={"msg": error.message, **error.as_dict()}) from None
        return {**self._task.args, "checks": checks, **({"applied": applied} if applied else {})}

    def _applied(self, task_vars: dict[str, Any]) -> dict[str, list[str]]:
        done = self.run_fact(task_vars).get("apply") or {}
        return {
            database: [item["version"] for item in (found or {}).get("applied") or []]
            for database, found in done.items()
        }

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show one line an object, or one a kind where all passed, and the end in one word; what to type after a failure."""
        verbose = boolean(self._task.args.get("verbose", False), strict=False)
        for database, found in (result.get("databases") or {}).items():
            for line in verification.screen(database, found, verbose=verbose):
                self.say(line)
        if result.get("failed") and result.get("databases"):
            commands = [self.command(task_vars, "verify.yml")]
            applied = sorted(version for versions in self._applied(task_vars).values() for version in versions)
            if applied:
                # The first of this run, so that all of it goes.
                commands.append(self.command(task_vars, "rollback.yml", {"rollback_through": applied[0]}))
            result.setdefault("next", commands)
        return result
