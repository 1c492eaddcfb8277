# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run whose connection is lost connects again, looks at what happened, and goes on there; it never repeats blindly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    fetch_one,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Ledger, Migration, Run
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RunnerBusy, RunnerLock
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_session import is_lost
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import primary_message
from psycopg2 import errorcodes

# Half of it to one and a half times as much, doubled each time: runs that were cut off together do not come back together.
BACKOFF_FIRST_S = 0.2
BACKOFF_LAST_S = 3.0
# As soon as this a wait hears that it has to end.
SLICE_S = 0.5

# What no waiting mends: a password, pg_hba.conf, a right, a database that is gone or fenced.
_REFUSED = frozenset(
    {
        errorcodes.INVALID_PASSWORD,
        errorcodes.INVALID_AUTHORIZATION_SPECIFICATION,
        errorcodes.INSUFFICIENT_PRIVILEGE,
        errorcodes.INVALID_CATALOG_NAME,
        errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE,
    }
)

LATER = "What it had done is recorded; run it again when the server is back, it goes on at that step."


class NotRegained(PgopsError):
    """The run does not go on in this call; the sentence is whole."""


@dataclass(frozen=True)
class Regained:
    """A session that holds the runner lock again, and the ledger as it is now."""

    conn: Connection
    lock: RunnerLock
    found: Ledger


