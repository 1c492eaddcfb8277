# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a rollback takes away, as lines that a person reads before saying yes: counts per table, never contents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.proof_levels import forecast_line


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
            _number(entry, "rows_written"),
            _number(entry, "rows_gone"),
        )
        for entry in lost["tables"]
        if not _empty(entry)
    ]
    if rows:
        header = ("table", "what is lost", "rows then", "rows now", "written since", "changed or deleted since")
        lines += [f"  {line}" for line in _table([header, *rows])]
    else:
        lines.append(f"{database}: no row was written since{'' if lost.get('large_objects') else '; no data is lost'}")
    lines += _large_objects(database, lost.get("large_objects"))
    if lost.get("bounds"):
        lines.append(f"{database}: {lost['bounds']}")
    empty = [entry["table"] for entry in lost["tables"] if _empty(entry)]
    if empty:
        lines.append(f"{database}: {len(empty)} tables made since, without a row, go: {', '.join(empty)}")
    lines += [
        f"{database}: version {entry['version']} ({entry['name']}) is {entry['state']} now and will be "
        f"{entry['state_after'] or 'not applied'}"
        for entry in lost["versions"]
    ]
    for entry in lost["settings"]:
        if "names" in entry:
            lines.append(f"{database}: {entry['attribute']} of the database go back: {', '.join(entry['names'])}")
        else:
            lines.append(
                f"{database}: {entry['attribute']} of the database goes back from {_short(entry['now'])} to "
                f"{_short(entry['after'])}"
            )
    if "forecast" in found:
        lines.append(f"{database}: {forecast_line(found['forecast'])}; clients are kept out for the swap only")
    lines.append(f"{database}: nothing is destroyed: the present database is kept under another name")
    return lines


