# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module timers and shows its table, a timer that stands still loudly; documented in the module of the same name."""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import display
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.ops_host_action import OpsHostAction

_HEADINGS = ["TIMER", "CALENDAR", "LAST RUN (UTC)", "RESULT", "LAST SUCCESS", "NEXT RUN", "STATE"]


class ActionModule(OpsHostAction):
    """A look at the timers of the environment; reaches no database."""

    PHASE = "timers"
    MODULE = "timers"
    REMEMBERED = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look where there is something to look at: an environment without timers costs nothing."""
        variables = task_vars or {}
        if self.is_local and not os.path.exists(self.place(variables).record):
            if self.in_production(variables):
                self.say(
                    f"no timers are installed for {self.environment(variables)}: {self.command(variables, 'schedule.yml')}"
                )
            return {"changed": False, "timers": []}
        return super().run(tmp, variables)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the environment, and where its timers keep what they know."""
        state = self.place(task_vars).state if self.is_local else str(self.pgops(task_vars, "state_directory"))
        return {"environment": self.environment(task_vars), "state_directory": state}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show when each ran and runs, then what somebody has to look at."""
        rows = result.get("timers") or []
        if result.get("failed"):
            return result
        environment = self.environment(task_vars)
        if rows:
            self.say(f"timers of {environment}:")
            for line in table(_HEADINGS, [_row(row) for row in rows]):
                self.say(f"    {line}")
        bad = [row for row in rows if row["state"] in timer_state.BAD]
        for row in bad:
            display.warning(
                f"The timer {row['name']} of {environment} is {row['state'].upper()}: {row['why']}. Look: {row['look']}"
            )
        found = {"timers": rows, "bad": [row["name"] for row in bad]}
        result["databases"] = self.of_all_databases(found, task_vars)
        return result


def _row(row: dict[str, Any]) -> list[str]:
    code = row["exit_code"]
    result = f"{row['result'] or ''}{f' ({code})' if row['result'] == 'failed' and code is not None else ''}"
    state = row["state"].upper() if row["state"] in timer_state.BAD else row["state"]
    return [
        row["name"],
        row["on_calendar"],
        _moment(row["last_run"]),
        result,
        _moment(row["last_success"]),
        "now" if row["running"] else _moment(row["next"]),
        state,
    ]


def _moment(text: Any) -> str:
    return str(text or "")[:16].replace("T", " ")
