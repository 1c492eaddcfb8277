# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names as a person has to type them in SQL; what we run ourselves goes through ``psycopg2.sql``."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"^[a-z_][a-z0-9_$]*$")


def quoted(name: object) -> str:
    """:return: an identifier for a statement that a message tells people to type, in quotes where it needs them."""
    text = str(name)
    return text if _PLAIN.match(text) else '"' + text.replace('"', '""') + '"'
