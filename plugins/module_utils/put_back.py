# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put back the privileges, comments and functions that a step and its way down have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import attributes, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.attributes import (
    COMMENT,
    DEFINITION,
    PRIVILEGES,
    Attribute,
    Grant,
    Look,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from psycopg2 import errorcodes, sql

# In the time since, somebody may have dropped an object or a role.
_GONE = (
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_COLUMN,
    errorcodes.UNDEFINED_OBJECT,
    errorcodes.UNDEFINED_FUNCTION,
    errorcodes.INVALID_SCHEMA_NAME,
    errorcodes.WRONG_OBJECT_TYPE,
)


def run(conn: Connection, record: Mapping[str, Any], beginning: Look, tell: Callable[[str], None]) -> None:
    """Undo what a step has changed, and what its way down has changed beside that. Call in the transaction of the way down.

    Takes SHARE UPDATE EXCLUSIVE on a table for a comment, no lock for a privilege or function.

    :param record: of the way up.
    :param beginning: how all was before the way down's first statement.
    :raises PgopsError: this role may not put something back.
    """
    known = _known(conn, record, beginning.database)
    made = set(record["made"])
    _functions(conn, known, made, beginning, attributes.look(conn), tell)
    # What is revoked of a table goes from its columns, too: those are looked at again.
    for columns in (False, True):
        _privileges(conn, known, made, beginning, attributes.look(conn), columns, tell)
    _comments(conn, known, beginning, attributes.look(conn), tell)


def _known(conn: Connection, record: Mapping[str, Any], database: int) -> dict[tuple[str, str], Mapping[str, Any]]:
    """:return: what was recorded, by kind and by the name that the object has now."""
    names: dict[attributes.Key, str] = {}
    if record.get("database") == database:
        names = attributes.names_now(conn, [_key(entry) for entry in record["changed"]])
    known: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in record["changed"]:
        name = names.get(_key(entry), str(entry["object"]))
        type_ = str(entry["type"])
        known[str(entry["attribute"]), name] = {**entry, "object": name, "identity": name[len(type_) + 1 :]}
    return known


def _key(entry: Mapping[str, Any]) -> attributes.Key:
    name, oid, column = entry["key"]
    return str(name), int(oid), int(column)


def _functions(
    conn: Connection,
    known: Mapping[tuple[str, str], Mapping[str, Any]],
    made: set[str],
    beginning: Look,
    now: Look,
    tell: Callable[[str], None],
) -> None:
    names = dict.fromkeys([*now.named[DEFINITION], *(name for kind, name in known if kind == DEFINITION)])
    for name in names:
        found, entry = now.named[DEFINITION].get(name), known.get((DEFINITION, name))
        first = beginning.of[DEFINITION].get(found.key) if found else None
        first = first or beginning.named[DEFINITION].get(name)
        value = first.value if first else None
        if entry and ("after" not in entry or value is None or attributes.checksum(value) == entry["after"]):
            value = entry["before"]
        elif name in made:
            continue
        if value is None or (found and found.value == value):
            continue
        with attributes.qualified_names(conn):
            done = _tried(conn, None, sql.SQL(value))
        tell(
            f"{name} is as before this version again"
            if done
            else f"{name} could not be put back: what it names is gone"
        )


def _privileges(
    conn: Connection,
    known: Mapping[tuple[str, str], Mapping[str, Any]],
    made: set[str],
    beginning: Look,
    now: Look,
    columns: bool,
    tell: Callable[[str], None],
) -> None:
    asked: dict[str, tuple[Attribute, Attribute | None]] = {}
    for found in now.of[PRIVILEGES].values():
        asked[found.name] = found, beginning.of[PRIVILEGES].get(found.key)
    # Of a column without any there is nothing to see, and it may have another name by now.
    bare = [key for key in beginning.of[PRIVILEGES] if key[2] and key not in now.of[PRIVILEGES]]
    for key, name in attributes.names_now(conn, bare).items():
        of_before = beginning.of[PRIVILEGES][key]
        asked.setdefault(name, (_named(of_before, name), of_before))
    for (kind, name), changed in known.items():
        if kind == PRIVILEGES and changed["type"].endswith(" column"):
            asked.setdefault(name, (Attribute(("", 0, 1), changed["type"], changed["identity"], frozenset()), None))
    for name, (found, first) in asked.items():
        if found.type.endswith(" column") is not columns or name in made:
            continue
        first = first or beginning.named[PRIVILEGES].get(name)
        entry = known.get((PRIVILEGES, name))
        if entry and "before" in entry:
            value = attributes.grants(entry["before"])
        elif first is None and not entry:
            continue
        else:
            value = first.value if first else frozenset()
            if entry:
                value = (value - attributes.grants(entry["gained"])) | attributes.grants(entry["lost"])
        lost, gained = value - found.value, found.value - value
        done = [_granted(conn, found, statement, grantor) for grantor, statement in _statements(found, lost, gained)]
        if lost and any(done):
            tell(f"{name}: put back {attributes.words(lost)}, as before this version")
        if gained and any(done):
            tell(f"{name}: taken back {attributes.words(gained)}, as before this version")


