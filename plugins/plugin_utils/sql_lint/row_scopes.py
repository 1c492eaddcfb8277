# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The relations of a statement by the names that columns go by, each with a grade: how many of its rows take part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .locks import Relation

BOUNDED, DOUBTFUL, UNBOUNDED = "bounded", "doubtful", "unbounded"
_GRADES = [BOUNDED, DOUBTFUL, UNBOUNDED]


class Named(NamedTuple):
    """A name of a WITH."""

    grade: str
    columns: tuple[str, ...] | None
    query: Any


Names = Mapping[str, Named]


def best(*grades: str) -> str:
    return min(grades, key=_GRADES.index, default=UNBOUNDED)


def worst(*grades: str) -> str:
    return max(grades, key=_GRADES.index, default=BOUNDED)


@dataclass
class Scope:
    """The relations of one statement or query, by the names that its columns go by."""

    names: Names
    outer: Scope | None = None
    target: str | None = None
    grades: dict[str, str] = field(default_factory=dict)
    # None where nobody knows them all.
    columns: dict[str, frozenset[str] | None] = field(default_factory=dict)
    queries: dict[str, Any] = field(default_factory=dict)
    relations: dict[str, Relation] = field(default_factory=dict)
    # Each with the relations that it can narrow, None for all.
    conditions: list[tuple[Any, frozenset[str] | None]] = field(default_factory=list)
    # By USING and NATURAL: relations that the others of their join narrow.
    same: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)

    def add(self, alias: str, grade: str, columns: Any = None, query: Any = None) -> None:
        self.grades[alias] = grade
        self.columns[alias] = None if columns is None else frozenset(columns)
        if query is not None:
            self.queries[alias] = query

    def grade(self, alias: str) -> str:
        scope: Scope | None = self
        while scope is not None:
            if alias in scope.grades:
                return scope.grades[alias]
            scope = scope.outer
        return UNBOUNDED

    def query(self, alias: str) -> Any:
        return self.queries.get(alias) or (self.outer.query(alias) if self.outer is not None else None)

    def owner(self, ref: Any) -> str | None:
        """:return: the relation of a column; None where no relation here can have it, as of a variable."""
        fields = [part.sval for part in ref.fields if hasattr(part, "sval")]
        scope: Scope | None = self
        if len(fields) > 1:
            while scope is not None and fields[-2] not in scope.columns:
                scope = scope.outer
            return fields[-2] if scope is not None else None
        name = fields[-1] if fields else ""
        while scope is not None:
            known = next((alias for alias, columns in scope.columns.items() if columns and name in columns), None)
            unknown = [alias for alias, columns in scope.columns.items() if columns is None]
            if known or unknown:
                return known or (scope.target if scope.target in unknown else unknown[0])
            scope = scope.outer
        return None

    def is_known(self, name: str) -> bool:
        """:return: whether a relation is known to have a column of that name."""
        here = any(columns and name in columns for columns in self.columns.values())
        return here or (self.outer is not None and self.outer.is_known(name))
