# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Extensions of a restore in the versions that the backup had: a dump names none, so a server makes its own default.

An extension that is there already is passed over by pg_restore, so those that would come in another version are made before it,
with the schemas that they lie in and those that they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, plain_sql
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import sql

Inventory = Mapping[str, Mapping[str, Any]]

# Of each that the server has: whether it would be made in another version and can be in that one, and what it needs then.
_OFFERED = """
SELECT w.name, w.version <> a.default_version AND v.version IS NOT NULL AS older,
       coalesce(v.requires, d.requires)::text[] AS needs
  FROM unnest(%s::text[], %s::text[]) AS w(name, version) JOIN pg_catalog.pg_available_extensions a ON a.name = w.name
  JOIN pg_catalog.pg_available_extension_versions d ON d.name = a.name AND d.version = a.default_version
  LEFT JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name AND v.version = w.version
       AND (v.trusted OR NOT v.superuser OR (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user))
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname = w.name)
"""


def make(conn: Connection, inventory: Inventory, *, owners: bool, check: Callable[[], None]) -> list[str]:
    """Make, in an empty database, the extensions that the server would otherwise make in another version than the backup's.

    One that fails is left to pg_restore, which makes the default.

    :param inventory: the backup's.
    :param owners: whether the schemas belong to whom they belonged to.
    :param check: asked before each; raises where the run is to end.
    :return: keys of the schemas that were made, which pg_restore has to leave out.
    :raises psycopg2.Error: a schema cannot be made, or the session was lost.
    """
    wanted = _wanted(inventory)
    offered = {
        row["name"]: row for row in fetch_all(conn, _OFFERED, (list(wanted), [e["version"] for e in wanted.values()]))
    }
    schemas: list[str] = []
    for name in _in_order(offered):
        check()
        schema = str(wanted[name]["schema_of_objects"])
        key = f"schema {_quoted(conn, schema)}"
        if key in inventory and key not in schemas and not _is_there(conn, schema):
            _make_schema(conn, schema, str(inventory[key]["owner"]) if owners else None)
            schemas.append(key)
        statement = sql.SQL("CREATE EXTENSION {} WITH SCHEMA {}").format(sql.Identifier(name), sql.Identifier(schema))
        if offered[name]["older"]:
            statement += sql.SQL(" VERSION {}").format(sql.Literal(wanted[name]["version"]))
        try:
            execute(conn, statement)
        except psycopg2.Error:
            # Offered, and of a library that has it no more.
            if conn.closed:
                raise
    return schemas


def compared(expected: Inventory, found: Inventory, database: str) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Take the versions of extensions out of a comparison: another one is the server's, and no fault of the backup.

    :return: both inventories without versions of extensions that both have, and a sentence for each that has another.
    """
    left, right, told = dict(expected), dict(found), []
    for key in sorted(set(expected) & set(found)):
        if catalog.kind_of(key) != "extension":
            continue
        versions = [str(side[key].get("version")) for side in (expected, found)]
        if versions[0] != versions[1]:
            name = catalog.name_of(key)
            told.append(
                f"{key} has version {versions[1]} in the restore and {versions[0]} in the backup, which this server does not make; "
                f"ALTER EXTENSION {name} UPDATE in {quoted(database)}, then the next backup has what a restore makes"
            )
        left[key], right[key] = ({k: v for k, v in side[key].items() if k != "version"} for side in (expected, found))
    return left, right, told


def _wanted(inventory: Inventory) -> dict[str, Mapping[str, Any]]:
    return {
        plain_sql.unquoted(catalog.name_of(key)): entry
        for key, entry in inventory.items()
        if catalog.kind_of(key) == "extension"
    }


def _in_order(offered: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """:return: the older ones and what they need, each after what it needs."""
    done: set[str] = set()

    def with_needs(name: str) -> Iterator[str]:
        if name in done or name not in offered:
            return
        done.add(name)
        for other in offered[name]["needs"] or ():
            yield from with_needs(other)
        yield name

    for name in sorted(offered):
        if offered[name]["older"]:
            yield from with_needs(name)


def _quoted(conn: Connection, name: str) -> str:
    return str(fetch_all(conn, "SELECT quote_ident(%s) AS name", (name,))[0]["name"])


def _is_there(conn: Connection, schema: str) -> bool:
    return bool(fetch_all(conn, "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)))


def _make_schema(conn: Connection, schema: str, owner: str | None) -> None:
    statement = sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema))
    if owner is not None:
        statement += sql.SQL(" AUTHORIZATION {}").format(sql.Identifier(owner))
    execute(conn, statement)
