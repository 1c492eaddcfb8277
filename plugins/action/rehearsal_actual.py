# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows forecast beside actual after an apply; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import seconds, table

# Shorter steps are told in the report only, where there are many.
SHOWN = 20


class ActionModule(PgopsAction):
    """What was foretold, and what came."""

    PHASE = "rehearsal_actual"
    MODULE = "rehearsal_actual"
    REMEMBERED = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Nothing where this run rehearsed or applied nothing."""
        if not self._rehearsed(task_vars or {}) or self._task.check_mode:
            return {"changed": False, "skipped": True, "skip_reason": "nothing was rehearsed"}
        return super().run(tmp, task_vars)

    def _rehearsed(self, task_vars: dict[str, Any]) -> dict[str, str]:
        found = self.run_fact(task_vars).get("rehearse") or {}
        return {name: str(one["file"]) for name, one in found.items() if one.get("file")}

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the rehearsals of this run, and what it has applied."""
        done = self.run_fact(task_vars).get("apply") or {}
        applied = {
            name: [{word: item[word] for word in ("version", "step_durations")} for item in found.get("applied") or []]
            for name, found in done.items()
        }
        return {"files": self._rehearsed(task_vars), "applied": applied}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """A line a step, the longest first, and one for all."""
        for database, found in (result.get("databases") or {}).items():
            steps = sorted(found["steps"], key=lambda step: -max(float(step["actual"]), float(step["forecast"])))
            if not steps:
                continue
            rows = [
                [
                    step["version"],
                    step["step"],
                    seconds(step["forecast"]),
                    f"{seconds(step['low'])} to {seconds(step['high'])}",
                    seconds(step["actual"]),
                    "" if step["within"] else "outside",
                ]
                for step in steps[:SHOWN]
            ]
            self.say(f"{database}: forecast {seconds(found['forecast_s'])}, actual {seconds(found['actual_s'])}")
            for line in table(["VERSION", "STEP", "FORECAST", "BETWEEN", "ACTUAL", ""], rows):
                self.say(f"    {line}")
            if found.get("told"):
                self.say(f"{database}: {found['told']}")
        return result
