# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""NOT NULL, defaults and row level security as they were before a version: its way down leaves them so.

The first step of SQL of a version records them, and what it does not record was not so before. Whether a part of the way
down is left out is decided right before its statement runs, by what the catalog says then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import begun_steps, catalog_states, existing, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.renames import Name, Renames
from psycopg2 import sql

State = Mapping[str, Any]
Key = tuple[str, str, str, "str | None"]

# The key of a step's progress that holds them.
PROGRESS = "states_before"

# A generated column has an expression there, and no default.
_NOW = """
SELECT g.number, CASE g.kind WHEN 'not_null' THEN a.attnotnull WHEN 'default' THEN d.oid IS NOT NULL
           WHEN 'row_security' THEN c.relrowsecurity ELSE c.relforcerowsecurity END AS there,
       CASE WHEN d.oid IS NOT NULL THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS expression,
       CASE g.kind WHEN 'default' THEN pg_catalog.format_type(a.atttypid, a.atttypmod) END AS type
  FROM jsonb_to_recordset(%s) AS g(number int, kind text, schema text, "table" text, name text)
  JOIN pg_catalog.pg_namespace n ON n.nspname = g.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = g."table"
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = g.name AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef d
    ON g.kind = 'default' AND d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated = ''
 WHERE g.name IS NULL OR a.attnum IS NOT NULL
"""


