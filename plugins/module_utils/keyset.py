# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A table walked by its key, one column or several: where the next batch begins and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

# An index can be walked by all columns of the key only where they are its first ones, in that order, all in one
# direction: row comparison is defined so.
_KEY = """
WITH wanted AS (
    SELECT w.n, w.name, a.attnum, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull
      FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
     CROSS JOIN unnest(%(columns)s::text[]) WITH ORDINALITY AS w(name, n)
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
     WHERE s.nspname = %(schema)s AND c.relname = %(table)s)
SELECT c.oid, c.reltuples::bigint AS rows, c.relkind = 'p' AS partitioned,
       (SELECT array_agg(type ORDER BY n) FROM wanted) AS types,
       (SELECT array_agg(name ORDER BY n) FROM wanted WHERE attnum IS NULL) AS missing,
       (SELECT array_agg(name ORDER BY n) FROM wanted WHERE NOT attnotnull) AS nullable,
       EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_am m ON m.oid = ic.relam
                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                  AND (string_to_array(i.indkey::text, ' '))[1:cardinality(%(columns)s::text[])]
                      = (SELECT array_agg(attnum::text ORDER BY n) FROM wanted)
                  AND (SELECT count(DISTINCT option::int & 1) = 1 FROM unnest(
                      (string_to_array(i.indoption::text, ' '))[1:cardinality(%(columns)s::text[])]) AS option)) AS indexed
  FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
 WHERE s.nspname = %(schema)s AND c.relname = %(table)s
"""


@dataclass(frozen=True)
class Batch:
    """The keys of a batch, both ends included, as text.

    :ivar rows: how many rows there were between them.
    """

    first: tuple[str, ...]
    last: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Keyset:
    """A table and the key by which it is walked.

    :ivar types: of the key's columns, as ``format_type`` writes them.
    :ivar rows: how many rows it has, by the last ANALYZE; -1 where there was none.
    :ivar partitioned: the rows are in its partitions.
    """

    schema: str
    table: str
    oid: int
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: int
    partitioned: bool

    @property
    def full(self) -> str:
        """:return: the table with its schema."""
        return f"{self.schema}.{self.table}"

    def count(self, conn: Connection) -> int:
        """:return: how many rows it has, counted where it was never analyzed. Reads the whole table then."""
        if self.rows >= 0:
            return self.rows
        row = fetch_one(conn, sql.SQL("SELECT count(*) AS n FROM {}").format(self._table))
        return int(row["n"]) if row else 0

    def next_batch(self, conn: Connection, after: Sequence[str] | None, size: int, limits: str = "") -> Batch | None:
        """Find the next batch in the order of the key. Takes no lock but that of a reader.

        :param after: the last key that is done, None at the beginning.
        :param size: rows.
        :param limits: statements with SET LOCAL, sent together with each of the questions, as one transaction; for a session in autocommit.
        :return: None where there is none behind ``after``.
        """
        # Two probes, not an aggregate over the keys: uuid has no min and max before PostgreSQL 18, and an ordered
        # array_agg of 5,000 keys costs a fifth of their UPDATE.
        parts = {
            "keys": self._list("k.{}::text"),
            "columns": self._list("t.{}"),
            "table": self._table,
            "back": self._list("t.{} DESC"),
            "after": self._behind(after),
            "offset": sql.Literal(size - 1),
        }
        begin = f"{limits}; " if limits else ""
        # Only the one row's key becomes text, not those that are passed over.
        one = "(SELECT ARRAY[{keys}] FROM (SELECT {columns} FROM {table} t {after} ORDER BY "
        first, last = one + "{columns} LIMIT 1) k)", one + "{columns} OFFSET {offset} LIMIT 1) k)"
        found = fetch_one(conn, sql.SQL(f"{begin}SELECT {first} AS first, {last} AS last").format(**parts))
        if found is None or found["first"] is None:
            return None
        if found["last"] is not None:
            return Batch(tuple(found["first"]), tuple(found["last"]), size)
        counted = "(SELECT count(*) FROM {table} t {after})"
        rest = fetch_one(
            conn, sql.SQL(f"{begin}SELECT {one}{{back}} LIMIT 1) k) AS last, {counted} AS rows").format(**parts)
        )
        if rest is None or rest["last"] is None:
            return None
        return Batch(tuple(found["first"]), tuple(rest["last"]), int(rest["rows"]))

    def between(self, conn: Connection, batch: Batch, *, also: str = "") -> int:
        """Count the rows that have a key of a batch now. Takes no lock but that of a reader.

        :param also: a condition on ``t``, the table.
        """
        counted = sql.SQL("SELECT count(*) AS n FROM {table} t WHERE ({keys}) BETWEEN ({first}) AND ({last}){also}")
        found = fetch_one(
            conn,
            counted.format(
                table=self._table,
                keys=self._list("t.{}"),
                first=self._values(batch.first),
                last=self._values(batch.last),
                also=sql.SQL(f" AND {also}" if also else ""),
            ),
        )
        return int(found["n"]) if found else 0

    @property
    def _table(self) -> sql.Composable:
        return sql.Identifier(self.schema, self.table)

    def _list(self, each: str) -> sql.Composable:
        return sql.SQL(", ").join(sql.SQL(each).format(sql.Identifier(column)) for column in self.columns)

    def _behind(self, after: Sequence[str] | None) -> sql.Composable:
        if after is None:
            return sql.SQL("")
        return sql.SQL("WHERE ({}) > ({})").format(self._list("t.{}"), self._values(after))

    def _values(self, key: Sequence[str]) -> sql.Composable:
        return sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind)) for value, kind in zip(key, self.types)
        )


def columns_of(step: Mapping[str, Any]) -> tuple[str, ...]:
    """:return: the columns of a step's key, which is one name or a list of them."""
    key = step["key"]
    return (str(key),) if isinstance(key, str) else tuple(str(column) for column in key)


def find(
    conn: Connection,
    schema: str,
    table: str,
    columns: Sequence[str],
    *,
    doing: str,
    database: str,
    fit: bool = True,
) -> Keyset:
    """Look whether a table can be walked by these columns. Reads the catalog only.

    :param doing: names the work in the error.
    :param fit: refuse also a column that may be NULL, and a key that no index serves.
    :raises PgopsError: a column is missing, or the key is not fit.
    """
    row = fetch_one(conn, _KEY, {"schema": schema, "table": table, "columns": list(columns)})
    told = columns[0] if len(columns) == 1 else f"({', '.join(columns)})"
    fault = None
    if row is None:
        fault = "there is no such table"
    elif row["missing"]:
        fault = "there is no such column" if len(columns) == 1 else f"there is no column {row['missing'][0]}"
    elif fit and row["nullable"]:
        which = "it" if len(columns) == 1 else str(row["nullable"][0])
        fault = f"{which} may be NULL, and rows without a key would be left out"
    elif fit and not row["indexed"]:
        fault = "no valid btree index begins with it, and every batch would read the whole table"
    if fault or row is None:
        raise PgopsError(
            f"{doing} cannot go by key {schema}.{table}.{told}: {fault}.",
            database=database,
            object_name=f"{schema}.{table}.{told}",
            hint="Name the primary key, all its columns in their order, or others that are NOT NULL and indexed so.",
        )
    return Keyset(
        schema, table, int(row["oid"]), tuple(columns), tuple(row["types"]), int(row["rows"]), bool(row["partitioned"])
    )
