# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings on which the print of a value or a definition depends.

A role or a database may default to anything, and two databases are compared by what they print.
"""

from __future__ import annotations

from typing import Any

OUTPUT_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    # Every name in a definition is qualified, whoever asks.
    "search_path": "pg_catalog",
    # A reader from whom a policy would hide rows fails instead.
    "row_security": "off",
    # Compiling costs 100 ms for a catalog query of 5, whose cost estimates are high, and more than it gains for a hash.
    "jit": "off",
    "statement_timeout": "0",
}


def pin(cursor: Any) -> None:
    """Pin the settings until the end of the open transaction (or of its savepoint, if that is rolled back)."""
    cursor.execute(
        "SELECT set_config(name, value, true) FROM unnest(%s::text[], %s::text[]) AS pinned (name, value)",
        [list(OUTPUT_SETTINGS), list(OUTPUT_SETTINGS.values())],
    )
