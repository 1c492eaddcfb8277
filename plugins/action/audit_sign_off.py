# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module audit_sign_off; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """A person signs a run off."""

    PHASE = "audit_sign_off"
    MODULE = "audit_sign_off"

    def module_arguments(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the task's own, and who typed it."""
        return {**self._task.args, "typed_by": self.run_fact(task_vars).get("who")}

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line a database."""
        args = self._task.args
        for database in result.get("databases") or {}:
            if not result.get("failed"):
                verb = "would be" if self._task.check_mode else "is"
                self.say(
                    f"{database}: run {args.get('signed_run')} {verb} signed off by {args.get('signed_by')} ({args.get('role')})"
                )
        return result
