# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What goes down before rows come back from quarantine, and which tables it may write to, by its text: the target has no parser of
SQL. What it may change is left to the put-back itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import changing, lost, writes_rows
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME, QUALIFIED, name_parts
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_strings

Table = tuple[str, str]

_DEFINES = re.compile(r"\s*(?:(?P<lifts>ALTER|DROP)|CREATE)\b", re.IGNORECASE)
_DROPS_SCHEMA = re.compile(r"\s*DROP\s+SCHEMA\b", re.IGNORECASE)
_ALTERS_TABLE = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<table>{QUALIFIED})(?P<actions>.*)", re.IGNORECASE
)
_TAKES_ROWS = re.compile(r"\bDETACH\b", re.IGNORECASE)
# With CASCADE a key may go that foreign keys refer to.
_GIVES_ROWS = re.compile(r"\b(?:ATTACH|TYPE|SET\s+EXPRESSION|CASCADE)\b", re.IGNORECASE)
_WRITES = re.compile(
    r"\b(?P<verb>INSERT|MERGE|COPY|UPDATE|DELETE|TRUNCATE)\s+(?:(?:INTO|FROM|TABLE)\s+)?(?:ONLY\s+)?"
    rf"(?P<tables>{QUALIFIED}(?:\s*,\s*(?:ONLY\s+)?{QUALIFIED})*)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    rf"(?:\bSET|,)\s*(?P<one>{NAME})\s*(?:\[[^\]]*\]|\.\s*{NAME})*\s*=|\((?P<several>[^()]*)\)\s*=", re.IGNORECASE
)
_TO_ITSELF = re.compile(rf'(?<![\w.$"])({NAME})\s*=\s*\1(?=\s*(?:[,;)]|(?:FROM|WHERE|RETURNING)\b|$))', re.IGNORECASE)


@dataclass
class Before:
    """What goes down before rows are put back.

    :ivar own: see :func:`changing_parts.own_functions`.
    :ivar tables: those that are dropped.
    :ivar statements: the words of each ALTER and DROP.
    :ivar parts: what may change rows.
    :ivar calling: those of them that write rows and call an own function on the way, which may do anything to what they name.
    :ivar filled: tables into which rows were put back by then.
    """

    own: frozenset[str] = frozenset()
    tables: set[Table] = field(default_factory=set)
    statements: list[set[str]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    calling: list[set[str]] = field(default_factory=list)
    filled: set[Table] = field(default_factory=set)

    def add(self, step: Mapping[str, Any], kept: set[str]) -> None:
        """Take in the way down of a step."""
        for index in step.get("indexes") or []:
            if existing.describe({**index, "kind": "index"}) not in kept:
                self.statements.append(words(f"{index['table']} {index['name']}"))
        down = step.get("down") or []
        for statement in [down] if isinstance(down, Mapping) else down:
            gone = statement.get("destroys")
            if gone and existing.describe(gone) in kept:
                continue
            if gone and gone["kind"] == "table":
                self.tables.add((str(gone.get("schema") or "public"), str(gone["name"])))
            for part in changing(str(statement["sql"]), self.own):
                defines = _DEFINES.match(part)
                if defines and defines["lifts"]:
                    self.statements.append(words(part))
                self.parts.append(part)
                if writes_rows(part) and (words(part) | words(part.lower())) & self.own:
                    self.calling.append(words(part))

    def may_lift(self, tables: Collection[Table], rule: str | None, columns: Sequence[str]) -> bool:
        """:param tables: the table that the rows come back to, and its partitions.
        :param rule: its name, where it has one.
        :return: whether a rule of a table may be gone by then, or its columns, or rows be changed that it is about."""
        if self._may_do_anything(tables) or any(writes_to(part, tables) for part in self.parts):
            return True
        if rule is not None and any(words(rule) <= named for named in self.statements):
            return True
        on_table = [named for named in self.statements if any(words(table) <= named for _, table in tables)]
        return any(words(column) <= named for named in on_table for column in columns)

    def may_give_parents(self, tables: Collection[Table], columns: Collection[str]) -> bool:
        """:param tables: the parent, and its partitions.
        :param columns: those that a foreign key refers to.
        :return: whether the parent may have other rows by then, or be gone."""
        if self.filled & set(tables) or self._may_do_anything(tables):
            return True
        return any(gives_rows(part, tables, columns) for part in self.parts)

    def _may_do_anything(self, tables: Collection[Table]) -> bool:
        return any(words(table) <= named for _, table in tables for named in self.calling)


@dataclass(frozen=True)
class _Write:
    """A table as it is written, and of an UPDATE the columns that get another value."""

    verb: str
    table: str
    columns: frozenset[str]
    cascade: bool


def words(text: str) -> set[str]:
    """:return: the words of a text."""
    return set(re.findall(r"\w+", text))


def writes_to(part: str, tables: Collection[Table]) -> bool:
    """:param part: what :func:`changing_parts.changing` gave.
    :return: whether it may change rows of the tables, or take them away."""
    if not writes_rows(part):
        return _defines(part, tables, _TAKES_ROWS)
    return any(write.cascade or _is_named([write.table], tables) for write in _writes(part))


def gives_rows(part: str, tables: Collection[Table], columns: Collection[str]) -> bool:
    """:param part: what :func:`changing_parts.changing` gave.
    :return: whether it may give the tables rows, or other values in these columns, or drop them."""
    if not writes_rows(part):
        return _defines(part, tables, _GIVES_ROWS)
    return any(
        _is_named([write.table], tables)
        and (write.verb in ("INSERT", "MERGE", "COPY") or bool(write.columns & set(columns)))
        for write in _writes(part)
    )


def _defines(part: str, tables: Collection[Table], altered: re.Pattern[str]) -> bool:
    """:return: whether a part drops the tables, alters them in such a way, or may do anything to what it names."""
    text = without_strings(part)
    if not _DEFINES.match(text):
        return any(words(table) <= words(part) for _, table in tables)
    if _DROPS_SCHEMA.match(text):
        return any(words(schema) <= words(text) for schema, _ in tables)
    alters = _ALTERS_TABLE.match(text)
    if alters:
        return bool(altered.search(alters["actions"])) and _is_named([alters["table"]], tables)
    return _is_named(re.findall(QUALIFIED, lost(part)), tables)


def _is_named(names: Iterable[str], tables: Collection[Table]) -> bool:
    """:param names: as they are written; without a schema it may be any."""
    parts = map(name_parts, names)
    return any(name[-1] == table and name[-2:-1] in ([], [schema]) for name in parts for schema, table in tables)


def _writes(part: str) -> Iterator[_Write]:
    text = without_strings(part)
    found = list(_WRITES.finditer(text))
    ends = [*(one.start() for one in found[1:]), len(text)]
    for one, end in zip(found, ends):
        rest, verb = text[one.end() : end], one["verb"].upper()
        columns: set[str] = set()
        for assigned in _ASSIGNED.finditer(_TO_ITSELF.sub(" ", rest)) if verb == "UPDATE" else ():
            columns |= set(name_parts(assigned["one"] or assigned["several"]))
        cascade = verb == "TRUNCATE" and bool(re.search(r"\bCASCADE\b", rest, re.IGNORECASE))
        for table in re.findall(QUALIFIED, one["tables"]):
            yield _Write(verb, table, frozenset(columns), cascade)
