# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module query_statistics and says what is left to do; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """What a server needs to count its statements, short of a restart."""

    PHASE = "query_statistics"
    MODULE = "query_statistics"

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Each statement, and that somebody has to restart the server."""
        would = "would run" if self._task.check_mode else "ran"
        databases = result.get("databases") or {}
        for database, found in databases.items():
            for statement in found["statements"]:
                self.say(f"{database}: {would} {statement};")
        for database, found in list(databases.items())[:1]:
            if found["restart"]:
                self.say(
                    f"{database}: nothing is counted until the server is restarted, in a window that fits: pgops does not do that; it will "
                    f"load {', '.join(found['libraries'])} (before: {', '.join(found['before']) or 'none'})"
                )
            elif not any(one["statements"] for one in databases.values()):
                self.say(f"{database}: statements are counted already")
        return result
