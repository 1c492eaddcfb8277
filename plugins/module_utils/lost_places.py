# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where the rows are that an export is to write: places and kinds in a file, never values."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ansible_collections.whitecross.pgops.plugins.module_utils.lost_rows import LostRow


class RowPlaces:
    """The differences of one table, in a file: no more of them is in memory than is written at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+", encoding="ascii")
        self._kinds: set[tuple[str, bool]] = set()

    def add(self, row: LostRow) -> None:
        """Keep one."""
        self._kinds.add((row.kind, row.own))
        self._file.write(f"{row.kind}\t{int(row.own)}\t{row.kept}\t{row.live}\t{row.same}\n")

    def has(self, *kinds: str) -> bool:
        """:return: whether there is one of these kinds that no version wrote."""
        return any((kind, False) in self._kinds for kind in kinds)

    def of(self, kind: str, own: bool) -> Iterator[LostRow]:
        """:return: those of one kind, by a version or not."""
        if (kind, own) in self._kinds:
            yield from (row for row in self.all() if (row.kind, row.own) == (kind, own))

    def all(self) -> Iterator[LostRow]:
        """:return: every one, in the order in which they came."""
        self._file.flush()
        with open(self.path, encoding="ascii") as file:
            for line in file:
                kind, own, kept, live, same = line.rstrip("\n").split("\t")
                yield LostRow(kind, own == "1", kept, live, int(same))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def remove(self) -> None:
        """Let go of the file and delete it."""
        self._file.close()
        os.unlink(self.path)
