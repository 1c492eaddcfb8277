# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists of a page: as tables where they are lists of like things, and never longer than the page has room for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# A cell that is longer tells nobody more; the JSON beside the page has all of it.
CELL = 240
# What the markup of a row takes besides its text.
_MARKUP = 48
_COLUMNS = 8
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_KEPT = re.compile(r"(<(pre|code|style)\b.*?</\2>)", re.DOTALL)


class Room:
    """The bytes that the lists of a page may take; each list gets its share of them.

    :param total: bytes for the lists of one database
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def fitting(self, items: Any, share: float = 0.1) -> list[Any]:
        """:param share: of the room that this list may take. :return: the first of the items, as many as fit, and one at least."""
        left = self.total * share
        kept: list[Any] = []
        for item in items if isinstance(items, Sequence) and not isinstance(items, str) else []:
            left -= len(json.dumps(item, ensure_ascii=False, default=str)) + _MARKUP
            if left < 0 and kept:
                break
            kept.append(item)
        return kept


def as_table(items: Any) -> dict[str, Any] | None:
    """:param items: any list. :return: ``columns`` and ``rows`` of texts, where all of it are objects; None where they are not."""
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        return None
    if not all(isinstance(item, Mapping) for item in items):
        return None
    columns: list[str] = []
    for item in items:
        columns += [str(key) for key in item if str(key) not in columns]
    # A column that no item fills is none.
    columns = [name for name in columns if any(item.get(name) not in (None, "", [], {}) for item in items)]
    if len(columns) > _COLUMNS:
        # Of a wide list the plain values; the rest of it is in the JSON.
        plain = [name for name in columns if all(_is_plain(item.get(name)) for item in items)]
        columns = plain[:_COLUMNS]
    if not columns:
        return None
    return {"columns": columns, "rows": [[cell(item.get(name)) for name in columns] for item in items]}


def _is_plain(value: Any) -> bool:
    return not isinstance(value, (Mapping, list, tuple)) and not _CHECKSUM.fullmatch(str(value))


def cell(value: Any) -> str:
    """:return: a value as a cell of a table has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and not any(isinstance(part, (Mapping, list)) for part in value)
    ):
        value = ", ".join(str(part) for part in value)
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else _compact(value)
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, separators=(", ", ": "))


def slim(page: str) -> str:
    """:return: the page without the indentation of its template, which is a fifth of it; text that keeps its blanks is left alone."""
    parts = _KEPT.split(page)
    # Every third part is the name of the tag that the second one is about.
    return "".join(
        part if number % 3 == 1 else re.sub(r"\s*\n\s*", "\n", part)
        for number, part in enumerate(parts)
        if number % 3 != 2
    )
