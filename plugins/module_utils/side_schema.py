# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows of one database as plain tables in a schema of another: whole and equal, or not there at all.

One transaction makes the schema, its tables and their rows, so that nothing that ends it, a kill or a lost server, leaves half of it.
The tables have the columns and the primary key of the backup and nothing that reaches a live table: no foreign key, no trigger, no
default. They hold patients' data, so only their owner may look.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import content
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, as_pgops_error
from psycopg2 import sql

# Domains and enums are told as what they are made of, one level up where the type is an array.
_COLUMNS = """
SELECT a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(e.typtype, t.typtype)::text AS kind, pg_catalog.format_type(coalesce(e.oid, t.oid), NULL) AS base,
       (SELECT n.nspname = 'pg_catalog' FROM pg_catalog.pg_namespace AS n WHERE n.oid = coalesce(e.typnamespace, t.typnamespace))
           AS builtin,
       CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END AS domain_of,
       (SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum AS l
        WHERE l.enumtypid = coalesce(e.oid, t.oid)) AS labels,
       CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END AS collation
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_KEY = """
SELECT coalesce(array_agg(a.attname::text ORDER BY k.place), '{}') AS columns
FROM pg_catalog.pg_index AS i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s::regclass AND i.indisprimary AND k.place <= i.indnkeyatts
"""

_THERE = """
SELECT pg_catalog.to_regtype(%(base)s) IS NOT NULL AS type,
       (SELECT array_agg(l.enumlabel::text) FROM pg_catalog.pg_enum AS l WHERE l.enumtypid = pg_catalog.to_regtype(%(base)s)) AS labels,
       %(collation)s::text IS NULL OR pg_catalog.to_regcollation(%(collation)s) IS NOT NULL AS collation
"""

# A role's or a schema's default privileges may have given a new table to others.
_OTHERS = """
SELECT pg_catalog.pg_get_userbyid(x.owner) AS owner, x.name, x.is_schema,
       CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END AS grantee
FROM (SELECT n.nspowner AS owner, NULL AS name, true AS is_schema, n.nspacl AS acl FROM pg_catalog.pg_namespace AS n
      WHERE n.nspname = %(schema)s
      UNION ALL
      SELECT c.relowner, c.relname, false, c.relacl FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relkind = 'r') AS x,
     pg_catalog.aclexplode(x.acl) AS a
WHERE a.grantee <> x.owner
"""


@dataclass(frozen=True)
class Column:
    """A column as it stands in the side table.

    :ivar type: as the live database knows it; text where it does not know the backup's.
    """

    name: str
    type: str
    collation: str | None = None


@dataclass(frozen=True)
class Wanted:
    """One table to copy.

    :ivar parts: quoted names of the tables that hold its rows: its own, or its partitions'.
    :ivar rows, hash: what the manifest says of them together.
    """

    schema: str
    name: str
    parts: tuple[str, ...]
    rows: int
    hash: str

    @property
    def regclass(self) -> str:
        """The name as the server reads it."""
        return ".".join('"' + part.replace('"', '""') + '"' for part in (self.schema, self.name))


def primary_key(conn: Connection, table: Wanted) -> list[str]:
    """:return: the columns of the table's primary key, in its order; none where it has none or there is no such table."""
    if not is_there(conn, table):
        return []
    row = fetch_one(conn, _KEY, (table.regclass,))
    return list(row["columns"]) if row else []


def is_there(conn: Connection, table: Wanted) -> bool:
    """:return: whether the database has a table of that name."""
    row = fetch_one(conn, "SELECT pg_catalog.to_regclass(%s) IS NOT NULL AS there", (table.regclass,))
    return bool(row and row["there"])


def columns(source: Connection, live: Connection, table: Wanted) -> list[Column]:
    """:return: the table's columns in the backup, each of a type that the live database has.

    An enum that lost a label since, or a type that is gone, becomes text: what was entered then must not be refused now.
    """
    found = []
    for row in fetch_all(source, _COLUMNS, (table.regclass,)):
        there = fetch_one(live, _THERE, {"base": row["base"], "collation": row["collation"]}) or {}
        if row["domain_of"]:
            # Not the domain: what it checks today is nothing that yesterday's rows must pass.
            kind = row["domain_of"] if _is_builtin(live, row["domain_of"]) else "text"
        elif row["builtin"]:
            kind = row["type"]
        elif row["kind"] == "e":
            kind = row["type"] if set(row["labels"] or []) <= set(there.get("labels") or []) else "text"
        else:
            kind = row["type"] if there.get("type") and row["kind"] in ("b", "r", "m") else "text"
        found.append(Column(row["name"], kind, row["collation"] if there.get("collation") and kind != "text" else None))
    return found


def _is_builtin(conn: Connection, name: str) -> bool:
    row = fetch_one(
        conn,
        "SELECT n.nspname = 'pg_catalog' AS yes FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n "
        "ON n.oid = t.typnamespace WHERE t.oid = pg_catalog.to_regtype(%s)",
        (name,),
    )
    return bool(row and row["yes"])


