# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How much disk an index build needs, and whether the server has it.

PostgreSQL has no function that tells free space. It is known in two ways, neither of which needs a superuser: the module
runs on the server's host and asks the file system itself; or the operator says what builds may take
(``migrate_index_disk_mb``). Where neither holds nobody knows, which is told, and the build is begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import server_host
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

MB = 1024 * 1024
# Below this the planner is not asked: the table itself is more than any index of it is likely to be.
SMALL_TABLE = 8 * MB
# A tuple of an index has a header of 8 bytes and a line pointer of 4, and is aligned to 8; a leaf page is filled to 90 %
# (PostgreSQL: "nbtree", BTREE_DEFAULT_FILLFACTOR).
TUPLE_OVERHEAD = 16
FILL = 0.9
# How often its own size an index is on the disk while it is built: itself, the runs that its rows are sorted in, and its
# pages in the WAL. Only the first is a file in the index's tablespace, but most servers have one file system.
COPIES = 3
# What nobody can see is told from this need on; below it is no question.
WORTH_TELLING = 100 * MB

_PLACE = """
SELECT coalesce((SELECT pg_catalog.pg_relation_size(to_regclass(%(table)s))), 0) AS heap,
       pg_catalog.pg_tablespace_location(coalesce(
           (SELECT oid FROM pg_catalog.pg_tablespace
             WHERE spcname = nullif(current_setting('default_tablespace'), '')),
           (SELECT dattablespace FROM pg_catalog.pg_database WHERE datname = current_database()))) AS tablespace
"""


def check(context: StepContext, conn: Connection, index: Mapping[str, Any]) -> None:
    """Look whether the disk has room for an index before it is built.

    Takes ACCESS SHARE on the table for the planner's estimate.

    :raises PgopsError: it has not (SQLSTATE 53100): nothing of this index was built.
    """
    place = _place(conn, index)
    wanted = needed(conn, index, int(place["heap"]))
    free, where = _free(context, conn, place)
    name = f"{schema_of(index)}.{index['name']}"
    if free is None:
        if wanted >= WORTH_TELLING:
            context.tell(
                f"index {name} may need {_mb(wanted)} for a while; what the server has free is not known from here"
            )
        return
    if wanted <= free:
        return
    raise PgopsError(
        f"{context.doing} stopped before it built index {name}: it may need {_mb(wanted)} for a while, and {_mb(free)} are "
        f"free {where}.",
        sqlstate=errorcodes.DISK_FULL,
        database=context.database,
        object_name=name,
        hint="Free space there, then run it again: it goes on at this index.",
        extra={"reason": "disk", "needed_bytes": wanted, "free_bytes": free},
    )


def explain(context: StepContext, conn: Connection, index: Mapping[str, Any], error: PgopsError) -> None:
    """Say of a build that the disk had no room for what it needs, what is free by now, and what to do."""
    place = _place(conn, index)
    wanted = needed(conn, index, int(place["heap"])) if "statement" not in index else int(place["heap"]) * COPIES
    free, where = _free(context, conn, place)
    now = f"{_mb(free)} are free {where} by now" if free is not None else "what is free is not known from here"
    error.hint = (
        f"Its remains were dropped. It may need {_mb(wanted)} for a while, and {now}. Free space on the server, then run "
        "it again: it goes on at this index."
    )
    error.extra |= {"reason": "disk", "needed_bytes": wanted, "free_bytes": free}


def needed(conn: Connection, index: Mapping[str, Any], heap: int) -> int:
    """:param heap: size of the table in bytes.
    :return: bytes that the build may have on the disk at once: :data:`COPIES` of the index, whose size is the planner's
        rows and width for what is indexed."""
    if heap < SMALL_TABLE:
        return COPIES * heap
    columns = [
        sql.SQL(column["expression"]) if column.get("expression") else sql.Identifier(column["column"])
        for column in index["columns"]
    ] + [sql.Identifier(name) for name in index.get("include") or []]
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT {} FROM ONLY {}{}").format(
        sql.SQL(", ").join(columns),
        sql.Identifier(schema_of(index), index["table"]),
        sql.SQL(" WHERE " + index["where"]) if index.get("where") else sql.SQL(""),
    )
    try:
        with transaction(conn):
            # As CREATE INDEX reads the table: whole, and not in parallel, whose plan has the rows of one worker.
            execute(conn, "SET LOCAL max_parallel_workers_per_gather = 0")
            row = fetch_one(conn, query)
    except psycopg2.Error:
        if conn.closed:
            raise
        # A definition that the server refuses: the build says so better.
        return COPIES * heap
    plan = (row or {})["QUERY PLAN"][0]["Plan"]
    return COPIES * int(plan["Plan Rows"] * (plan["Plan Width"] + TUPLE_OVERHEAD) / FILL)


def _place(conn: Connection, index: Mapping[str, Any]) -> dict[str, Any]:
    table = sql.Identifier(schema_of(index), index["table"]).as_string(conn) if index.get("table") else None
    row = fetch_one(conn, _PLACE, {"table": table})
    assert row is not None
    return row


def _free(context: StepContext, conn: Connection, place: Mapping[str, Any]) -> tuple[int | None, str]:
    """:return: free bytes, None where nobody knows; and where that is, in words."""
    host = server_host.of(conn)
    seen = host.free_bytes(str(place["tablespace"])) if host else None
    allowed = context.builds.disk_mb
    if allowed is None:
        return seen, "on the server's disk"
    left = max(0, allowed * MB - context.builds.took_bytes)
    if seen is not None and seen <= left:
        return seen, "on the server's disk"
    return left, "of what migrate_index_disk_mb allows"


def _mb(size: int) -> str:
    return f"{max(1, round(size / MB)):,} MB"
