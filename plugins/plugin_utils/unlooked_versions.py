# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The versions of a way down that may stop in their turn: what goes before them may change what stands in their way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lines(database: str, found: Mapping[str, Any]) -> list[str]:
    """:param found: what the module revert gave for the database in check mode."""
    return [
        f"NOT LOOKED AT in {database}: {entry['version']}: {'; '.join(entry['what'])}. What goes before it may change that: it is looked at in "
        "its turn, and where it stops then, the versions before it are reverted."
        for entry in found.get("unlooked") or []
    ]


def of_check(report: Mapping[str, Any]) -> list[str]:
    """:return: the lines of all databases of a run in check mode."""
    if not report["check_mode"]:
        return []
    return [
        line
        for databases in report["results"].values()
        for database, phases in databases.items()
        for line in lines(database, phases.get("revert") or {})
    ]
