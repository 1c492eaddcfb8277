# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows that a way down would destroy and that are in no backup, looked for under the lock that keeps new ones out.

The look before the first version is over long before the last one drops: meanwhile the way down waits for clients, and what
they commit by then nobody has counted. So each step looks again in its own transaction, before its first statement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing, lock_forecast, row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import (
    ACCESS_EXCLUSIVE,
    SHARE_ROW_EXCLUSIVE,
)
from psycopg2 import sql

HINT = (
    "Stop what writes there and type it again, it takes a new backup; or let them go with -e rollback_lose_writes=true."
)

# What a table or column that goes is in, and what its rows could be lost of.
_COLUMNS = """
SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')
"""
# What the steps of this rollback wrote themselves since the snapshot is no client's.
_OWN = """
SELECT t.xid::text::bigint AS xid FROM pgops.step_transaction AS t
  JOIN pg_catalog.pg_database AS d ON d.oid = t.database AND d.datname = current_database()
 WHERE t.direction = 'down' AND t.xid::text::bigint >= %s
"""
# Of a table at rest every row is passed over by this condition alone, at half of what the others cost.
_YOUNG = sql.SQL("pg_catalog.age(xmin) <= pg_catalog.age({oldest}::text::xid) AND ")
_UNCOPIED = sql.SQL(
    "SELECT count(*) AS n FROM {table} WHERE {young}{written} AND xmin::text::bigint <> ALL ({own}::bigint[]){there}"
)
# age() is told by 31 bits.
_OLDEST_AGE = (1 << 31) - (1 << 20)


@dataclass(frozen=True)
class Copy:
    """The backup that a way down relies on.

    :ivar snapshot: ``xmax`` (64 bits) and ``xip`` of the snapshot that it was taken in.
    :ivar path: of the backup, for a person.
    """

    snapshot: Mapping[str, Any]
    path: str

    def wanted(
        self, conn: Connection, statements: Sequence[Mapping[str, Any]], kept: Collection[str]
    ) -> list[TableLock]:
        """Takes no lock itself.

        :param kept: objects, in the words of :func:`existing.describe`, that stay.
        :return: the locks that keep writers out of what the statements destroy: ACCESS EXCLUSIVE, which a drop takes anyway,
            and SHARE ROW EXCLUSIVE where a statement deletes rows.
        """
        told = {
            number: [
                {
                    "schema": schema,
                    "name": table,
                    "mode": SHARE_ROW_EXCLUSIVE if parts == {None: "rows"} else ACCESS_EXCLUSIVE,
                    "follow": ["children"],
                }
            ]
            for number, ((schema, table), parts) in enumerate(_going(statements, kept))
            if fetch_one(conn, _COLUMNS, (schema, table))
        }
        found = lock_forecast.forecast(conn, told)
        return lock_forecast.strongest(lock for locks in found.values() for lock in locks)

    def refuse(
        self, conn: Connection, statements: Sequence[Mapping[str, Any]], kept: Collection[str], doing: str
    ) -> None:
        """Count what the statements destroy of which there is no copy. Reads their tables whole, once each.

        :param doing: names the work in the error.
        :raises PgopsError: there is something; ``extra`` has the ``loss``.
        """
        loss = []
        for (schema, table), parts in _going(statements, kept):
            there = fetch_one(conn, _COLUMNS, (schema, table))
            columns = [name for name in parts if name is not None and there and name in there["columns"]]
            if there is None or (None not in parts and not columns):
                continue
            written = self._written(conn, schema, table, [] if None in parts else columns)
            if written:
                loss.append({"table": f"{schema}.{table}", "written": written, "columns": columns})
        if loss:
            told = ", ".join(f"{entry['written']} of {entry['table']}" for entry in loss)
            raise PgopsError(
                f"{doing} was not begun: rows that would go were written since {self.path} was taken, so there is no copy of "
                f"them: {told}.",
                database=str(conn.info.dbname),
                hint=HINT,
                extra={"reason": "written_since", "loss": loss},
            )

    def _written(self, conn: Connection, schema: str, table: str, columns: Sequence[str]) -> int:
        oldest = min([self.snapshot["xmax"], *self.snapshot["xip"]])
        own = sorted({row["xid"] % row_versions.XID_RANGE for row in fetch_all(conn, _OWN, (oldest,))})
        young: sql.Composable = sql.SQL("")
        there: sql.Composable = sql.SQL("")
        if row_versions.next_xid(conn) - oldest < _OLDEST_AGE:
            young = _YOUNG.format(oldest=sql.Literal(str(oldest % row_versions.XID_RANGE)))
        if columns:
            values = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in columns]
            there = sql.SQL(" AND ({})").format(sql.SQL(" OR ").join(values))
        query = _UNCOPIED.format(
            table=sql.Identifier(schema, table),
            young=young,
            written=row_versions.written(row_versions.window(conn, self.snapshot)),
            own=sql.Literal(own),
            there=there,
        )
        row = fetch_one(conn, query)
        return int(row["n"]) if row else 0


def _going(
    statements: Sequence[Mapping[str, Any]], kept: Collection[str]
) -> Iterator[tuple[tuple[str, str], dict[str | None, str]]]:
    """:return: each (schema, table) of which something goes, with the columns that do; None stands for whole rows."""
    tables: dict[tuple[str, str], dict[str | None, str]] = {}
    for statement in statements:
        gone = statement.get("destroys")
        if not gone or gone["kind"] not in ("table", "column", "rows") or existing.describe(gone) in kept:
            continue
        key = (str(gone.get("schema") or "public"), str(gone.get("table") or gone["name"]))
        part = str(gone["name"]) if gone["kind"] == "column" else None
        tables.setdefault(key, {})[part] = str(gone["kind"])
    yield from tables.items()
