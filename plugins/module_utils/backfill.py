# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A step that changes many rows: keyset batches, each a transaction with the ledger's word on how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_step import statement_error
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import DEFAULT_BATCH_SIZE
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import sql

_KEY = """
SELECT format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am m ON m.oid = ic.relam
                WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
                  AND m.amname = 'btree') AS indexed,
       c.reltuples::bigint AS rows
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND a.attnum > 0 AND NOT a.attisdropped
"""


def run(context: StepContext, step: Mapping[str, Any], statement: Mapping[str, Any]) -> int:
    """Run the statement over the whole table, batch by batch, from where an earlier attempt stopped.

    Rows that come into being behind the keys that are done are not seen: a default or a trigger must care for new rows.
    Takes row locks of one batch at a time, under lock_timeout with retries, and none in the pause between two.

    :param statement: uses ``$1`` and ``$2``, the first and the last key of a batch, both inclusive.
    :return: rows changed, over all attempts.
    :raises PgopsError: the key is not fit (nullable, no index), a batch failed; earlier batches stay done.
    """
    schema, table, key = str(step.get("schema") or "public"), str(step["table"]), str(step["key"])
    size = int(step.get("batch_size") or DEFAULT_BATCH_SIZE)
    pause_s = int(step.get("pause_ms") or 0) / 1000
    kind, total = _fit_key(context, schema, table, key)
    last = context.progress_so_far.get("last")
    changed = int(context.progress_so_far.get("rows", 0))
    seen = int(context.progress_so_far.get("seen", 0))
    _prepare(context, statement)
    try:
        while True:
            context.control.check()
            bounds = _next_batch(context, schema, table, key, kind, size, last)
            if bounds is None:
                break
            progress = {"last": bounds["last"], "rows": changed, "seen": seen + int(bounds["rows"]), "total": total}
            changed += _batch(context, statement, bounds, progress, (schema, table))
            last, seen = bounds["last"], seen + int(bounds["rows"])
            context.tell(f"backfilling {schema}.{table}", done=seen, total=max(total, seen), unit="rows")
            if pause_s and int(bounds["rows"]) == size:
                context.sleep(pause_s)
    finally:
        if not context.conn.closed:
            execute(context.conn, "DEALLOCATE pgops_backfill")
    context.save("done", {"last": last, "rows": changed, "seen": seen, "total": seen})
    return changed


def _fit_key(context: StepContext, schema: str, table: str, key: str) -> tuple[str, int]:
    found = fetch_one(context.conn, _KEY, (schema, table, key))
    fault = None
    if found is None:
        fault = "there is no such column"
    elif not found["not_null"]:
        fault = "it may be NULL, and rows without a key would be left out"
    elif not found["indexed"]:
        fault = "no valid btree index begins with it, and every batch would read the whole table"
    if fault or found is None:
        raise PgopsError(
            f"{context.doing} cannot go by key {schema}.{table}.{key}: {fault}.",
            database=context.database,
            object_name=f"{schema}.{table}.{key}",
            hint="Name the primary key, or another column that is NOT NULL and indexed.",
        )
    rows = int(found["rows"])
    if rows < 0:
        # Never analyzed: without a number there is no way to say how far it is.
        counted = fetch_one(context.conn, sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(schema, table)))
        rows = int(counted["n"]) if counted else 0
    return str(found["type"]), rows


def _prepare(context: StepContext, statement: Mapping[str, Any]) -> None:
    try:
        with context.conn.cursor() as cursor:
            cursor.execute("PREPARE pgops_backfill AS " + str(statement["sql"]))
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        raise statement_error(context, exc, statement) from None


def _next_batch(
    context: StepContext, schema: str, table: str, key: str, kind: str, size: int, last: str | None
) -> dict[str, Any] | None:
    # The first and last of the ordered batch, not min and max: uuid has neither before PostgreSQL 18.
    after: sql.Composable = sql.SQL("")
    if last is not None:
        after = sql.SQL("WHERE {} > {}::{}").format(sql.Identifier(key), sql.Literal(last), sql.SQL(kind))
    row = fetch_one(
        context.conn,
        sql.SQL(
            "SELECT (array_agg(k ORDER BY k))[1]::text AS first, (array_agg(k ORDER BY k DESC))[1]::text AS last, "
            "count(*) AS rows FROM (SELECT {key} AS k FROM {table} {after} ORDER BY {key} LIMIT {size}) AS batch"
        ).format(key=sql.Identifier(key), table=sql.Identifier(schema, table), after=after, size=sql.Literal(size)),
    )
    return row if row and int(row["rows"]) else None


def _batch(
    context: StepContext,
    statement: Mapping[str, Any],
    bounds: Mapping[str, Any],
    progress: Mapping[str, Any],
    table: tuple[str, str],
) -> int:
    def attempt() -> int:
        with transaction(context.conn, context.limits(context.budget("statement_timeout_s"))):
            rows = max(execute(context.conn, "EXECUTE pgops_backfill(%s, %s)", (bounds["first"], bounds["last"])), 0)
            context.save("running", {**progress, "rows": int(progress["rows"]) + rows})
        return rows

    try:
        with context.watched(f"backfilling {table[0]}.{table[1]}"):
            return context.patiently(attempt)  # row locks only
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        raise statement_error(context, exc, statement) from None
