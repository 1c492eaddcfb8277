# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Watching pg_locks for what a run waits for or holds."""

from __future__ import annotations

import threading
from typing import Any, Self

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, fetch_all


class Line:
    """Looks every few milliseconds whether a session of the run waits in line for a lock, or holds a strong one."""

    QUERY = (
        "SELECT l.relation::regclass::text AS name, l.mode, l.granted FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE a.application_name LIKE 'pgops %%' AND l.locktype = 'relation' AND l.relation >= 16384 "
        "AND l.relation::regclass::text IN ('people', 'pets', 'toys', 'names') AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
    )

    def __init__(self, target: Any) -> None:
        self.waited: set[str] = set()
        self.held: set[str] = set()
        self._conn = connect(target, application_name="the test's look")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        self._conn.close()

    def _look(self) -> None:
        while not self._ended.wait(0.003):
            for row in fetch_all(self._conn, self.QUERY):
                (self.held if row["granted"] else self.waited).add(row["name"])
