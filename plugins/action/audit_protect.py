# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module audit_protect and says what it did; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """An owner of its own for the audit."""

    PHASE = "audit_protect"
    MODULE = "audit_protect"

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line each change."""
        would = "would be done: " if self._task.check_mode else ""
        for database, found in (result.get("databases") or {}).items():
            for line in found["done"] or [f"the audit belongs to {found['owner']} already"]:
                self.say(f"{database}: {would}{line}")
        return result
