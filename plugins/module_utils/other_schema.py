# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Do the tables of the tree stand in another schema than the tree makes them in?

Every session of ours sets its own search_path, so the one of the role or the database leads nowhere: a run would make the
tables anew, empty, beside the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of

# So many tables are named; the number of all of them is told.
NAMED = 5

_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, quote_ident(n.nspname) AS quoted,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS told, array_agg(a.attname::text) AS columns
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND c.relname = ANY (%s)
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgops')
 GROUP BY n.nspname, c.relname ORDER BY n.nspname, c.relname
"""


def refuse(
    conn: Connection,
    found: Ledger,
    migrations: Sequence[Mapping[str, Any]],
    nothing_was: str,
    waived: Sequence[str] = (),
) -> None:
    """Look for the tables of the first version that makes any. Reads catalogs only.

    Names alone are cheap: a table is known by half of its columns, and a schema by half of the tables.

    :param migrations: the whole tree, rendered.
    :param nothing_was: what the call would have done, e.g. ``applied to``.
    :param waived: versions whose tables may stand in another schema, too.
    :raises PgopsError: they stand in a schema that is not theirs, and not in their own.
    """
    version, first = _first_tables(migrations)
    if not first or version in waived or found.get(version) is not None:
        return
    known: dict[str, list[dict[str, Any]]] = {}
    for row in fetch_all(conn, _TABLES, ([name for _, name in first],)):
        columns = next(columns for (_, name), columns in first.items() if name == row["name"])
        if len(columns & set(row["columns"])) * 2 >= len(columns):
            known.setdefault(row["schema"], []).append(row)
    own = {schema for schema, _ in first}
    others = {schema: rows for schema, rows in known.items() if schema not in own and len(rows) * 2 >= len(first)}
    if not others or sum(len(known.get(schema, [])) for schema in own) * 2 >= len(first):
        return
    rows = next(iter(others.values()))
    there, here = " and ".join(rows[0]["quoted"] for rows in others.values()), " and ".join(sorted(own))
    named = ", ".join(row["told"] for row in rows[:NAMED]) + (", ..." if len(rows) > NAMED else "")
    database = str(conn.info.dbname)
    raise PgopsError(
        f"Nothing was {nothing_was} {database}: the tables of version {version} stand in the schema {there} ({len(rows)} of "
        f"{len(first)}: {named}), and the tree makes them in {here}; move them there first (docs/adopt.md).",
        database=database,
        object_name=f"schema {rows[0]['quoted']}",
        extra={"reason": "schema", "version": version, "schemas": sorted(others)},
    )


def _first_tables(migrations: Sequence[Mapping[str, Any]]) -> tuple[str, dict[tuple[str, str], set[str]]]:
    """:return: the version, and (schema, name) -> columns of the tables that it makes."""
    for migration in migrations:
        tables = {}
        for step in migration["steps"]:
            for statement in step.get("up") or []:
                made = statement.get("creates")
                if made and made["kind"] == "table":
                    tables[schema_of(made), str(made["name"])] = {str(column["name"]) for column in made["columns"]}
        if tables:
            return str(migration["version"]), tables
    return "", {}
