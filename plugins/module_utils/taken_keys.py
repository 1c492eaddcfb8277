# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lost rows that belong to a key which both databases wrote: there it is one person's, here it may be another's.

After a restore the sequences go on from the backup's value, and the same key is given out on both sides. What refers to it in the
kept database would be attached to whatever row has that key in the live one, and the foreign key would hold. The same is true of
what refers to a row that refers to such a key, however far away.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils import row_versions
from ansible_collections.whitecross.pgops.plugins.module_utils.both_databases import Pair
from ansible_collections.whitecross.pgops.plugins.module_utils.common_tables import Common
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.foreign_keys import ForeignKey, bound_rows, foreign_keys
from psycopg2 import sql

_Row = tuple[str, str]  # a table and a place in the kept database


class Places:
    """Places of rows of one table, of eight bytes each."""

    def __init__(self, places: Iterable[str] = ()) -> None:
        self._packed = array("Q", sorted(map(_packed, places)))

    def __bool__(self) -> bool:
        return bool(self._packed)

    def __contains__(self, place: str) -> bool:
        wanted = _packed(place)
        found = bisect_left(self._packed, wanted)
        return found < len(self._packed) and self._packed[found] == wanted


class TakenKeys:
    """The keys that both databases wrote since, and what refers to them in the kept one."""

    def __init__(
        self, pair: Pair, tables: Sequence[Common], both: Mapping[str, Places], same: Mapping[str, Places]
    ) -> None:
        """
        :param tables: those that both have.
        :param both: by table the kept rows whose key was written in both.
        :param same: by table the kept rows that were there before: of those the live row is the same one's.
        """
        self._pair, self._both, self._same = pair, both, same
        self._tables = {table.name: table for table in tables}
        self._keys = foreign_keys(pair, self._tables)
        reaching = {name for name, places in both.items() if places}
        while more := {key.child for key in self._keys if key.parent in reaching} - reaching:
            reaching |= more
        self._keys = [key for key in self._keys if key.parent in reaching]

    def concern(self, table: Common) -> bool:
        """:return: whether a row of it can refer to such a key at all."""
        return any(key.child == table.name for key in self._keys)

    def columns(self, table: Common, places: Sequence[str]) -> dict[str, set[str]]:
        """:param places: of rows in the kept database, some hundreds.
        :return: by place the columns that refer to such a key, of the rows that have one."""
        referring: dict[_Row, set[_Row]] = {}
        by_column: dict[_Row, list[tuple[_Row, ForeignKey]]] = {}
        taken: set[_Row] = set()
        asked = {(table.name, place) for place in places}
        seen = set(asked)
        first = True
        while asked:
            reached: set[_Row] = set()
            for child, parent, written, key in self._parents(asked):
                if parent[1] in self._both.get(parent[0], ()):
                    taken.add(parent)
                elif written and parent[1] not in self._same.get(parent[0], ()):
                    reached.add(parent)
                else:
                    continue  # the same row there and here, whatever it refers to
                referring.setdefault(parent, set()).add(child)
                if first:
                    by_column.setdefault(child, []).append((parent, key))
            asked = reached - seen
            seen |= asked
            first = False
        _spread(taken, referring)
        return {
            child[1]: columns
            for child, parents in by_column.items()
            if (columns := {column for parent, key in parents if parent in taken for column in key.columns})
        }

    def _parents(self, rows: Iterable[_Row]) -> Iterator[tuple[_Row, _Row, bool, ForeignKey]]:
        by_table: dict[str, list[str]] = {}
        for name, place in rows:
            by_table.setdefault(name, []).append(place)
        for key in self._keys:
            if key.child in by_table:
                question = bound_rows(key, self._tables, by_table[key.child], self._written(key.parent))
                for row in fetch_all(self._pair.kept.conn, question):
                    yield (key.child, row["child"]), (key.parent, row["parent"]), row["told"], key

    def _written(self, name: str) -> sql.Composable:
        since = self._pair.kept.since
        window = since.window if since.kept is None or name in since.kept else row_versions.all_rows()
        return row_versions.written(window)


def _spread(taken: set[_Row], referring: Mapping[_Row, set[_Row]]) -> None:
    """Add what refers to a row of the set, and what refers to that."""
    new = list(taken)
    while new:
        for child in referring.get(new.pop(), ()):
            if child not in taken:
                taken.add(child)
                new.append(child)


def _packed(place: str) -> int:
    page, line = place.strip("()").split(",")
    return int(page) << 16 | int(line)
