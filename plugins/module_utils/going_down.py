# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the way down of versions drops, by the text that the ledger kept of it: the target has no parser of SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import existing, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import BLOCK, changing, puts_together
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME, QUALIFIED, folded, schema_and_name
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import (
    kept_objects,
    needs_down,
    replacements,
    schema_of,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import without_strings

# The database may stand before the schema.
_IF_EXISTS = r"(?:IF\s+EXISTS\s+)?"
_DROP = re.compile(
    r"\bDROP\s+(?P<kind>MATERIALIZED\s+VIEW|FOREIGN\s+TABLE|TABLE|VIEW|SEQUENCE|INDEX(?:\s+CONCURRENTLY)?|TYPE|DOMAIN|FUNCTION|"
    rf"PROCEDURE|ROUTINE|AGGREGATE|SCHEMA|EXTENSION)\s+{_IF_EXISTS}(?P<names>{NAME}[^;]*)",
    re.IGNORECASE,
)
_DROP_ON = re.compile(
    rf"\bDROP\s+(?P<kind>TRIGGER|POLICY)\s+{_IF_EXISTS}(?P<name>{NAME})\s+ON\s+(?P<table>{QUALIFIED})(?P<rest>[^;]*)",
    re.IGNORECASE,
)
_ALTER = re.compile(
    rf"\bALTER\s+TABLE\s+{_IF_EXISTS}(?:ONLY\s+)?(?P<table>{QUALIFIED})(?P<parts>[^;]*)",
    re.IGNORECASE,
)
_PART = re.compile(
    rf"\bDROP\s+(?P<kind>COLUMN|CONSTRAINT)\s+{_IF_EXISTS}(?P<name>{NAME})(?P<rest>[^,]*)", re.IGNORECASE
)
_ONE = re.compile(
    rf"\s*(?P<name>{QUALIFIED})\s*(?P<args>\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*(?P<end>,|CASCADE|RESTRICT|$)",
    re.IGNORECASE,
)
_CASCADE = re.compile(r"\bCASCADE\b", re.IGNORECASE)
_RENAMES = re.compile(r"\bRENAME\b", re.IGNORECASE)
_ADDS = re.compile(r"\b(ADD\s+COLUMN|CREATE\s+(UNLOGGED\s+)?TABLE)\b", re.IGNORECASE)
_RENAMES_PART = re.compile(
    rf"\s*ALTER\s+TABLE\s+{_IF_EXISTS}(?:ONLY\s+)?(?P<table>{QUALIFIED})\s+RENAME\s+(?P<kind>CONSTRAINT\s+|COLUMN\s+|)"
    rf"(?P<old>{NAME})\s+TO\s+(?P<new>{NAME})\s*;?\s*",
    re.IGNORECASE,
)
# What pg_class, pg_proc and pg_type tell apart by a column of their own is one kind here.
_KINDS = {
    "materialized view": "view",
    "foreign table": "table",
    "index concurrently": "index",
    "domain": "type",
    "procedure": "function",
    "routine": "function",
    "aggregate": "function",
}


@dataclass(frozen=True)
class Drop:
    """An object that the way down of a version drops.

    :ivar kind: ``table``, ``column``, ``view``, ``sequence``, ``index``, ``type``, ``function``, ``schema``, ``extension``,
        ``constraint``, ``trigger`` or ``policy``.
    :ivar table: of a column, constraint, trigger or policy.
    :ivar arguments: of a function as they are written, None where none are.
    :ivar cascade: what stands on it is dropped with it.
    :ivar later: an earlier statement may have given its name to another object: it is to be looked at in its turn.
    """

    version: str
    kind: str
    schema: str
    name: str
    table: str | None = None
    arguments: str | None = None
    cascade: bool = False
    later: bool = False

    def __str__(self) -> str:
        if self.kind in ("schema", "extension"):
            return f"{self.kind} {self.name}"
        return f"{self.kind} {self.schema}.{f'{self.table}.' if self.table else ''}{self.name}"

    def as_made(self) -> dict[str, Any]:
        """:return: the words of :func:`existing.describe`."""
        return {"kind": self.kind, "schema": self.schema, "table": self.table, "name": self.name}


@dataclass
class WayDown:
    """The ways down of versions, statement by statement in the order in which they run.

    :ivar own: see :func:`changing_parts.own_functions`.
    :ivar names: the words of each statement so far that is more than a drop: what it names it may change or drop.
    :ivar unseen: whether a block so far may have dropped or renamed what its text does not show.
    """

    chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]]
    standing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    names: list[tuple[str, set[str]]] = field(default_factory=list)
    unseen: bool = False

    def drops(self, only: str | None = None) -> Iterator[Drop]:
        """What was there before the version stays and is left out.

        :param only: this version alone, those before it are gone; None: all.
        """
        moved = Moved(self.own)
        for row, migration in self.chosen:
            if only not in (None, row.version):
                continue
            for ordinal in range(len(migration["steps"]), 0, -1):
                step = migration["steps"][ordinal - 1]
                if not needs_down(row, ordinal):
                    continue
                if step["kind"] == "indexes":
                    yield from self._indexes(row, ordinal, step)
                if step["kind"] != "sql" or step.get("labels"):
                    continue
                kept = kept_objects(row, ordinal)
                for statement in step.get("down") or []:
                    found = [drop for drop in dropped(row.version, statement) if not _stays(drop, kept)]
                    if not found or _does_more(str(statement["sql"])):
                        parts = changing(str(statement["sql"]), self.own)
                        self.names += [(row.version, words_of(part)) for part in parts]
                    yield from (replace(drop, later=drop in moved) for drop in found)
                    moved.add(statement)
                    self.unseen = self.unseen or _is_dynamic(str(statement["sql"]))

    def _indexes(self, row: ledger.Migration, ordinal: int, step: Mapping[str, Any]) -> Iterator[Drop]:
        up = next((item for item in row.steps if item.ordinal == ordinal), None)
        built = set(up.progress.get("built", []) if up else [])
        later = replacements([item for version, item in self.standing.items() if version > row.version])
        for index in reversed(step["indexes"]):
            schema, name = schema_of(index), str(index["name"])
            if f"{schema}.{name}" in built and (schema, name) not in later:
                yield Drop(row.version, "index", schema, name)


