# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a way down drops and makes again, where something of that name was there before the version.

It stays where the version could not reach it, or where it is as it would be made again, and is not in the way. Else the version has changed it by what nobody
reads a drop in, such as ALTER POLICY or a block: what is its definition and no more is dropped and made again then, as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import BLOCK
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import (
    QUALIFIED,
    schema_and_name,
    without_literals,
    without_parentheses,
)
from psycopg2 import errorcodes, sql

Statement = Mapping[str, Any]

# The key of a step's progress that holds when the triggers of before fired, as pg_trigger.tgenabled has it, where not by default.
TRIGGERS = "triggers_before"

# A type that a column has, or a function that is called, the server does not drop.
_DEFINITION_ONLY = ("constraint", "index", "trigger", "policy", "function", "type")
# Of what else is dropped nobody has looked whether it was there before.
_DROPS_MORE = re.compile(r",|\bCASCADE\b", re.IGNORECASE)
# Of these classes an error says nothing about the statement: the connection, the server's means, its operator, or itself.
_NOT_ABOUT_IT = ("08", "53", "57", "58", "XX")
# What these make is not told beside the statement.
_CREATE = re.compile(
    rf"(?:\s|--[^\n]*\n|/\*.*?\*/)*CREATE\s+(?P<kind>MATERIALIZED\s+VIEW|DOMAIN)\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{QUALIFIED})",
    re.IGNORECASE | re.DOTALL,
)
_WRITES_ROWS = re.compile(r"\s*(?:INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY)\b", re.IGNORECASE)
_CALLS = re.compile(r"\s*(?:SELECT|WITH|CALL|VALUES|EXECUTE)\b", re.IGNORECASE)
_TYPED = re.compile(r"\s*ALTER\s+TABLE\b.*\bTYPE\b", re.IGNORECASE | re.DOTALL)
_FIRES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}
_FIRING = """
SELECT n.nspname::text AS schema, c.relname::text AS "table", g.tgname::text AS name, g.tgenabled::text AS fires
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT g.tgisinternal AND g.tgenabled <> 'O' AND g.tgname = ANY(%s)
"""


@dataclass
class MadeAgain:
    """The way down of one step, statement after statement.

    :ivar down: its statements.
    :ivar kept: what was there before the version, in the words of :func:`existing.describe`.
    :ivar up: the statements of its way up; ``committed`` of them have run.
    :ivar beside: the statements of the version's other steps.
    :ivar triggers: what :func:`record` gave.
    """

    down: Sequence[Statement] = ()
    kept: Collection[str] = ()
    up: Sequence[Statement] = ()
    committed: int = 0
    beside: Sequence[Statement] = ()
    triggers: Mapping[str, str] = field(default_factory=dict)
    _equal: set[str] = field(default_factory=set)
    _dropped: set[str] = field(default_factory=set)

    def may_go(self, statement: Statement) -> bool:
        """:param statement: one that drops something which was there before.
        :return: whether it is to run where that is another one now."""
        gone = existing.dropped(statement) or {}
        again = _again(self.down, statement)
        return (
            again is not None
            and bool(gone["kind"] in _DEFINITION_ONLY or gone.get("materialized"))
            and not _drops_more(statement)
            and (_is_in_the_way(self.down, statement, again) or not self._is_untouched(makes(again) or {}))
        )

    def is_to_go(self, conn: Connection, statement: Statement) -> bool:
        """Call inside a transaction; see :func:`existing.compare` for the locks.

        :return: whether what :meth:`may_go` tells is another one now, or in the way."""
        gone, again = existing.dropped(statement), _again(self.down, statement)
        if gone is None or again is None or not self.may_go(statement) or not existing.present(conn, [gone]):
            return False
        word = existing.describe(gone)
        # A transaction that waited too long for its locks is run again.
        self._equal.discard(word)
        self._dropped.discard(word)
        is_another = _is_in_the_way(self.down, statement, again) or bool(_differences(conn, again))
        (self._dropped if is_another else self._equal).add(word)
        return is_another

    def differences(self, conn: Connection, statement: Statement) -> list[str] | None:
        """Call inside a transaction; see :func:`existing.compare` for the locks.

        :return: of a statement that would make what was there before and stays, how that is another one; empty where it is the
            same, None where the statement is to run."""
        made = makes(statement)
        word = _word(made)
        if not made or word not in self.kept or word in self._dropped or not existing.present(conn, [made]):
            return None
        return [] if word in self._equal or self._is_untouched(made) else _differences(conn, statement)

    def is_open(self, statement: Statement, first: Sequence[Statement] | None) -> bool:
        """:param statement: one that drops what was there before, or makes it again.
        :param first: the statements that run before it; None where they are not known.
        :return: whether nobody can tell before those have run what becomes of it."""
        made = existing.dropped(statement)
        if made is None:
            made = makes(statement) or {}
        else:
            again = _again(self.down, statement)
            if again is None or not self.may_go(statement) or _is_in_the_way(self.down, statement, again):
                return False
            made = makes(again) or {}
        if _word(made) in self._equal | self._dropped or self._is_untouched(made):
            return False
        return first is None or any(_reaches(one, made) for one in first)

    def is_dropped_open(self, statement: Statement) -> bool:
        """:return: whether what a statement makes is dropped before where it is another one."""
        return any(_again(self.down, one) is statement and self.may_go(one) for one in self.down)

    def firing(self, statement: Statement) -> sql.Composed | None:
        """:return: what is to run after a statement that makes a trigger, so that it fires as before the version."""
        made = makes(statement, replacing=True) or {}
        fires = self.triggers.get(existing.describe(made)) if made.get("kind") == "trigger" else None
        if fires is None:
            return None
        table = sql.Identifier(str(made.get("schema") or "public"), str(made["table"]))
        return sql.SQL("ALTER TABLE {} {} TRIGGER {}").format(
            table, sql.SQL(_FIRES[fires]), sql.Identifier(str(made["name"]))
        )

    def _is_untouched(self, made: Mapping[str, Any]) -> bool:
        """:return: whether the version could not change it: what could has not run, where the way up was to drop it itself."""
        committed = self.up[: self.committed]
        if existing.describe(made) in existing.dropped_by(self.up):
            return not any(all(_named(one, made)) for one in committed)
        return not any(_reaches(one, made) for one in [*committed, *self.beside])


