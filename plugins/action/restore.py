# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module restore, shows what would be lost; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.losses import restore_losses


class ActionModule(IdentityAction):
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
        environment = str(self.run_fact(task_vars).get("environment"))
        arguments["level_required"] = proof_levels.required(
            arguments.get("level_required"), environment, self.in_production(task_vars)
        )
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
        if result.get("reason") in ("level", "unproved"):
            self._tell_climb(result, task_vars)
        if result.get("reason") == "restored_before":
            self._tell_restored_before(result, task_vars)
        return result

    def _tell_climb(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """The command that proves this backup as far as it has to be, then the one that was typed."""
        climb: dict[str, Any] = {
            "backup_path": str(result["path"]),
            "backup_prove_level": int(result["level_required"]),
        }
        if list(self.pgops(task_vars, "databases") or []) != [result["database"]]:
            climb["pgops_databases"] = [str(result["database"])]
        result["next"] = [self.command(task_vars, "prove.yml", climb), self.again(task_vars)]

    def _tell_restored_before(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Each way from there is named, and each only looks."""
        database = str(result["database"])
        if not result["backup"]:  # the whole cluster was: its way back is what that run has printed
            result["next"] = [self.command(task_vars, "status.yml")]
            return
        choices = [{"rollback_strategy": "restore", "rollback_backup": result["backup"]}]
        if result.get("aside"):
            choices.insert(0, {"rollback_strategy": "swap", "rollback_swap_to": result["aside"]})
        result["next"] = [self.rollback_of(task_vars, database, choice) for choice in choices]
