# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts the module export and says where the export is; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction


class ActionModule(PgopsAction):
    """A dump to hand on."""

    PHASE = "export"
    MODULE = "export"
    LIVE = True

    def after(self, result: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """One line an export, and what is not in it."""
        for database, found in (result.get("databases") or {}).items():
            if "path" not in found:
                self.say(f"{database}: would be exported ({found['format']}) into {found['would_write']}")
                continue
            self.say(
                f"{database}: exported to {found['path']} ({reporting.size(found['bytes'])}, {found['seconds']:.1f} s), read back; "
                f"its sha256 and its log lie beside it"
            )
            for entry in found["not_included"]:
                self.say(f"{database}: not in it: {entry['object']} ({entry['why']})")
            self.say(f"{database}: an export is no backup: no migration and no rollback takes it")
        if result.get("log"):
            self.say(f"{result.get('database')}: the log of the export is {result['log']}")
        return result
