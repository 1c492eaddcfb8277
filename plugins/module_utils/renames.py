# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Under which name a table or column was known before statements gave it another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

Table = tuple[str, str]
# Schema, table, and of a column its name.
Name = tuple[str, str, Optional[str]]


class Renames:
    """Follows statements, one after the other, from a moment on."""

    def __init__(self) -> None:
        # By the name of now that of then; None for what has a name that something else had then.
        self._tables: dict[Table, Table | None] = {}
        self._columns: dict[tuple[Table, str], str | None] = {}

    def add(self, statement: Mapping[str, Any]) -> None:
        """:param statement: with ``renames`` as the controller told them."""
        for rename in statement.get("renames") or []:
            old: Table = (str(rename["schema"]), str(rename["table"]))
            if rename.get("column") is None:
                new = (str(rename.get("to_schema") or old[0]), str(rename.get("to") or old[1]))
                then = self._tables.get(old, old)
                self._tables[old] = None
                self._tables[new] = then
                continue
            table = self._tables.get(old, old)
            if table is not None:
                column = self._columns.get((table, str(rename["column"])), str(rename["column"]))
                self._columns[table, str(rename["column"])] = None
                self._columns[table, str(rename["to"])] = column

    def then(self, schema: str, table: str, column: str | None) -> Name | None:
        """:return: the name that it had at the beginning; None where it is not what had this name then."""
        found = self._tables.get((schema, table), (schema, table))
        if found is None:
            return None
        name = self._columns.get((found, column), column) if column is not None else None
        return None if column is not None and name is None else (*found, name)

    def now(self, schema: str, table: str, column: str | None) -> Name:
        """:return: the name of now of what had this one at the beginning."""
        then: Table = (schema, table)
        place = next((now for now, old in self._tables.items() if old == then), then)
        name = next((now for (of, now), old in self._columns.items() if of == then and old == column), column)
        return (*place, name if column is not None else None)
