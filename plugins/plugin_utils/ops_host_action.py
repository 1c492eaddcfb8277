# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base of the actions whose module runs on the host of the timers, and not on that of the databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class OpsHostAction(PgopsAction):
    """Its task is delegated to that host, the ops host where nothing is said."""

    @property
    def is_local(self) -> bool:
        """Whether that is this machine."""
        return bool(self._connection.transport == "local")

    def environment(self, task_vars: dict[str, Any]) -> str:
        """:return: the run's environment."""
        return str(self.run_fact(task_vars)["environment"])

    def place(self, task_vars: dict[str, Any]) -> TimerPlace:
        """:return: what this machine keeps of the environment's timers."""
        from pathlib import Path

        state = Path(str(self.pgops(task_vars, "state_directory"))).expanduser().absolute()
        return TimerPlace(str(state), self.environment(task_vars))

    def of_all_databases(self, found: Mapping[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: a finding of the environment as the journal keeps it, by database."""
        return {str(name): dict(found) for name in self.pgops(task_vars, "databases") or []}

    def _call(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        # The interpreter of the database's host is none of the ops host's.
        delegated = next(iter((task_vars.get("ansible_delegated_vars") or {}).values()), None) or {}
        seen = {**task_vars, "ansible_python_interpreter": delegated.get("ansible_python_interpreter")}
        return super()._call(
            module, arguments, seen if self.is_local and seen["ansible_python_interpreter"] else task_vars
        )
