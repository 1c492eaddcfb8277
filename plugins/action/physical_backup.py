# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module physical_backup and says what it left; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """The physical backup of a run."""

    PHASE = "backup"
    MODULE = "physical_backup"
    LIVE = True

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line: the cluster has one backup, however many databases were named."""
        for database, found in list((result.get("databases") or {}).items())[:1]:
            if "label" in found:
                on = f", on top of {', '.join(found['references'])}" if found["references"] else ""
                self.say(
                    f"{database}: cluster backed up by pgBackRest {found['pgbackrest']} as {found['label']} ({found['type']}, "
                    f"{reporting.size(found['database_bytes'])}, {found['seconds']:.1f} s){on}"
                )
        return result