def swap_losses(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: what a swap back leaves behind, from a preview of the module swap."""
    lost = found["lost"]
    lines = [f"{database}: {found['swapped_in']} would take its place, as it was put aside at {lost['since']}"]
    if lost["tables"]:
        rows = [(entry["table"], str(entry["rows_now"]), _number(entry, "rows_written")) for entry in lost["tables"]]
        lines += [f"  {line}" for line in _table([("table", "rows now", "written since and left behind"), *rows])]
    else:
        lines.append(f"{database}: no row was written since")
    lines += _large_objects(database, lost.get("large_objects"))
    if lost.get("bounds"):
        lines.append(f"{database}: {lost['bounds']}")
    return lines


def _large_objects(database: str, found: Mapping[str, Any] | None) -> list[str]:
    """:return: what of the large objects a way back takes away, and what it brings back."""
    if not found:
        return []
    told = f"{database}: of {found['now']} large objects {_number(found, 'written')} were written since and are lost"
    if "gone" in found:
        told += f"; of {found['then']} in the backup {_number(found, 'gone')} were overwritten or deleted since and come back"
    if found.get("unread"):
        told += f"; their contents could not be compared: {found['unread']}"
    return [told]


def cluster_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:return: what a restore to a point in time has lost, from the result of the module physical_restore, with the names that the other
    ways back have: ``table``, ``change``, ``rows_now`` before it and ``rows_then`` at the point that it went back to."""
    return [
        {
            "table": table,
            "change": "new table" if rows["then"] is None else "dropped table" if rows["now"] is None else "rows",
            "rows_now": rows["now"] or 0,
            "rows_then": rows["then"] or 0,
        }
        for table, rows in (found.get("lost") or {}).items()
    ]


def lost_rows(database: str, found: Mapping[str, Any]) -> list[str]:
    """:return: what the module lost_writes has found, beside what was shown before the rollback where that is known."""
    if "tables" not in found:
        return [f"{database}: would be compared with {found['kept']}, put aside at {found['put_aside']}"]
    shown = {entry["table"]: entry for entry in found.get("estimate") or []}
    entries = {entry["table"]: entry for entry in found["tables"]}
    header = ("table", "inserted", "updated", "deleted", "written in both", "by a version")
    rows = [
        (*_lost(name, entries.get(name, {})), *([_shown(shown.get(name))] if shown else []))
        for name in sorted({*entries, *(name for name, entry in shown.items() if _tells(entry))})
    ]
    lines = [f"{database}: compared with {found['kept']}, put aside at {found['put_aside']}"]
    if rows:
        lines += [f"  {line}" for line in _table([(*header, *(["shown before"] if shown else [])), *rows])]
    lines.append(f"{database}: {_sum(found['rows'])}")
    lines += [f"{database}: {entry['table']}: {note}" for entry in found["tables"] for note in entry["notes"]]
    if found.get("bounds"):
        lines.append(f"{database}: not exact: {found['bounds']}")
    lines += [f"{database}: {note}" for note in found["notes"]]
    if found.get("export"):
        file = "lost_writes.sql.age" if found.get("encrypted") else "lost_writes.sql"
        lines.append(f"{database}: exported to {found['export']}; read {file} there before you run it")
    if found.get("held_back"):
        lines.append(
            f"{database}: {found['held_back']} rows stand in it as comments: they refer to a key that both databases wrote since, "
            "which may be another one's here"
        )
    return lines


def _lost(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    own = int(entry.get("own_inserted", 0)) + int(entry.get("own_updated", 0))
    kinds = ("inserted", "updated", "deleted", "both")
    return (name, *(str(entry.get(kind, 0)) for kind in kinds), str(own))


def _tells(entry: Mapping[str, Any]) -> bool:
    return entry.get("change", "rows") == "rows" and bool(entry["rows_written"] or entry.get("rows_gone"))


def _shown(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "nothing"
    gone = f", {_number(entry, 'rows_gone')} changed or deleted" if "rows_gone" in entry else ""
    return f"{_number(entry, 'rows_written')} written{gone}"


def _sum(rows: Mapping[str, Any]) -> str:
    if not rows["application"] and not rows["versions"]:
        return "no row of the kept database is missing"
    by_versions = f", and {rows['versions']} that a version wrote last" if rows["versions"] else ""
    return f"{rows['application']} rows of the application are not in the live database{by_versions}; the kept one has them"


def _number(entry: Mapping[str, Any], name: str) -> str:
    least = entry.get("at_least", {}).get(name, entry[name])
    return str(entry[name]) if least == entry[name] else f"at least {least}, at most {entry[name]}"


def _empty(entry: Mapping[str, Any]) -> bool:
    return entry["change"] == "new table" and not entry["rows_now"]


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


_HEADER = ("strategy", "possible", "data lost", "outage", "taken back by")


def strategy_lines(database: str, found: Mapping[str, Any], *, refused: bool = False) -> list[str]:
    """:param found: from the result of the module strategies.
    :param refused: none of them is taken now.
    :return: the ways back as a table, what each needs or lacks, and which one is taken and why."""
    change = found.get("last_change")
    lines = [f"{database}: the ways back" + (f"; the last change: {change['told']}" if change else "")]
    ways = found["ways"]
    rows = [
        (
            f"{'*' if name == found['chosen'] and not refused else ' '} {name}",
            "yes" if way["possible"] else "no",
            way["lost"] or "-",
            way["outage"] or "-",
            way["back"] or "-",
        )
        for name, way in ways.items()
    ]
    lines += [f"    {line}" for line in _table([_HEADER, *rows])]
    for name, way in ways.items():
        told = "; ".join(way["needs"]) if way["possible"] else way["why_not"]
        lines.append(f"    {name} {'needs: ' if way['possible'] else 'is not possible: '}{told}")
    for way in ways.values():
        lines += [
            f"    in the way of {way['strategy']}: {entry['kind']} {entry['name']}"
            f"{' in ' + entry['database'] if entry['database'] else ''}; {entry['fix']}"
            for entry in way["blockers"]
        ]
    if found.get("unreadable"):
        lines.append(
            f"{database}: its ledger cannot be read ({found['unreadable']}): the versions and what was written cannot be told, and a "
            "swap does not carry the history across; the replaced database keeps it"
        )
    lines += [f"{database}: {told}" for told in found.get("cannot_move") or []]
    if found["asked"] == "auto" and found["chosen"] != "auto":
        lines.append(f"{database}: {found['chosen']}, since {found['why']}")
        lines += [f"{database}: not {name}: {why}" for name, why in (found.get("why_not") or {}).items()]
    return lines