@dataclass(frozen=True)
class Before:
    """What a step of SQL knows of the time before its version.

    :ivar steps: on the way up those of the version, where this step is to record for all of them.
    :ivar states: on the way down what was recorded.
    :ivar turned: those of them that the whole way down of the version would leave otherwise than they were. What it takes
        away for a while only, such as a default while the type changes, is not among them.
    :ivar names: by statement of the way down what had which name before the version.
    """

    steps: Sequence[Mapping[str, Any]] = ()
    states: Sequence[State] = ()
    turned: Sequence[State] = ()
    names: Mapping[tuple[Any, ...], Renames] = field(default_factory=dict)

    def record(self, conn: Connection) -> list[dict[str, Any]]:
        """Look at what the version would bring about and what its way down would take away. Call before its first statement.

        Takes ACCESS SHARE for a moment on the table of a default, no other lock.

        :return: those that hold already, a default with its ``expression`` and the ``type`` of its column.
        """
        keys, wanted = self._looked_at()
        now = _now(conn, keys)
        return [now[key] for key in keys if key in now and (key, now[key]["there"]) in wanted]

    def added(self, began: Before, executed: Sequence[Mapping[str, Any]]) -> dict[Key, Key]:
        """Tell what the mended text of a version speaks of, and the text that it began with did not.

        :param began: that text; what it speaks of was looked at before its first statement.
        :param executed: the statements that are committed; what they speak of is not any more as it was.
        :return: the names of now by those of before the version.
        """
        keys, wanted = self._looked_at()
        unknown = {key for key, _ in wanted - began._looked_at()[1]}
        names = Renames()
        touched: set[Key] = set()
        made: set[Name | None] = set()
        for statement in executed:
            touched |= {key for state in _states([statement]) for key in _then(names, state)}
            made |= _then_of(names, statement.get("creates"))
            names.add(statement)
        return {
            key: _renamed(names, key)
            for key in keys
            if key in unknown and key not in touched and not _is_among(key, made)
        }

    def record_added(
        self, conn: Connection, began: Before, executed: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Look at what :meth:`added` tells.

        :return: as :meth:`record` does, by the names of before the version.
        """
        called = self.added(began, executed)
        now = _now(conn, list(called.values()))
        found = {key: {**now[name], **_named(key)} for key, name in called.items() if name in now}
        wanted = self._looked_at()[1] - began._looked_at()[1]
        return [state for key, state in found.items() if (key, state["there"]) in wanted]

    def _looked_at(self) -> tuple[list[Key], set[tuple[Key, bool]]]:
        """:return: what the version speaks of, by the names of before it, and how each would be after a way up or down."""
        names = Renames()
        brought: list[tuple[Key, bool]] = []
        for statement in (statement for step in self.steps for statement in step.get("up") or []):
            brought += [(key, bool(state["there"])) for state in _states([statement]) for key in _then(names, state)]
            names.add(statement)
        ends, _ = _ends(self.steps)
        keys = list(dict.fromkeys([*(key for key, _ in brought), *ends]))
        wanted = set(brought)
        wanted |= {(key, not there) for key, there in ends.items()}
        return keys, wanted

    def words(self, conn: Connection) -> list[str]:
        """:return: what of it is still so, as a ``DO`` block is told it; a default is only while it is the same one."""
        last = next(iter(self.names.values()), Renames())
        # As the way down finds it, or as a part of it that is done has left it.
        keys = {key_of(state): _renamed(last, key_of(state)) for state in self.states}
        now = _now(conn, [*keys, *keys.values()])
        words = []
        for state in self.states:
            key = keys[key_of(state)]
            found = now.get(key) or now.get(key_of(state))
            if found is not None and _same(found, state):
                words += [catalog_states.word(found), catalog_states.word(state)]
        return list(dict.fromkeys(words))

    def without(self, conn: Connection, statement: Mapping[str, Any]) -> Kept:
        """Take out of a statement of the way down the parts that would change what is as it was before the version.

        A default that the version replaced by another is set again in the place of being dropped.

        Takes ACCESS SHARE for a moment on the table of a default, no other lock.
        """
        turned = {key_of(state): state for state in self.turned}
        parts: Sequence[Mapping[str, Any]] = (statement.get("alters") or {}).get("parts", [])
        names = self.names.get(_place(statement), Renames())
        before: dict[int, State] = {}
        for number, part in enumerate(parts):
            for key in _then(names, part["state"]) if part["state"] else []:
                if key in turned and turned[key]["there"] != part["state"]["there"]:
                    before[number] = turned[key]
        now = _now(conn, [key_of(parts[number]["state"]) for number in before])
        run: list[str] = []
        stays: dict[Key, str] = {}
        again: list[str] = []
        for number, part in enumerate(parts):
            was = before.get(number)
            present = now.get(key_of(part["state"])) if was else None
            if was and present and _same(present, was):
                stays[key_of(present)] = catalog_states.word(was)
            elif was and present and _is_another_default(was, present):
                again.append(f"{was['schema']}.{was['table']}.{was['name']}")
                column = sql.Identifier(str(present["name"])).as_string(conn)
                run.append(f"ALTER COLUMN {column} SET DEFAULT {was['expression']}")
            else:
                run.append(str(part["sql"]))
        if not stays and not again:
            return Kept(statement)
        if not run:
            return Kept(None, list(stays.values()))
        text = f"{statement['alters']['table']} {', '.join(run)}"
        states = [state for state in statement.get("states") or [] if not again and key_of(state) not in stays]
        return Kept({**statement, "sql": text, "states": states}, list(stays.values()), again)


@dataclass(frozen=True)
class Kept:
    """A statement of the way down, and what it leaves.

    :ivar statement: None where no part of it is left.
    :ivar stays: in words what stays as it was.
    :ivar again: the columns that get back their default.
    """

    statement: Mapping[str, Any] | None
    stays: Sequence[str] = ()
    again: Sequence[str] = ()

    @property
    def told(self) -> list[str]:
        """:return: a sentence for each."""
        return [
            *(f"{word} as before this version: it stays" for word in self.stays),
            *(f"{name} gets back the default that it had before this version" for name in self.again),
        ]


def up(migration: Mapping[str, Any], ordinal: int) -> Before:
    """:return: what a step of SQL on the way up is to record: the first one for all, the others nothing."""
    steps: Sequence[Mapping[str, Any]] = migration["steps"]
    first = next(number for number, step in enumerate(steps, 1) if step["kind"] == "sql")
    return Before(steps=steps if ordinal == first else ())


def down(migration: Mapping[str, Any], row: ledger.Migration) -> Before:
    """:return: what was recorded when the version was applied."""
    gone = _gone(begun_steps.executed(row.steps, migration["steps"]))
    recorded = chain.from_iterable(step.progress.get(PROGRESS, []) for step in row.steps)
    # What the way up has dropped does not stay: what has its name on the way down is another.
    states = [state for state in recorded if not _is_among(key_of(state), gone)]
    ends, names = _ends(migration["steps"])
    return Before(
        states=states,
        turned=[state for state in states if ends.get(key_of(state), state["there"]) != state["there"]],
        names=names,
    )


def _gone(steps: Sequence[Mapping[str, Any]]) -> set[Name | None]:
    """:return: the tables and columns that statements of a way up drop, by the names of before."""
    names = Renames()
    gone: set[Name | None] = set()
    for statement in (statement for step in steps for statement in step.get("up") or []):
        gone |= _then_of(names, existing.dropped(statement))
        names.add(statement)
    return gone


def _then_of(names: Renames, thing: Mapping[str, Any] | None) -> set[Name | None]:
    """:return: a table or column that a statement makes or drops, by the name of before; nothing for other objects."""
    if not thing or thing["kind"] not in ("table", "column"):
        return set()
    table, column = (thing["table"], str(thing["name"])) if thing["kind"] == "column" else (thing["name"], None)
    return {names.then(str(thing.get("schema") or "public"), str(table), column)}


def _is_among(key: Key, things: set[Name | None]) -> bool:
    return bool(things & {(key[1], key[2], None), (key[1], key[2], key[3])})


def _is_another_default(was: State, present: State) -> bool:
    # Of another type the old expression may not fit, and the author of the way down alone knows what comes next.
    return bool(was["there"] and present["there"]) and was["kind"] == "default" and was["type"] == present["type"]


def _states(statements: Iterable[Mapping[str, Any]]) -> list[State]:
    parts = chain.from_iterable((statement.get("alters") or {}).get("parts", []) for statement in statements)
    return [part["state"] for part in parts if part["state"]]


def _ends(steps: Sequence[Mapping[str, Any]]) -> tuple[dict[Key, bool], dict[tuple[Any, ...], Renames]]:
    """:return: how the whole way down leaves each that it names, and by statement what had which name before the version."""
    names = Renames()
    for statement in (statement for step in steps for statement in step.get("up") or []):
        names.add(statement)
    ends: dict[Key, bool] = {}
    by_statement: dict[tuple[Any, ...], Renames] = {}
    for step in reversed(steps):
        for statement in (step.get("down") or []) if step["kind"] == "sql" else []:
            by_statement.setdefault(_place(statement), deepcopy(names))
            ends |= {key: bool(state["there"]) for state in _states([statement]) for key in _then(names, state)}
            names.add(statement)
    return ends, by_statement


def _place(statement: Mapping[str, Any]) -> tuple[Any, ...]:
    return statement.get("file"), statement.get("line"), statement["sql"]


def _then(names: Renames, state: State) -> list[Key]:
    """:return: the key of what a statement names, as it was named before the version; none where that is not the same thing."""
    then = names.then(str(state["schema"]), str(state["table"]), state.get("name"))
    return [(str(state["kind"]), *then)] if then else []


def _renamed(names: Renames, key: Key) -> Key:
    return (key[0], *names.now(key[1], key[2], key[3]))


def _same(now: State, was: State) -> bool:
    """:return: whether it is as it was, whatever its column or table is called."""
    return all(now.get(part) == was.get(part) for part in ("kind", "there", "expression", "type"))


def key_of(state: State) -> Key:
    """:return: what a state is of: its kind, schema, table, and of a column the name."""
    return str(state["kind"]), str(state["schema"]), str(state["table"]), state.get("name")


def _named(key: Key) -> dict[str, str]:
    return {name: value for name, value in zip(("kind", "schema", "table", "name"), key) if value is not None}


def _now(conn: Connection, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    """:return: how each is now; none of a table or column that is not there."""
    if not keys:
        return {}
    names = ("kind", "schema", "table", "name")
    asked = [{"number": number, **dict(zip(names, key))} for number, key in enumerate(keys)]
    found = {}
    for row in fetch_all(conn, _NOW, (json.dumps(asked),)):
        key = keys[row["number"]]
        state = {**dict(zip(names, key)), **{name: row[name] for name in ("there", "expression", "type")}}
        found[key] = {name: value for name, value in state.items() if value is not None}
    return found
