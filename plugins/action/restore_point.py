# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module restore_point and says how to come back to it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """The restore point before a change."""

    PHASE = "restore_point"
    MODULE = "restore_point"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Where every table is read it takes minutes, and is shown live."""
        self.LIVE = bool(boolean(self._task.args.get("hashes") or False))
        return super().run(tmp, task_vars)

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Its name, and the command that goes back to it."""
        for database, found in list((result.get("databases") or {}).items())[:1]:
            if "lsn" in found:
                back = self.command(
                    task_vars, "rollback.yml", {"rollback_strategy": "pitr", "rollback_restore_point": found["name"]}
                )
                self.say(
                    f"{database}: restore point {found['name']} at {found['lsn']}, archived after {found['archived_s']:.1f} s; "
                    f"back to it: {back}"
                )
                if found.get("moment"):
                    self.say(f"{database}: what it holds was hashed and is kept in {found['moment']}")
        return result
