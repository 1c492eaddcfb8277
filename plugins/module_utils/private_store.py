# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What took long to work out, kept in files that only this user can read or write; losing it costs time and no more."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PrivateStore:
    """Entries of one kind, ``<folder>/<kind>-<key>.json``.

    :param key: of an entry: a hash over all that the entry was made of, so that a change is another entry.
    :param kept: how many entries stay; the oldest go first.
    """

    folder: Path
    kind: str
    kept: int = 8

    def read(self, key: str) -> Any | None:
        """:return: what was kept under this key, or None. What it holds is believed: only what is ours alone counts."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            if not is_ours(self.folder.lstat()):
                return None
            with os.fdopen(os.open(self._entry(key), os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                if not is_ours(os.fstat(file.fileno())):
                    return None
                document = json.loads(file.read())
            if document["key"] == key:
                return document["made"]
        return None

    def write(self, key: str, made: Any) -> None:
        """:raises OSError: the folder cannot be written, or is not ours alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_ours(self.folder.lstat()):
            raise PermissionError(self.folder)
        entry = self._entry(key)
        partial = entry.with_name(f"{entry.name}.{os.getpid()}.partial")
        try:
            with os.fdopen(
                os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
            ) as file:
                json.dump({"key": key, "made": made}, file)
            partial.replace(entry)
        finally:
            # A full disk leaves half an entry.
            partial.unlink(missing_ok=True)
        entries = sorted(self.folder.glob(f"{self.kind}-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in entries[self.kept :]:
            old.unlink(missing_ok=True)

    def _entry(self, key: str) -> Path:
        return self.folder / f"{self.kind}-{key}.json"


def is_ours(found: os.stat_result) -> bool:
    """:return: whether a file or folder is this user's, and nobody else may read or write it."""
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077 and not stat.S_ISLNK(found.st_mode)
