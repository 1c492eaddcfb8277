# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module maintenance_plan and shows the plan; documented in the module of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import maintenance_lines, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.maintenance_action import MaintenanceAction


class ActionModule(MaintenanceAction):
    """What needs maintenance. Outside of its window only in check mode: nothing would be done with it."""

    PHASE = "maintenance_plan"
    MODULE = "maintenance_plan"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own. :raises AnsibleActionFail: the window is shut, or says nothing."""
        given = self.given()
        window = given.pop("window", None)
        if not self._task.check_mode:
            self.seconds_left(window, task_vars)
        return given

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The ranked list, and what maintenance does not mend with the command that does."""
        # How this run was asked for is nothing to a migration.
        typed = self.typed(task_vars)
        own = [name for name in typed_commands.typed_variables(typed) if name.startswith("maintenance_")]
        run = typed_commands.without(typed, own)
        for database, found in (result.get("databases") or {}).items():

            def migration(index: Mapping[str, Any]) -> str:
                choice = {
                    "new_migration_name": f"drop_{index['name']}".lower(),
                    "new_migration_pattern": "drop_index",
                    "new_migration_schema": index["schema"],
                    "new_migration_index": index["name"],
                    "new_migration_definition": index["definition"],
                }
                return typed_commands.other(run, "new_migration", None, choice)

            lines = maintenance_lines.plan(database, found)
            lines += maintenance_lines.report(database, found["report"], migration)
            for line in lines:
                self.say(line)
        return result
