# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module analyze with the tables that this run changed; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import seconds


class ActionModule(PgopsAction):
    """Fresh statistics for what changed; in production for all tables."""

    PHASE = "analyze"
    MODULE = "analyze"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own tables, else those that apply or revert of this run named."""
        given = {name: value for name, value in self._task.args.items() if value is not None}
        run = self.run_fact(task_vars)
        if "all_tables" not in given:
            production = self.pgops(task_vars, "production_environments")
            given["all_tables"] = run.get("environment") in production
        if not given.get("tables"):
            tables: dict[str, list[str]] = {}
            for phase in ("apply", "revert"):
                for database, found in (run.get(phase) or {}).items():
                    known = tables.setdefault(database, [])
                    known += [name for name in found.get("tables") or [] if name not in known]
            given["tables"] = tables
        return given

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a database."""
        for database, found in (result.get("databases") or {}).items():
            if found["analyzed"] and self._task.check_mode:
                self.say(f"{database}: {len(found['analyzed'])} tables would be analyzed")
            elif found["analyzed"]:
                self.say(f"{database}: {len(found['analyzed'])} tables analyzed in {seconds(found['seconds'])}")
            if found.get("unproved"):
                result.setdefault("warnings", []).append(f"{database}: {found['unproved']}")
        return result