def of(
    migration: Mapping[str, Any], step: Mapping[str, Any], kept: Collection[str], progress: Mapping[str, Any]
) -> MadeAgain:
    """:param migration: the version, rendered; ``step`` is one of it.
    :param kept: see :class:`MadeAgain`.
    :param progress: of the step on the way up."""
    up = step.get("up") or []
    beside = [one for other in migration["steps"] if other is not step for one in other.get("up") or []]
    triggers = progress.get(TRIGGERS) or {}
    return MadeAgain(step.get("down") or [], kept, up, int(progress.get("statements", len(up))), beside, triggers)


def makes(statement: Statement, *, replacing: bool = False) -> Mapping[str, Any] | None:
    """:param replacing: also where it takes the place of one that is there.
    :return: what a statement makes, as ``creates`` of a statement tells it; of a materialized view as :func:`existing.dropped`."""
    made: Mapping[str, Any] | None = statement.get("creates")
    if made:
        return made if replacing or not made.get("replace") else None
    found = _CREATE.match(str(statement.get("sql") or ""))
    if not found:
        return None
    schema, name = schema_and_name(found["name"])
    if found["kind"].upper() == "DOMAIN":
        return {"kind": "type", "schema": schema, "name": name}
    return {"kind": "table", "schema": schema, "name": name, "materialized": True}


def any_of(down: Sequence[Statement]) -> bool:
    """:return: whether statements of a way down drop something and make it again."""
    return any(_again(down, statement) is not None for statement in down)


def record(conn: Connection, down: Sequence[Statement]) -> dict[str, str]:
    """:return: by trigger that a way down makes when it fires now, where not by default. One query, no lock."""
    made = [makes(statement, replacing=True) or {} for statement in down]
    words = {existing.describe(item): str(item["name"]) for item in made if item.get("kind") == "trigger"}
    if not words:
        return {}
    found = fetch_all(conn, _FIRING, (sorted(set(words.values())),))
    states = {existing.describe({**row, "kind": "trigger"}): str(row["fires"]) for row in found}
    return {word: fires for word, fires in states.items() if word in words}


def _again(down: Sequence[Statement], statement: Statement) -> Statement | None:
    """:return: the statement behind it that makes what it drops."""
    gone = existing.dropped(statement)
    place = next((number for number, one in enumerate(down) if one is statement), len(down))
    behind = down[place + 1 :] if gone else ()
    return next((one for one in behind if gone and _word(makes(one)) == existing.describe(gone)), None)


def _is_in_the_way(down: Sequence[Statement], statement: Statement, again: Statement) -> bool:
    """:return: whether a column of its table has another type before it is made again: that the server refuses while it is there."""
    made = makes(again) or {}
    places = [next(number for number, one in enumerate(down) if one is item) for item in (statement, again)]
    return bool(made.get("table")) and any(
        _TYPED.search(without_literals(str(one["sql"]))) and _named(one, made)[0]
        for one in down[places[0] + 1 : places[1]]
    )


def _word(made: Mapping[str, Any] | None) -> str | None:
    return existing.describe(made) if made else None


def _drops_more(statement: Statement) -> bool:
    return bool(_DROPS_MORE.search(without_parentheses(without_literals(str(statement["sql"])))))


def _reaches(statement: Statement, made: Mapping[str, Any]) -> bool:
    """:return: whether a statement could change the definition of an object, as far as its text tells."""
    text = str(statement["sql"])
    bare = without_literals(text)
    if _WRITES_ROWS.match(bare):
        return False
    if BLOCK.match(text) or _CALLS.match(bare):
        return True
    other = makes(statement, replacing=True) or existing.dropped(statement) or {}
    if other.get("kind") in _DEFINITION_ONLY and not _drops_more(statement):
        return _named(statement, made)[-1]
    return any(_named(statement, made))


def _named(statement: Statement, made: Mapping[str, Any]) -> list[bool]:
    """:return: whether a statement names the table of an object, where it is of one, and the object."""
    names = [str(made[part]) for part in ("table", "name") if made.get(part)]
    text = str(statement["sql"])
    return [bool(re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", text, re.IGNORECASE)) for name in names]


def _differences(conn: Connection, statement: Statement) -> list[str]:
    made = makes(statement) or {}
    if made.get("materialized"):
        return ["a materialized view is not compared, and it may be another one"]
    try:
        return existing.compare(conn, {**statement, "creates": made}, exactly=True)
    except existing.Unequal as error:
        # What it speaks of may come on the way down only, such as a column, its old type or a label: then it is not what is there now.
        code = str(error.sqlstate or "")
        if not code or code.startswith(_NOT_ABOUT_IT) or code == errorcodes.INSUFFICIENT_PRIVILEGE:
            raise
        return [error.message]