def copy(
    source: Connection,
    live: Connection,
    tables: list[Wanted],
    schema: str,
    *,
    owner: str,
    comment: str,
    tell: Callable[[Wanted], None] = lambda table: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, list[Column]]:
    """Copy tables into a new schema, in one transaction, and look that they are equal there.

    :param source: the scratch database that holds them.
    :param live: in autocommit, as a role that may create schemas.
    :param owner: who alone may read the schema.
    :param tell: is told the table that is copied next.
    :return: the columns of each side table, by its name.
    :raises PgopsError: a table differs, or a statement failed; then there is no such schema.

    Takes no lock on any live table; the transaction holds back VACUUM for as long as it takes.
    """
    made = {}
    execute(live, "BEGIN")
    try:
        execute(live, sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for table in tables:
            tell(table)
            check()
            shape = columns(source, live, table)
            _create(live, schema, table.name, shape)
            _pipe(source, live, table, schema, shape)
            key = primary_key(source, table)
            if key:
                _add_key(live, schema, table.name, key)
            made[table.name] = shape
        _refuse_others(live, tables, schema, check)
        execute(live, sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(schema), sql.Literal(comment)))
        execute(live, _owner("SCHEMA", sql.Identifier(schema), owner))
        for table in tables:
            execute(live, sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table.name)))
            execute(live, _owner("TABLE", sql.Identifier(schema, table.name), owner))
        _close(live, schema)
        check()
        execute(live, "COMMIT")
    except BaseException:
        _give_back(live)
        raise
    return made


def _owner(kind: str, name: sql.Composable, owner: str) -> sql.Composable:
    return sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), name, sql.Identifier(owner))


def _create(live: Connection, schema: str, name: str, shape: list[Column]) -> None:
    # The types come from the catalog (format_type), quoted where they must be.
    parts = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.name),
            sql.SQL(column.type),
            sql.SQL(f" COLLATE {column.collation}" if column.collation else ""),
        )
        for column in shape
    ]
    execute(live, sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(schema, name), sql.SQL(", ").join(parts)))


def _add_key(live: Connection, schema: str, name: str, key: list[str]) -> None:
    execute(
        live,
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(
            sql.Identifier(schema, name), sql.SQL(", ").join(map(sql.Identifier, key))
        ),
    )


def _pipe(source: Connection, live: Connection, table: Wanted, schema: str, shape: list[Column]) -> None:
    """Read with one session and write with the other; the rows touch no disk between them."""
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in shape)
    # The rows of tables that inherit from it are theirs; those of its partitions are its own.
    only = sql.SQL("ONLY " if table.parts == (table_name(source, table),) else "")
    read = sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT").format(names, only, sql.Identifier(table.schema, table.name))
    write = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(schema, table.name), names)
    ends = os.pipe()
    failure: list[BaseException] = []

    def send() -> None:
        try:
            with os.fdopen(ends[1], "wb") as pipe, source.cursor() as cursor:
                cursor.copy_expert(read, pipe)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
            failure.append(exc)

    sender = threading.Thread(target=send, name="pgops copy", daemon=True)
    sender.start()
    written: psycopg2.Error | None = None
    try:
        with os.fdopen(ends[0], "rb") as pipe, live.cursor() as cursor:
            cursor.copy_expert(write, pipe)
    except psycopg2.Error as exc:
        written = exc
    finally:
        sender.join()
    if written is not None:
        raise as_pgops_error(written, f"The rows of {table.regclass} cannot be written into {schema}")
    if failure:
        # The writer took the end of the pipe for the end of the rows.
        if isinstance(failure[0], (psycopg2.Error, PgopsError)):
            raise as_pgops_error(failure[0], f"The rows of {table.regclass} cannot be read from the restored backup")
        raise failure[0]


def table_name(conn: Connection, table: Wanted) -> str:
    """:return: its name as a manifest has it."""
    row = fetch_one(conn, "SELECT quote_ident(%s) || '.' || quote_ident(%s) AS name", (table.schema, table.name))
    return str(row["name"]) if row else ""


def _refuse_others(live: Connection, tables: list[Wanted], schema: str, check: Callable[[], None]) -> None:
    quoted = {table_name(live, Wanted(schema, table.name, (), 0, "")): table for table in tables}
    found = content.table_contents(live, list(quoted), check=check)
    for name, table in quoted.items():
        if (found[name]["rows"], found[name]["hash"]) != (table.rows, table.hash):
            raise PgopsError(
                f"{name} differs from the backup: {found[name]['rows']} rows of {table.rows}"
                + (", and their contents are others" if found[name]["rows"] == table.rows else "")
                + "; the side schema was not made.",
                object_name=table.name,
                hint="Restore the whole backup into a new database with restore.yml.",
            )


def _close(live: Connection, schema: str) -> None:
    for entry in fetch_all(live, _OTHERS, {"schema": schema}):
        name = sql.Identifier(schema) if entry["is_schema"] else sql.Identifier(schema, entry["name"])
        grantee = sql.SQL("PUBLIC") if entry["grantee"] is None else sql.Identifier(entry["grantee"])
        kind = sql.SQL("SCHEMA" if entry["is_schema"] else "TABLE")
        execute(live, sql.SQL("REVOKE ALL ON {} {} FROM {} CASCADE").format(kind, name, grantee))
    if fetch_all(live, _OTHERS, {"schema": schema}):
        raise PgopsError(
            f"The schema {schema} cannot be closed to others (an event trigger that grants?); it was not made.",
            object_name=schema,
        )


def _give_back(conn: Connection) -> None:
    try:
        execute(conn, "ROLLBACK")
    except psycopg2.Error:
        conn.close()
