# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rollback takes away, as lines that a person reads before saying yes: counts per table, never contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def restore_losses(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: what going back to a backup loses, from the result of the module restore."""
    lost = found["lost"]
    lines = [f"{database}: would go back to {found['backup']} ({found['why']}), as of {lost['since']}"]
    rows = [
        (
            entry["table"],
            _what(entry),
            str(entry["rows_then"]),
            str(entry["rows_now"]),
            str(entry["rows_written"]),
            str(entry["rows_gone"]),
        )
        for entry in lost["tables"]
    ]
    if rows:
        header = ("table", "what is lost", "rows then", "rows now", "written since", "changed or deleted since")
        lines += [f"  {line}" for line in _table([header, *rows])]
    else:
        lines.append(f"{database}: no row was written since; no data is lost")
    lines += [
        f"{database}: version {entry['version']} ({entry['name']}) is {entry['state']} now and will be "
        f"{entry['state_after'] or 'not applied'}"
        for entry in lost["versions"]
    ]
    lines += [
        f"{database}: {entry['attribute']} of the database goes back from {_short(entry['now'])} to {_short(entry['after'])}"
        for entry in lost["settings"]
    ]
    lines.append(f"{database}: nothing is destroyed: the present database is kept under another name")
    return lines


def down_losses(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: which versions are reverted and what their way down destroys, from a preview of the module revert."""
    lines = [
        f"{database}: would revert {entry['version']} ({entry.get('name') or ''})"
        + (f"; stays: {entry['stays']}" if entry.get("stays") else "")
        for entry in found.get("versions") or []
    ]
    if not lines:
        return [f"{database}: no version is applied; nothing to revert"]
    rows = []
    for entry in found.get("loss") or []:
        if entry.get("rows") is not None:
            rows.append((entry["table"], f"the table with {entry['rows']} rows", entry["version"]))
        rows += [
            (entry["table"], f"column {column} with {count} values", entry["version"])
            for column, count in (entry.get("columns") or {}).items()
        ]
        if entry.get("some_rows"):
            rows.append((entry["table"], "rows that the way down deletes", entry["version"]))
    if rows:
        lines += [f"  {line}" for line in _table([("table", "what is lost", "by version"), *rows])]
    else:
        lines.append(f"{database}: no data is lost")
    return lines


def _what(entry: Mapping[str, Any]) -> str:
    return {
        "rows": "rows",
        "new table": "the whole table",
        "dropped table": "nothing, it comes back",
        "rewritten": "nothing, same contents",
    }[entry["change"]]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
