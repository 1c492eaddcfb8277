# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the checks, starts the module preflight and shows its report; documented in the module of the same name."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.command_text import is_command
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    ops_clock,
    preflight_data,
    reporting,
    role_values,
    timer_files,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """The same look before the run, before its apply and after it; each is a phase of its own in the journal."""

    PHASE = "preflight"
    MODULE = "preflight"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module as the phase that this task is."""
        if "before" in self._task.args:
            self.PHASE = "preflight_after"
        elif self._task.args.get("again"):
            self.PHASE = "preflight_again"
        result = super().run(tmp, task_vars)
        if result.get("failed"):
            # The journal and the table on the screen have it; in the error it would bury the sentence.
            result.pop("databases", None)
        return result

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments with the checks, their thresholds and what the ops host knows of its timers."""
        try:
            data = preflight_data.read()
        except PgopsError as error:
            raise AnsibleActionFail(error.message) from None
        variables = {name: preflight_data.VARIABLE.format(name) for name in data.thresholds}
        thresholds = role_values.of_roles(self, variables, task_vars, {})
        environment = str(self.run_fact(task_vars).get("environment") or "")
        numbers = {name: self._number(variables[name], value) for name, value in thresholds.items()}
        self._asked, self._clock_warn_s = time.time(), numbers["clock_warn_s"]
        state = str(self.pgops(task_vars, "state_directory"))
        return {
            **self._task.args,
            "checks": data.checks,
            "thresholds": numbers,
            "versions": data.versions,
            **role_values.of_roles(self, {"backup_engine": "backup_engine"}, task_vars, self._task.args),
            "environment": environment,
            "production": self.in_production(task_vars),
            "limit": self.limit(task_vars),
            "timers": self._timers(state, environment, task_vars),
        }

    def _timers(self, state: str, environment: str, task_vars: dict[str, Any]) -> list[dict[str, Any]] | None:
        found = timer_files.known(state, environment, datetime.now(UTC))
        host = str(self._templar.template(task_vars.get("schedule_host") or "localhost"))
        if found is None and host != "localhost":
            return [{"name": host, "elsewhere": True}]
        return found

    @staticmethod
    def _number(variable: str, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            raise AnsibleActionFail(f"{variable} is {value!r} and must be a number.") from None

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Show what was seen; a person reads this, not the result."""
        answered = time.time()
        for database, found in (result.get("databases") or {}).items():
            ops_clock.compare(found, self._asked, answered, self._clock_warn_s)
            for line in reporting.health_table(database, found):
                self.say(line)
        if result.get("failed"):
            stopped = {
                check["fix"]
                for found in (result.get("databases") or {}).values()
                for check in found["checks"]
                if check["level"] == "stop" and is_command(check["fix"])
            }
            result["next"] = [*sorted(stopped), self.again(task_vars)]
        return result
