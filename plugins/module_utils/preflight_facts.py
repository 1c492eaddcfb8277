# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The figures of a health report: sizes, sessions, and rows that a later report is compared with."""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# The look itself never waits for anybody: the same 100 ms as the lock discipline's, and a bound for a catalog of any size.
LOOK_LOCK_TIMEOUT_MS = 100
LOOK_STATEMENT_TIMEOUT_MS = 30_000
# Counted in some tens of milliseconds; of a larger table the planner's estimate is compared before and after a run.
EXACT_ROWS = 100_000

_FACTS = """
SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS size_bytes,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_catalog.pg_backend_pid()) AS active,
       (SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted) AS waiting_locks,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE xact_start < pg_catalog.clock_timestamp() - interval '5 minutes'
           AND backend_type = 'client backend') AS long_transactions
"""
# Without opening the tables: what vacuum and analyze last counted.
_LARGEST_ESTIMATED = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
       c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 2 DESC, 1 LIMIT 10
"""
_LARGEST = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.pg_total_relation_size(c.oid) AS bytes
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 2 DESC, 1 LIMIT 10
"""


def of_server(conn: Connection) -> dict[str, Any]:
    """:return: ``size_bytes`` of the database, ``connections``, ``active``, ``waiting_locks`` and ``long_transactions`` of the server."""
    return dict(fetch_one(conn, _FACTS) or {})


def prepare(conn: Connection) -> None:
    """Give a session its limits: a look at a server that hangs must not hang with it.

    The size of a table behind an ACCESS EXCLUSIVE lock waits. Compiling one statement of many queries takes longer than it runs.
    Somebody who may create functions in public gives the restore role none to call.
    """
    execute(
        conn,
        f"SET lock_timeout = {LOOK_LOCK_TIMEOUT_MS}; SET statement_timeout = {LOOK_STATEMENT_TIMEOUT_MS}; SET jit = off; "
        "SET search_path = pg_catalog",
    )


def largest_tables(conn: Connection) -> list[dict[str, Any]]:
    """:return: the ten largest tables, ``name`` and ``bytes``; as vacuum last counted where a lock is held on one."""
    try:
        return fetch_all(conn, _LARGEST)
    except psycopg2.Error:
        return fetch_all(conn, _LARGEST_ESTIMATED)


def rows(target: Target, application_name: str) -> list[dict[str, Any]] | None:
    """Rows of each table as the role that reads backups sees them: all, also behind a policy. None where it cannot look."""
    try:
        conn = connect(target.as_backup(), application_name=application_name)
    except PgopsError:
        return None  # told by the check backup_connect
    try:
        prepare(conn)
        try:
            return integrity.rows_to_compare(conn, exact_rows=EXACT_ROWS)
        except psycopg2.errors.QueryCanceled:
            return integrity.rows_to_compare(conn, exact_rows=-1)
    except psycopg2.Error:
        return None
    finally:
        conn.close()
