# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What Sequelize or Prisma wrote down of its own migrations. It is told beside the catalog and never believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import sql

SEQUELIZE = "sequelize"
PRISMA = "prisma"
# The table that each tool keeps, and the columns by which it is known.
TABLES = {SEQUELIZE: "SequelizeMeta", PRISMA: "_prisma_migrations"}
_COLUMNS = {
    SEQUELIZE: {"name"},
    PRISMA: {"migration_name", "started_at", "finished_at", "rolled_back_at", "logs"},
}

APPLIED = "applied"
FAILED = "failed"
ROLLED_BACK = "rolled back"

_FIND = """
SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner,
       array_agg(a.attname::text) AS columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(%s) AND n.nspname !~ '^pg_'
 GROUP BY n.nspname, c.relname, c.relowner ORDER BY n.nspname = 'public' DESC, n.nspname, c.relname
"""
_SEQUELIZE = "SELECT name::text AS name FROM {} ORDER BY 1"
# The last word on a migration counts: a failed row may be rolled back and the migration run again. Of the log only the
# error's code is taken, the rest may repeat a row.
_PRISMA = """
SELECT DISTINCT ON (migration_name) migration_name::text AS name, started_at, finished_at IS NOT NULL AS finished,
       rolled_back_at IS NOT NULL AS rolled_back, substring(logs FROM 'Database error code: ([0-9A-Z]{{5}})') AS sqlstate
  FROM {} ORDER BY migration_name, started_at DESC, finished_at DESC NULLS LAST
"""
_VERSION = re.compile(r"(\d{8,14})[-_]")


@dataclass(frozen=True)
class Entry:
    """What a ledger says of one migration: ``applied``, ``failed`` or ``rolled back``; with the error's code if any."""

    name: str
    state: str
    sqlstate: str | None = None

    def __str__(self) -> str:
        return self.state + (f" ({self.sqlstate})" if self.sqlstate else "")


@dataclass(frozen=True)
class LegacyLedger:
    """The ledger of another tool.

    :ivar tool: ``sequelize`` or ``prisma``.
    :ivar owner: the role that owns its table, most often the login of the tool.
    """

    tool: str
    schema: str
    table: str
    owner: str
    entries: list[Entry] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The ledger as plain data for a module's result."""
        return asdict(self)

    def of(self, version: str, names: Mapping[str, Any]) -> Entry | None:
        """:param names: version -> the tool's names of that migration, where the version's number does not tell.
        :return: what it says of one of our versions."""
        return next(iter(self.rows_of(version, names)), None)

    def rows_of(self, version: str, names: Mapping[str, Any]) -> list[Entry]:
        """:return: all that it says of one of our versions, by name or by number."""
        wanted = listed(version, names)
        numbers = [(entry, _VERSION.match(entry.name)) for entry in self.entries]
        return [
            entry
            for entry, number in numbers
            if entry.name in wanted or (number is not None and number.group(1) == version)
        ]


def listed(version: str, names: Mapping[str, Any]) -> list[str]:
    """:return: the names of a tool's migration, as the tree has them; the first is the one that we write."""
    found = names.get(version) or []
    return [found] if isinstance(found, str) else [str(name) for name in found]


def find(conn: Connection) -> list[LegacyLedger]:
    """:return: the ledgers of other tools that are there, with what they say; reads only.

    :raises PgopsError: the role may not read one.
    """
    found = []
    for row in fetch_all(conn, _FIND, (list(TABLES.values()),)):
        tool = next(name for name, table in TABLES.items() if table == row["name"])
        if not _COLUMNS[tool] <= set(row["columns"]):
            continue  # a table of somebody else that only has the name
        where = sql.Identifier(row["schema"], row["name"])
        table = where.as_string(conn)
        rights = fetch_all(
            conn, "SELECT has_table_privilege(%s, 'SELECT') AS yes, current_user::text AS role", (table,)
        )
        if not rights[0]["yes"]:
            role = rights[0]["role"]
            raise PgopsError(
                f"Role {role} may not read {row['schema']}.{row['name']}, the ledger of {tool}. As a superuser or {row['owner']}, in "
                f"{conn.info.dbname}: GRANT SELECT ON {table} TO {quoted(role)}. Nothing was written.",
                sqlstate="42501",
                database=str(conn.info.dbname),
            )
        entries = [_entry(tool, item) for item in fetch_all(conn, sql.SQL(_QUERIES[tool]).format(where))]
        found.append(LegacyLedger(tool, row["schema"], row["name"], row["owner"], entries))
    return found


_QUERIES = {SEQUELIZE: _SEQUELIZE, PRISMA: _PRISMA}


def _entry(tool: str, row: Mapping[str, Any]) -> Entry:
    if tool == SEQUELIZE:
        return Entry(row["name"], APPLIED)
    if row["rolled_back"]:
        return Entry(row["name"], ROLLED_BACK, row["sqlstate"])
    return Entry(row["name"], APPLIED) if row["finished"] else Entry(row["name"], FAILED, row["sqlstate"])
