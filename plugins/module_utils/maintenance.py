# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Works through the plan of a database: side by side within limits, inside its time, giving way to everybody."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_rebuilds,
    integrity,
    ledger,
    ledger_rights,
    locks,
    maintenance_history,
    maintenance_verdict,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Item, as_user
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care, Watch
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_work import (
    CANCELLED,
    DONE,
    FAILED,
    NOT_BEGUN,
    Outcome,
    Worker,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import errorcodes

# Beside the keys of locks: one maintenance of a database at a time, and its workers, shared.
ONE_KEY = 0x70676F7073000003
WORKERS_KEY = 0x70676F7073000004
# A killed module's statements end by themselves within a second.
WORKERS_GONE_S = 10.0
POLL_S = 0.1
# After how many seconds what gave way, or was in use, is tried again.
AGAIN_S = (1.0, 5.0)


@dataclass(frozen=True)
class Work:
    """How a database is to be maintained.

    :ivar ends_at: by ``clock``; ``over`` says why it ends then.
    :ivar jobs: sessions that work side by side, each on a table of its own.
    :ivar pause_s: seconds without a break that somebody may keep it from beginning anything.
    :ivar lock_wait_s: seconds to wait for a migration while the ledger is made.
    :ivar user: the role that maintains.
    """

    run: ledger.Run
    care: Care
    ends_at: float
    over: str
    progress: Progress
    control: Control
    jobs: int = 2
    pause_s: float = 300.0
    lock_wait_s: float = 30.0
    user: str | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise PgopsError(f"maintenance_jobs is {self.jobs}, and 1 is the least; nothing was done.")


@dataclass
class _Waiting:
    item: Item
    tries: int = 0
    not_before: float = 0.0


class _Queue:
    """Hands the items out in their order: none that does not fit, none on a table in hand, none while something must pause."""

    def __init__(self, items: Sequence[Item], watch: Watch, pause_s: float, tell: Callable[[str], None]) -> None:
        self._waiting = [_Waiting(item) for item in items]
        self._watch, self._pause_s, self._tell = watch, pause_s, tell
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self._paused_since: float | None = None
        self.outcomes: list[Outcome] = []
        self.gave_up: str | None = None

    def take(self) -> _Waiting | None:
        """:return: the next one; None where there is none for this session any more."""
        with self._changed:
            while self._waiting and not self._at_its_end():
                chosen = None if self._is_paused() else self._fitting()
                if chosen is not None:
                    self._waiting.remove(chosen)
                    self._busy.add(chosen.item.table)
                    return chosen
                if self._waiting:
                    self._changed.wait(POLL_S)
            return None

    def ended(self, waiting: _Waiting, outcome: Outcome) -> None:
        """Note how it ended; what gave way comes again, later and not without end."""
        with self._changed:
            self._busy.discard(waiting.item.table)
            if outcome.again and waiting.tries < len(AGAIN_S):
                waiting.not_before = time.monotonic() + AGAIN_S[waiting.tries]
                waiting.tries += 1
                self._tell(f"{waiting.item.object} is left for later: {outcome.why}")
                self._waiting.append(waiting)
            else:
                self.outcomes.append(outcome)
            self._changed.notify_all()

    def rest(self) -> list[Outcome]:
        """:return: everything, in the order of the plan; what was never begun says why."""
        why = self._watch.stopped or self.gave_up or "; ".join(self._watch.pauses().values()) or "its time was over"
        left = [Outcome(waiting.item, NOT_BEGUN, why) for waiting in self._waiting]
        return sorted([*self.outcomes, *left], key=lambda outcome: outcome.item.rank)

    def _at_its_end(self) -> bool:
        return bool(self._watch.stopped or self.gave_up) or self._watch.left_s() <= 0

    def _is_paused(self) -> bool:
        pauses = self._watch.pauses()
        now = time.monotonic()
        self._paused_since = (self._paused_since or now) if pauses else None
        if self._paused_since is not None and now - self._paused_since >= self._pause_s:
            self.gave_up = (
                f"{'; '.join(pauses.values())}, for {self._pause_s:g} s without a break (maintenance_pause_s)"
            )
        return bool(pauses)

    def _fitting(self) -> _Waiting | None:
        left = self._watch.left_s()
        for waiting in list(self._waiting):
            if waiting.item.forecast_s > left:
                self._waiting.remove(waiting)
                why = f"it is expected to take {waiting.item.forecast_s:.1f} s, and {max(0.0, left):.1f} s are left"
                self.outcomes.append(Outcome(waiting.item, NOT_BEGUN, why))
            elif waiting.item.table not in self._busy and waiting.not_before <= time.monotonic():
                return waiting
        return None


@dataclass
class _Remains:
    dropped: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def maintain(target: Target, items: Sequence[Item], work: Work, *, planned: str) -> dict[str, Any]:
    """Work through the items. Takes SHARE UPDATE EXCLUSIVE on one table a session; nobody who reads or writes waits.

    :param planned: the server's time when the plan was made.
    :return: ``items`` with what became of each, ``counts`` by state, ``given_back`` bytes, ``ended`` (see :mod:`maintenance_verdict`), ``verdict``, ``remains``,
        ``seconds``.
    :raises PgopsError: something failed, a freeze that is due or all that is due was left, or another maintenance of this database is
        under way; ``extra`` has the result.
    :raises Interrupted: asked to end; the same.
    """
    begun = time.monotonic()
    name = f"{locks.application_name(work.run.id)} maintenance"
    tell = partial(work.progress.emit, database=target.database)
    with ExitStack() as stack:
        book = stack.enter_context(closing(connect(target, application_name=name)))
        _alone(book, work.control)
        open_rebuilds = index_rebuilds.still_open(book)
        if not items and not open_rebuilds:
            return _result(book, [], _Remains(), None, begun, work)
        _ledger(book, work, tell)
        watch = stack.enter_context(
            Watch(
                partial(connect, target, application_name=f"{name} watch"), work.care,
                ends_at=work.ends_at, over=work.over, tell=tell, clock=work.clock,
            )
        )  # fmt: skip
        stack.callback(work.control.on_interrupt(lambda: watch.stop(str(work.control.reason))))
        if work.control.reason:
            watch.stop(work.control.reason)
        session = partial(_session, target, name, book, threading.Lock(), watch, work, planned)
        queue = _Queue(items, watch, work.pause_s, tell)
        remains = _clear(open_rebuilds, session, queue, watch, work, book)
        _work_side_by_side(queue, session, min(work.jobs, len(items)))
        outcomes = queue.rest()
        if not _answers(book):
            # The server went away meanwhile; what was done before is told all the same.
            book = stack.enter_context(closing(connect(target, application_name=name)))
        result = _result(book, outcomes, remains, watch, begun, work)
        _record(book, result, work)
    maintenance_verdict.refuse(target.database, result, outcomes, work.control.reason)
    return result


def _alone(book: Connection, control: Control) -> None:
    """One at a time; of one that was killed the statements may still run."""
    row = fetch_one(book, "SELECT pg_catalog.pg_try_advisory_lock(%s) AS got", (ONE_KEY,))
    deadline = time.monotonic() + WORKERS_GONE_S
    while row and row["got"]:
        free = fetch_one(book, "SELECT pg_catalog.pg_try_advisory_lock(%s) AS got", (WORKERS_KEY,))
        if free and free["got"]:
            fetch_one(book, "SELECT pg_catalog.pg_advisory_unlock(%s)", (WORKERS_KEY,))
            return
        if time.monotonic() > deadline:
            break
        control.check()
        time.sleep(POLL_S)  # a statement of a killed run ends without a word
    raise PgopsError(
        f"Another maintenance of {book.info.dbname} is under way; nothing was done.",
        sqlstate=errorcodes.LOCK_NOT_AVAILABLE,
        database=book.info.dbname,
        hint="Wait for it; pg_stat_activity names its sessions 'pgops RUN maintenance'.",
    )


def _answers(conn: Connection) -> bool:
    try:
        return fetch_one(conn, "SELECT 1 AS yes") is not None
    except psycopg2.Error:
        return False


def _ledger(book: Connection, work: Work, tell: Any) -> None:
    """The audit has to be there before anything is done."""
    if ledger.schema_version(book) == ledger.SCHEMA_VERSION:
        ledger_rights.check(book)
    else:
        with locks.RunnerLock(book, wait_s=work.lock_wait_s, control=work.control, tell=tell):
            ledger.ensure(book)


def _session(
    target: Target, name: str, book: Connection, lock: threading.Lock, watch: Watch, work: Work, planned: str
) -> Worker:
    conn = connect(as_user(target, work.user), application_name=name)
    fetch_one(conn, "SELECT pg_catalog.pg_try_advisory_lock_shared(%s)", (WORKERS_KEY,))
    tell = partial(work.progress.emit, database=target.database)
    owner = partial(connect, target, application_name=name)
    worker = Worker(conn, book, owner, lock, watch, work.care, work.run.id, planned, tell)
    worker.prepare()
    return worker


def _clear(
    open_rebuilds: Sequence[index_rebuilds.Started],
    session: Any,
    queue: _Queue,
    watch: Watch,
    work: Work,
    book: Connection,
) -> _Remains:
    """Drop what a rebuild that was cut off has left, before anything else begins."""
    found = _Remains()
    if not open_rebuilds or watch.stopped or watch.pauses():
        return found
    worker = session()
    with closing(worker.conn):
        for started in open_rebuilds:
            there = [remain.full_name for remain in index_rebuilds.remains(book, started)]
            left = worker.drop_remains(started)
            found.left += left
            found.dropped += [name for name in there if name not in left]
            if not left:
                index_rebuilds.end(book, started, done=False, run_id=work.run.id, detail={"dropped": there})
    return found


def _work_side_by_side(queue: _Queue, session: Any, jobs: int) -> None:
    if jobs == 0:
        return
    with ThreadPoolExecutor(jobs, thread_name_prefix="pgops-maintenance") as pool:
        for done in [pool.submit(_work, queue, session) for _ in range(jobs)]:
            done.result()


def _work(queue: _Queue, session: Any) -> None:
    """One session: item after item, on a new session where the old one was lost."""
    worker: Worker | None = None
    try:
        while (waiting := queue.take()) is not None:
            outcome = Outcome(waiting.item, FAILED, "it ended without a word")
            try:
                if worker is None or worker.conn.closed:
                    worker = session()
                outcome = worker.work(waiting.item)
            except psycopg2.Error as exc:
                failed = from_psycopg(exc, "Its session was lost")
                outcome = Outcome(waiting.item, FAILED, failed.message, sqlstate=exc.pgcode)
                if worker is not None:
                    worker.conn.close()
            except PgopsError as error:
                outcome = Outcome(waiting.item, FAILED, error.message, sqlstate=error.sqlstate)
            finally:
                queue.ended(waiting, outcome)
    finally:
        if worker is not None:
            worker.conn.close()


def _result(
    book: Connection,
    outcomes: Sequence[Outcome],
    remains: _Remains,
    watch: Watch | None,
    begun: float,
    work: Work,
) -> dict[str, Any]:
    items = [outcome.as_dict() for outcome in outcomes]
    counts = Counter(outcome.state for outcome in outcomes)
    return {
        "items": items,
        "counts": dict(counts),
        "changed": bool(counts[DONE] or remains.dropped),
        "given_back": sum(item["given_back"] for item in items),
        "ended": maintenance_verdict.of(outcomes, bool(work.control.reason)),
        "verdict": maintenance_verdict.sentence(outcomes),
        "remains": {"dropped": remains.dropped, "left": remains.left},
        "invalid_indexes": integrity.invalid_indexes(book),
        "seconds": round(time.monotonic() - begun, 3),
        **(watch.summary() if watch else {"held_up_by": []}),
    }


def _record(book: Connection, result: Mapping[str, Any], work: Work) -> None:
    """One row for the run; each rebuild has its own. What the next run expects of this database is in it."""
    known = maintenance_history.read(book)
    done = [item for item in result["items"] if item["state"] in (DONE, CANCELLED, FAILED)]
    if not done and not result["remains"]["dropped"]:
        return
    by_action = Counter(item["action"] for item in done if item["state"] == DONE)
    detail = {
        **maintenance_history.told(done, known),
        "counts": result["counts"],
        "actions": dict(by_action),
        "given_back": result["given_back"],
        "seconds": result["seconds"],
        "failed": [f"{item['action']} {item['object']}" for item in done if item["state"] == FAILED][
            : maintenance_history.LISTED
        ],
        "dropped": result["remains"]["dropped"],
        "why": work.run.why,
    }
    ledger.start_run(book, work.run)
    ledger.append_audit(book, maintenance_history.MAINTAINED, run_id=work.run.id, detail=detail)
    ledger.finish_run(book, work.run.id, "failed" if result["ended"] in maintenance_verdict.BAD else "succeeded")


def of_plan(target: Target, plan: Mapping[str, Any], work: Work) -> dict[str, Any]:
    """:param plan: as ``maintenance_plan`` has made it plain.
    :return: see :func:`maintain`, which raises the same."""
    items = [Item.of(item) for item in plan.get("items") or []]
    return maintain(target, items, work, planned=str(plan.get("at") or "now"))
