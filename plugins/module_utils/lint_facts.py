# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lint cannot read in SQL: sizes, columns, keys, partitions and checks of the tables that the SQL names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg

# A look at a busy server must neither queue behind DDL nor keep a snapshot for long.
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 30_000

# Sizes are those of the files: no row is read. Of a partitioned table they are those of all partitions.
TABLES = """
SELECT n.nspname || '.' || c.relname AS name,
       c.relkind = 'p' AS partitioned,
       (SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)
          FROM (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) t)::bigint AS bytes,
       (SELECT coalesce(sum(greatest(p.reltuples, 0)), 0)
          FROM pg_class p WHERE p.oid IN (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid))::bigint AS rows,
       (SELECT coalesce(json_object_agg(a.attname, json_build_object(
                 'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
                 'collation', (SELECT l.collname FROM pg_collation l WHERE l.oid = a.attcollation),
                 'checked_not_null', (
                   SELECT coalesce(json_agg(k.conname), '[]') FROM pg_constraint k
                    WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated AND k.conkey = ARRAY[a.attnum]
                      AND pg_get_constraintdef(k.oid) = format('CHECK ((%%I IS NOT NULL))', a.attname)))), '{}')
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT coalesce(json_object_agg(i.relname, (
                 SELECT json_agg(a.attname ORDER BY k.place) FROM unnest(x.indkey::smallint[]) WITH ORDINALITY k (number, place)
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number)), '{}')
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid) AS indexes,
       (SELECT json_agg(a.attname ORDER BY k.place)
          FROM pg_index x, unnest(x.indkey::smallint[]) WITH ORDINALITY k (number, place)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
         WHERE x.indrelid = c.oid AND x.indisprimary) AS primary_key,
       EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indpred IS NULL
                  AND x.indexprs IS NULL) AS unique_index,
       (SELECT coalesce(json_object_agg(k.conname, pg_get_constraintdef(k.oid)), '{}')
          FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated) AS checks,
       -- Without a row where the key has an expression.
       (SELECT json_agg(a.attname ORDER BY k.place)
          FROM pg_partitioned_table p, unnest(p.partattrs::smallint[]) WITH ORDINALITY k (number, place)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
         WHERE p.partrelid = c.oid AND p.partexprs IS NULL) AS partition_key,
       EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname || '.' || c.relname = ANY (%(relations)s)
"""
SIZES = """
SELECT n.nspname || '.' || c.relname AS name,
       (SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)
          FROM (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) t)::bigint AS bytes
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname || '.' || c.relname = ANY (%s)
"""

# The index of an index name, and only functions that somebody made: what they do stands in their source.
INDEXES = """
SELECT n.nspname || '.' || i.relname AS name, tn.nspname || '.' || t.relname AS table
  FROM pg_class i JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_index x ON x.indexrelid = i.oid
  JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE n.nspname || '.' || i.relname = ANY (%(relations)s)
"""
# A domain over a domain has the constraints of both.
DOMAINS = """
WITH RECURSIVE types AS (
  SELECT n.nspname || '.' || t.typname AS name, t.oid, t.typbasetype, t.typnotnull
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
   WHERE t.typtype = 'd' AND n.nspname || '.' || t.typname = ANY (%(relations)s)
  UNION
  SELECT types.name, t.oid, t.typbasetype, t.typnotnull
    FROM types JOIN pg_type t ON t.oid = types.typbasetype AND t.typtype = 'd'
)
SELECT name, bool_or(typnotnull OR EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = types.oid)) AS checked
  FROM types GROUP BY name
"""
FUNCTIONS = """
SELECT DISTINCT ON (p.proname) p.proname AS name, l.lanname AS language, p.provolatile = 'v' AS volatile, p.prosrc AS source,
       pg_get_functiondef(p.oid) AS definition
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prokind IN ('f', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.proname = ANY (%(functions)s)
 ORDER BY p.proname, p.provolatile DESC
"""


def read_facts(target: Target, relations: list[str], functions: list[str]) -> dict[str, Any]:
    """Ask the catalog once, in a read-only transaction that is rolled back.

    :param relations: ``schema.name`` of tables, views, indexes and domains; those that are not there are left out
    :param functions: names of functions, without their schemas
    :return: ``tables``, ``indexes`` and ``domains`` by ``schema.name``, ``functions`` by name, ``timezone``; sizes in bytes
    :raises PgopsError: no connection, no right to read, or it took longer than 30 s

    Takes ACCESS SHARE on the catalog's tables, and on a table for the moment in which its size is taken; waits for it 1 s at most.
    """
    conn = connect(target, application_name="pgops lint")
    try:
        execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        with conn.cursor() as cursor:
            # The pinned session has UTC; what a migration's session has is the role's or the database's.
            cursor.execute("SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'")
            timezone = cursor.fetchall()[0][0]
        conn.set_session(readonly=True, autocommit=False)
        tables = _by_name(conn, TABLES, {"relations": relations})
        indexes = _by_name(conn, INDEXES, {"relations": relations})
        domains = _by_name(conn, DOMAINS, {"relations": relations})
        made = _by_name(conn, FUNCTIONS, {"functions": functions})
        conn.rollback()
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The catalog of {target} cannot be read", database=target.database) from None
    finally:
        conn.close()
    return {
        "tables": tables,
        "indexes": {name: row["table"] for name, row in indexes.items()},
        "domains": {name: row["checked"] for name, row in domains.items()},
        "functions": made,
        "timezone": timezone,
    }


def table_bytes(conn: Connection, tables: Sequence[str]) -> dict[str, int]:
    """:param tables: each ``schema.name``; one that is not there is left out of the result.
    :return: the bytes of each, with its indexes and partitions.

    Takes ACCESS SHARE on each for the moment in which its size is taken.
    """
    return {str(row["name"]): int(row["bytes"]) for row in fetch_all(conn, SIZES, (list(tables),))} if tables else {}


def _by_name(conn: Any, query: str, parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    with conn.cursor() as cursor:
        cursor.execute(query, parameters)
        columns = [column.name for column in cursor.description]
        rows = [dict(zip(columns, row)) for row in cursor.fetchall()]
    return {str(row.pop("name")): row for row in rows}
