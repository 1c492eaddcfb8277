# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module kept_databases and shows what is kept; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table


class ActionModule(PgopsAction):
    """A look, and the drop of what it has shown."""

    PHASE = "kept"
    MODULE = "kept_databases"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        if self._task.args.get("state") == "dropped":
            self.PHASE = "cleanup"
        return super().run(tmp, task_vars)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with exactly what this run has shown."""
        arguments = super().module_arguments(task_vars)
        if self.PHASE == "cleanup":
            shown = self.run_fact(task_vars).get("kept") or {}
            arguments["names"] = {
                database: [one["name"] for one in found["kept"] if one["due"]] for database, found in shown.items()
            }
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show each kept database, or name each that was dropped."""
        for database, found in (result.get("databases") or {}).items():
            if self.PHASE == "cleanup":
                for name in found["dropped"]:
                    self.say(f"{database}: dropped {name}")
                continue
            self._show(database, found)
        return result

    def _show(self, database: str, found: dict[str, Any]) -> None:
        if not found["kept"]:
            self.say(f"{database}: no database is kept")
            return
        self.say(f"{database}: kept by rollbacks, to be dropped after {found['keep_days']:g} days")
        rows = [
            [
                one["name"],
                "?" if one["age_days"] is None else f"{one['age_days']:.1f} days",
                reporting.size(one["bytes"]),
                one["run_id"],
                ("goes: a restore left it" if one["copy"] else "goes") if one["due"] else f"stays: {one['why']}",
            ]
            for one in found["kept"]
        ]
        for line in table(["DATABASE", "AGE", "SIZE", "OF RUN", "NOW"], rows):
            self.say(f"    {line}")
        for one in found["kept"]:
            if one["due"] and one["slots"]:
                self.say(f"    with {one['name']} its logical slots go: {', '.join(one['slots'])}")
