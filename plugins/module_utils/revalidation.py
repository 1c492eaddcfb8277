# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Constraints of a restored copy, looked at row by row: that the catalog calls one valid is what the dump said of it.

A check whose function reads another table holds while its own table is loaded or does not, whatever that table has later;
and what was made with triggers switched off was never looked at.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

# Each table that has rows of its own, with the checks that are said to be valid and its columns that may not be NULL.
_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS table, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
               -- 18 has NOT NULL constraints that are not validated yet.
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'n'
                               AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated)
             ORDER BY a.attnum) AS not_null,
       coalesce((SELECT jsonb_agg(jsonb_build_array(k.conname, pg_catalog.pg_get_expr(k.conbin, k.conrelid)) ORDER BY k.conname)
                 FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated), '[]') AS checks
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 3
"""


def violated(
    conn: Connection, *, control: Control, progress: Progress, database: str
) -> tuple[list[str], list[str], dict[str, int]]:
    """Look at every row for every check, NOT NULL and foreign key that is said to be valid.

    :param conn: a session whose role reads every row, in autocommit.
    :return: what does not hold, by name and number of rows; what could not be looked at, and why; and how many ``checks``,
        ``not_null`` and ``foreign_keys`` were looked at.
    :raises Interrupted: asked to end.

    Takes ACCESS SHARE on one table, or on the two of a key, after the other.
    """
    wrong: list[str] = []
    unchecked: list[str] = []
    counts = {"checks": 0, "not_null": 0, "foreign_keys": 0}
    tables = [table for table in fetch_all(conn, _TABLES) if table["checks"] or table["not_null"]]
    for number, table in enumerate(tables, 1):
        control.check()
        progress.emit("checking constraints", database=database, done=number, total=len(tables), unit="tables")
        counts["checks"] += len(table["checks"])
        counts["not_null"] += len(table["not_null"])
        try:
            wrong += _of_table(conn, table)
        except psycopg2.Error as exc:
            control.check()
            unchecked.append(from_psycopg(exc, f"the constraints of {table['name']} cannot be checked").message)
    for key in integrity.foreign_keys(conn, control=control, progress=progress, database=database):
        if not key.validated:
            continue  # it never promised anything of the rows that are there
        counts["foreign_keys"] += 1
        if key.error:
            unchecked.append(key.error)
        elif key.orphans:
            wrong.append(f"foreign key {key.name}: {key.orphans} rows have no parent in {key.target}")
    return wrong, unchecked, counts


def _of_table(conn: Connection, table: dict[str, Any]) -> list[str]:
    names = [f"check {table['name']}.{name}" for name, _ in table["checks"]]
    names += [f"NOT NULL of {table['name']}.{column}" for column in table["not_null"]]
    broken = [sql.SQL("({}) IS FALSE").format(sql.SQL(expression)) for _, expression in table["checks"]]
    # Not IS NULL: a composite value of NULLs is none.
    broken += [sql.SQL("NOT ({} IS DISTINCT FROM NULL)").format(sql.Identifier(name)) for name in table["not_null"]]
    counted = [
        sql.SQL("count(*) FILTER (WHERE {}) AS {}").format(condition, sql.Identifier(f"n{place}"))
        for place, condition in enumerate(broken)
    ]
    query = sql.SQL("SELECT {} FROM ONLY {}").format(
        sql.SQL(", ").join(counted), sql.Identifier(table["schema"], table["table"])
    )
    row = fetch_one(conn, query) or {}
    return [f"{name}: {row[f'n{place}']} rows do not hold" for place, name in enumerate(names) if row[f"n{place}"]]
