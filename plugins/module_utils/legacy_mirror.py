# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sequelize's ledger kept in step with ours, so that its own ``db:migrate:status`` tells the truth.

Only versions that have a file of its own get a row there: a name without a file would make its ``db:migrate:undo`` fail.
Each row is written in the transaction that ends our version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import SEQUELIZE, LegacyLedger, listed
from psycopg2 import sql

_RIGHTS = (
    "SELECT has_table_privilege(%s, 'INSERT') AND has_table_privilege(%s, 'DELETE') AS yes, current_user::text AS role"
)


def refuse(conn: Connection, ledgers: list[LegacyLedger], names: Mapping[str, Any]) -> LegacyLedger:
    """:return: the ledger that is to be mirrored.
    :raises PgopsError: there is none, the tree says no name or another one than the ledger, or the role may not write it."""
    database = str(conn.info.dbname)
    found = next((item for item in ledgers if item.tool == SEQUELIZE), None)
    if found is None:
        raise PgopsError(
            f"There is no SequelizeMeta in {database} to mirror to; leave adopt_mirror_ledger out. Nothing was written.",
            database=database,
            extra={"reason": "mirror"},
        )
    if not names:
        raise PgopsError(
            "The tree's legacy_names.yml names no file of Sequelize, so there is nothing to mirror. Nothing was written.",
            database=database,
            extra={"reason": "mirror"},
        )
    table = sql.Identifier(found.schema, found.table).as_string(conn)
    rights = fetch_one(conn, _RIGHTS, (table, table)) or {}
    if not rights["yes"]:
        raise PgopsError(
            f"Role {rights['role']} may not write {table}; GRANT SELECT, INSERT, DELETE ON {table} TO {quoted(rights['role'])}. Nothing was "
            "written.",
            sqlstate="42501",
            database=database,
            extra={"reason": "mirror"},
        )
    _refuse_other_names(database, found, names)
    return found


def _refuse_other_names(database: str, found: LegacyLedger, names: Mapping[str, Any]) -> None:
    """A row of ours beside theirs would say a version twice, and theirs would stay when it goes."""
    others = {version: _names_there(found, version, names) for version in names}
    wrong = {
        version: there
        for version, there in others.items()
        if len(there) > 1 or not set(there) <= set(listed(version, names))
    }
    if not wrong:
        return
    version, there = min(wrong.items())
    more = f", and {len(wrong) - 1} more versions so" if len(wrong) > 1 else ""
    raise PgopsError(
        f"{found.table} of {database} knows version {version} as {' and '.join(there)}, and the tree's legacy_names.yml as "
        f"{' or '.join(listed(version, names))}{more}: a version has one row under one name, so name the files there as their "
        "project does, or remove the row that no file of it has. Nothing was written.",
        database=database,
        extra={"reason": "mirror", "names": wrong},
    )


def _names_there(found: LegacyLedger, version: str, names: Mapping[str, Any]) -> list[str]:
    """:return: under which names a version is there. Beside a name that the tree has, a row that only begins with the same
    number is another file of theirs."""
    rows = [entry.name for entry in found.rows_of(version, names)]
    stems = {_stem(name) for name in listed(version, names)}
    if not set(rows) & set(listed(version, names)):
        return rows
    return [name for name in rows if name in listed(version, names) or _stem(name) in stems]


def _stem(name: str) -> str:
    """:return: the file's name without its ending: the same migration is `.ts` before and `.js` after it is compiled."""
    return name.rpartition(".")[0] or name


def switch_on(conn: Connection, found: LegacyLedger, names: Mapping[str, Any]) -> None:
    """Remember which versions have a row there, and its name, in the caller's transaction."""
    # Of a version that is reverted no row is there, only what was remembered of it.
    before = {row["version"]: row["name"] for row in fetch_all(conn, "SELECT version, name FROM pgops.mirror")}
    switch_off(conn)
    for version in names:
        known = listed(version, names)
        there = [*_names_there(found, version, names), before.get(version)]
        execute(
            conn,
            "INSERT INTO pgops.mirror (version, schema, relation, name) VALUES (%s, %s, %s, %s)",
            (version, found.schema, found.table, next((name for name in there if name in known), known[0])),
        )


def switch_off(conn: Connection) -> None:
    """Their ledger stays as it is from now on, in the caller's transaction."""
    execute(conn, "DELETE FROM pgops.mirror")


def is_on(conn: Connection) -> bool:
    """:return: whether a ledger is mirrored."""
    return fetch_one(conn, "SELECT 1 AS yes FROM pgops.mirror LIMIT 1") is not None


def versions(conn: Connection) -> frozenset[str]:
    """:return: the versions that have a row in another tool's ledger while they are applied."""
    return frozenset(str(row["version"]) for row in fetch_all(conn, "SELECT version FROM pgops.mirror"))


def in_step(conn: Connection, book: Ledger) -> dict[str, list[str]]:
    """Make their ledger say what ours says, in the caller's transaction.

    :return: ``added`` and ``removed`` names; of versions that ours does not know, nothing is touched."""
    changed: dict[str, list[str]] = {"added": [], "removed": []}
    for row in fetch_all(conn, "SELECT version FROM pgops.mirror ORDER BY version"):
        version = str(row["version"])
        mine = book.get(version)
        word = "added" if mine is not None and mine.state == "applied" else "removed"
        name = applied(conn, version) if word == "added" else reverted(conn, version)
        if name:
            changed[word].append(name)
    return changed


def applied(conn: Connection, version: str) -> str | None:
    """A version of ours is applied: their ledger gets its row, in the caller's transaction. :return: the name, if it was added."""
    found = _of(conn, version)
    if found is None:
        return None
    added = execute(
        conn,
        sql.SQL(
            "INSERT INTO {table} (name) SELECT {name} WHERE NOT EXISTS (SELECT FROM {table} WHERE name = {name})"
        ).format(table=sql.Identifier(found["schema"], found["relation"]), name=sql.Literal(found["name"])),
    )
    return str(found["name"]) if added else None


def reverted(conn: Connection, version: str) -> str | None:
    """A version of ours is reverted: its row goes, in the caller's transaction. :return: the name, if it was there."""
    found = _of(conn, version)
    if found is None:
        return None
    gone = execute(
        conn,
        sql.SQL("DELETE FROM {} WHERE name = {}").format(
            sql.Identifier(found["schema"], found["relation"]), sql.Literal(found["name"])
        ),
    )
    return str(found["name"]) if gone else None


def _of(conn: Connection, version: str) -> dict[str, Any] | None:
    # A ledger that somebody dropped since needs no rows.
    return fetch_one(
        conn,
        "SELECT schema, relation, name FROM pgops.mirror "
        "WHERE version = %s AND to_regclass(quote_ident(schema) || '.' || quote_ident(relation)) IS NOT NULL",
        (version,),
    )
