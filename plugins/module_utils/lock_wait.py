# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Locks are asked for when nobody holds them: look, wait, ask, give way, and again until the budget is used up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import lock_forecast
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import (
    RETRY_SQLSTATES,
    LockWaitExhausted,
    Session,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import errorcodes

# A transaction younger than this is a client's ordinary one: it is not worth a word, and gone in the next look.
YOUNG_S = 1.0
# So long there was always somebody, and each of them only for a moment: then we stand in line, for lock_timeout at most.
BUSY_S = 2.0
QUICK_LOOK_S = 0.01
LOOK_S = 0.05
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 2.0

T = TypeVar("T")


class Watch(Protocol):
    """What the lock discipline needs of the monitor: look at a session from another one."""

    def begin(self, pid: int) -> None:
        """Start to note who blocks this session."""

    def end(self) -> list[Session]:
        """:return: who was seen to block it."""

    def still_there(self, sessions: Sequence[Session]) -> list[Session]:
        """:return: those whose transaction has not ended."""


@dataclass
class LockWait:
    """The waiting of one transaction for its locks.

    :ivar conn: the session that runs it, idle between two attempts.
    :ivar wanted: the locks that it will ask for, as far as they are known.
    :ivar lock_timeout_ms: milliseconds, as the transaction sets it; only told.
    :ivar budget_s: seconds that may be spent on waiting, over all attempts.
    :ivar doing: names the work in the error.
    :ivar takes_ahead: the transaction takes ``wanted`` by :meth:`ask`.
    :ivar end_idle: is shown who is in the way, and ends what it may end.
    :ivar larger: where a larger budget is given, for the hint.
    :ivar in_line: whether the attempt that runs may wait in line for its locks.
    """

    conn: Connection
    watch: Watch
    wanted: Sequence[TableLock]
    lock_timeout_ms: int
    budget_s: float
    doing: str
    control: Control
    tell: Callable[[str], None]
    database: str | None = None
    takes_ahead: bool = False
    end_idle: Callable[[Sequence[Session]], None] = lambda sessions: None
    larger: str = "budgets.lock_budget_s in its migration.yml"
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    in_line: bool = False
    _refused: bool = False
    _told: set[tuple[int, str | None]] = field(default_factory=set)

    def ask(self, wanted: Sequence[TableLock]) -> None:
        """Take these locks in the open transaction without waiting, unless this attempt may stand in line for them.

        :raises psycopg2.Error: 55P03, somebody came between the look and the question.
        """
        if self.in_line:
            return
        self._refused = True
        lock_forecast.ask(self.conn, wanted)
        self._refused = False

    def run(self, attempt: Callable[[], T]) -> T:
        """Run a whole transaction, again and again until it gets its locks or the budget ends.

        An ALTER that waits in the queue makes everybody behind it wait too. So it looks first who holds or asks for
        what excludes its locks, and waits for them, naming them; asks when there is nobody; and where somebody came
        between the look and the question, it is refused at once and looks again. On a table where there is always
        somebody for a moment it stands in line for at most lock_timeout, and gives way. Measured behind a 6 s reader, the
        worst client: 4.5 s without a timeout, 0.11 s in line with 100 ms, what it is without us when we look first.

        :param attempt: the transaction from BEGIN to COMMIT; it sets lock_timeout itself and lets psycopg2's error out.
        :raises LockWaitExhausted: the budget is used up; names pid, application_name, role, since when and the digest of
            the query of who held on.
        :raises psycopg2.Error: anything that a retry does not mend.
        """
        deadline = self.clock() + self.budget_s
        pid = self.conn.info.backend_pid
        backoff = BACKOFF_FIRST_S
        state: str = errorcodes.LOCK_NOT_AVAILABLE
        blockers: list[Session] = []
        while True:
            self.control.check()
            there = self._until_nobody(deadline)
            # What was only guessed need not be asked for at all: then the question decides, at half of the budget.
            if there and self.clock() >= deadline and not all(lock.guessed for lock in self.wanted):
                raise self._exhausted(there, state)
            self.in_line, self._refused = bool(there) or not self.takes_ahead, False
            self.watch.begin(pid)
            try:
                return attempt()
            except psycopg2.Error as exc:
                seen = self.watch.end()
                if exc.pgcode not in RETRY_SQLSTATES:
                    raise
                state = exc.pgcode
            finally:
                self.watch.end()
            seen = seen or self._look_at_known()
            # A look may come too late for one attempt: whom an earlier one saw may hold on.
            blockers = seen or self.watch.still_there(blockers)
            if self.clock() >= deadline:
                raise self._exhausted(blockers, state)
            if self._refused:
                # Nobody was made to wait, and the look names who came between.
                self.sleep(QUICK_LOOK_S * (0.5 + self.jitter()))
                continue
            if blockers:
                self.tell(f"{self.doing}: gave way to {'; '.join(session.sentence() for session in blockers)}")
            self.sleep(min(backoff * (0.5 + self.jitter()), max(0.0, deadline - self.clock())))
            backoff = min(backoff * 2, BACKOFF_LAST_S)
            # Locks that no forecast knows, on rows for one.
            self._until_gone(partial(self.watch.still_there, blockers), deadline)

    def _until_nobody(self, deadline: float) -> list[Session]:
        """:return: nobody, or who is in the way when the budget ends or there was always somebody, each for a moment."""
        if not self.wanted:
            return []
        if all(lock.guessed for lock in self.wanted):
            deadline -= self.budget_s / 2
        seen: dict[tuple[int, str | None], float] = {}
        busy_since = self.clock()
        while True:
            there = lock_forecast.in_the_way(self.conn, self.wanted)
            now = self.clock()
            if not there or now >= deadline:
                return there
            # Of a session that is hidden nobody knows how old its transaction is, but since when we see it.
            stays = [
                session
                for session in there
                if max(session.age_s or 0.0, now - seen.setdefault((session.pid, session.transaction), now)) >= YOUNG_S
                or session.pid == 0
            ]
            if stays:
                busy_since = now
                self._name(stays)
                self.end_idle(self._surely_in_the_way(stays))
            elif now - busy_since >= BUSY_S:
                return there
            self.control.check()
            self.sleep((LOOK_S if stays else QUICK_LOOK_S) * (0.5 + self.jitter()))

    def _surely_in_the_way(self, sessions: Sequence[Session]) -> Sequence[Session]:
        """:return: without those who hold only what was guessed: one of them is in nobody's way as long as none was refused."""
        if not any(lock.guessed for lock in self.wanted):
            return sessions
        known = {(session.pid, session.transaction) for session in self._look_at_known()}
        return [session for session in sessions if (session.pid, session.transaction) in known]

    def _look_at_known(self) -> list[Session]:
        return lock_forecast.in_the_way(self.conn, [lock for lock in self.wanted if not lock.guessed])

    def _until_gone(self, look: Callable[[], list[Session]], deadline: float) -> None:
        while self.clock() < deadline:
            there = look()
            if not there:
                return
            self._name(there)
            self.end_idle(there)
            self.control.check()
            self.sleep(2 * LOOK_S)

    def _name(self, sessions: Sequence[Session]) -> None:
        new = [session for session in sessions if (session.pid, session.transaction) not in self._told]
        if new:
            self._told.update((session.pid, session.transaction) for session in new)
            self.tell(f"{self.doing}: waiting for {'; '.join(session.sentence() for session in new)}")

    def _exhausted(self, blockers: Sequence[Session], state: str) -> LockWaitExhausted:
        named = "; ".join(session.sentence() for session in blockers) or "sessions that were gone when looked for"
        hint = f"End or wait for the sessions named, then run it again; or give it longer: {self.larger}."
        if any(session.backend_type == "autovacuum worker" for session in blockers):
            # It gives way by itself only to somebody who waits for a whole deadlock_timeout in line, and not when it
            # prevents wraparound.
            hint += " An autovacuum goes on later where it was ended; one to prevent wraparound is better waited for."
        return LockWaitExhausted(
            f"{self.doing} did not get its locks in {self.budget_s:g} s ({self.lock_timeout_ms} ms at a time) and gave way; "
            f"nothing of it was done. It was blocked by {named}.",
            sqlstate=state,
            database=self.database,
            hint=hint,
            extra={"reason": "lock_wait", "blockers": [session.as_dict() for session in blockers]},
        )
