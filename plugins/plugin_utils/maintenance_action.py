# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the two halves of a maintenance share on the controller: its window."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.plugin_utils import maintenance_window, windows
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


class MaintenanceAction(MigrationAction):
    """Base of maintenance_plan and maintenance."""

    def given(self) -> dict[str, Any]:
        """:return: the task's arguments that are set."""
        return {name: value for name, value in self._task.args.items() if value not in (None, "")}

    def seconds_left(self, window: Any, task_vars: dict[str, Any]) -> float | None:
        """:param window: ``maintenance_window``.
        :return: seconds until it closes, None where there is none.
        :raises AnsibleActionFail: it is shut, or says nothing."""
        now = datetime.now(UTC)
        try:
            found = maintenance_window.look(window, now)
        except windows.NotUnderstood as fault:
            raise AnsibleActionFail(f"Nothing was begun: maintenance_window {fault}.") from None
        if found.seconds is None or found.seconds > 0:
            return found.seconds
        opens = f"it opens at {windows.moment(found.opens_next)}" if found.opens_next else "it opens no more"
        look = self.again(task_vars)
        raise AnsibleActionFail(
            f"Nothing was begun: it is {windows.moment(now)}, and maintenance_window ({window}) is shut; {opens}. "
            f"What there is to do is shown at any time by: {look} --check",
            result={"next": [f"{look} --check"]},
        )
