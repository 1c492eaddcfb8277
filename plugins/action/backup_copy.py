# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_copy with the backup of this run; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    emergency_backup,
    named_backup,
    proof_levels,
    reporting,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import display


class ActionModule(emergency_backup.TolerantAction):
    """The copies of a run's backup in a second place."""

    PHASE = "backup_copy"
    MODULE = "backup_copy"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """In check mode no backup was made: then there is nothing to copy, and the run goes on. So does a rollback without one."""
        variables = task_vars or {}
        made = self.run_fact(variables).get("backup") or {}
        if made:
            named_backup.refuse_beside_own(self, variables, self._task.args.get("path"))
        if self._task.check_mode and any("path" not in entry for entry in made.values()):
            return {"changed": False, "skipped": True, "skip_reason": "check mode: no backup was made"}
        if self._relies(variables) and not self._to_copy(variables) and not self._owes(variables):
            return {"changed": False, "skipped": True, "skip_reason": "no backup was made"}
        return super().run(tmp, variables)

    def _relies(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether this run copies what it has made itself, and nothing else."""
        return self.run_fact(task_vars).get("playbook") in proof_levels.RELYING

    def _to_copy(self, task_vars: dict[str, Any]) -> list[str]:
        """:return: the databases whose backup is copied. An older one tells nothing of what this run is about to change."""
        names = list(self.pgops(task_vars, "databases") or [])
        made = self.run_fact(task_vars).get("backup") or {}
        return [name for name in names if "path" in made.get(name, {})] if self._relies(task_vars) else names

    def _owes(self, task_vars: dict[str, Any]) -> bool:
        """:return: whether nothing may be changed without a copy. A rollback that has no backup was allowed to have none."""
        required = boolean(self._task.args.get("required") or False)
        return required and self.run_fact(task_vars).get("playbook") == "migrate"

    def _refuse_uncopied(self, task_vars: dict[str, Any]) -> None:
        """:raises AnsibleActionFail: copies are owed, and there is nothing of which there could be one."""
        left_out = sorted({*(self.pgops(task_vars, "databases") or [])} - {*self._to_copy(task_vars)})
        if left_out and self._owes(task_vars):
            raise AnsibleActionFail(
                f"This run has made no backup of {', '.join(left_out)}, so that there is no copy in a second place, and this environment "
                "goes no further without (backup_copies_required); an older backup is not taken for it. Nothing was changed. "
                f"Then: {self.again(task_vars)}"
            )

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the backups that this run made."""
        self._refuse_uncopied(task_vars)
        arguments = super().module_arguments(task_vars)
        arguments["backups"] = named_backup.of_this_run(self.run_fact(task_vars).get("backup") or {})
        arguments["databases"] = self._to_copy(task_vars)
        if self._relies(task_vars):
            arguments.pop("path", None)  # names what is proved or restored, not what this run has made
        whole = float(arguments.get("whole_timeout") or 0)
        arguments["whole_timeout"] = emergency_backup.left(self.run_fact(task_vars), whole)
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the copies are, and where there is none."""
        result = self.told_missed(result, task_vars, "copy in a second place", databases=self._to_copy(task_vars))
        for database, found in (result.get("databases") or {}).items():
            for entry in found.get("copies") or []:
                self.say(
                    f"{database}: copied to {entry['path']} ({reporting.size(entry['bytes'])}), read back there at "
                    f"{entry['verified_at']}"
                )
            for entry in found.get("not_copied") or []:
                if not result.get("failed"):
                    display.warning(f"{database}: there is no copy in {entry['place']}: {entry['message']}")
        return result
