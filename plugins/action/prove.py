# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module prove with the backup of this run; documented in the module of the same name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL, RESTORES, SOUND
from ansible_collections.whitecross.pgops.plugins.plugin_utils import emergency_backup, named_backup, proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class ActionModule(IdentityAction, MigrationAction, emergency_backup.TolerantAction):
    """The proof of a run's backup, or of one that the user names."""

    PHASE = "prove"
    MODULE = "prove"
    LIVE = True

    _began = 0.0
    # Why a rollback that may go on without the proof has no key for it, and below which level it goes on.
    _without_key = ""
    _below: int | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """In check mode no backup was made: then there is nothing to prove, and the run goes on."""
        variables = task_vars or {}
        made = self.run_fact(variables).get("backup") or {}
        if made:
            named_backup.refuse_beside_own(self, variables, self._task.args.get("path"))
        if self._task.check_mode and any("path" not in entry for entry in made.values()):
            self._level_required(variables)
            return {"changed": False, "skipped": True, "skip_reason": "check mode: no backup was made"}
        if made and not self._to_prove(variables):
            return {"changed": False, "skipped": True, "skip_reason": "no backup was made"}
        return super().run(tmp, variables)

    def _to_prove(self, task_vars: dict[str, Any]) -> list[str]:
        """:return: the databases of this run, without those that go on with no backup."""
        made = self.run_fact(task_vars).get("backup") or {}
        names = list(self.pgops(task_vars, "databases") or [])
        return [name for name in names if "missed" not in made.get(name, {})]

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the backups that this run made and the rule for production."""
        self._began = time.monotonic()
        arguments = self._with_key(task_vars)
        arguments["backups"] = named_backup.of_this_run(self.run_fact(task_vars).get("backup") or {})
        arguments["databases"] = self._to_prove(task_vars)
        arguments["timeout"] = emergency_backup.left(self.run_fact(task_vars), float(arguments.get("timeout") or 0))
        arguments["other_cluster_only"] = proof_levels.other_cluster_only(
            arguments.get("scratch_reason"), self.in_production(task_vars)
        )
        arguments["level_required"] = self._level_required(task_vars)
        if self._is_rehearsed(task_vars, arguments):
            arguments["keep"] = True
        if int(arguments.get("level") or EQUAL) >= SOUND:
            arguments["checks"] = self.asked_of_a_copy(task_vars)
        return arguments

    def _is_rehearsed(self, task_vars: dict[str, Any], arguments: Mapping[str, Any]) -> bool:
        """:return: whether the copy stays for this run's rehearsal. Of several databases none does: all copies at once need not fit."""
        run = self.run_fact(task_vars)
        if run.get("playbook") != "migrate" or "rehearse" not in (run.get("phases") or []):
            return False
        return len(arguments["databases"]) == 1 and int(arguments.get("level") or EQUAL) >= EQUAL

    def _with_key(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments. A key that cannot be read is of no matter where the backup is not encrypted."""
        try:
            return super().module_arguments(task_vars)
        except AnsibleActionFail as error:
            if not self.tolerated():
                raise
            self._without_key = str(error.message)
            return {name: value for name, value in self._task.args.items() if name != "identity_file"}

    def _level_required(self, task_vars: dict[str, Any]) -> int | None:
        """:return: what this environment needs, where this playbook relies on the proof.
        :raises AnsibleActionFail: the climb that is asked for ends below it."""
        run = self.run_fact(task_vars)
        if run.get("playbook") not in proof_levels.RELYING:
            return None
        environment = str(run.get("environment"))
        needed = proof_levels.required(
            self._task.args.get("level_required"), environment, self.in_production(task_vars)
        )
        asked = int(self._task.args.get("level") or EQUAL)
        if asked < needed and self.tolerated():
            self._below = needed
            return None
        if asked < needed:
            command = self.again(task_vars, {"backup_prove_level": needed})
            raise AnsibleActionFail(
                f"backup_prove_level is {asked}, and {environment} needs a backup that is proved to level {needed} "
                f"({proof_levels.VARIABLE}); nothing was restored and nothing was changed. Then: {command}",
                result={"next": [command]},
            )
        return needed

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was compared, and what could not be."""
        if result.get("failed") and self._without_key:
            result["msg"] = self._without_key
        result = self.told_missed(
            result, task_vars, "proof", databases=self._to_prove(task_vars), seconds=time.monotonic() - self._began
        )
        for database, found in (result.get("databases") or {}).items():
            if "proved_at" not in found:
                continue
            self.say(f"{database}: {_told(found)}")
            if self._below is not None:
                self.say(emergency_backup.below(database, self._below, found["level"]))
            if any(entry["level"] >= SOUND for entry in found["levels"]):
                for line in proof_levels.ladder_lines(found):
                    self.say(line)
            if "forecast" in found:
                self.say(f"{database}: {proof_levels.forecast_line(found['forecast'])}")
            for reservation in found["reservations"]:
                self.say(f"{database}: {reservation}")
        return result


def _told(found: dict[str, Any]) -> str:
    if found["level"] < RESTORES:
        return f"backup read to its end in {found['seconds']:.1f} s, level {found['level']}; it was not restored"
    if found["level"] < EQUAL:
        return f"backup restored in {found['restore_seconds']:.1f} s, level {found['level']}; it was not compared"
    return (
        f"backup proved: {found['tables']} tables, {found['rows']} rows and {found['objects']} objects restored and compared in "
        f"{found['seconds']:.1f} s (restore {found['restore_seconds']:.1f} s), level {found['level']}"
    )
