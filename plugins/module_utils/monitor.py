# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A second session beside the one that works: tells how far it is, who blocks it, and whether the run was asked to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

if TYPE_CHECKING:
    from typing_extensions import Self

REPORT_S = 1.0
# What is over sooner needs no word of how far it is.
QUIET_S = 0.5
# Inside a lock_timeout of 100 ms, and late enough that a step which is over at once costs no look.
BLOCKER_LOOK_S = 0.05

_CREATE_INDEX = """
SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total, p.lockers_done, p.lockers_total,
       p.current_locker_pid AS locker, a.application_name AS locker_name
  FROM pg_catalog.pg_stat_progress_create_index p
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = p.current_locker_pid AND p.current_locker_pid <> 0
 WHERE p.pid = %s
"""
_ANALYZE = """
SELECT phase, sample_blks_scanned AS done, sample_blks_total AS total
  FROM pg_catalog.pg_stat_progress_analyze WHERE pid = %s
"""

Tell = Callable[..., None]


@dataclass
class _Task:
    pid: int
    what: str
    started: float
    tell: Tell


class Monitor:
    """Watches the sessions of a run from a session of its own, in a thread.

    It never holds a transaction open, so no build waits for its snapshot. When its session breaks it opens another;
    the work goes on without it meanwhile.
    """

    def __init__(self, connect: Callable[[], Connection], control: Control, run_id: str | None) -> None:
        self._connect = connect
        self._control = control
        self._run_id = run_id
        self._conn: Connection | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._tasks: dict[int, _Task] = {}
        self._watched: int | None = None
        self._watched_since = 0.0
        self._blockers: dict[int, locks.Session] = {}
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pgops-monitor", daemon=True)

    def __enter__(self) -> Self:
        # The thread opens its session itself when it is first needed: work that is over at once never needs it.
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout=10)
        with self._asking:
            if self._conn is not None:
                self._conn.close()

    # What is being done

    def started(self, pid: int, what: str, tell: Tell) -> None:
        """Tell ``what`` with its progress every second until :meth:`ended`; the controller adds the time that it took."""
        with self._lock:
            self._tasks[pid] = _Task(pid, what, time.monotonic(), tell)

    def ended(self, pid: int) -> None:
        """The session's statement is over."""
        with self._lock:
            self._tasks.pop(pid, None)

    # lock_wait.Watch

    def begin(self, pid: int) -> None:
        """Start to note who blocks this session."""
        with self._lock:
            self._watched = pid
            self._watched_since = time.monotonic()
            self._blockers = {}
        self._wake.set()

    def end(self) -> list[locks.Session]:
        """:return: who was seen to block it since :meth:`begin`."""
        with self._lock:
            self._watched = None
            return list(self._blockers.values())

    def still_there(self, sessions: Sequence[locks.Session]) -> list[locks.Session]:
        """:return: those of the sessions whose transaction has not ended."""
        return self._ask(lambda conn: locks.still_open(conn, sessions)) or []

    # The thread

    def _loop(self) -> None:
        next_report = time.monotonic() + REPORT_S
        while not self._ended.is_set():
            watched = self._watched
            self._wake.wait(BLOCKER_LOOK_S if watched is not None else max(0.0, next_report - time.monotonic()))
            if self._ended.is_set():
                return
            if self._wake.is_set():
                self._wake.clear()
                self._ended.wait(BLOCKER_LOOK_S)
            if self._watched is not None and time.monotonic() - self._watched_since >= 0.9 * BLOCKER_LOOK_S:
                self._note_blockers()
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + REPORT_S
                self._look_for_stop()
                self._report()

    def _note_blockers(self) -> None:
        pid = self._watched
        if pid is None:
            return
        seen = self._ask(lambda conn: locks.blockers_of(conn, pid)) or []
        with self._lock:
            if self._watched == pid:
                self._blockers.update({session.pid: session for session in seen})

    def _look_for_stop(self) -> None:
        run_id = self._run_id
        if run_id is None:
            return
        by = self._ask(lambda conn: ledger.stop_request(conn, run_id))
        if by:
            self._control.request(f"{by} asked it to stop")

    def _report(self) -> None:
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            if time.monotonic() - task.started < QUIET_S:
                continue
            text, done, total, unit = self._ask(partial(_progress, pid=task.pid)) or (
                "",
                None,
                None,
                None,
            )
            with self._lock:
                if self._tasks.get(task.pid) is not task:
                    continue
            task.tell(f"{task.what}{': ' + text if text else ''}", done=done, total=total, unit=unit)

    def _ask(self, question: Callable[[Connection], Any]) -> Any:
        with self._asking:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = self._connect()
                return question(self._conn)
            except (psycopg2.Error, PgopsError):
                # The ledger's table may be missing yet, or the server restarts: telling waits, the work does not.
                if self._conn is not None and self._conn.closed:
                    self._conn = None
                return None


def _progress(conn: Connection, pid: int) -> tuple[str, int | None, int | None, str | None]:
    with locks.as_login_role(conn):
        building, analyzing = fetch_one(conn, _CREATE_INDEX, (pid,)), fetch_one(conn, _ANALYZE, (pid,))
    if building is not None:
        row = building
        text = str(row["phase"])
        if row["locker"]:
            text += f", held up by pid {row['locker']} ({row['locker_name'] or 'no application_name'})"
        for name, unit in (("blocks", "blocks"), ("tuples", "rows"), ("lockers", "sessions")):
            if row[f"{name}_total"]:
                return text, int(row[f"{name}_done"]), int(row[f"{name}_total"]), unit
        return text, None, None, None
    if analyzing is not None:
        return str(analyzing["phase"]), int(analyzing["done"]), int(analyzing["total"]), "blocks"
    return "", None, None, None
