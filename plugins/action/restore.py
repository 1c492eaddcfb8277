# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module restore, shows what would be lost; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import restore_losses


class ActionModule(PgopsAction):
    """Disclosing and staging are two phases of the journal."""

    PHASE = "restore"
    MODULE = "restore"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        if self._task.args.get("state") == "disclosed":
            self.PHASE = "disclose"
        return super().run(tmp, task_vars)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the backup that was disclosed and confirmed."""
        arguments = super().module_arguments(task_vars)
        disclosed = self.run_fact(task_vars).get("disclose") or {}
        if disclosed and self.PHASE == "restore":
            arguments["backups"] = {name: entry["backup"] for name, entry in disclosed.items() if entry.get("backup")}
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what is lost, or what was restored."""
        for database, found in (result.get("databases") or {}).items():
            if "lost" in found:
                for line in restore_losses(database, found):
                    self.say(line)
            if found.get("break_glass"):
                let = found["break_glass"]
                where = "" if let["audited"] else "; the audit could not be written, the journal has it"
                self.say(f"{database}: BREAK GLASS: {let['lets_off']}, and is restored: {let['reason']}{where}")
            if "staged" in found:
                self.say(
                    f"{database}: restored {found['tables']} tables, {found['rows']} rows into {found['staged']} in "
                    f"{found['restore_seconds']:.1f} s, and compared"
                )
                largest = ", ".join(f"{table} {rows}" for table, rows in found["largest"].items())
                self.say(f"{database}: rows of its largest tables: {largest or 'none'}")
        if result.get("reason") == "restored_before":
            self._tell_restored_before(result, task_vars)
        return result

    def _tell_restored_before(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Each way from there is named, and each only looks."""
        database = str(result["database"])
        choices = [{"rollback_strategy": "restore", "rollback_backup": result["backup"]}]
        if result.get("aside"):
            choices.insert(0, {"rollback_strategy": "swap", "rollback_swap_to": result["aside"]})
        result["next"] = [self.rollback_of(task_vars, database, choice) for choice in choices]
