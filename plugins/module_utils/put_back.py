# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put back the privileges, comments and functions that a step and its way down have changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import attributes, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.attributes import (
    COMMENT,
    DEFINITION,
    PRIVILEGES,
    Attribute,
    Key,
    Look,
    Name,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME
from psycopg2 import errorcodes, sql

Record = Mapping[str, Any]
Known = Mapping[tuple[str, str], Mapping[str, Any]]

# In the time since, somebody may have dropped an object or a role.
_GONE = (
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_COLUMN,
    errorcodes.UNDEFINED_OBJECT,
    errorcodes.UNDEFINED_FUNCTION,
    errorcodes.INVALID_SCHEMA_NAME,
    errorcodes.WRONG_OBJECT_TYPE,
)


def run(conn: Connection, record: Record, beginning: Look, tell: Callable[[str], None], *, again: bool = False) -> None:
    """Undo what a step has changed, and what its way down has changed beside that. Call in the transaction of the way down.

    Takes SHARE UPDATE EXCLUSIVE on a table for a comment, no lock for a privilege or function.

    :param record: of the way up.
    :param beginning: how all was before the way down's first statement.
    :param again: statements of the way down drop something and make it again.
    :raises PgopsError: this role may not put something back.
    """
    known = _known(conn, record, beginning.database)
    made = set(record["made"])
    _functions(conn, known, made, beginning, attributes.look(conn), tell)
    # What is revoked of a table goes from its columns, too: those are looked at again.
    for columns in (False, True):
        _privileges(conn, known, made, beginning, attributes.look(conn), columns, tell)
    # A block that takes something away may put another in its place, whose comment is its own.
    commented = set(record.get("commented", [])) if again else None
    _comments(conn, known, commented, beginning, attributes.look(conn), tell)


def _known(conn: Connection, record: Record, database: int) -> dict[tuple[str, str], dict[str, Any]]:
    """:return: what was recorded, with the name ``called`` that the object has now, by kind and that name."""
    names: dict[Key, Name] = {}
    if record.get("database") == database:
        names = attributes.names_now(conn, [_key(entry) for entry in record["changed"]])
    known = {}
    for entry in record["changed"]:
        called = names.get(_key(entry)) or _called(entry)
        known[str(entry["attribute"]), str(called)] = {**entry, "called": called}
    return known


def _called(entry: Mapping[str, Any]) -> Name:
    """:return: the name that the object had before the version."""
    type_ = str(entry["type"])
    identity = str(entry["object"])[len(f"{type_} ") :]
    part = entry.get("part")
    if part is None and type_.endswith(" column"):
        # An older tool did not record it.
        part = re.findall(NAME, identity)[-1]
    return Name(type_, identity, part)


def _key(entry: Mapping[str, Any]) -> Key:
    name, oid, column = entry["key"]
    return str(name), int(oid), int(column)


def _functions(
    conn: Connection,
    known: Known,
    made: set[str],
    beginning: Look,
    now: Look,
    tell: Callable[[str], None],
) -> None:
    names = dict.fromkeys([*now.named[DEFINITION], *(name for kind, name in known if kind == DEFINITION)])
    for name in names:
        found, entry = now.named[DEFINITION].get(name), known.get((DEFINITION, name))
        first = beginning.of[DEFINITION].get(found.key) if found else None
        first = first or _gone(beginning, now, DEFINITION, name)
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
    known: Known,
    made: set[str],
    beginning: Look,
    now: Look,
    columns: bool,
    tell: Callable[[str], None],
) -> None:
    asked: dict[str, tuple[Attribute, Attribute | None]] = {}
    for found in now.of[PRIVILEGES].values():
        asked[found.name] = found, beginning.of[PRIVILEGES].get(found.key)
    # Of a column without any there is nothing to see, and it may have another name by now, or be another one.
    bare = [was for key, was in beginning.of[PRIVILEGES].items() if key[2] and key not in now.of[PRIVILEGES]]
    for key, called in _names_now(conn, beginning, bare).items():
        was = beginning.of[PRIVILEGES][key]
        asked.setdefault(str(called), (replace(was, called=called, value=frozenset()), was))
    for (kind, name), changed in known.items():
        if kind == PRIVILEGES and changed["called"].part:
            asked.setdefault(name, (Attribute(("", 0, 1), changed["called"], frozenset()), None))
    for name, (found, first) in asked.items():
        if (found.called.part is not None) is not columns or name in made:
            continue
        first = first or _gone(beginning, now, PRIVILEGES, name)
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
        statements = list(attributes.privilege_statements(found.called, lost, gained))
        done = [_granted(conn, found, statement, grantor) for grantor, statement in statements]
        if lost and any(done):
            tell(f"{name}: put back {attributes.words(lost)}, as before this version")
        if gained and any(done):
            tell(f"{name}: taken back {attributes.words(gained)}, as before this version")


def _granted(conn: Connection, found: Attribute, statement: sql.Composed, grantor: str) -> bool:
    """As who granted it, where this role may be that; else as the owner."""
    if found.owner in (None, grantor):
        return _tried(conn, None, statement)
    asked = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND pg_has_role(oid, 'MEMBER')) AS may"
    row = fetch_one(conn, asked, (grantor,))
    return _tried(conn, grantor if row and row["may"] else None, statement)


def _comments(
    conn: Connection,
    known: Known,
    commented: set[str] | None,
    beginning: Look,
    now: Look,
    tell: Callable[[str], None],
) -> None:
    gone = [was for key, was in beginning.of[COMMENT].items() if key not in now.of[COMMENT]]
    names = {key: found.called for key, found in now.of[COMMENT].items()} | _names_now(conn, beginning, gone)
    called = {str(name): name for name in names.values()}
    called |= {name: entry["called"] for (kind, name), entry in known.items() if kind == COMMENT and name not in called}
    first_of = {str(names[key]): first for key, first in beginning.of[COMMENT].items() if key in names}
    there = {found.name for key, found in now.of[COMMENT].items() if beginning.has(key)}
    # What has no privileges is in no look without its comment: of what was dropped the server says whether it was made again.
    dropped = {
        was.name: was.called
        for was in (gone if commented is not None else [])
        if not (was.key[2] or now.has(was.key) or was.name in (commented or ()))
    }
    called = dropped | called
    for name in dict.fromkeys([*first_of, *there, *(name for kind, name in known if kind == COMMENT), *dropped]):
        entry, found = known.get((COMMENT, name)), now.named[COMMENT].get(name)
        first = first_of.get(name) or _gone(beginning, now, COMMENT, name)
        value = first.value if first else None
        if entry and ("after" not in entry or first is None or value == entry["after"]):
            value = entry["before"]
        if value == (found.value if found else None):
            continue
        if _tried(conn, None, attributes.comment_statement(called[name], value)):
            tell(f"{name}: its comment is as before this version again")


def _names_now(conn: Connection, beginning: Look, asked: Iterable[Attribute]) -> dict[Key, Name]:
    """:return: by key the names of now, of a column that was dropped its old one where another was made in its place."""
    by_key = {attribute.key: attribute.called for attribute in asked}
    names = attributes.names_now(conn, list(by_key))
    dropped = {called: key for key, called in by_key.items() if called.part and key not in names}
    for called, key in attributes.columns_now(conn, list(dropped)).items():
        if not beginning.has(key):
            names[dropped[called]] = called
    return names


def _gone(beginning: Look, now: Look, kind: str, name: str) -> Attribute | None:
    """:return: what had that name and is there no more, under no name."""
    was = beginning.named[kind].get(name)
    return None if was is None or now.has(was.key) else was


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
