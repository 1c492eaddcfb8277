# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""So many bytes a second and no more: of what a dump writes, and of what its tables' counts and hashes read.

pg_dump knows no such limit and writes its directory format itself, so nothing stands between it and the disk. It is stopped
(SIGSTOP) while it is ahead: the server then waits for it to read on. It is never stopped for what else the server does, since it
holds its snapshot and its locks all the while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

MB = 1_000_000
# What was not used may be made up for, of so many seconds; a table that begins late does not go at full speed for minutes.
SAVED_S = 0.25
# A part of a table is read in one go: about so many seconds of the limit.
PART_S = 0.5
BLOCK = 8192
LEAST_PAGES = 64

_SIZES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, coalesce(pg_table_size(c.oid), 0)::bigint AS bytes
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
"""


def refuse_nonsense(limit_mb: float) -> None:
    """:raises PgopsError: no limit that can be kept."""
    if not (limit_mb == 0 or 0.001 <= limit_mb < float("inf")):
        raise PgopsError(
            f"backup_rate_limit_mb is {limit_mb:g}, and it takes MB a second, 0.001 at least.",
            hint="Leave it out, or give 0, for no limit.",
        )


class Allowance:
    """Bytes that are taken, against those that the limit has given by now. For several threads."""

    def __init__(self, bytes_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bytes_s = bytes_s
        self._clock = clock
        self._paid_at = clock()
        self._lock = threading.Lock()

    def taken(self, count: int) -> float:
        """:param count: bytes since the last call.
        :return: seconds until the limit has given them, 0 where it has."""
        with self._lock:
            now = self._clock()
            self._paid_at = max(self._paid_at, now - SAVED_S) + count / self._bytes_s
            return max(self._paid_at - now, 0.0)


class Stoppable(Protocol):
    """What can be stopped for a while and go on."""

    def pause(self) -> None:
        """Stop it."""

    def go_on(self) -> None:
        """Let it go on."""


class Brake:
    """Stops a dump while it has written more than the limit gives."""

    def __init__(self, dump: Stoppable, allowance: Allowance, written: Callable[[], int]) -> None:
        """:param written: bytes that the dump has written so far."""
        self._dump = dump
        self._allowance = allowance
        self._written = written
        self._seen = 0

    def look(self) -> None:
        """Call it many times a second."""
        written = self._written()
        owed_s = self._allowance.taken(max(written - self._seen, 0))
        self._seen = max(written, self._seen)
        if owed_s > 0:
            self._dump.pause()
        else:
            self._dump.go_on()


class Pace:
    """How fast tables are read: in parts that are small against the limit, with a rest behind each."""

    def __init__(self, conn: Connection, bytes_s: float, rest: Callable[[float], Any]) -> None:
        """:param rest: waits for so many seconds, and less where the work has to end."""
        self.part_pages = max(int(bytes_s * PART_S / BLOCK), LEAST_PAGES)
        self._allowance = Allowance(bytes_s)
        self._rest = rest
        # With what lies beside a table: its large values are read too.
        self._bytes: Mapping[str, int] = {str(row["name"]): int(row["bytes"]) for row in fetch_all(conn, _SIZES)}

    def read(self, table: str, pages: int, of_pages: int) -> None:
        """:param table: quoted. :param pages: that were read of ``of_pages``."""
        owed_s = self._allowance.taken(int(self._bytes.get(table, 0) * pages / max(of_pages, pages, 1)))
        if owed_s > 0:
            self._rest(owed_s)
