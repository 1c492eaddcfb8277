# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Rows for every table that is there, made from the catalog, and what the tables hold, to be compared later."""

from __future__ import annotations

from typing import Any

from psycopg2 import sql

ROWS = 2

_COLUMNS = """
SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, t.typcategory AS category,
       (SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder LIMIT 1) AS label,
       CASE WHEN a.atttypmod > 4 AND a.atttypid = 'varchar'::regtype THEN a.atttypmod - 4 END AS length,
       p.relname AS parent, pa.attname AS parent_column
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum]
  LEFT JOIN pg_class p ON p.oid = k.confrelid
  LEFT JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = k.confkey[1]
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
   AND (a.attname = 'id' OR (a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''))
 ORDER BY c.relname, a.attnum
"""


def fill_empty_tables(conn: Any) -> list[str]:
    """Two rows in each table that has none, parents first; only what a row must have. :return: the tables, as filled."""
    wanted: dict[str, dict[str, dict[str, Any]]] = {}
    with conn.cursor() as cursor:
        cursor.execute(_COLUMNS)
        names = [column.name for column in cursor.description]
        for row in cursor.fetchall():
            column = dict(zip(names, row, strict=True))
            wanted.setdefault(column["table"], {})[column["column"]] = column
        for table in list(wanted):
            cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier("public", table)))
            if cursor.fetchone()[0]:
                del wanted[table]
        filled: list[str] = []
        while wanted:
            ready = [
                table
                for table, columns in wanted.items()
                if not any(column["parent"] in wanted and column["parent"] != table for column in columns.values())
            ]
            assert ready, f"each of these needs a row of another one of them first: {', '.join(wanted)}"
            for table in ready:
                columns = wanted.pop(table)
                # As the platform would do it: nobody is inserted with a password that works.
                for number in range(1, ROWS + 1):
                    cursor.execute(
                        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                            sql.Identifier("public", table),
                            sql.SQL(", ").join(map(sql.Identifier, columns)),
                            sql.SQL(", ").join(_value(column, number) for column in columns.values()),
                        )
                    )
                filled.append(table)
    return filled


def _value(column: dict[str, Any], number: int) -> sql.Composable:
    if column["parent"]:
        return sql.SQL("(SELECT {0} FROM {1} ORDER BY {0} OFFSET {2} LIMIT 1)").format(
            sql.Identifier(column["parent_column"]), sql.Identifier("public", column["parent"]), sql.Literal(number - 1)
        )
    if column["label"] is not None:
        return sql.Literal(column["label"])
    if column["type"] == "uuid":
        name = f"{column['table']}.{column['column']}.{number}"
        return sql.SQL("md5({})::uuid").format(sql.Literal(name))
    if column["type"].startswith("json"):
        return sql.SQL("'{}'")
    values: dict[str, Any] = {
        "A": "{}",
        "B": False,
        "D": f"2025-01-{number:02}",
        "N": number,
        "S": f"{column['column']} {number}"[: column["length"]],
    }
    return sql.Literal(values[column["category"]])


Contents = dict[str, list[dict[str, Any]]]


def contents(conn: Any) -> Contents:
    """:return: the rows of each table, as JSON by column, in an order of their own."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        found: Contents = {name: [] for (name,) in cursor.fetchall()}
        if found:
            cursor.execute(
                sql.SQL(" UNION ALL ").join(
                    sql.SQL("SELECT {}::text, to_jsonb(t) FROM {} AS t").format(
                        sql.Literal(table), sql.Identifier("public", table)
                    )
                    for table in found
                )
            )
            for table, row in cursor.fetchall():
                found[table].append(row)
    return found


def lost_rows(
    before: Contents, after: Contents, *, not_compared: dict[str, set[str]], may_grow: tuple[str, ...] = ()
) -> list[str]:
    """:param not_compared: columns that a version fills, by table.
    :param may_grow: tables that only get more rows.
    :return: tables of both whose rows differ in the columns of both."""
    found = []
    for table in sorted(before.keys() & after.keys()):
        if not before[table]:
            continue
        columns = set(before[table][0]) - not_compared.get(table, set())
        if after[table]:
            columns &= set(after[table][0])
        old, new = (
            sorted(repr([row[name] for name in sorted(columns)]) for row in rows[table]) for rows in (before, after)
        )
        if table in may_grow:
            new = [row for row in new if row in set(old)]
        if old != new:
            found.append(f"{table}: {len(set(old) - set(new))} of {len(old)} rows are not what they were")
    return found
