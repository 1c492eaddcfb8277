# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Actions that work on the migration tree of the ops host and reach no database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, lint_command, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import sql_directory
from ansible_collections.whitecross.pgops.plugins.plugin_utils.reporting import as_list, write_result
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen, UnbrokenAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
    known_variables,
    misspelt_prefixes,
    role_names,
    unknown_variables,
)

display = Screen()


class TreeAction(UnbrokenAction):
    """Base of the actions that start no module: one sentence for a fault, and the file of ``pgops_json``."""

    PLAYBOOK = ""
    # Variables of the playbook that no role declares.
    VARIABLES: tuple[str, ...] = ()

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the work. :return: the result. :raises PgopsError: a fault that the user can mend."""
        raise NotImplementedError

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the variables' names, work, and leave the result as JSON where that is asked for."""
        variables: dict[str, Any] = task_vars or {}
        super().run(tmp, variables)
        given = None
        try:
            self._check_names(variables)
            given = self._task.args.get("sql") or self._value(variables, "pgops_sql")
            result = self.work(sql_directory(str(given) if given else None), variables)
        except PgopsError as exc:
            result = {"failed": True, "changed": False, **lint_command.told(exc, self._typed(), given)}
        except OSError as exc:
            place = f" ({exc.filename})" if exc.filename else ""
            result = {"failed": True, "changed": False, "msg": f"The migration tree: {exc.strerror}{place}"}
        self._leave_json(result, variables)
        return result

    def command(self, name: str, limit: str | None = None, variables: Mapping[str, Any] | None = None) -> str:
        """:return: a command to type next, on the same tree."""
        return typed_commands.other(self._typed(), name, limit, variables)

    def again(self, variables: Mapping[str, Any]) -> str:
        """:return: the command that was typed, with another choice."""
        return typed_commands.again(self._typed(), None, variables)

    def _typed(self) -> dict[str, Any]:
        return {"command": environments.typed_command(), typed_commands.GIVEN: typed_commands.given(self._loader)}

    def say(self, text: str) -> None:
        """Show a line to the person who watches, under any stdout callback."""
        display.display(text)

    def _value(self, task_vars: dict[str, Any], name: str) -> Any:
        value = task_vars.get(name)
        return self._templar.template(value) if value is not None else None

    def _check_names(self, task_vars: dict[str, Any]) -> None:
        known = {*known_variables(), *self.VARIABLES}
        prefixes = (*role_names(), self.PLAYBOOK)
        unknown = unknown_variables(task_vars, known, prefixes)
        unknown += misspelt_prefixes(load_extra_vars(self._loader), known, prefixes)
        if unknown:
            listed = ", ".join(map(str, unknown))
            raise PgopsError(f"There is no variable {listed}; correct the name where it is set")

    def _leave_json(self, result: dict[str, Any], task_vars: dict[str, Any]) -> None:
        path = self._value(task_vars, "pgops_json")
        if not path:
            return
        failed = bool(result.get("failed"))
        error = {"message": result["msg"], "sqlstate": None, "next": as_list(result.get("next"))} if failed else None
        own = {key: value for key, value in result.items() if key not in ("failed", "msg", "diff", "next")}
        document = {
            "playbook": self.PLAYBOOK,
            "ok": not failed,
            "environment": None,
            "hosts": {},
            "error": error,
            **own,
        }
        try:
            write_result(path, document)
        except OSError as exc:
            raise AnsibleActionFail(f"Cannot write the result to {path}: {exc.strerror}") from None
        # Tells the callback 'record' that the file is written.
        result["pgops_json"] = str(path)
