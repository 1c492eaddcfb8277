# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The rows that a unique index found more than once: how many, at most ten of them by id, and the query for all.

Never what they hold: it may be PHI. The server's own message has the values in its DETAIL, which is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import row_identity
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.integrity import NAMED_ROWS
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import sql


def explain(context: StepContext, conn: Connection, index: Mapping[str, Any], error: PgopsError) -> None:
    """Add to the error of a unique index how many rows have a key that another row has, ten of them, and what to do.

    Takes ACCESS SHARE on the table, and no longer than a statement may (``statement_timeout_s``).
    """
    query = duplicates_query(conn, index)
    hint = (
        f"The index was removed. List the rows: {query.as_string(conn)}; change or delete all but one of each, then run it "
        "again: it goes on at this index."
    )
    error.extra |= {"reason": "duplicates", "duplicates": {"query": query.as_string(conn)}}
    try:
        with transaction(conn, context.limits(context.budget("statement_timeout_s"))):
            row = fetch_one(
                conn,
                sql.SQL('SELECT count(*) AS "rows", coalesce(max("key"), 0) AS "keys" FROM ({}) AS found').format(
                    query
                ),
            )
            ids = [str(item["id"]) for item in fetch_all(conn, query + sql.SQL(f" LIMIT {NAMED_ROWS}"))]
    except psycopg2.Error:
        if conn.closed:
            raise
        # Too many rows to count in that time: the query is told.
        error.hint = hint
        return
    rows, keys = (int(row["rows"]), int(row["keys"])) if row else (0, 0)
    table = f"{schema_of(index)}.{index['table']}"
    shown = ", ".join(ids) + (", …" if rows > len(ids) else "")
    told = f"; {rows} rows of {table} share {keys} key(s), by id {shown}" if rows else "; the doubles are gone by now"
    error.message += told
    error.args = (error.message,)
    error.hint = hint
    error.extra["duplicates"] |= {"table": table, "rows": rows, "keys": keys, "ids": ids}


def duplicates_query(conn: Connection, index: Mapping[str, Any]) -> sql.Composed:
    """:return: the SELECT of the rows that have the key of another row: their id, and a number of their key."""
    parts = [
        sql.SQL("({})").format(sql.SQL(column["expression"]))
        if column.get("expression")
        else sql.Identifier(column["column"])
        for column in index["columns"]
    ]
    table = sql.Identifier(schema_of(index), index["table"])
    # Two rows without a value are not the same to a unique index.
    conditions = [sql.SQL("{} IS NOT NULL").format(part) for part in parts]
    if index.get("where"):
        conditions.append(sql.SQL("({})").format(sql.SQL(index["where"])))
    keys = sql.SQL(", ").join(parts)
    return sql.SQL(
        'SELECT id, dense_rank() OVER (ORDER BY place) AS "key" FROM (SELECT {identity} AS id, '
        "min(ctid) OVER (PARTITION BY {keys}) AS place, count(*) OVER (PARTITION BY {keys}) AS number FROM ONLY {table} "
        "WHERE {conditions}) AS rows WHERE number > 1 ORDER BY 2, 1"
    ).format(
        identity=row_identity.told(row_identity.columns(conn, table)),
        keys=keys,
        table=table,
        conditions=sql.SQL(" AND ").join(conditions),
    )