def _statements(found: Attribute, lost: frozenset[Grant], gained: frozenset[Grant]) -> list[tuple[str, sql.Composed]]:
    return list(attributes.privilege_statements(found, tuple(lost), tuple(gained)))


def _granted(conn: Connection, found: Attribute, statement: sql.Composed, grantor: str) -> bool:
    """As who granted it, where this role may be that; else as the owner."""
    if found.owner in (None, grantor):
        return _tried(conn, None, statement)
    asked = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(oid, 'MEMBER')) AS may"
    row = fetch_one(conn, asked, (grantor,))
    return _tried(conn, grantor if row and row["may"] else None, statement)


def _comments(
    conn: Connection,
    known: Mapping[tuple[str, str], Mapping[str, Any]],
    beginning: Look,
    now: Look,
    tell: Callable[[str], None],
) -> None:
    gone = [key for key in beginning.of[COMMENT] if key not in now.of[COMMENT]]
    names = {key: found.name for key, found in now.of[COMMENT].items()} | attributes.names_now(conn, gone)
    first_of = {names[key]: first for key, first in beginning.of[COMMENT].items() if key in names}
    there = {found.name for key, found in now.of[COMMENT].items() if beginning.has(key)}
    for name in dict.fromkeys([*first_of, *there, *(name for kind, name in known if kind == COMMENT)]):
        entry, found = known.get((COMMENT, name)), now.named[COMMENT].get(name)
        first = first_of.get(name) or beginning.named[COMMENT].get(name)
        value = first.value if first else None
        if entry and ("after" not in entry or first is None or value == entry["after"]):
            value = entry["before"]
        if value == (found.value if found else None):
            continue
        about = found or (_named(first, name) if first else None)
        if about:
            statement = attributes.comment_statement(about.type, about.identity, value)
        elif entry:
            statement = attributes.comment_statement(entry["type"], entry["identity"], value)
        else:
            continue
        if _tried(conn, None, statement):
            tell(f"{name}: its comment is as before this version again")


def _tried(conn: Connection, role: str | None, statement: sql.Composable) -> bool:
    """:return: False where what it names is not there."""
    execute(conn, "SAVEPOINT pgops_put_back")
    try:
        before = fetch_one(conn, "SELECT current_setting('role') AS role") if role else None
        if role:
            execute(conn, sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        with conn.cursor() as cursor:
            # Without parameters psycopg2 leaves every % alone.
            cursor.execute(statement)
        if before:
            execute(conn, "SELECT set_config('role', %s, true)", (before["role"],))
        execute(conn, "RELEASE SAVEPOINT pgops_put_back")
    except psycopg2.Error as exc:
        if exc.pgcode is None or exc.pgcode in locks.RETRY_SQLSTATES:
            raise
        if exc.pgcode not in _GONE:
            text = statement.as_string(conn)
            raise from_psycopg(exc, "What was there before the version could not be put back", statement=text) from None
        execute(conn, "ROLLBACK TO SAVEPOINT pgops_put_back; RELEASE SAVEPOINT pgops_put_back")
        return False
    return True


def _named(attribute: Attribute, name: str) -> Attribute:
    type_ = attribute.type
    return replace(attribute, identity=name[len(type_) + 1 :], value=frozenset(), part=None)
