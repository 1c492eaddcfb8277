# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restored cluster beside what was recorded of the live one at the restore point that it was recovered to; see recorded_moment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, content
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.dump import Contents
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.recorded_moment import XID_32, Visible

# Transactions that may have ended since; so many have not in the time that a snapshot and a restore point take.
_CANDIDATES = 100_000

# In a server that stands still in its recovery no transaction begins.
_LAST = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xid"
_COMMITTED = """
SELECT given.x::bigint AS xid FROM unnest(%s::text[]) AS given (x) WHERE pg_catalog.pg_xact_status(given.x::xid8) = 'committed'
"""


@dataclass
class Differences:
    """What was found in a restored database.

    :ivar compared: how many tables of ``tables`` had to be what they were.
    :ivar moving: tables that a transaction wrote to whose end lies on neither side of the restore point for sure.
    :ivar unlogged: tables that a recovery empties.
    """

    compared: int = 0
    tables: int = 0
    rows: int = 0
    counted: list[dict[str, Any]] = field(default_factory=list)
    hashed: list[dict[str, Any]] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)
    unlogged: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[dict[str, Any]]:
        """:return: every difference."""
        return self.counted + self.hashed


def committed_beyond(conn: Connection, moment: Mapping[str, Any]) -> dict[str, list[int]]:
    """Find transactions that the snapshots do not see and that are committed at the restore point all the same.

    :param conn: on the restored cluster while it stands still at the restore point, before it is promoted.
    :return: by database their numbers; most often none.
    :raises PgopsError: it stands at another moment.
    """
    last = int((fetch_one(conn, _LAST) or {})["xid"])
    found = {}
    for database, described in moment["databases"].items():
        visible = Visible(int(described["visible"]["end"]), frozenset(described["visible"]["running"]))
        if last - visible.end > _CANDIDATES:
            raise PgopsError(
                f"The restored cluster stands {last - visible.end} transactions behind what was recorded at restore point {moment['name']}.",
                hint="There is another restore point of that name; prove it again.",
            )
        given = [str(xid) for xid in (*visible.running, *range(visible.end, last)) if xid < last]
        found[database] = [int(row["xid"]) for row in fetch_all(conn, _COMMITTED, (given,))] if given else []
    return found


def compare(
    target: Target,
    described: Mapping[str, Any],
    beyond: list[int],
    *,
    workers: int,
    application_name: str,
    progress: Progress,
    control: Control,
) -> Differences:
    """Compare a restored database with what was recorded of it.

    :param target: the restored one; nobody writes in it.
    :param described: an entry of ``databases``.
    :param beyond: transactions that were not in the snapshot and came back, see :func:`committed_beyond`.
    :raises PgopsError: it cannot be read; or something differs that such a transaction may have changed, and nobody can say.
    """
    database = target.database
    contents = Contents(
        target, workers=workers, application_name=f"{application_name} compare", progress=progress
    ).start()
    forget = control.on_interrupt(contents.cancel)
    try:
        with contextlib.closing(connect(target, application_name=application_name)) as conn:
            objects = _objects(conn, described)
        tables = contents.result(f"The restored {database} cannot be read")
        control.check()
    finally:
        forget()
        contents.cancel()
        contents.join()
    writing = described["writing"]
    moving = {name for xid in beyond for name in writing.get(str(xid & XID_32), [])}
    if beyond and objects:
        raise _untold(database, str(objects[0]["object"]))
    unlogged = set(described["unlogged"])
    left_out = moving | unlogged
    expected = {name: entry for name, entry in described["tables"].items() if name not in left_out}
    there = {name: entry for name, entry in tables.items() if name not in left_out}
    different = content.compare_contents(_as_they_are(expected), _as_they_are(there))
    unknown = [xid for xid in beyond if str(xid & XID_32) not in writing]
    if unknown and different:
        raise _untold(database, str(different[0]["object"]))
    return Differences(
        compared=len(expected),
        tables=len(tables),
        rows=sum(entry["rows"] or 0 for entry in tables.values() if entry["kind"] == "table"),
        counted=[entry for entry in different if entry["attribute"] != "hash"] + objects,
        hashed=[entry for entry in different if entry["attribute"] == "hash"],
        moving=sorted(moving),
        unlogged=sorted(unlogged),
    )


def _untold(database: str, name: str) -> PgopsError:
    return PgopsError(
        f"{name} of {database} differs, and a transaction that ended just when the restore point was made may have changed it; the backup "
        "is not proved.",
        database=database,
        object_name=name,
        hint="Prove it again when less is written.",
    )


def _as_they_are(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A recovery brings a materialised view back as it was; a dump has it filled anew, and so its rows would not be compared."""
    return {
        name: {**entry, "kind": "table" if entry["kind"] == "materialized view" else entry["kind"]}
        for name, entry in tables.items()
    }


def _objects(conn: Connection, described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:return: differences in sequences, large objects and catalog."""
    found = _sequence_differences(described["sequences"], content.sequences(conn))
    objects = content.large_objects(conn)
    found += [
        {"object": "large objects", "attribute": name, "expected": described["large_objects"][name], "found": value}
        for name, value in objects.items()
        if value != described["large_objects"][name]
    ]
    inventory = catalog.inventory(conn, exclude_schemas=())
    if "inventory" in described:
        found += [entry.as_dict() for entry in catalog.compare(described["inventory"], inventory, ignore=())]
    elif catalog.fingerprint(inventory) != described["catalog_fingerprint"]:
        found.append(
            {
                "object": "catalog",
                "attribute": "fingerprint",
                "expected": described["catalog_fingerprint"][:12],
                "found": "another",
            }
        )
    return found


def _sequence_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A recovery leaves a sequence up to 32 numbers further than it was, in its own direction, and clients move it on meanwhile: that it
    is there is compared, and where it stands is not."""
    return [
        {"object": name, "attribute": "presence", "expected": "present", "found": "absent"}
        for name in sorted(expected)
        if name not in found
    ]
