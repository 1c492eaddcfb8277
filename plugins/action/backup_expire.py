# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module backup_expire, says what went and what stays, and writes each deletion down; documented in the module."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.backup_actions import KeptBackupsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table

EVENT = "backup_deleted"


class ActionModule(KeptBackupsAction):
    """The end of backups that nothing keeps."""

    PHASE = "backup_expire"
    MODULE = "backup_expire"
    REMEMBERED = False
    LIVE = True

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's arguments, the environment of the run, and who asks."""
        return {**self.retention_arguments(task_vars), "who": self.who(task_vars)}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what went and what was left, and write each deletion into the journal, of a run that failed as well."""
        journal = self._journal(task_vars)
        for database, found in (result.get("databases") or {}).items():
            if journal:
                for entry in found["expired"]:
                    where = {"host": task_vars.get("inventory_hostname"), "database": database}
                    journal.append({"event": EVENT, **where, **entry})
            self._show(database, found)
        return result

    def _show(self, database: str, found: dict[str, Any]) -> None:
        verb = "would be deleted" if self._task.check_mode else "deleted"
        freed = reporting.size(sum(entry["bytes"] for entry in found["expired"]))
        self.say(
            f"{database}: {len(found['expired'])} {verb} ({freed}), {len(found['kept'])} kept, {len(found['left'])} left "
            f"as they are in {found['folder']}"
        )
        rows = [[entry["id"], reporting.size(entry["bytes"]), entry["why"]] for entry in found["expired"]]
        for line in table([verb.upper(), "SIZE", "WHY"], rows) if rows else []:
            self.say(f"    {line}")
        for entry in found["left"]:
            self.say(f"    left: {entry['id']}: {entry['told']}")
        if found["not_asked"] and (found["expired"] or found["kept"]):
            self.say(f"    the server was not asked what a rollback needs: {found['not_asked']}")
        if found["not_audited"]:
            self.say(f"    not in the ledger's audit yet: {found['not_audited']}; the next run writes it")