@dataclass
class Reconnect:
    """What a run needs in order to go on in another session.

    :ivar open_session: opens one; is given how many seconds the connecting may take.
    :ivar budget_s: seconds from each loss within which another session must hold the runner lock; 0 never connects again.
    :ivar tell: is told when it was lost and when it goes on.
    :ivar direction: ``up`` or ``down``, which way its versions go.
    :ivar happened: each loss that was got over: ``version``, ``step``, ``lost_at`` (UTC), ``waited_s``; grows.
    """

    target: Target
    run: Run
    open_session: Callable[[int | None], Connection]
    budget_s: float
    control: Control
    tell: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    direction: str = "up"
    happened: list[dict[str, Any]] = field(default_factory=list)
    _before: Ledger | None = None
    _cluster: str | None = None
    _place: object = None

    def begun(self, conn: Connection, found: Ledger) -> None:
        """The run has a row in the ledger, and has read this of it before it wrote anything else."""
        if self.budget_s > 0:
            self._before, self._cluster = found, _cluster(conn)

    def is_due(self, conn: Connection, exc: PgopsError | psycopg2.Error) -> bool:
        """:return: whether to go on in another session; not where the run was asked to end, and not with a budget of 0.

        Where the error may be another session's this one is asked, outside the budget; see :func:`lost_session.is_lost`.
        """
        return self.budget_s > 0 and self.control.reason is None and is_lost(conn, exc)

    def again(
        self,
        lost: Connection,
        where: str,
        *,
        version: str | None = None,
        step: int | None = None,
        done: Sequence[str] = (),
    ) -> Regained:
        """Connect, take the runner lock, read the ledger, and see that nobody else has gone on meanwhile.

        Waits up to the budget for a server that takes writes, and for the run's own session of before to end there: where the
        network was cut the server notices half a minute later. Takes the runner lock and no other.

        :param where: the work in hand, to begin a sentence with.
        :param version: that in hand, with its ``step``; None before the first and after the last.
        :param done: versions that this run has applied or, on the way down, reverted.
        :raises NotRegained: no such server in time; another run holds the lock, or has changed the ledger; what this run had
            done is not there; another cluster answers; the same step lost its session twice.
        :raises Interrupted: asked to end.
        """
        lost.close()
        began, lost_at = self.clock(), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.tell(f"{where}: connection lost at {lost_at}, connecting again for up to {self.budget_s:g} s")
        deadline, backoff, why = began + self.budget_s, BACKOFF_FIRST_S, "the time was too short"
        while True:
            self._pause(min(backoff * (0.5 + self.jitter()), max(0.0, deadline - self.clock())))
            backoff = min(backoff * 2, BACKOFF_LAST_S)
            try:
                conn = self._connected(max(2, int(deadline - self.clock())))
            except PgopsError as error:
                if error.sqlstate in _REFUSED or isinstance(error, NotRegained):
                    raise self._not_regained(where, f", and another one is refused: {error.message}") from None
                why = error.message
            else:
                try:
                    lock = self._locked(conn, where, deadline)
                    found = self._looked(conn, where, version, done)
                    waited = round(self.clock() - began, 3)
                    event = {"version": version, "step": step, "lost_at": lost_at, "waited_s": waited}
                    if found.exists:
                        detail = {name: value for name, value in event.items() if name != "version"}
                        ledger.append_audit(conn, "reconnected", run_id=self.run.id, version=version, detail=detail)
                except psycopg2.Error as exc:
                    # The server went down once more, before anything was begun anew.
                    conn.close()
                    why = primary_message(exc)
                except BaseException:
                    conn.close()
                    raise
                else:
                    self.happened.append(event)
                    self.tell(f"connected again after {waited:.1f} s, {_goes_on(found, version, self.direction)}")
                    return Regained(conn, lock, found)
            if self.clock() >= deadline:
                raise self._too_late(where, why)

    def _pause(self, seconds: float) -> None:
        """:raises Interrupted: asked to end."""
        until = self.clock() + seconds
        while True:
            self.control.check()
            left = until - self.clock()
            if left <= 0:
                return
            self.sleep(min(SLICE_S, left))

    def _connected(self, seconds: int) -> Connection:
        """:raises PgopsError: no server, or none that takes writes. :raises NotRegained: another cluster."""
        conn: Connection | None = None
        try:
            conn = self.open_session(min(seconds, self.target.connect_timeout))
            row = fetch_one(conn, "SELECT pg_catalog.pg_is_in_recovery() AS standby")
            if row and row["standby"]:
                raise PgopsError(
                    f"the server that answers for {self.target} is a standby, which takes no writes.",
                    sqlstate=errorcodes.READ_ONLY_SQL_TRANSACTION,
                )
            if self._cluster is not None and _cluster(conn) not in (None, self._cluster):
                raise NotRegained(
                    f"the server that answers for {self.target} by now is another cluster, not its standby."
                )
            return conn
        except psycopg2.Error as exc:
            if conn is not None:
                conn.close()
            raise from_psycopg(exc, f"the session on {self.target} broke again") from None
        except BaseException:
            if conn is not None:
                conn.close()
            raise

    def _locked(self, conn: Connection, where: str, deadline: float) -> RunnerLock:
        lock, told = RunnerLock(conn, wait_s=0.0), False
        while True:
            try:
                lock.acquire()
                return lock
            except RunnerBusy:
                holder = locks.holder(conn)
            if holder is not None and holder.run_id != self.run.id:
                raise NotRegained(
                    f"{where} broke off when the connection to {self.target} was lost, and {holder.sentence()} has taken over "
                    "since: nothing was repeated.",
                    sqlstate=errorcodes.LOCK_NOT_AVAILABLE,
                    hint="Wait for it and start again, or end it at its next safe point with stop.yml.",
                    extra={"reason": "busy", "holder": holder.as_dict()},
                )
            if holder is not None and not told:
                told = True
                self.tell(
                    f"{where}: waiting for its own session of before to end (server process {holder.session.pid})"
                )
            if self.clock() >= deadline:
                why = (
                    f"its own session of before still holds the lock (server process {holder.session.pid})"
                    if holder
                    else ""
                )
                raise self._too_late(where, why or "the lock was never free")
            self._pause(locks.RUNNER_POLL_S)

    def _looked(self, conn: Connection, where: str, version: str | None, done: Sequence[str]) -> Ledger:
        found = ledger.read(conn)
        if self._before is None:
            return found
        self._refuse_moved(where, found, version, done)
        # Until a version is applied commits are lazy: a crash may have taken the run's own row, and even the ledger.
        ledger.ensure(conn)
        if not ledger.has_run(conn, self.run.id):
            ledger.start_run(conn, self.run)
        by = ledger.stop_request(conn, self.run.id)
        if by:
            self.control.request(f"{by} asked it to stop")
            self.control.check()
        row = found.get(version) if version else None
        steps = [*row.steps, *row.down_steps] if row else []
        place = (where, [(item.ordinal, item.state, item.progress) for item in steps])
        if self._place == place:
            # Once is taken for the network or a restart; twice it may be the statement that brings the server down.
            raise self._not_regained(
                where,
                " a second time, with nothing done in between",
                hint="See in the server's log who or what ends it, then run it again: it goes on at that step.",
            )
        self._place = place
        return found

    def _refuse_moved(self, where: str, found: Ledger, version: str | None, done: Sequence[str]) -> None:
        """:raises NotRegained: the ledger is not as this run left it: no version is planned anew, and none is repeated."""
        assert self._before is not None
        going, gone = ("applying", "applied") if self.direction == "up" else ("reverting", "reverted")
        for key in sorted({row.version for row in (*self._before.migrations, *found.migrations)} | set(done)):
            old, now = self._before.get(key), found.get(key)
            ours = now is not None and now.run_id == self.run.id
            if key in done:
                same = ours and now is not None and now.state == gone
            else:
                same = _mark(old) == _mark(now)
                if key == version and ours and now is not None:
                    same = same or now.state in (going, gone)
            if same:
                continue
            if now is None:
                told = f"version {key}, which was in the ledger, is not in that of the server that answers by now"
                hint = "See whether a failover has lost what was committed: status.yml tells what is applied there."
            else:
                told = f"version {key} is {now.state} by run {now.run_id} since"
                hint = "See with status.yml what is applied, then run it again from the start."
            raise NotRegained(
                f"{where} broke off when the connection to {self.target} was lost, and {told}: nothing was repeated.",
                hint=hint,
                extra={"reason": "moved", "moved": ["ledger_head"]},
            )

    def _too_late(self, where: str, why: str) -> NotRegained:
        option = "migrate_reconnect" if self.direction == "up" else "rollback_reconnect"
        return self._not_regained(where, f", and no other was to be had in {self.budget_s:g} s ({option}): {why}")

    def _not_regained(self, where: str, why: str, *, hint: str = LATER) -> NotRegained:
        return NotRegained(
            f"{where} broke off: the connection to {self.target} was lost{why.rstrip('.')}.",
            sqlstate=errorcodes.CONNECTION_FAILURE,
            hint=hint,
            extra={"reason": "connection_lost"},
        )


def _mark(row: Migration | None) -> tuple[str, str, str | None] | None:
    return None if row is None else (row.checksum, row.state, row.run_id)


def _cluster(conn: Connection) -> str | None:
    """:return: the cluster's identity; None where the server does not tell it to this role."""
    try:
        return system_identifier(conn)
    except psycopg2.Error:
        if conn.closed:
            raise
        return None


def _goes_on(found: Ledger, version: str | None, direction: str) -> str:
    row = found.get(version) if version is not None else None
    if version is None or row is None:
        return "going on" if version is None else f"going on with step 1 of version {version}"
    if row.state == ("applied" if direction == "up" else "reverted"):
        return f"version {version} was {row.state}, and only the answer was lost: going on behind it"
    steps, way = row.steps, ""
    if direction == "down":
        # Of one that is not begun there is nothing yet.
        steps, way = (row.down_steps if row.state == "reverting" else [])[::-1], " on the way down"
        if not steps:
            return f"going on with version {version}{way}"
    undone = [item.ordinal for item in steps if item.state != "done"]
    if not undone:
        return f"going on at the end of version {version}{way}"
    return f"going on with step {undone[0]} of {len(steps)} of version {version}{way}"
