# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the named query, starts the module inspect and shows its rows; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES


class ActionModule(PgopsAction):
    """A look into the catalog that changes nothing."""

    PHASE = "inspect"
    MODULE = "inspect"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the query with its text and its parameters. :raises AnsibleActionFail: no such query or parameter."""
        # What the action group gives to every module is no parameter of a query.
        shared = {variable.option for variable in SHARED_VARIABLES.values()}
        given = {
            name: str(value)
            for name, value in self._task.args.items()
            if value not in (None, "") and name not in shared
        }
        name = given.pop("query", None)
        self._asked = " ".join(f"{parameter}={value}" for parameter, value in sorted(given.items()))
        try:
            query = inspect_queries.choose(name, given)
        except PgopsError as error:
            raise AnsibleActionFail(error.message, result={"next": [self._instead(error, task_vars)]}) from None
        return {"query": query.name, "text": query.text, "reads_rows": query.reads_rows, **given}

    def _instead(self, error: PgopsError, task_vars: dict[str, Any]) -> str:
        """:return: the command of a query that answers; what lists the runs where the id of one is missing."""
        if error.extra["instead"] is None:
            return self.command(task_vars, "status.yml")
        left_out = [f"inspect_{parameter}" for parameter in error.extra["without"]]
        run = typed_commands.without(self.typed(task_vars), left_out)
        return typed_commands.again(run, self.limit(task_vars), {"inspect_query": error.extra["instead"]})

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show the rows as a table."""
        for database, found in (result.get("databases") or {}).items():
            number = len(found["rows"])
            asked = f" {self._asked}" if self._asked else ""
            self.say(f"{database}: {found['query']}{asked}: {number} row{'' if number == 1 else 's'}")
            cells = [[_cell(row[column]) for column in found["columns"]] for row in found["rows"]]
            if cells:
                for line in table([column.upper() for column in found["columns"]], cells):
                    self.say(f"    {line}")
        return result


def _cell(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
