# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A query told apart from others without its text, whose literals may be patients' data."""

from __future__ import annotations

import hashlib
import re

# pg_stat_activity cuts a query at track_activity_query_size: what opens and does not end is a literal up to the end.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<name>"(?:[^"]|"")*(?:"|\Z))
      | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)
      | [eE]'(?:[^'\\]|''|\\.)*(?:'|\\?\Z) | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*(?:'|\Z)
      | (?<![\w.$])\d[\w.]*""",
    re.DOTALL | re.VERBOSE,
)
_LIST = re.compile(r"\?(?:\s*,\s*\?)+")


def query_digest(query: str | None) -> str | None:
    """:param query: as ``pg_stat_activity`` shows it, perhaps cut.
    :return: 12 hex digits, the same for queries that differ in literals, comments, case and white space only; None where
        there is no text, or it is hidden from this role."""
    if not query or query == "<insufficient privilege>":
        return None
    shape = _LIST.sub("?", " ".join(_TOKEN.sub(_shown, query).lower().split()))
    return hashlib.sha256(shape.encode()).hexdigest()[:12]


def _shown(token: re.Match[str]) -> str:
    return " " if token["comment"] else token[0] if token["name"] else "?"
