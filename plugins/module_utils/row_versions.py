# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows of a table that were written after a snapshot, told by the transaction that wrote each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from psycopg2 import sql

XID_RANGE = 1 << 32

# A row's xmin is 32 bits of a 64-bit counter. What counts as new lies in the window between the backup's snapshot and
# now; a frozen row keeps its old xmin and falls outside. In the snapshot's xip: begun before it, committed after it.
_WRITTEN = """((xmin::text::bigint - {xmax} + 4294967296) % 4294967296 < {window}
               OR xmin::text::bigint = ANY ({xip}::bigint[]))"""
_COUNT = "SELECT count(*) AS now, count(*) FILTER (WHERE {written}) AS written FROM {only}{table}"


def written(window: Mapping[str, Any]) -> sql.Composable:
    """:return: whether a row was written since, as SQL. The values stand in it: beside parameters, a percent sign in a name would
    be taken for one of them."""
    return sql.SQL(_WRITTEN).format(**{name: sql.Literal(window[name]) for name in ("xmax", "window", "xip")})


def count(
    conn: Connection, schema: str, table: str, window: Mapping[str, Any], *, tree: bool = False
) -> dict[str, int]:
    """Read the whole table. Takes ACCESS SHARE. Deletions leave no row to count.

    :param tree: with its partitions and heirs.
    :return: ``now`` and ``written``: rows there are, and rows of them written since the window began.
    """
    question = sql.SQL(_COUNT).format(
        written=written(window), only=sql.SQL("" if tree else "ONLY "), table=sql.Identifier(schema, table)
    )
    row = fetch_one(conn, question)
    assert row is not None
    return {"now": int(row["now"]), "written": int(row["written"])}


def window(conn: Connection, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """:param snapshot: ``xmax`` (64 bits) and ``xip`` of pg_current_snapshot() when it was taken.
    :return: what :func:`count` takes for new."""
    now = next_xid(conn)
    return {
        "xmax": snapshot["xmax"] % XID_RANGE,
        # After four billion transactions every xmin may be new; then nothing is called old.
        "window": min(max(now - snapshot["xmax"], 0), XID_RANGE),
        "xip": [xid % XID_RANGE for xid in snapshot["xip"]],
    }


def all_rows() -> dict[str, Any]:
    """:return: the window in which every row counts as new."""
    return {"xmax": 0, "window": XID_RANGE, "xip": []}


def next_xid(conn: Connection) -> int:
    """:return: the first transaction, 64 bits, that nothing committed by now can have been written by."""
    row = fetch_one(conn, "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS xmax")
    return int(row["xmax"]) if row else 0
