# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_backup and says what it left; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.physical_action import PhysicalAction


class ActionModule(PhysicalAction):
    """The physical backup of a run."""

    PHASE = "backup"
    MODULE = "physical_backup"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments. A backup of hours whose proof would not do is refused before it is begun."""
        if proof_levels.proves(self.run_fact(task_vars), task_vars):
            needed, asked = (
                self._templar.template(task_vars.get(name)) for name in (proof_levels.VARIABLE, proof_levels.ASKED)
            )
            self.refuse_unreached(task_vars, needed, asked)
        return super().module_arguments(task_vars)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line: the cluster has one backup, however many databases were named."""
        result = self.told_missed(result, task_vars, "backup")
        for database, found in list((result.get("databases") or {}).items())[:1]:
            if "label" in found:
                on = f", on top of {', '.join(found['references'])}" if found["references"] else ""
                self.say(
                    f"{database}: cluster backed up by pgBackRest {found['pgbackrest']} as {found['label']} ({found['type']}, "
                    f"{reporting.size(found['database_bytes'])}, {found['seconds']:.1f} s){on}"
                )
            for number, label in (found.get("copies") or {}).items():
                self.say(f"{database}: backed up into repository {number} as {label}")
        return result
