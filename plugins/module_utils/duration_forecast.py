# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long a version is expected to take on the rows that are there: its author's estimate, not a promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import table_names

# Requirement R5.17: what takes longer in one piece is to be split.
LONGEST_PIECE_S = 60
# A batch is a transaction of its own; the others take SHARE UPDATE EXCLUSIVE at most: clients read and write all the while.
IN_PIECES = frozenset({"backfill", "indexes", "validate", "analyze"})

# The planner's number where the table was analyzed, before that what the statistics system has counted; of a partitioned table
# that of its partitions together. No lock: pg_relation_size would wait behind who holds the table.
_ROWS = """
SELECT coalesce(max(of_table.rows), 0) AS rows
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN unnest(%s::text[], %s::text[]) AS wanted (schema, name) ON wanted.schema = n.nspname AND wanted.name = c.relname
 CROSS JOIN LATERAL (
       SELECT sum(CASE WHEN p.reltuples >= 0 THEN p.reltuples ELSE pg_catalog.pg_stat_get_live_tuples(p.oid) END)::bigint AS rows
         FROM pg_catalog.pg_class p
        WHERE p.oid = c.oid OR p.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) t WHERE t.isleaf)) AS of_table
"""


def largest(conn: Connection, migration: Mapping[str, Any]) -> int:
    """:return: about how many rows the largest table has that a version touches; 0 where none of them is there yet.

    Takes no lock on them."""
    names = table_names([migration])
    if not names:
        return 0
    found = fetch_one(conn, _ROWS, ([schema for schema, _ in names], [table for _, table in names]))
    return int(found["rows"]) if found else 0


def forecast(conn: Connection, migration: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """:return: the seconds that are expected on this database, None where its author gave none, and the rows they are for,
    None where they do not go by rows."""
    if not migration.get("expected_by_rows"):
        return expected_s(migration, 0), None
    rows = largest(conn, migration)
    return expected_s(migration, rows), rows


def expected_s(migration: Mapping[str, Any], rows: int) -> int | None:
    """:param rows: of the largest table that it touches.
    :return: seconds by ``expected_by_rows``, where its author gave that; else ``expected_seconds``. With more rows than the
        last class has, that of the last."""
    classes = {int(limit): int(seconds) for limit, seconds in (migration.get("expected_by_rows") or {}).items()}
    if not classes:
        given = migration.get("expected_seconds")
        return int(given) if given is not None else None
    return classes[min((limit for limit in classes if rows <= limit), default=max(classes))]


def is_to_be_split(migration: Mapping[str, Any], seconds: int | None) -> bool:
    """:return: whether clients may have to wait for longer than a migration may take: expected above a minute, in one piece."""
    kinds = {str(step["kind"]) for step in migration["steps"]}
    return seconds is not None and seconds > LONGEST_PIECE_S and not kinds <= IN_PIECES
