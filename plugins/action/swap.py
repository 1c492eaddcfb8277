# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module swap and prints the way back; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import swap_losses


class ActionModule(PgopsAction):
    """A swap, or the end of one that was killed."""

    PHASE = "swap"
    MODULE = "swap"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        if self._task.args.get("state") == "resumed":
            self.PHASE = "resume"
        return super().run(tmp, task_vars)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the databases that this run has staged where none is named."""
        arguments = super().module_arguments(task_vars)
        if not arguments.get("to") and not arguments.get("staged"):
            made = self.run_fact(task_vars).get("restore") or {}
            arguments["staged"] = {name: entry["staged"] for name, entry in made.items() if entry.get("staged")}
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the replaced database is, and the command that goes back to it."""
        back = []
        for database, found in (result.get("databases") or {}).items():
            if found.get("state") == "lifted":
                self.say(f"{database}: a swap had been killed; clients are let in again ({found['why']})")
            if "lost" in found:
                for line in swap_losses(database, found):
                    self.say(line)
            if not found.get("aside"):
                continue
            if found.get("state") == "completed":
                self.say(f"{database}: a swap that had been killed was completed")
            outage = f", clients were kept out for {found['outage_ms']:.0f} ms" if "outage_ms" in found else ""
            command = self.way_back(task_vars, database, found["aside"])
            self.say(
                f"{database}: swapped{outage}; the replaced database is kept as {found['aside']}, closed to clients"
            )
            self.say(f"{database}: to go back: {command}")
            found["way_back"] = command
            back.append(command)
            history = found.get("history") or {}
            if history.get("carried") is False:
                self.say(f"{database}: the history was not carried across: {history.get('why')}")
        if back:
            result["next"] = back
        return result

    def way_back(self, task_vars: dict[str, Any], database: str, aside: str) -> str:
        """:return: the command that swaps the replaced database in again."""
        choice: dict[str, Any] = {
            "rollback_strategy": "swap",
            "rollback_swap_to": str(aside),
            "rollback_confirm": str(database),
        }
        if list(self.pgops(task_vars, "databases") or []) != [database]:
            choice["pgops_databases"] = [str(database)]
        return self.command(task_vars, "rollback.yml", choice)
