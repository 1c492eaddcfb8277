# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module restore_database and shows what was restored; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import masked_lines, moved_sequences, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_masking import read_masking
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory
from ansible_collections.whitecross.pgops.plugins.plugin_utils.restore_source import whole_path


class ActionModule(IdentityAction):
    """A restore into a new database."""

    PHASE = "restore_database"
    MODULE = "restore_database"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments. :raises AnsibleActionFail: nothing is named to be restored, or no whole path."""
        arguments = super().module_arguments(task_vars)
        arguments["from"] = whole_path(self, arguments.get("from"), task_vars)
        if boolean(arguments.pop("mask", False), strict=False):
            arguments["masking"] = self._masking(task_vars)
        return arguments

    def _masking(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        try:
            return read_masking(sql_directory(str(self.pgops(task_vars, "sql") or "") or None))
        except PgopsError as error:
            raise AnsibleActionFail(f"{error.message} Nothing was restored.", result=error.as_dict()) from None

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what was restored and what could not be; of a swap the way back."""
        for database, found in (result.get("databases") or {}).items():
            if "restore_seconds" not in found:
                place = f"take the place of {database}" if found["replace"] else f"be restored into {found['into']}"
                self.say(
                    f"{database}: {found['source']} ({found['kind']}) is whole and would {place}: {found['tables']} tables, "
                    f"{found['rows']} rows"
                )
                self._show_disk(database, found)
                for told in found.get("standbys") or []:
                    self.say(f"{database}: {told}")
            else:
                self._show(database, found)
            self._show_roles(database, found)
            for reservation in found["reservations"]:
                self.say(f"{database}: {reservation}")
            if found.get("swap"):
                self._show_swap(result, database, found["swap"], task_vars)
        return result

    def _show_disk(self, database: str, found: dict[str, Any]) -> None:
        free = found["free_bytes"]
        room = (
            "what is free on the server cannot be seen from here"
            if free is None
            else f"{reporting.size(free)} are free"
        )
        self.say(f"{database}: it takes about {reporting.size(found['needed_bytes'])} there, and {room}")

    def _show(self, database: str, found: dict[str, Any]) -> None:
        self.say(
            f"{database}: restored {found['tables']} tables, {found['rows']} rows from {found['source']} into {found['into']} in "
            f"{found['restore_seconds']:.1f} s, and compared"
        )
        for line in masked_lines.of(database, found.get("masked")):
            self.say(line)
        for name, rows in found["key_tables"].items():
            self.say(f"{database}: {name}: " + ("there is no such table" if rows is None else f"{rows} rows"))
        if found["sizes"]:
            cells = [
                (e["table"], "" if e["rows"] is None else e["rows"], reporting.size(e["bytes"])) for e in found["sizes"]
            ]
            for line in table(["TABLE", "ROWS", "SIZE"], cells):
                self.say(f"    {line}")
        self.say(f"{database}: {found['into']} has {reporting.size(found['database_bytes'])} in all")
        if found["ledger"]:
            entries = [(e["version"], e["name"], e["state"], e["at"] or "") for e in found["ledger"]]
            for line in table(["VERSION", "NAME", "STATE", "AT"], entries):
                self.say(f"    {line}")
        else:
            self.say(f"{database}: it has no ledger: nothing was ever applied to what was restored")

    def _show_roles(self, database: str, found: dict[str, Any]) -> None:
        roles = found["roles"]
        if not roles["made"]:
            return
        did = "made" if "restore_seconds" in found else "would make"
        self.say(f"{database}: {did} the roles that the server lacks: {', '.join(roles['made'])}")
        if "restore_seconds" not in found:
            for statement in roles["statements"]:
                self.say(f"    {statement};")

    def _show_swap(
        self, result: dict[str, Any], database: str, swapped: dict[str, Any], task_vars: dict[str, Any]
    ) -> None:
        command = self.rollback_of(
            task_vars,
            database,
            {"rollback_strategy": "swap", "rollback_swap_to": swapped["aside"], "rollback_confirm": database},
        )
        self.say(
            f"{database}: swapped, clients were kept out for {swapped['outage_ms']:.0f} ms; the replaced database is kept as "
            f"{swapped['aside']}, closed to clients"
        )
        for line in moved_sequences.lines(database, swapped.get("sequences") or {}):
            self.say(line)
        for told in swapped.get("standbys") or []:
            self.say(f"{database}: {told}")
        self.say(f"{database}: to go back: {command}")
        swapped["way_back"] = command
        result["next"] = [command]
