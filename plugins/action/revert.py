# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module revert and follows it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import rollback_targets, unlooked_versions
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import (
    MigrationAction,
    model_lines,
    seconds,
    table,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_ranks import read_ranks


class ActionModule(MigrationAction):
    """Shows what would be lost in check mode, and reverts otherwise."""

    PHASE = "revert"
    MODULE = "revert"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the selection, as the task gives it, and who asks."""
        given = rollback_targets.down_selection(self._task.args)
        if not self._task.check_mode:
            going = [database for database, versions in (self._task.args.get("versions") or {}).items() if versions]
            if str(self._templar.template(task_vars.get("rollback_emergency_backup") or "")) == "skip":
                going = []
            why = "a version is only reverted after a backup of what it would lose was proved"
            self.refuse_unproved(task_vars, going, "reverted in", why)
        backups = self.run_fact(task_vars).get("backup") or {}
        expected = {
            database: {name: found.get(name) for name in ("ledger_head", "catalog_fingerprint", "snapshot", "path")}
            for database, found in backups.items()
            if "path" in found
        }
        return {"expected": expected, **given, "run": self.run_of(task_vars)}

    def begun(self) -> dict[str, Any]:
        """:return: exactly what was confirmed, so that an interrupted run can say what is left of it."""
        return {"versions": self._task.args.get("versions") or {}}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show the exact list and the loss before, one line a version after."""
        for database, found in (result.get("databases") or {}).items():
            if "versions" in found:
                self._show_plan(database, found, task_vars)
            self.say_reconnected(database, found)
            for item in found.get("reverted") or []:
                stays = f"; what stays: {item['stays']}" if item.get("stays") else ""
                self.say(
                    f"{database}: {item['version']} {item['name']} reverted in {seconds(item['duration_s'])}{stays}"
                )
                self.say_ended(database, item)
            for line in model_lines(database, found.get("model_changes", [])):
                self.say(line)
        if result.get("failed"):
            done = any(found.get("reverted") for found in (result.get("databases") or {}).values())
            result["refused"] = not (done or any(result.get(name) for name in ("reverted", "step", "unknown")))
            self._tell_next(result, task_vars)
        return result

    def _tell_next(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        if result.get("reason") in ("not_applied", "not_one"):
            # The same command would be refused the same way.
            self.tell_next(result, [("To see the versions", self.command(task_vars, "status.yml"))])
        elif result.get("reason") == "one_way":
            self.tell_next(result, [("Type", self.again(task_vars, {"rollback_strategy": "restore"}))])
        elif result.get("needed_by"):
            self.tell_next(result, [("Type", self.again(task_vars, {"rollback_through": str(result["version"])}))])
        elif result.get("reason") == "reverting":
            self.tell_next(result, [("To finish it", self.finish_revert(task_vars, result))])
        elif result.get("reason") == "written_since" and not result.get("not_reverted"):
            self.tell_next(result, [("Then", self.again(task_vars))])
        elif result.get("not_reverted"):
            # A number of steps, counted anew, would go further back than was asked for.
            stable = any(self._task.args.get(name) not in (None, "") for name in ("keep", "through", "version"))
            lowest = min(str(version) for version in result["not_reverted"])
            choice = {} if stable else {"rollback_through": lowest}
            larger = {name: str(seconds) for name, seconds in (result.get("larger") or {}).items()}
            self.tell_next(result, [("To go on", self.again(task_vars, {**choice, **larger}))])
        elif result.get("reason") == "quarantine":
            self.tell_next(result, [("Type", self.again(task_vars))])

    def _ranks(self, task_vars: dict[str, Any]) -> dict[str, str]:
        """A way back needs no tree, and one whose ranks cannot be read stops none."""
        try:
            return read_ranks(sql_directory(str(self.pgops(task_vars, "sql") or "") or None))
        except PgopsError as fault:
            self.say(f"The ranks of the versions are not known: {fault}")
            return {}

    def _show_plan(self, database: str, found: dict[str, Any], task_vars: dict[str, Any]) -> None:
        if not found["versions"]:
            there = f"no version newer than {self._task.args.get('keep')}" if found["remaining"] else "no version"
            self.say(f"{database}: {there} is applied, so there is nothing to revert")
            self.say(f"{database}: to see the versions: {self.command(task_vars, 'status.yml')}")
            return
        self.say(f"{database}: these versions would be reverted, in this order")
        rows = [[item["version"], item["name"], item["safety"], item["stays"]] for item in found["versions"]]
        head, ranks = ["VERSION", "NAME", "ROLLBACK", "STAYS"], self._ranks(task_vars)
        if any(row[0] in ranks for row in rows):
            head.insert(2, "RANK")
            rows = [[*row[:2], ranks.get(row[0], "-"), *row[2:]] for row in rows]
        for line in table(head, rows):
            self.say(f"    {line}")
        if not found["remaining"]:
            self.say("    DESTRUCTIVE: no version stays applied; all their tables go, with all data")
        if not found["loss"]:
            self.say("    no data would be lost")
        for entry in found["loss"]:
            parts = []
            if entry["rows"] is not None:
                parts.append(f"{entry['rows']:,} rows")
            parts += [f"{count:,} values of column {name}" for name, count in entry["columns"].items()]
            if entry["some_rows"]:
                parts.append("rows that a statement deletes")
            self.say(f"    would be lost: {entry['table']}: {', '.join(parts)}")
        for line in unlooked_versions.lines(database, found):
            self.say(f"    {line}")
