# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_prove and says what was compared; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """The proof of a physical backup."""

    PHASE = "prove"
    MODULE = "physical_prove"
    LIVE = True

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Say what was compared, and what could not be."""
        for database, found in (result.get("databases") or {}).items():
            if "proved_at" not in found:
                continue
            self.say(
                f"{database}: physical backup {found['label']} proved: {found['tables']} tables and {found['rows']} rows restored to "
                f"{found['restore_point']}, {found['compared']} tables compared, pg_amcheck passed, in {found['seconds']:.1f} s "
                f"(restore {found['restore_seconds']:.1f} s)"
            )
            if found["moving"]:
                self.say(f"{database}: written to meanwhile, so counted only: {', '.join(found['moving'])}")
        return result
