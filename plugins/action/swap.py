# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module swap and prints the way back; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, moved_sequences
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import restore_losses, swap_losses


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
        if self.PHASE == "resume":
            answer = batches.names(arguments.pop("answer", None))
            arguments["confirmed"] = sorted(answer) == sorted(self.pgops(task_vars, "databases") or [])
            return arguments
        if self.run_fact(task_vars).get("why"):
            arguments.setdefault("reason", str(self.run_fact(task_vars)["why"]))
        if not arguments.get("to") and not arguments.get("staged"):
            made = self.run_fact(task_vars).get("restore") or {}
            arguments["staged"] = {name: entry["staged"] for name, entry in made.items() if entry.get("staged")}
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the replaced database is, and the command that goes back to it."""
        back = []
        for database, found in (result.get("databases") or {}).items():
            self._tell_resumed(database, found)
            if "lost" in found:
                for line in (restore_losses if "backup" in found else swap_losses)(database, found):
                    self.say(line)
            if not found.get("aside"):
                continue
            shown = (self.run_fact(task_vars).get("swap") or {}).get(database, {}).get("lost")
            if shown:
                found["shown_before"] = shown
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
            for line in [
                *moved_sequences.lines(database, found.get("sequences") or {}),
                *(f"{database}: {told}" for told in found.get("standbys") or []),
            ]:
                self.say(line)
        if result.get("reason") == "not_what_was_asked":
            result["next"] = [self.command(task_vars, "status.yml"), *back]
        elif back and not result.get("failed"):
            result["next"] = back
        return result

    def _tell_resumed(self, database: str, found: dict[str, Any]) -> None:
        state = found.get("state")
        if found.get("pool"):
            self.say(f"{database}: {found['pool']}")
        if state == "completed":
            self.say(f"{database}: a swap that had been cut off was completed")
        elif state == "lifted":
            self.say(
                f"{database}: a swap had been cut off; its fence is lifted and nothing was swapped ({found['why']})"
            )
        elif state in ("opened", "swapped", "recorded"):
            self.say(f"{found['why']}" + ("; it is written now" if state == "recorded" else ""))
        if found.get("drop"):
            self.say(f"{database}: the staged copy {found['staged']} stays; where nobody needs it: {found['drop']}")

    def way_back(self, task_vars: dict[str, Any], database: str, aside: str) -> str:
        """:return: the command that swaps the replaced database in again."""
        return self.rollback_of(
            task_vars,
            database,
            {"rollback_strategy": "swap", "rollback_swap_to": str(aside), "rollback_confirm": str(database)},
        )
