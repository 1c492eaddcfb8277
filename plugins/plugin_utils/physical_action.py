# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a physical backup and its proof share on the controller: the level that is reached beside the one that is needed."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL, NAMES, PHYSICAL
from ansible_collections.whitecross.pgops.plugins.plugin_utils import emergency_backup, proof_levels


class PhysicalAction(emergency_backup.TolerantAction):
    """Base of physical_backup and physical_prove."""

    LIVE = True

    def level_needed(self, task_vars: dict[str, Any], given: Any) -> int | None:
        """:param given: ``backup_level_required``.
        :return: what this environment needs, where this playbook relies on the proof.
        :raises AnsibleActionFail: production asks for less than its own level."""
        run = self.run_fact(task_vars)
        if run.get("playbook") not in proof_levels.RELYING:
            return None
        environment = str(run.get("environment"))
        return proof_levels.required(given, environment, self.in_production(task_vars))

    def refuse_unreached(self, task_vars: dict[str, Any], given: Any, asked: Any) -> int | None:
        """:param asked: ``backup_prove_level``, to which the proof climbs.
        :return: the level that the module has to hold to; none where a shortfall is told and gone on with.
        :raises AnsibleActionFail: the proof does not reach it; told before anything is copied or restored."""
        needed = self.level_needed(task_vars, given)
        reached = min(PHYSICAL, EQUAL if asked in (None, "") else int(asked))
        if needed is None or needed <= reached:
            return needed
        if self.tolerated():
            return None
        run = self.run_fact(task_vars)
        if needed <= PHYSICAL:
            command = self.again(task_vars, {proof_levels.ASKED: str(needed)})
            raise AnsibleActionFail(
                f"{proof_levels.ASKED} is {reached}, and {run.get('environment')} needs a backup that is proved to level {needed} "
                f"({proof_levels.VARIABLE}); nothing was restored and nothing was changed. Then: {command}",
                result={"next": [command]},
            )
        migrating = run.get("playbook") == "migrate"
        # The logical backup is for this run; the restore point is what leads back with the physical one.
        logical = {"backup_engine": "logical", **({"backup_restore_point": "true"} if migrating else {})}
        ways = [("Take a logical backup for it", self.again(task_vars, logical))]
        if not self.in_production(task_vars):
            ways.append(("Or go on with less", self.again(task_vars, {proof_levels.VARIABLE: str(PHYSICAL)})))
        elif not migrating:
            ways.append(("Or go back where none can be made", self.again(task_vars, {emergency_backup.MODE: "try"})))
        told = "; ".join(f"{word}: {command}" for word, command in ways)
        raise AnsibleActionFail(
            f"A physical backup is proved to level {PHYSICAL} ({NAMES[PHYSICAL]}), and {run.get('environment')} needs level {needed} "
            f"({NAMES[needed]}, {proof_levels.VARIABLE}); nothing was changed, and the physical backups stay for point-in-time "
            f"recovery. {told}",
            result={"next": [command for _, command in ways]},
        )
