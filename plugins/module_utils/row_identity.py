# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""By what a row may be told: numbers and uuids tell nothing of a person, a name or an e-mail address does."""

from __future__ import annotations

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from psycopg2 import sql

_KEY = """
SELECT array_agg(a.attname::text ORDER BY key.place) AS columns FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
  JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('int2', 'int4', 'int8', 'uuid')
 WHERE i.indrelid = to_regclass(%s) AND i.indisprimary HAVING count(*) = max(i.indnkeyatts)
"""


def columns(conn: Connection, table: sql.Identifier) -> list[str]:
    """:return: the columns of a primary key of integers and uuids; ``ctid``, the row's place, where there is none. No lock."""
    row = fetch_one(conn, _KEY, (table.as_string(conn),))
    return list((row or {}).get("columns") or ["ctid"])


def told(names: list[str]) -> sql.Composable:
    """:return: the expression of a row's identity as text."""
    return sql.SQL("({})::text").format(sql.SQL(" || '/' || ").join(map(sql.Identifier, names)))
