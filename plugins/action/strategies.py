# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module strategies and shows its table; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels, rollback_targets
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import strategy_lines


class ActionModule(PgopsAction):
    """What a person reads before anything else."""

    PHASE = "strategies"
    MODULE = "strategies"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the selection, as the task gives it, and whether this environment takes backups."""
        given = rollback_targets.down_selection(self._task.args)
        given["takes_backups"] = "backup" in (self.run_fact(task_vars).get("phases") or [])
        environment = str(self.run_fact(task_vars).get("environment"))
        given["level_required"] = proof_levels.required(
            given.get("level_required"), environment, self.in_production(task_vars)
        )
        return given

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show the table, the choice, and what does not come along; also where the way that was asked for is refused."""
        for database, found in (result.get("databases") or {}).items():
            for line in strategy_lines(database, found, refused=bool(result.get("failed"))):
                self.say(line)
        if result.get("reason") == "blocked":
            result["next"] = [self.again(task_vars)]
        elif result.get("reason") == "no_way":
            result["next"] = [self.command(task_vars, "status.yml")]
        return result
