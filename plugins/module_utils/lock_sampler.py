# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks from a session of its own which locks others hold while a statement runs: when each came, and the memory of its process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

SAMPLE_S = 0.015
# A statement that is over sooner needs no sample: what it holds is asked of itself.
FIRST_SAMPLE_S = 0.01

# Which of the modes a reader waits for, and which a writer; in the words of pg_locks.
BLOCKS_READS = frozenset({"AccessExclusiveLock"})
BLOCKS_WRITES = frozenset({"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"})
# Weaker ones are in nobody's way, but for other DDL.
NOTED = BLOCKS_WRITES | {"ShareUpdateExclusiveLock"}

# Relations of the catalog have lower numbers.
_SAMPLE = """
SELECT l.pid, l.relation::bigint AS oid, l.mode FROM pg_catalog.pg_locks AS l
 WHERE l.locktype = 'relation' AND l.granted AND l.pid = ANY (%s) AND l.relation >= 16384 AND l.mode = ANY (%s)
"""


@dataclass
class Sampled:
    """A session that is looked at.

    :ivar executing: since when it runs a statement, by ``time.monotonic()``; None between two.
    :ivar seen: of that statement (oid, mode) -> the look before the first that saw it, and the last that did.
    :ivar memory: bytes of its process at their highest.
    """

    pid: int
    on_this_host: bool
    executing: float | None = None
    memory: int | None = None
    seen: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)


class LockSampler:
    """A thread that looks every 15 ms, and only while a statement runs for longer than 10 ms."""

    def __init__(self, conn: Connection, sessions: Mapping[int, Sampled]) -> None:
        """:param conn: its own, closed at the end. :param sessions: by process id; grows."""
        self._conn = conn
        self._sessions = sessions
        self._busy = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="pgops-trace", daemon=True)

    @property
    def pid(self) -> int:
        """Its server process."""
        return int(self._conn.info.backend_pid)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wake(self) -> None:
        """A statement is about to be sent."""
        self._busy.set()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._busy.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._conn.close()

    def _sample(self) -> None:
        before = time.monotonic()
        while not self._ended.is_set():
            self._busy.wait()
            self._busy.clear()
            while not self._ended.wait(FIRST_SAMPLE_S):
                running = [work for work in list(self._sessions.values()) if work.executing is not None]
                if not running:
                    break
                now = time.monotonic()
                long = {work.pid: work for work in running if now - (work.executing or now) >= FIRST_SAMPLE_S}
                if long:
                    try:
                        rows = fetch_all(self._conn, _SAMPLE, (list(long), sorted(NOTED)))
                    except psycopg2.Error:
                        return  # the server is gone; the work says so
                    self._saw(long, rows, before, now)
                before = now
                self._ended.wait(SAMPLE_S - FIRST_SAMPLE_S)

    @staticmethod
    def _saw(long: Mapping[int, Sampled], rows: list[dict[str, Any]], before: float, now: float) -> None:
        for row in rows:
            work = long[row["pid"]]
            began = work.executing
            if began is None:
                continue  # it has come to its end while we looked
            key = (row["oid"], row["mode"])
            first = work.seen.get(key, (max(before, began), now))[0]
            work.seen[key] = (first, now)
        for work in long.values():
            if work.on_this_host:
                used = _memory_of(work.pid)
                if used is not None:
                    work.memory = max(used, work.memory or 0)


def _memory_of(pid: int) -> int | None:
    """:return: bytes of its own that a process has, without the server's shared buffers; None where it cannot be seen."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            found = re.search(r"^RssAnon:\s+(\d+) kB", stream.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
