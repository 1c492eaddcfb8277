# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_copy with the backup of this run; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import named_backup, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction, display


class ActionModule(PgopsAction):
    """The copies of a run's backup in a second place."""

    PHASE = "backup_copy"
    MODULE = "backup_copy"
    LIVE = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """In check mode no backup was made: then there is nothing to copy, and the run goes on."""
        variables = task_vars or {}
        made = self.run_fact(variables).get("backup") or {}
        if made:
            named_backup.refuse_beside_own(self, variables, self._task.args.get("path"))
        if self._task.check_mode and any("path" not in entry for entry in made.values()):
            return {"changed": False, "skipped": True, "skip_reason": "check mode: no backup was made"}
        return super().run(tmp, variables)

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, with the backups that this run made."""
        arguments = super().module_arguments(task_vars)
        made = self.run_fact(task_vars).get("backup") or {}
        arguments["backups"] = {
            name: {"path": entry["path"], "manifest_sha256": entry["manifest_sha256"]}
            for name, entry in made.items()
            if "path" in entry
        }
        return arguments

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say where the copies are, and where there is none."""
        for database, found in (result.get("databases") or {}).items():
            for entry in found.get("copies") or []:
                self.say(
                    f"{database}: copied to {entry['path']} ({reporting.size(entry['bytes'])}), read back there at "
                    f"{entry['verified_at']}"
                )
            for entry in found.get("not_copied") or []:
                if not result.get("failed"):
                    display.warning(f"{database}: there is no copy in {entry['place']}: {entry['message']}")
        return result
