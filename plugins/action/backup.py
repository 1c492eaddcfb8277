# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup and says what it left; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import emergency_backup, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

# The purpose is in the folder's name, so that one sees years later why it was made.
_PURPOSES = {"migrate": "before_migration", "rollback": "before_rollback"}


class ActionModule(PgopsAction):
    """The backup of a run."""

    PHASE = "backup"
    MODULE = "backup"
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the purpose that the playbook gives."""
        run = self.run_fact(task_vars)
        arguments = super().module_arguments(task_vars)
        arguments["purpose"] = arguments.get("purpose") or _PURPOSES.get(str(run.get("playbook")), "manual")
        arguments.setdefault("environment", str(run.get("environment") or ""))
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the backups are, and what no dump holds."""
        result = emergency_backup.after(
            result,
            tolerated=boolean(self._task.args.get("tolerated") or False),
            databases=list(self.pgops(task_vars, "databases") or []),
            what="backup",
            playbook=self.run_fact(task_vars).get("playbook"),
        )
        for line in emergency_backup.lines(result.get("databases") or {}):
            self.say(line)
        for database, found in (result.get("databases") or {}).items():
            if "path" not in found:
                continue
            self.say(
                f"{database}: backed up {found['tables']} tables, {found['rows']} rows in {found['seconds']:.1f} s "
                f"to {found['path']} ({reporting.size(found['bytes'])})"
            )
            for entry in found["not_included"]:
                self.say(f"{database}: not in the backup: {entry['object']} ({entry['why']})")
        return result
