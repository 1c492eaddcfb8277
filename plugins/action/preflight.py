# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module preflight and shows its report; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """The same look before and after; the second is a phase of its own in the journal."""

    PHASE = "preflight"
    MODULE = "preflight"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        if "before" in self._task.args:
            self.PHASE = "preflight_after"
        result = super().run(tmp, task_vars)
        if result.get("failed"):
            # The journal and the table on the screen have it; in the error it would bury the sentence.
            result.pop("databases", None)
        return result

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what was seen; a person reads this, not the result."""
        for database, found in (result.get("databases") or {}).items():
            for line in reporting.health_table(database, found):
                self.say(line)
        if result.get("failed"):
            stopped = {
                check["fix"]
                for found in (result.get("databases") or {}).values()
                for check in found["checks"]
                if check["level"] == "stop" and check["fix"]
            }
            result["next"] = [*sorted(stopped), self.again(task_vars)]
        return result
