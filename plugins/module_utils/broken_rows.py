# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows that stand in the way of a rule for them: counted once the server refused it, and told by id.

The server names no row, or one with all its values. Rows are counted after it failed only: what goes well reads no table twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.integrity import NAMED_ROWS
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext, without_strings
from psycopg2 import errorcodes, sql

# A key of another type may be a name or an e-mail address: then the row's place in the table is told.
_TABLE = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, n.nspname::text AS schema, c.relname::text AS relation,
       coalesce((SELECT array_agg(a.attname::text ORDER BY key.place) FROM pg_index i
          CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
          JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('int2', 'int4', 'int8', 'uuid')
         WHERE i.indrelid = c.oid AND i.indisprimary HAVING count(*) = max(i.indnkeyatts)), ARRAY['ctid']) AS identity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname = %s AND c.relname = %s
"""
# n is NOT NULL, a constraint with a name since 18.
_RULE = """
SELECT k.connoinherit AS alone, k.contype = 'n' AS filled,
       CASE k.contype WHEN 'n' THEN (SELECT quote_ident(a.attname) || ' IS NOT NULL' FROM pg_attribute a
                                      WHERE a.attrelid = k.conrelid AND a.attnum = k.conkey[1])
                      ELSE pg_get_expr(k.conbin, k.conrelid) END AS holds
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype IN ('c', 'n') AND n.nspname = %s AND c.relname = %s AND k.conname = %s
"""
_COLUMN = """
SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND a.attname = %s AND NOT a.attisdropped
"""
_ALTERS = re.compile(
    r"""\b ALTER \s+ (?:COLUMN\s+)? (?P<column>"(?:[^"]|"")+"|[\w$]+) \s+
        (?: (?P<filled> SET \s+ NOT \s+ NULL)
          | (?: SET\s+DATA\s+)? TYPE \s+ (?: CHARACTER\s+VARYING | VARCHAR | CHARACTER | CHAR ) \s* \( \s* (?P<length>\d+) \s* \)
            (?! \s+ (?: COLLATE\b .*? )? USING\b) )
        # A name as a whole: what it says is no command.
      | "(?:[^"]|"")*" """,
    re.IGNORECASE | re.VERBOSE,
)


def refuse_constraint(context: StepContext, constraint: Mapping[str, Any], statement: str, sqlstate: str) -> None:
    """Tell which rows break a CHECK, or a NOT NULL of its own, that was just found not to hold. Takes ACCESS SHARE.

    :param constraint: ``schema``, ``table``, ``constraint``, as a step names it.
    :raises PgopsError: there are such rows; their number, at most ten of them by id, and the query for them all.
    """
    schema, table, name = schema_of(constraint), str(constraint["table"]), str(constraint["constraint"])
    rule = fetch_one(context.conn, _RULE, (schema, table, name))
    if rule is None:
        return
    # NULL is no breach of a check.
    broken = sql.SQL("({}) IS FALSE").format(sql.SQL(rule["holds"]))
    found = _count(context, schema, table, broken, alone=rule["alone"] and not rule["filled"])
    if found is not None:
        raise _error(
            context,
            f"the constraint {schema}.{table}.{name}",
            found,
            "break it",
            "bring them in line with it or delete them",
            statement=statement,
            sqlstate=sqlstate,
        )


def refuse_altered(context: StepContext, error: PgopsError) -> None:
    """Tell which rows have no value, or one that is too long, where an ALTER TABLE failed by that. Takes ACCESS SHARE.

    :param error: what the statement failed with, after its transaction is gone.
    :raises PgopsError: there are such rows; their number, at most ten of them by id, and the query for them all.
    """
    for schema, table, column, length in _altered(str(error.statement or "")):
        if (length is None) != (error.sqlstate == errorcodes.NOT_NULL_VIOLATION):
            continue
        # What this very step made is gone with its transaction.
        if not fetch_all(context.conn, _COLUMN, (schema, table, column)):
            continue
        name = sql.Identifier(column)
        if length is None:
            broken, fault, way_out = sql.SQL("{} IS NULL").format(name), "have no value there", "give them one"
        else:
            # Blanks at the end are cut off, as the server does it.
            broken = sql.SQL("rtrim(substr({}::text, {}), ' ') <> ''").format(name, sql.Literal(length + 1))
            fault, way_out = f"have more than {length} characters there", "shorten them"
        found = _count(context, schema, table, broken)
        if found is not None:
            raise _error(
                context,
                f"the column {schema}.{table}.{column}",
                found,
                fault,
                way_out,
                statement=error.statement,
                sqlstate=error.sqlstate,
                location=error.location,
            )


def _altered(statement: str) -> Iterator[tuple[str, str, str, int | None]]:
    """:return: schema, table, column, and its new length or None where it becomes NOT NULL."""
    text = without_strings(statement)
    tables = locks.tables_in(statement)
    if not re.match(r"ALTER\s+TABLE\b", text, re.IGNORECASE) or not tables:
        return
    for match in _ALTERS.finditer(text):
        token = match["column"]
        if token is None:
            continue
        column = token[1:-1].replace('""', '"') if token.startswith('"') else token.lower()
        yield (*tables[0], column, int(match["length"]) if match["length"] else None)


def _count(
    context: StepContext, schema: str, table: str, broken: sql.Composable, *, alone: bool = False
) -> dict[str, Any] | None:
    """:return: ``table``, ``rows``, ``ids`` and ``query``; None where there are none, or they cannot be counted."""
    known = fetch_one(context.conn, _TABLE, (schema, table))
    if known is None:
        return None
    rows = sql.SQL(" FROM {}{} WHERE {}").format(
        sql.SQL("ONLY " if alone else ""), sql.Identifier(known["schema"], known["relation"]), broken
    )
    identity = sql.SQL(" || '/' || ").join(sql.Identifier(name) for name in known["identity"])
    query = sql.SQL("SELECT ({})::text AS id").format(identity) + rows + sql.SQL(" ORDER BY 1")
    try:
        limits = context.limits(context.budget("index_timeout_s"))
        told = f"counting rows of {known['name']} that stand in the way"
        with transaction(context.conn, limits), context.watched(told, cancel=True):
            counted = fetch_one(context.conn, sql.SQL("SELECT count(*) AS number") + rows)
            number = int(counted["number"]) if counted else 0
            ids = fetch_all(context.conn, query + sql.SQL(" LIMIT {}").format(sql.Literal(NAMED_ROWS)))
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        context.control.check()
        # What it failed with first is told then.
        return None
    if not number:
        return None
    return {
        "table": known["name"],
        "rows": number,
        "ids": [str(row["id"]) for row in ids],
        "query": query.as_string(context.conn),
    }


def _error(
    context: StepContext,
    where: str,
    found: Mapping[str, Any],
    fault: str,
    way_out: str,
    *,
    statement: str | None,
    sqlstate: str | None,
    location: str | None = None,
) -> PgopsError:
    shown = ", ".join(found["ids"]) + (", ..." if found["rows"] > len(found["ids"]) else "")
    return PgopsError(
        f"{context.doing} stopped at {where}: {found['rows']} row(s) of {found['table']} {fault}, by id {shown} "
        f"(SQLSTATE {sqlstate}).",
        sqlstate=sqlstate,
        statement=statement,
        location=location,
        database=context.database,
        object_name=where.rsplit(" ", 1)[1],
        hint=f"List them all: {found['query']}; {way_out}, then run it again.",
        extra={"reason": "broken_rows", "broken_rows": dict(found)},
    )
