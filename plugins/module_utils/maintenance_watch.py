# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A session beside those that maintain a database: it keeps the time, sees whom they hinder, and ends what has to give way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import build_progress, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits, Throttle

if TYPE_CHECKING:
    from typing_extensions import Self

LOOK_S = 0.5
CATCH_UP_POLL_S = 0.2
# So long nobody waits for us before we give way; an autovacuum takes as long (deadlock_timeout).
HINDERED_S = 1.0
# A canary that suffers for so long suffers from what runs, not from what begins.
CANARY_PATIENCE_S = 5.0
CANARY_TIMES = 5
# A query that needs so many times its limit is not waited for.
CANARY_TIMEOUT = 5
# Against a canary that is slow by nature.
CANARY_SLOWER = 3.0

# pgBackRest's base backup reads files, which only its session tells.
_BACKUP = """
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'a base backup') AS name FROM pg_catalog.pg_stat_activity a
 WHERE a.pid <> pg_catalog.pg_backend_pid()
   AND ((a.datname = pg_catalog.current_database()
         AND (a.application_name IN ('pg_dump', 'pg_dumpall') OR a.application_name ~ '^pgops .* (backup|export)'))
        OR a.application_name LIKE 'pgBackRest [backup]%%'
        OR a.pid IN (SELECT p.pid FROM pg_catalog.pg_stat_progress_basebackup p))
 ORDER BY a.pid LIMIT 1
"""
_HINDERED = """
SELECT w.pid, array(SELECT p FROM unnest(pg_catalog.pg_blocking_pids(w.pid)) p WHERE p = ANY(%(ours)s)) AS by
  FROM (SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l
         WHERE NOT l.granted AND l.locktype <> 'virtualxid' AND l.pid <> ALL(%(ours)s)
           AND l.waitstart < pg_catalog.clock_timestamp() - %(seconds)s * interval '1 s') w
"""


@dataclass(frozen=True)
class Care:
    """What maintenance may cost others; each is a variable ``maintenance_<name>``.

    :ivar lock_timeout_ms: for which it stands in line for a lock.
    :ivar cost_delay_ms: ``vacuum_cost_delay``, also of ANALYZE.
    :ivar canary: a query of the application, asked twice a second, read-only; ``canary_limit_ms`` that it may take.
    :ivar replica_lag_s: seconds that a standby may be behind.
    :ivar lock_wait_s: seconds for which anybody may wait for a lock.
    :ivar active_sessions: others that run a statement.
    :ivar except_standbys: ``application_name`` of standbys that lag on purpose.
    :ivar old_snapshot_s: seconds for which a rebuild waits for old transactions.
    :ivar truncate: whether VACUUM gives the empty end of a table back to the disk, for which it takes ACCESS EXCLUSIVE.
    """

    lock_timeout_ms: int = 100
    cost_delay_ms: float = 2.0
    canary: str = "SELECT 1"
    canary_limit_ms: float = 100.0
    replica_lag_s: float = 10.0
    lock_wait_s: float = 1.0
    active_sessions: int = 50
    except_standbys: tuple[str, ...] = ()
    old_snapshot_s: float = 30.0
    truncate: bool = False

    def __post_init__(self) -> None:
        for name in ("lock_timeout_ms", "canary_limit_ms", "old_snapshot_s"):
            if not getattr(self, name) > 0:
                raise PgopsError(f"maintenance_{name} must be more than 0; nothing was done.")
        if not 0 <= self.cost_delay_ms <= 100:
            raise PgopsError(
                f"maintenance_cost_delay_ms is {self.cost_delay_ms:g}, and takes 0 to 100; nothing was done."
            )


@dataclass
class Running:
    """A statement under way. :ivar why: it was ended, and why; ``out_of_time`` whether its time was over."""

    pid: int
    conn: Connection
    what: str
    rebuilds: bool
    tell: Callable[..., None]
    started: float
    why: str | None = None
    out_of_time: bool = False
    waits_since: float | None = None
    told_at: float = 0.0


@dataclass
class _Canary:
    usual_ms: float = 0.0
    slow_since: float | None = None
    worst_ms: float = 0.0


@dataclass
class _Seen:
    pauses: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)


