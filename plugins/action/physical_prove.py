# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_prove and says what was compared; documented in the module of the same name."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL, NAMES, PHYSICAL, SOUND
from ansible_collections.whitecross.pgops.plugins.plugin_utils import emergency_backup, proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.physical_action import PhysicalAction


class ActionModule(MigrationAction, PhysicalAction):
    """The proof of a physical backup."""

    PHASE = "prove"
    MODULE = "physical_prove"

    _began = 0.0

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """A run that goes on with no backup has none to prove; an older one tells nothing of what it destroys."""
        variables = task_vars or {}
        made = self.run_fact(variables).get("backup") or {}
        if made and all("missed" in entry for entry in made.values()):
            return {"changed": False, "skipped": True, "skip_reason": "no backup was made"}
        return super().run(tmp, variables)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the level that is needed and what of the time is left."""
        self._began = time.monotonic()
        arguments = super().module_arguments(task_vars)
        asked = int(arguments.get("level") or EQUAL)
        self._refuse_beyond(asked, task_vars)
        needed = self.refuse_unreached(task_vars, self._task.args.get("level_required"), asked)
        arguments["level_required"] = needed
        if asked >= SOUND:
            arguments["checks"] = self.asked_of_a_copy(task_vars)
        arguments["timeout"] = emergency_backup.left(self.run_fact(task_vars), float(arguments.get("timeout") or 0))
        return arguments

    def _refuse_beyond(self, asked: int, task_vars: dict[str, Any]) -> None:
        if asked > PHYSICAL:
            command = self.again(task_vars, {"backup_prove_level": str(PHYSICAL)})
            raise AnsibleActionFail(
                f"backup_prove_level is {asked} ({NAMES[asked]}), and a physical backup is restored beside the live cluster, so its proof "
                f"ends at level {PHYSICAL} ({NAMES[PHYSICAL]}); nothing was restored. Then: {command}",
                result={"next": [command]},
            )

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was compared, and what could not be."""
        result = self.told_missed(result, task_vars, "proof", seconds=time.monotonic() - self._began)
        needed = self.level_needed(task_vars, self._task.args.get("level_required"))
        for database, found in (result.get("databases") or {}).items():
            if "proved_at" not in found:
                continue
            self.say(
                f"{database}: physical backup {found['label']} proved to level {found['level']} ({found['detail']}): {found['tables']} tables "
                f"and {found['rows']} rows restored to {found['restore_point']} in {found['seconds']:.1f} s "
                f"(restore {found['restore_seconds']:.1f} s)"
            )
            if needed is not None and needed > found["level"]:
                self.say(emergency_backup.below(database, needed, found["level"]))
            if any(entry["level"] >= SOUND for entry in found["levels"]):
                for line in proof_levels.ladder_lines(found):
                    self.say(line)
            if found["moving"]:
                self.say(
                    f"{database}: written to in the moment of the restore point, so not compared: {', '.join(found['moving'])}"
                )
            if found["unlogged"]:
                self.say(f"{database}: unlogged, so empty after every recovery: {', '.join(found['unlogged'])}")
        return result