def dropped(version: str, statement: Mapping[str, Any]) -> list[Drop]:
    """:return: what a statement of a way down drops, a ``DO`` block on any of its ways, each once."""
    found: list[Drop] = []
    gone = existing.dropped(statement)
    parts = [gone] if gone else []
    parts += [
        state
        for state in statement.get("states") or []
        if state["kind"] in ("column", "constraint") and not state["there"]
    ]
    if any(part["kind"] == "column" for part in parts if part is not gone):
        parts = [part for part in parts if part is not gone or part["kind"] != "column"]
    for part in parts:
        table = part.get("table") if part["kind"] in ("column", "constraint", "trigger", "policy") else None
        found.append(
            Drop(version, str(part["kind"]), schema_of(part), str(part["name"]), str(table) if table else None)
        )
    return list(_once([*_of_text(version, _bare(str(statement["sql"]))), *found]))


def _once(drops: Sequence[Drop]) -> Iterator[Drop]:
    seen: set[tuple[str | None, ...]] = set()
    for drop in drops:
        # The ledger has a materialized view as a table, and a function without its arguments.
        kind = "relation" if drop.kind in ("table", "view") else drop.kind
        key = (kind, drop.schema, drop.name, drop.table)
        if (key if drop.arguments is None else (*key, drop.arguments)) not in seen:
            yield drop
        seen |= {key, (*key, drop.arguments)}


def _bare(text: str) -> str:
    """:return: a statement without comments and strings, of a block its body, of the body of a function nothing."""
    if BLOCK.match(text):
        body = re.search(r"\$(\w*)\$(.*)\$\1\$", text, re.DOTALL)
        return without_strings(body[2]) if body else ""
    return without_strings(text)


def _does_more(text: str) -> bool:
    """:return: whether a statement that drops something may do something else as well."""
    if BLOCK.match(text):
        return True
    return any(re.search(r"\w", _PART.sub("", match["parts"])) for match in _ALTER.finditer(_bare(text)))


def _of_text(version: str, text: str) -> Iterator[Drop]:
    for match in _DROP_ON.finditer(text):
        schema, table = schema_and_name(match["table"])
        yield Drop(version, match["kind"].lower(), schema, folded(match["name"]), table)
    for match in _ALTER.finditer(text):
        schema, table = schema_and_name(match["table"])
        for part in _PART.finditer(match["parts"]):
            cascade = bool(_CASCADE.search(part["rest"]))
            yield Drop(version, part["kind"].lower(), schema, folded(part["name"]), table, None, cascade)
    for match in _DROP.finditer(text):
        kind = " ".join(match["kind"].lower().split())
        cascade, place = bool(_CASCADE.search(match["names"])), 0
        while True:
            one = _ONE.match(match["names"], place)
            if not one:
                break
            schema, name = schema_and_name(one["name"])
            yield Drop(version, _KINDS.get(kind, kind), schema, name, None, one["args"], cascade)
            if one["end"] != ",":
                break
            place = one.end()


def _is_dynamic(text: str) -> bool:
    """:return: whether it is a block that may drop or rename what no text shows."""
    return puts_together(text) and bool({"drop", "alter", "rename"} & words_of(text))


def _stays(drop: Drop, kept: set[str]) -> bool:
    return existing.describe(drop.as_made()) in kept


class Moved:
    """What earlier statements of a way down rename or make: the name stands for something else now, or for nothing."""

    def __init__(self, own: frozenset[str] = frozenset()) -> None:
        self.own = own
        self.renamed: set[str] = set()
        self.parts: set[tuple[str, str, str]] = set()
        self.added: set[str] = set()
        self.made: set[tuple[str, str | None]] = set()

    def add(self, statement: Mapping[str, Any]) -> None:
        """:param statement: the next one of the way down."""
        made = statement.get("creates")
        if made:
            if made["kind"] in ("column", "table"):
                name = str(made["name"]).lower()
                self.made.add((str(made["table"]).lower(), name) if made["kind"] == "column" else (name, None))
            return
        for part in changing(str(statement["sql"]), self.own):
            renames = _RENAMES_PART.fullmatch(without_strings(part))
            if renames:
                kind, (_, table) = renames["kind"].strip().lower() or "column", schema_and_name(renames["table"])
                self.parts |= {(kind, table.lower(), folded(renames[one]).lower()) for one in ("old", "new")}
            elif _RENAMES.search(part):
                self.renamed |= words_of(part)
            if _ADDS.search(part):
                self.added |= words_of(part)

    def __contains__(self, drop: Drop) -> bool:
        table, name = (drop.table or drop.name).lower(), drop.name.lower()
        made = (table, None) in self.made or (drop.table is not None and (table, name) in self.made)
        # The index of a constraint is renamed with it.
        part = (drop.kind, table, name) in self.parts or (
            drop.kind == "index" and name in {of_table for kind, _, of_table in self.parts if kind == "constraint"}
        )
        return made or part or table in self.renamed or {table, name} <= self.added


def words_of(text: str) -> set[str]:
    """:return: the words and quoted names of a statement, in lower case."""
    quoted = {name.replace('""', '"').lower() for name in re.findall(r'"((?:[^"]|"")+)"', text)}
    return {word.lower() for word in re.findall(r"[\w$]+", text)} | quoted