class Watch:
    """Looks twice a second, in a thread, while it is entered.

    It takes no lock on a table and holds no transaction, so that no rebuild waits for its snapshot.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        care: Care,
        *,
        ends_at: float,
        over: str,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param connect: opens the session, in autocommit.
        :param ends_at: by ``clock``, when all that runs is ended; ``over`` says why, as the end of a sentence."""
        self._connect, self._care, self._ends_at, self._over = connect, care, ends_at, over
        self._tell, self._clock = tell, clock
        self._conn: Connection | None = None
        self._throttle: Throttle | None = None
        self._canary = _Canary()
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._pauses: dict[str, str] = {}
        self._told: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._stopped: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pgops-maintenance", daemon=True)

    def __enter__(self) -> Self:
        self._open()
        self._first_canary()
        self._look()
        self._wait_for_standbys()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)
        if self._conn is not None:
            self._conn.close()

    # What the workers ask

    def left_s(self) -> float:
        """:return: seconds until its time is over."""
        return self._ends_at - self._clock()

    def pauses(self) -> dict[str, str]:
        """:return: why nothing may begin now, by kind; empty where something may."""
        with self._lock:
            return dict(self._pauses)

    @property
    def stopped(self) -> str | None:
        """Why everything has to end, where that is not its time."""
        return self._stopped

    def stop(self, why: str) -> None:
        """End all that runs, and let nothing begin."""
        self._stopped = self._stopped or why
        self._end_all(why, out_of_time=False)

    def started(self, running: Running) -> bool:
        """:return: whether the statement may begin: it may not where all has to end by now."""
        with self._lock:
            if self._stopped or self.left_s() <= 0:
                return False
            self._running[running.pid] = running
        return True

    def over(self, running: Running) -> None:
        """The statement has ended, one way or the other."""
        with self._lock:
            self._running.pop(running.pid, None)

    def summary(self) -> dict[str, Any]:
        """:return: for the result: what it has waited for or given way to, and the canary."""
        return {
            "held_up_by": list(self._reasons.values()),
            "canary_usual_ms": round(self._canary.usual_ms, 3),
            "canary_worst_ms": round(self._canary.worst_ms, 3),
        }

    # The thread

    def _loop(self) -> None:
        while not self._ended.wait(min(LOOK_S, max(0.01, self.left_s()) if self.left_s() > 0 else LOOK_S)):
            if self.left_s() <= 0:
                self._end_all(self._over, out_of_time=True)
            with self._lock:
                ended = [one for one in self._running.values() if one.why is not None]
            for one in ended:
                self._end(one, str(one.why), out_of_time=one.out_of_time)
            self._look()
            self._report()

    def _look(self) -> None:
        try:
            if self._conn is None or self._conn.closed:
                self._open()
            assert self._conn is not None and self._throttle is not None
            seen = self._judge(self._conn, self._throttle)
        except (psycopg2.Error, PgopsError) as exc:
            # Nobody sees any longer whom the work hinders.
            if self._conn is not None:
                self._conn.close()
            seen = _Seen({"watch": f"the watch has lost its session ({type(exc).__name__})"})
        with self._lock:
            self._pauses = {**seen.ends, **seen.pauses}
        for kind, text in {**seen.pauses, **seen.ends}.items():
            self._reasons.setdefault(kind, text)
            if kind not in self._told:
                self._told.add(kind)
                self._tell(f"pauses: {text}")
        self._told &= {*seen.pauses, *seen.ends}
        for text in seen.ends.values():
            self._end_all(text, out_of_time=False)

    def _judge(self, conn: Connection, throttle: Throttle) -> _Seen:
        seen = _Seen()
        holder = locks.holder(conn)
        if holder is not None:
            seen.ends["migration"] = f"the database is being migrated by {holder.sentence()}"
        backup = fetch_one(conn, _BACKUP)
        if backup is not None:
            seen.ends["backup"] = f"a backup runs (pid {backup['pid']}, {backup['name']})"
        seen.pauses.update(throttle.pressing())
        self._ask_canary(conn, seen)
        self._look_at_waiting(conn)
        return seen

    # The canary

    def _open(self) -> None:
        conn = self._connect()
        limits = Limits(
            replica_lag_s=self._care.replica_lag_s,
            lock_wait_s=self._care.lock_wait_s,
            active_sessions=self._care.active_sessions,
            requested_checkpoints=0,
            except_standbys=self._care.except_standbys,
        )
        self._throttle = Throttle(conn, limits, tell=self._tell, check=lambda: None)
        self._conn = conn

    def _wait_for_standbys(self) -> None:
        """Those that follow have replayed in a moment what there was at the first look; how far the others are behind shows only then."""
        deadline = self._clock() + self._care.replica_lag_s
        while self._throttle is not None and not self._throttle.follow() and not self._stopped:
            if self._care.replica_lag_s <= 0 or self._clock() > deadline + CATCH_UP_POLL_S or self.left_s() <= 0:
                break
            time.sleep(CATCH_UP_POLL_S)  # a standby tells nobody that it has caught up
            self._look()

    def _first_canary(self) -> None:
        assert self._conn is not None
        try:
            took = sorted(self._canary_ms(self._conn, 1000 * CANARY_PATIENCE_S) for _ in range(CANARY_TIMES))
        except psycopg2.Error as exc:
            raise from_psycopg(
                exc, "Nothing was begun, since the query of maintenance_canary failed", statement=self._care.canary
            ) from None
        self._canary.usual_ms = took[CANARY_TIMES // 2]

    def _canary_ms(self, conn: Connection, timeout_ms: float) -> float:
        execute(conn, f"SET statement_timeout = {int(timeout_ms)}; SET default_transaction_read_only = on")
        begun = time.monotonic()
        try:
            execute(conn, self._care.canary)
            return 1000 * (time.monotonic() - begun)
        finally:
            if not conn.closed:
                execute(conn, "SET statement_timeout = 0; SET default_transaction_read_only = off")

    def _ask_canary(self, conn: Connection, seen: _Seen) -> None:
        limit = max(self._care.canary_limit_ms, CANARY_SLOWER * self._canary.usual_ms)
        try:
            took = self._canary_ms(conn, CANARY_TIMEOUT * limit)
        except psycopg2.Error:
            if conn.closed:
                raise
            took = CANARY_TIMEOUT * limit
        self._canary.worst_ms = max(self._canary.worst_ms, took)
        if took <= limit:
            self._canary.slow_since = None
            return
        now = self._clock()
        self._canary.slow_since = since = self._canary.slow_since or now
        text = f"the query of maintenance_canary takes {took:.0f} ms (limit {limit:.0f} ms)"
        seen.pauses["canary"] = text
        if now - since >= CANARY_PATIENCE_S:
            seen.ends["canary"] = text

    # Who waits for us, and for whom we wait

    def _look_at_waiting(self, conn: Connection) -> None:
        with self._lock:
            running = dict(self._running)
        if not running:
            return
        rows = fetch_all(conn, _HINDERED, {"ours": list(running), "seconds": HINDERED_S})
        for row in rows:
            sessions = locks.sessions_of(conn, [int(row["pid"])])
            for pid in row["by"]:
                who = sessions[0].sentence() if sessions else f"pid {row['pid']}"
                self._end(running[int(pid)], f"it gave way to {who}, which waited for its lock", out_of_time=False)
        for one in running.values():
            if one.rebuilds:
                self._look_at_rebuild(conn, one)

    def _look_at_rebuild(self, conn: Connection, one: Running) -> None:
        seen = build_progress.look(conn, one.pid)
        now = self._clock()
        # Of one that stands in line for its table there is no phase yet.
        waits = seen.phase.startswith("waiting") or bool(seen.held_up_by and not seen.phase)
        one.waits_since = (one.waits_since or now) if waits else None
        if one.waits_since is not None and now - one.waits_since >= self._care.old_snapshot_s:
            by = f" for {seen.held_up_by}" if seen.held_up_by else ""
            self._end(
                one,
                f"it waited{by} for {self._care.old_snapshot_s:g} s (maintenance_old_snapshot_s)",
                out_of_time=False,
            )
        if now - one.told_at >= 1.0 and seen.text:
            one.told_at = now
            one.tell(
                f"{one.what}: {seen.text}", done=seen.done, total=seen.total, unit=seen.unit, size_bytes=seen.bytes
            )

    def _report(self) -> None:
        with self._lock:
            running = [one for one in self._running.values() if not one.rebuilds]
        for one in running:
            one.tell(one.what)

    def _end_all(self, why: str, *, out_of_time: bool) -> None:
        with self._lock:
            running = list(self._running.values())
        for one in running:
            self._end(one, why, out_of_time=out_of_time)

    def _end(self, one: Running, why: str, *, out_of_time: bool) -> None:
        with self._lock:
            if one.pid not in self._running:
                return
            if one.why is None:
                one.why, one.out_of_time = why, out_of_time
            # Again at each look: one that comes before its statement has begun ends nothing. Under the lock, so that it
            # cannot come after the end either.
            with suppress(psycopg2.Error):
                one.conn.cancel()


def of(given: Mapping[str, Any]) -> Care:
    """:param given: the module's options.
    :return: the defaults with what is given in their place.
    :raises PgopsError: a number that cannot be meant."""
    values = {name: given[name] for name in Care.__dataclass_fields__ if given.get(name) is not None}
    if "except_standbys" in values:
        values["except_standbys"] = tuple(map(str, values["except_standbys"]))
    return Care(**values)
