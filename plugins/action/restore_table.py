# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module restore_table and prints the SQL to go on with; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import proof_levels
from ansible_collections.whitecross.pgops.plugins.plugin_utils.identity import IdentityAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.restore_source import whole_path

_SAID = (
    ("missing", "rows of the backup that the live table has no more"),
    ("changed", "rows that differ, and in which columns"),
    ("bring_back", "would bring back those that are missing"),
    ("set_back", "would set back those that differ"),
)


class ActionModule(IdentityAction):
    """Rows of a backup beside the live ones."""

    PHASE = "restore_table"
    MODULE = "restore_table"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the rule for production. :raises AnsibleActionFail: no backup is named, or no whole path."""
        arguments = super().module_arguments(task_vars)
        arguments["from"] = whole_path(self, arguments.get("from"), task_vars)
        arguments["other_cluster_only"] = proof_levels.other_cluster_only(
            arguments.get("scratch_reason"), self.in_production(task_vars)
        )
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what lies where, and what to type about it."""
        for database, found in (result.get("databases") or {}).items():
            done = "statements" in found
            for entry in found["tables"]:
                self.say(
                    f"{database}: {entry['rows']} rows of {entry['table']} as of {found['snapshot_time']} "
                    f"{'are' if done else 'would be put'} in {found['schema']}, which {found['owner']} alone may read"
                )
            for name in found["passed_over"]:
                self.say(f"{database}: {name} is passed over: it holds no rows of its own")
            if done:
                self._show(database, found)
        return result

    def _show(self, database: str, found: dict[str, Any]) -> None:
        self.say(
            f"{database}: restored, compared with the manifest and copied in {found['seconds']:.1f} s; no live table was touched"
        )
        self.say(f"-- the SQL below is for psql, as a role that owns the table and has BYPASSRLS\n{found['preamble']}")
        for table, told in found["statements"].items():
            if told["note"]:
                self.say(f"-- {table}: {told['note']}")
            for name, meaning in _SAID:
                if told[name]:
                    self.say(f"-- {table}: {meaning}\n{told[name]}")
        self.say(f'-- when it is done with\nDROP SCHEMA "{found["schema"]}" CASCADE;')
