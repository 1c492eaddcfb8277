# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module drill, shows the ladder, leaves the evidence; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import drill_evidence, proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.role_values import of_roles

# Variables of the role backup, which has no part in this play, with the options that they fill.
_OF_BACKUP = {
    "directory": "backup_directory",
    "jobs": "backup_jobs",
    "rto_seconds": "backup_rto_seconds",
    "scratch_reason": "backup_scratch_reason",
    "scratch_roles": "backup_scratch_roles",
}


class ActionModule(IdentityAction, MigrationAction):
    """A drill without a question, for a person and for a timer."""

    PHASE = "drill"
    MODULE = "drill"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, where backups lie, the application's queries and the rule for production."""
        arguments = {name: value for name, value in super().module_arguments(task_vars).items() if value is not None}
        arguments.update(of_roles(self, _OF_BACKUP, task_vars, arguments))
        arguments["checks"] = self.asked_of_a_copy(task_vars)
        arguments["other_cluster_only"] = proof_levels.other_cluster_only(
            arguments.get("scratch_reason"), self.in_production(task_vars)
        )
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show each level, how long a restore takes, and where the evidence is."""
        for database, found in (result.get("databases") or {}).items():
            if "would_drill" in found:
                self.say(f"{database}: would restore {found['backup']} on {found['scratch_server']} and drop it again")
                self.say(f"{database}: {proof_levels.forecast_line(found['forecast'])}")
                continue
            self.say(f"{database}: drill of {found['backup']} on {found['scratch_server']} {found['verdict']}")
            for line in proof_levels.ladder_lines(found):
                self.say(line)
            self.say(f"{database}: {proof_levels.forecast_line(found['forecast'])}")
            for reservation in found["reservations"]:
                self.say(f"{database}: {reservation}")
            self._leave_evidence(result, database, found, task_vars)
        return result

    def _leave_evidence(
        self, result: dict[str, Any], database: str, found: dict[str, Any], task_vars: dict[str, Any]
    ) -> None:
        run = self.run_fact(task_vars)
        if "id" not in run:
            return
        host = str(task_vars.get("inventory_hostname"))
        state = str(self.pgops(task_vars, "state_directory"))
        try:
            page = drill_evidence.write(state, drill_evidence.document(run, host, database, found))
        except OSError as problem:
            told = f"The evidence of the drill of {database} cannot be written below {state}: {problem.strerror}."
            result.update(failed=True, msg=f"{result['msg']} {told}" if result.get("failed") else told)
            return
        found["evidence"] = str(page)
        self.say(f"{database}: evidence: {page}")
