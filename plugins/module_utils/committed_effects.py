# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the statements of a version that are committed have made, and of what nobody can tell whether they did.

The controller tells what a statement makes where it is one thing. For the others there is the text: the target has no parser of SQL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import BLOCK, changing
from ansible_collections.whitecross.pgops.plugins.module_utils.going_down import words_of
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import (
    NAME,
    QUALIFIED,
    folded,
    schema_and_name,
    without_parentheses,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_strings

Object = Mapping[str, Any]
Key = tuple[str, "str | None", "str | None", str]

_UNLESS_THERE = r"(?P<unless>IF\s+NOT\s+EXISTS\s+)?"
_CREATE = re.compile(
    rf"\s*CREATE\s+(?:UNLOGGED\s+)?(?P<kind>TABLE|MATERIALIZED\s+VIEW|TYPE|DOMAIN)\s+{_UNLESS_THERE}(?P<name>{QUALIFIED})",
    re.IGNORECASE,
)
_ALTER = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<name>{QUALIFIED})\s+(?P<actions>.*)",
    re.IGNORECASE | re.DOTALL,
)
_ADD = re.compile(
    rf"\s*ADD\s+(?!(?:CONSTRAINT|PRIMARY|UNIQUE|CHECK|FOREIGN|EXCLUDE|NOT)\b)(?:COLUMN\s+)?{_UNLESS_THERE}(?P<name>{NAME})",
    re.IGNORECASE,
)
# A statement that calls may do anything.
_CALLS = re.compile(r"\s*(?:SELECT|WITH|CALL|VALUES|TABLE|EXECUTE|PERFORM)\b", re.IGNORECASE)
_OF_COLUMNS = ("not_null", "default")
# What only writes rows changes no NOT NULL, no default and no row level security.
_DEFINES = {"alter", "create", "drop"}


class CommittedEffects:
    """What statements have made, one after the other, under the names of now.

    :param statements: those that are committed, in their order, without those that were skipped.
    :param appeared: schema, table and name of the constraints, indexes and statistics that came with them; None where that was not
        recorded of all of them.
    """

    def __init__(
        self,
        statements: Sequence[Mapping[str, Any]],
        appeared: Collection[Sequence[str]] | None,
    ) -> None:
        self._statements = statements
        self._appeared = None if appeared is None else {tuple(item) for item in appeared}
        self._made: set[Key] = set()
        for statement in statements:
            for rename in statement.get("renames") or []:
                self._made = {_renamed(key, rename) for key in self._made}
            made = statement.get("creates")
            if made:
                # CREATE OR REPLACE does not say whether there was one.
                certain = [] if made.get("replace") else [made]
            else:
                certain = [item for item, sure in _told(str(statement["sql"])) if sure]
            self._made |= {existing.key(item) for item in certain}

    def has_made(self, item: Object) -> bool:
        """:return: whether an object, or its table, is theirs for sure."""
        kind, schema, table, name = existing.key(item)
        if (kind, schema, table, name) in self._made or ("table", schema, None, table) in self._made:
            return True
        if kind not in ("constraint", "index"):
            return False
        return any((schema, name) == (of[0], of[2]) and table in (None, of[1]) for of in self._appeared or ())

    def doubt(self, item: Object, own: Collection[str]) -> Mapping[str, Any] | None:
        """:param own: see :func:`changing_parts.own_functions`.
        :return: the statement that may have made an object of which it is not known that one has; None where there is none."""
        key = existing.key(item)
        if key[0] in ("constraint", "index") and self._appeared is not None:
            return None
        for statement in self._statements:
            made = statement.get("creates")
            if made:
                if made.get("replace") and existing.key(made) == key:
                    return statement
                continue
            text = str(statement["sql"])
            if _hides(text, own) or any(_may_make(part, key) for part in changing(text, own)):
                return statement
        return None

    def doubt_of_state(self, state: Mapping[str, Any], own: Collection[str]) -> Mapping[str, Any] | None:
        """:param state: NOT NULL, a default or row level security.
        :param own: see :func:`changing_parts.own_functions`.
        :return: the statement that may have changed it, and of which that is not told; None where there is none."""
        names = {str(state["table"]).lower()}
        names |= {str(state["name"]).lower()} if state["kind"] in _OF_COLUMNS else set()
        for statement in self._statements:
            text = str(statement["sql"])
            # Of a block any part that defines; of the others the states are told, but that a primary key's columns are NOT NULL.
            parts = changing(text, own) if BLOCK.match(text) else [text] if "primary" in words_of(text) else []
            parts = [part for part in parts if _DEFINES & words_of(part)]
            if _hides(text, own) or any(names <= words_of(part) for part in parts):
                return statement
        return None


def _hides(text: str, own: Collection[str]) -> bool:
    """:return: whether a statement may do what its text does not show."""
    if not BLOCK.match(text) and not _CALLS.match(without_strings(text)):
        return False
    # What it calls is read as it is in a block.
    block = text if BLOCK.match(text) else f"DO $pgops$ BEGIN {text}\n; END $pgops$"
    return changing(block, own) == [block]


def _may_make(text: str, key: Key) -> bool:
    kind, _, table, name = key
    if kind in ("table", "type", "column"):
        return any(existing.key(item) == key for item, _ in _told(text))
    words = words_of(text)
    return "create" in words and {part.lower() for part in (table, name) if part} <= words


def _told(text: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """:return: the tables, types and columns that a statement names as made, and whether it would fail where one is there."""
    bare = without_strings(text)
    create = _CREATE.match(bare)
    if create:
        schema, name = schema_and_name(create["name"])
        # The drop of a materialized view is told as that of a table.
        kind = "type" if create["kind"].upper() in ("TYPE", "DOMAIN") else "table"
        yield {"kind": kind, "schema": schema, "name": name}, not create["unless"]
    alter = _ALTER.fullmatch(bare)
    if not alter:
        return
    schema, table = schema_and_name(alter["name"])
    for action in without_parentheses(alter["actions"]).split(","):
        add = _ADD.match(action)
        if add:
            column = {"kind": "column", "schema": schema, "table": table, "name": folded(add["name"])}
            yield column, not add["unless"]


def _renamed(key: Key, rename: Mapping[str, Any]) -> Key:
    kind, schema, table, name = key
    if schema != rename["schema"]:
        return key
    if rename.get("column") is not None:
        same = (kind, table, name) == ("column", rename["table"], rename["column"])
        return (kind, schema, table, str(rename["to"])) if same else key
    to_schema, to = str(rename.get("to_schema") or schema), str(rename.get("to") or rename["table"])
    if (kind, name) == ("table", rename["table"]):
        return kind, to_schema, table, to
    return (kind, to_schema, to, name) if table == rename["table"] and kind != "enum_value" else key
