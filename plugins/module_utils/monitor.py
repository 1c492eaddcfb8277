# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A second session beside the one that works: tells how far it is, who blocks it, whom it blocks, and whether the run was asked to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import build_progress, ledger, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.client_waits import ClientWaits
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

if TYPE_CHECKING:
    from typing_extensions import Self

REPORT_S = 1.0
# What is over sooner needs no word of how far it is.
QUIET_S = 0.5
# Inside a lock_timeout of 100 ms, and late enough that a step which is over at once costs no look.
BLOCKER_LOOK_S = 0.05

Tell = Callable[..., None]


@dataclass
class _Task:
    pid: int
    what: str
    started: float
    tell: Tell
    forecast: build_progress.Forecast = field(default_factory=build_progress.Forecast)


class Monitor:
    """Watches the sessions of a run from a session of its own, in a thread.

    It never holds a transaction open, so no build waits for its snapshot. When its session breaks it opens another;
    the work goes on without it meanwhile.
    """

    def __init__(self, connect: Callable[[], Connection], control: Control, run_id: str | None) -> None:
        self._connect = connect
        self._control = control
        self._run_id = run_id
        self._waits = ClientWaits(run_id) if run_id else None
        self._conn: Connection | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._tasks: dict[int, _Task] = {}
        self._held_up: dict[int, str] = {}
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
            self._held_up.pop(pid, None)
            self._tasks[pid] = _Task(pid, what, time.monotonic(), tell)

    def ended(self, pid: int) -> None:
        """The session's statement is over."""
        with self._lock:
            self._tasks.pop(pid, None)

    def held_up_by(self, pid: int) -> str | None:
        """:return: the session that an index build was last seen to wait for, since it was :meth:`started`."""
        with self._lock:
            return self._held_up.get(pid)

    def client_waits(self) -> dict[str, Any] | None:
        """:return: as :meth:`ClientWaits.as_dict`; None where the sessions have no run's name."""
        return self._waits.as_dict() if self._waits else None

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
                if self._waits:
                    self._ask(self._waits.look)
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
            seen = self._ask(partial(build_progress.look, pid=task.pid)) or build_progress.Seen()
            left_s = task.forecast.left_s(seen, time.monotonic() - task.started)
            with self._lock:
                if self._tasks.get(task.pid) is not task:
                    continue
                if seen.held_up_by:
                    self._held_up[task.pid] = seen.held_up_by
            told = f"{task.what}: {seen.text}" if seen.text else task.what
            task.tell(told, done=seen.done, total=seen.total, unit=seen.unit, left_s=left_s, size_bytes=seen.bytes)

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
