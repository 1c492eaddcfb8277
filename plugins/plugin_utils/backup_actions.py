# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the actions about kept backups share: who asks, in which environment, by which policy."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

_UNITS = (("y", 365 * 86400), ("mon", 30 * 86400), ("d", 86400), ("h", 3600), ("min", 60))


class KeptBackupsAction(PgopsAction):
    """Base of the actions that know how long a backup is kept."""

    def retention_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the environment of the run and whether it is production."""
        environment = str(self.run_fact(task_vars).get("environment") or "")
        given = {name: value for name, value in self._task.args.items() if value is not None}
        return {**given, "environment": environment, "production": self.in_production(task_vars)}

    def who(self, task_vars: dict[str, Any]) -> str:
        """:return: who runs this, and where."""
        run = self.run_fact(task_vars)
        return f"{run.get('who') or 'somebody'} on {run.get('ops_host') or 'an unknown host'}"


def age(seconds: Any) -> str:
    """:return: an age as people read it, in its largest unit that comes to two at least."""
    if seconds is None:
        return ""
    for name, length in _UNITS:
        if float(seconds) >= 2 * length:
            return f"{int(float(seconds) // length)} {name}"
    return f"{max(0, int(float(seconds)))} s"
