# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the module stop and tells what came of it; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, seconds


class ActionModule(MigrationAction):
    """Ends a running migration at its next safe point."""

    PHASE = "stop"
    MODULE = "stop"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: how long to wait, and who asks."""
        run = self.run_fact(task_vars)
        by = f"{run.get('who') or 'somebody'} on {run.get('ops_host') or 'an unknown host'}"
        return {"by": by, **{name: value for name, value in self._task.args.items() if value is not None}}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a database."""
        for database, found in (result.get("databases") or {}).items():
            if not found["was_running"]:
                self.say(f"{database}: nothing is running")
                continue
            run = (found["holder"] or {}).get("run_id") or "the run"
            if found["stopped"]:
                self.say(f"{database}: {run} has ended after {seconds(found['waited_s'])}; the next run goes on there")
            else:
                self.say(f"{database}: {run} is running and would be asked to end")
        if result.get("failed"):
            self.tell_next(result, [("Look again", self.command(task_vars, "status.yml"))])
        return result
