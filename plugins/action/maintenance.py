# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module maintenance with this run's plan, and shows what became of it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import maintenance_lines
from ansible_collections.whitecross.pgops.plugins.plugin_utils.maintenance_action import MaintenanceAction

BUDGET_S = 3600.0


class ActionModule(MaintenanceAction):
    """Works through the plan, inside window and budget, whichever ends first."""

    PHASE = "maintenance"
    MODULE = "maintenance"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own, the plan of this run, and how long it may take.
        :raises AnsibleActionFail: the window is shut by now."""
        given = self.given()
        window, budget = given.pop("window", None), float(given.pop("budget_s", BUDGET_S))
        left = None if self._task.check_mode else self.seconds_left(window, task_vars)
        if left is not None and left < budget:
            budget, given["budget_ends"] = left, f"its window ({window}) was over"
        else:
            given["budget_ends"] = f"its time of {budget:g} s was over"
        plan = given.pop("plan", None) or self.run_fact(task_vars).get("maintenance_plan") or {}
        return {**given, "plan": plan, "budget_s": budget, "run": self.run_of(task_vars)}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The table of before and after."""
        for database, found in (result.get("databases") or {}).items():
            for line in maintenance_lines.work(database, found):
                self.say(line)
        if result.get("failed"):
            result.setdefault("next", [self.again(task_vars)])
        return result
