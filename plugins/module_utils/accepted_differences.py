# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Differences from the tree that somebody accepted when a database was adopted: whether what is there now is what they saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one

# What a version's own verification calls an object, beside the kinds of an inventory.
_CHECKED_KINDS = {"foreign key": "constraint", "enum": "type"}
_LEADING_COLUMNS = """
SELECT array_agg(a.attname::text ORDER BY key.place) AS columns FROM pg_index i
 CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS key (number, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
 WHERE i.indexrelid = to_regclass(%s) AND key.place <= i.indnkeyatts
"""


@dataclass(frozen=True)
class Record:
    """One object that differed, as the ledger keeps it.

    :ivar declared: the object as its version makes it, None where that one drops it.
    :ivar found: the object as it was when the database was adopted, None where it was missing.
    :ivar columns: of an index the columns that it is declared on, in their order.
    :ivar by: who adopted the database; ``at`` when, in ISO 8601.
    """

    object: str
    declared: catalog.Definition | None
    found: catalog.Definition | None
    columns: tuple[str, ...]
    by: str
    at: str

    @property
    def attributes(self) -> set[str]:
        """:return: in what the two differ."""
        left, right = self.declared or {}, self.found or {}
        return {name for name in {*left, *right} if left.get(name) != right.get(name)}

    @property
    def who(self) -> str:
        """:return: who accepted it and when, for a sentence."""
        return f"accepted at adoption by {self.by} at {self.at[:19]}Z"


def record(
    declared: catalog.Definition | None, found: catalog.Definition | None, key: str, scratch: Connection
) -> dict[str, Any]:
    """:param scratch: a session on a database in which the tree was run.
    :return: what the ledger keeps of an object that is accepted, under its key."""
    columns: list[str] = []
    if catalog.kind_of(key) == "index":
        row = fetch_one(scratch, _LEADING_COLUMNS, (catalog.name_of(key),))
        columns = list((row or {}).get("columns") or [])
    return {"declared": plain(declared), "found": plain(found), "columns": columns}


def plain(definition: catalog.Definition | None) -> catalog.Definition | None:
    """:return: what makes an object what it is, as the ledger keeps it."""
    if definition is None:
        return None
    return {name: value for name, value in definition.items() if name not in catalog.ATTENDANT}


def records(migrations: Iterable[ledger.Migration]) -> list[Record]:
    """:param migrations: rows of the ledger; only applied ones count.
    :return: what was accepted when they were adopted."""
    return [
        Record(key, kept["declared"], kept["found"], tuple(kept["columns"]), row.applied_by, str(row.finished_at))
        for row in migrations
        if row.state == "applied" and row.adopted
        for key, kept in (row.adopted.get("accepted") or {}).items()
    ]


class Accepted:
    """What was accepted, held against what is there now."""

    def __init__(self, kept: Sequence[Record], found: catalog.Inventory, reparse: Connection | None = None) -> None:
        """:param reparse: an idle session on the database itself, where what prints otherwise since a restore is parsed again."""
        self._kept = kept
        self._moved = [_moved(record.object, record.found, found.get(record.object), reparse) for record in kept]

    @classmethod
    def read(cls, conn: Connection, migrations: Iterable[ledger.Migration]) -> Accepted:
        """:return: what was accepted in the database of this session. Takes ACCESS SHARE on system catalogs."""
        kept = records(migrations)
        return cls(kept, catalog.inventory(conn) if kept else {}, conn)

    def of_difference(
        self, difference: catalog.Difference, declared: catalog.Definition, reparse: Connection | None
    ) -> tuple[bool, str | None]:
        """:param declared: the object as the applied versions make it.
        :param reparse: an idle session on a database that has the declared objects, or None to compare what is printed.
        :return: whether this very difference was accepted, and the sentence about it; None where nothing of the object was."""
        note = None
        for kept, moved in self._of(difference.object):
            if difference.kind == "missing":
                same = kept.found is None
            else:
                attribute = str(difference.attribute)
                same = attribute in kept.attributes and (
                    (attribute not in moved and attribute not in _moved(kept.object, kept.declared, declared, reparse))
                    or _same_labels(kept, difference)
                )
            if same:
                return True, kept.who
            note = f"another difference than the one {kept.who}"
        return False, note

    def of_attribute(self, key: str, attribute: str) -> str | None:
        """:return: who accepted that the object differs in this attribute, where it does so still."""
        return next(
            (kept.who for kept, moved in self._of(key) if attribute in kept.attributes and attribute not in moved), None
        )

    def of_check(self, told: str) -> str | None:
        """:param told: what a version's own verification calls an object, such as ``enum UserRole label NURSE``.
        :return: who accepted that the object differs, where it is as it was then: what the check says of it was so as well."""
        kind = next(
            (
                kind
                for kind in sorted({*catalog.KINDS, *_CHECKED_KINDS}, key=len, reverse=True)
                if told.startswith(f"{kind} ")
            ),
            None,
        )
        if kind is None:
            return None
        name = told[len(kind) + 1 :].partition(" label ")[0].replace('"', "")
        for kept, moved in zip(self._kept, self._moved):
            mine = catalog.name_of(kept.object).replace('"', "")
            if catalog.kind_of(kept.object) == "table" and kept.found is None:
                # What is asked of a table that is missing is asked of its columns too.
                meant = f"{name}.".startswith((f"{mine}.", f"{mine.partition('.')[2]}."))
            else:
                meant = catalog.kind_of(kept.object) == _CHECKED_KINDS.get(kind, kind) and f".{mine}".endswith(
                    f".{name}"
                )
            if meant and not moved:
                return kept.who
        return None

    def of_foreign_key(self, table: str, columns: Sequence[str]) -> str | None:
        """:param table: quoted and qualified.
        :return: who accepted that the index is missing, or is another one, which is declared for these columns."""
        for kept, moved in zip(self._kept, self._moved):
            place = kept.declared or {}
            if (
                catalog.kind_of(kept.object) == "index"
                and not moved
                and f"{place.get('schema')}.{place.get('table')}" == table.replace('"', "")
                and set(kept.columns[: len(columns)]) == set(columns)
            ):
                return kept.who
        return None

    @property
    def words(self) -> frozenset[str]:
        """:return: in the words of :func:`existing.describe` what is there as it was accepted: no version makes it anew."""
        return frozenset(
            kept.object.replace('"', "") for kept, moved in zip(self._kept, self._moved) if kept.found and not moved
        )

    def _of(self, key: str) -> list[tuple[Record, set[str]]]:
        return [(kept, moved) for kept, moved in zip(self._kept, self._moved) if kept.object == key]


def _moved(
    key: str, then: catalog.Definition | None, now: Mapping[str, Any] | None, reparse: Connection | None
) -> set[str]:
    """:return: the attributes in which an object is another than it was; that it came or went counts as all of them."""
    if then is None or now is None:
        return set() if then is None and now is None else {*(then or {}), *(now or {})}
    differences = catalog.compare({key: then}, {key: now}, reparse=reparse, ignore=catalog.ATTENDANT)
    return {str(difference.attribute) for difference in differences}


def _same_labels(kept: Record, difference: catalog.Difference) -> bool:
    """A later version adds labels to an enum: what it has too much or too little is what it was."""
    if difference.attribute != "labels":
        return False
    declared, found = (kept.declared or {}).get("labels") or [], (kept.found or {}).get("labels") or []
    expected, there = difference.expected or [], difference.found or []
    common = [label for label in there if label in expected]
    return (
        {*there} - {*expected} == {*found} - {*declared}
        and {*expected} - {*there} == {*declared} - {*found}
        and common == [label for label in expected if label in there]
    )
