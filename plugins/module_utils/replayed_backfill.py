# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backfill in a database that nobody else uses: over the few rows that earlier versions have put there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import keyset
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import DEFAULT_BATCH_SIZE, schema_of
from psycopg2 import sql


def run(conn: Connection, migration: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    """Run the statement over the whole table, in batches as large as the step says. Without rows nothing is run.

    :raises PgopsError: the table has no such key.
    :raises psycopg2.Error: a batch failed; earlier ones stay done.
    """
    schema, table = schema_of(step), str(step["table"])
    if not _has_rows(conn, schema, table):
        return
    walked = keyset.find(
        conn,
        schema,
        table,
        keyset.columns_of(step),
        doing=f"Version {migration['version']}, run again in an empty database,",
        database=str(conn.info.dbname),
        fit=False,
    )
    execute(conn, f"PREPARE pgops_backfill ({', '.join(walked.types * 2)}) AS {step['statement']['sql']}")
    try:
        last = None
        while batch := walked.next_batch(conn, last, int(step.get("batch_size") or DEFAULT_BATCH_SIZE)):
            values = sql.SQL(", ").join(map(sql.Literal, (*batch.first, *batch.last)))
            with transaction(conn):
                execute(conn, sql.SQL("EXECUTE pgops_backfill({})").format(values))
            last = batch.last
    finally:
        if not conn.closed:
            execute(conn, "DEALLOCATE pgops_backfill")


def _has_rows(conn: Connection, schema: str, table: str) -> bool:
    name = sql.Identifier(schema, table)
    found = fetch_one(conn, "SELECT to_regclass(%s) IS NOT NULL AS there", (name.as_string(conn),))
    if not found or not found["there"]:
        # The tree builds on tables that none of its versions makes.
        return False
    row = fetch_one(conn, sql.SQL("SELECT EXISTS (SELECT FROM {}) AS rows").format(name))
    return bool(row and row["rows"])
