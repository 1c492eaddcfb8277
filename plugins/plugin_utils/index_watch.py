# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the indexes that a run has made were scanned while it was watched; one that nobody uses is a remark, no fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.checklist_run import some

# Of each kind on a line; the result has them all.
_SHOWN = 12


def made(applied: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """:param applied: what the phase apply has found, by database.
    :return: the indexes that it has made, ``schema.name``, of each database that has any."""
    found = {
        database: [name for version in (result or {}).get("applied") or [] for name in _of_version(version)]
        for database, result in (applied or {}).items()
    }
    return {database: names for database, names in found.items() if names}


def _of_version(version: Mapping[str, Any]) -> Iterator[str]:
    for index in version.get("indexes") or []:
        if isinstance(index, Mapping) and index.get("name"):
            yield f"{index['schema']}.{index['name']}"
    yield from version.get("indexes_by_sql") or []


def of(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """:param events: the journal of a run.
    :return: of each host and database ``scans`` (of each index since the watch began, on the primary), ``seconds`` between the first look and
        the last, ``unused`` and ``standbys`` (how many there are); nothing where there were no two looks."""
    looks: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("event") == "looked":
            for database in event.get("index_scans") or {}:
                looks.setdefault((str(event["host"]), str(database)), []).append(event)
    found = []
    for (host, database), (first, *others) in looks.items():
        if not others:
            continue
        last = others[-1]
        before, after = first["index_scans"][database], last["index_scans"][database]
        # After a crash, or a reset of the statistics, the server counts from zero.
        scans = {
            name: number - before[name] if 0 <= before.get(name, -1) <= number else number
            for name, number in after.items()
        }
        found.append({
            "host": host,
            "database": database,
            "seconds": round(_seconds(first, last), 1),
            "scans": scans,
            "unused": sorted(name for name, number in scans.items() if not number),
            "standbys": len(((last.get("seen") or {}).get(database) or {}).get("before", {}).get("standbys") or []),
        })  # fmt: skip
    return found


def lines(watched: Iterable[Mapping[str, Any]]) -> list[str]:
    """:return: a line a database, for a person."""
    told = []
    for found in watched:
        used = {name: number for name, number in found["scans"].items() if number}
        text = f"indexes of this run in {found['database']}, {found['seconds']:g} s of watch on the primary: "
        parts = [f"{name} scanned {number} times" for name, number in sorted(used.items())[:_SHOWN]]
        if len(used) > _SHOWN:
            parts.append(f"{len(used) - _SHOWN} more were scanned")
        if found["unused"]:
            parts.append(f"remark: not scanned: {some(found['unused'], _SHOWN)}")
        standbys = f" (its {found['standbys']} standbys count on their own)" if found["standbys"] else ""
        told.append(text + "; ".join(parts) + standbys)
    return told


def _seconds(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    begun, ended = (datetime.fromisoformat(str(event["time"])) for event in (first, last))
    return (ended - begun).total_seconds()
