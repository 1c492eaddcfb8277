# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The statements that bring lost rows back into the live database: one line each, values quoted by the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_rows import LostRow
from ansible_collections.whitecross.pgops.plugins.module_utils.output_settings import OUTPUT_SETTINGS
from psycopg2 import sql
from psycopg2.extensions import quote_ident

# Line breaks as escapes: each statement stays on its line, so that it can be read, compared and commented out.
_VALUE = r"""
CASE WHEN {0}::text IS NULL THEN 'NULL'
     WHEN {0}::text ~ '[\n\r]'
     THEN 'E' || replace(replace(ltrim(quote_literal({0}::text), ' E'), chr(10), '\n'), chr(13), '\r')
     ELSE quote_literal({0}::text) END
"""
_VALUES = (
    "SELECT ctid::text AS place, ARRAY[{values}]::text[] AS values FROM ONLY {table} WHERE ctid = ANY ({places}::tid[])"
)

# A value is read as it was printed. search_path stays, for the triggers of the tables.
_SETTINGS = {
    name: value for name, value in OUTPUT_SETTINGS.items() if name not in ("search_path", "jit", "statement_timeout")
}

_SEQUENCES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(s.relname) AS name
FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace AS n ON n.oid = s.relnamespace
JOIN pg_sequence AS q ON q.seqrelid = s.oid AND q.seqincrement > 0
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  AND d.refobjid = %(table)s::regclass ORDER BY 1
"""


def settings() -> str:
    """:return: what the transaction is run under."""
    return "".join(f"SET LOCAL {name} = '{value}';\n" for name, value in _SETTINGS.items())


def one_line(text: str) -> bool:
    """:return: whether a name can stand in a comment of one line."""
    return text.isprintable()


def value(column: sql.Composable) -> sql.Composable:
    """:return: an expression that quotes a column's value as it stands in a statement."""
    return sql.SQL(_VALUE).format(column)


class Statements:
    """Those of one table."""

    def __init__(self, pair: Pair, table: Common) -> None:
        self._pair = pair
        self._table = table
        self._names = [name for name, _ in table.columns]
        self._quoted = {name: quote_ident(name, pair.live.conn) for name in self._names}
        listed = ", ".join(self._quoted.values())
        always = " OVERRIDING SYSTEM VALUE" if table.always else ""
        self.insert = f"INSERT INTO {table.name} ({listed}){always}"
        """How an insert begins."""

    def inserts(self, rows: Sequence[LostRow]) -> Iterator[str]:
        """:return: a statement for each row, which does nothing where the row is there."""
        for row, values in zip(rows, self.rows(rows)):
            if self._table.key:
                yield f"{self.insert} VALUES ({', '.join(values)}) ON CONFLICT DO NOTHING;"
            else:
                counted = f"(SELECT count(*) FROM ONLY {self._table.name} WHERE {self._alike(values)})"
                yield f"{self.insert} SELECT {', '.join(values)} WHERE {counted} < {row.same};"

    def updates(self, rows: Sequence[LostRow]) -> Iterator[str]:
        """:return: a statement for each row: the columns that differ, only where they are what they were."""
        was = self._fetched(self._pair.live.conn, self._table.live, [row.live for row in rows])
        for row, values in zip(rows, self.rows(rows)):
            before = was[row.live]
            changed = [
                (self._quoted[name], value, old)
                for name, value, old in zip(self._names, values, before)
                if value != old and name not in self._table.always
            ]
            if not changed:
                continue
            set_to = ", ".join(f"{name} = {value}" for name, value, _ in changed)
            still = " AND ".join(f"{name}::text IS NOT DISTINCT FROM {old}" for name, _, old in changed)
            yield f"UPDATE ONLY {self._table.name} SET {set_to} WHERE {self._keyed(values)} AND {still};"

    def changed(self, rows: Sequence[LostRow]) -> Iterator[set[str]]:
        """:return: of each row that both have the columns that differ."""
        was = self._fetched(self._pair.live.conn, self._table.live, [row.live for row in rows])
        for row, values in zip(rows, self.rows(rows)):
            yield {name for name, value, old in zip(self._names, values, was[row.live]) if value != old}

    def deletes(self, rows: Sequence[LostRow]) -> Iterator[str]:
        """:return: a statement for each row that only the live database has."""
        was = self._fetched(self._pair.live.conn, self._table.live, [row.live for row in rows])
        for row in rows:
            values = was[row.live]
            if self._table.key:
                yield f"DELETE FROM ONLY {self._table.name} WHERE {self._keyed(values)};"
            else:
                one = f"(SELECT ctid FROM ONLY {self._table.name} WHERE {self._alike(values)} LIMIT 1)"
                yield f"DELETE FROM ONLY {self._table.name} WHERE ctid = {one};"

    def rows(self, rows: Sequence[LostRow]) -> list[list[str]]:
        """:return: the values of the kept rows, quoted, in the order of the rows."""
        found = self._fetched(self._pair.kept.conn, self._table.kept, [row.kept for row in rows])
        return [found[row.kept] for row in rows]

    def _keyed(self, values: Sequence[str]) -> str:
        told = dict(zip(self._names, values))
        return " AND ".join(f"{self._quoted[name]} = {told[name]}" for name in self._table.key)

    def _alike(self, values: Sequence[str]) -> str:
        return " AND ".join(
            f"{self._quoted[name]}::text IS NOT DISTINCT FROM {value}" for name, value in zip(self._names, values)
        )

    def _fetched(self, conn: Connection, relation: Table, places: Sequence[str]) -> dict[str, list[str]]:
        question = sql.SQL(_VALUES).format(
            values=sql.SQL(", ").join(value(sql.Identifier(name)) for name in self._names),
            table=sql.Identifier(relation.schema, relation.name),
            places=sql.Literal(list(places)),
        )
        return {str(row["place"]): row["values"] for row in fetch_all(conn, question)}


def sequences(pair: Pair, table: Common) -> Iterator[str]:
    """:return: statements that bring the table's sequences behind the keys that come back."""
    here = {str(row["name"]) for row in fetch_all(pair.live.conn, _SEQUENCES, {"table": table.name})}
    for row in fetch_all(pair.kept.conn, _SEQUENCES, {"table": table.name}):
        name = str(row["name"])
        if name not in here:
            continue
        (value,) = fetch_all(
            pair.kept.conn,
            f"SELECT last_value, is_called, quote_literal({sql.Literal(name).as_string(pair.kept.conn)}) AS literal FROM {name}",
        )
        if value["is_called"]:
            told = f"greatest(last_value, {int(value['last_value'])})"
            yield f"SELECT pg_catalog.setval({value['literal']}, {told}) FROM {name};"
