# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_drill, shows the ladder, leaves the evidence; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action import drill
from ansible_collections.whitecross.pgops.plugins.plugin_utils.role_values import of_roles

# Variables of the role backup, which has no part in this play, with the options that they fill.
_OF_BACKUP = {
    "stanza": "backup_stanza",
    "config": "backup_config",
    "pgbackrest": "backup_pgbackrest",
    "os_user": "backup_os_user",
    "archive_timeout": "backup_archive_timeout",
    "rto_seconds": "backup_rto_seconds",
    "directory": "backup_directory",
    "jobs": "backup_jobs",
}


class ActionModule(drill.ActionModule):
    """Told and recorded as any other drill."""

    MODULE = "physical_drill"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the moment, and how the cluster's backups are reached.
        :raises AnsibleActionFail: a backup is named; pgBackRest chooses the one before the moment."""
        if self._task.args.get("backup") not in (None, ""):
            raise AnsibleActionFail(
                "drill_backup names a logical backup and drill_point_in_time a moment of the physical ones, of which the one before it is "
                "taken; nothing was restored. Leave drill_backup out",
            )
        arguments = {
            "point_in_time": str(self._task.args.get("point_in_time") or ""),
            "checks": self.asked_of_a_copy(task_vars),
        }
        return {**arguments, **of_roles(self, _OF_BACKUP, task_vars, self._task.args)}
