# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One runner a database; other sessions of the server, as they are named; the tables that a statement names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.query_digest import query_digest
from ansible_collections.whitecross.pgops.plugins.module_utils.sql_names import NAME, folded
from psycopg2 import errorcodes
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

if TYPE_CHECKING:
    from typing_extensions import Self

# "pgops" in ASCII, then a number: who looks into pg_locks for classid 1885826927 finds the tool by it.
RUNNER_KEY = 0x70676F7073000001
WORKER_KEY = 0x70676F7073000002

# Asked for again and again, and not waited for: a session that waits cannot say who holds it, nor end when its job has to.
RUNNER_POLL_S = 0.5

RETRY_SQLSTATES = frozenset(
    {errorcodes.LOCK_NOT_AVAILABLE, errorcodes.DEADLOCK_DETECTED, errorcodes.SERIALIZATION_FAILURE}
)

Sleep = Callable[[float], None]
Clock = Callable[[], float]


class LockWaitExhausted(PgopsError):
    """The budget for lock waits is used up: nothing failed, somebody else held on."""


class RunnerBusy(PgopsError):
    """Another run holds the runner lock of this database."""


@dataclass(frozen=True)
class Session:
    """Another session of the server, told without the text of its query, which may hold patient data.

    :ivar query_digest: tells its query, or the last one: the server's ``query_id`` where it computes one (the queryid of
        pg_stat_statements), or a hash of ours over the text without literals; of an autovacuum worker what it does.
    :ivar age_s: seconds since its transaction began.
    :ivar idle_s: seconds since its last statement ended, where it idles in a transaction.
    """

    pid: int
    application_name: str
    user: str | None
    since: str | None
    backend_type: str | None = None
    state: str | None = None
    client: str | None = None
    query_digest: str | None = None
    transaction: str | None = None
    age_s: float | None = None
    idle_s: float | None = None

    def sentence(self) -> str:
        """:return: what a person needs to find it."""
        name = self.application_name or self.backend_type or "no application_name"
        told = f"pid {self.pid} ({name}"
        if self.user:
            told += f", role {self.user}"
        if self.state:
            told += f", {self.state}"
        if self.query_digest:
            told += f", query {self.query_digest}"
        if self.since is None and self.pid:
            return told + ", since when is hidden without pg_read_all_stats)"
        return told + (f", since {self.since})" if self.since else ")")

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a result."""
        return {name: value for name, value in asdict(self).items() if name not in ("transaction", "age_s", "idle_s")}


# application_name and usename of every session are visible to all; the rest needs the same role or pg_read_all_stats. Who
# works in a database and has no role is an autovacuum worker.
# The virtual transaction id is in pg_locks for all to see, and other for each transaction of a session.
_SESSION = """
SELECT a.pid, coalesce(a.application_name, '') AS application_name, a.usename::text AS "user",
       to_char(coalesce(a.xact_start, a.backend_start) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
       coalesce(a.backend_type, CASE WHEN a.usesysid IS NULL AND a.datid IS NOT NULL THEN 'autovacuum worker' END)
           AS backend_type,
       a.state, coalesce(a.client_hostname, host(a.client_addr)) AS client, a.query_id, a.query,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s,
       CASE WHEN a.state LIKE 'idle in transaction%%'
            THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END AS idle_s,
       (SELECT l.virtualtransaction FROM pg_catalog.pg_locks l
         WHERE l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted LIMIT 1) AS transaction
  FROM pg_catalog.pg_stat_activity a
"""

# Of a SHARE UPDATE EXCLUSIVE lock l, also where it is only asked for: who stands in line has a snapshot already. An autovacuum has
# that lock too, builds nothing, and gives way to who waits behind it; its type is hidden from a plain role, that it has no role is not.
OF_A_BUILD = """
l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                   WHERE a.pid = l.pid AND a.usesysid IS NULL AND a.datid IS NOT NULL)
"""
# Of an index with row i in pg_index: somebody builds on its table right now, so that it is not known to be what a build has left. Of
# the sessions of others the view of builds shows no more than the pid.
BEING_BUILT = f"""
EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_progress_create_index b ON b.pid = l.pid
         WHERE l.relation = i.indrelid AND l.granted AND {OF_A_BUILD})
"""

_RUNNER_LOCK = """
SELECT l.pid FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.classid = %s AND l.objid = %s AND l.objsubid = 1
"""


@contextmanager
def as_login_role(conn: Connection) -> Iterator[None]:
    """Look as the role that logged in: what the statistics views show depends on the current role, and the owner role
    that the session acts as is a member of nothing."""
    if conn.info.transaction_status != TRANSACTION_STATUS_IDLE:
        yield
        return
    execute(conn, "BEGIN; SET LOCAL ROLE NONE")
    try:
        yield
    finally:
        if not conn.closed:
            execute(conn, "ROLLBACK")


def _sessions(conn: Connection, condition: str, params: tuple[Any, ...]) -> list[Session]:
    with as_login_role(conn):
        rows = fetch_all(conn, _SESSION + condition, params)
    found = []
    for row in rows:
        known, text = row.pop("query_id"), row.pop("query")
        digest = f"query_id {known}" if known else query_digest(text)
        if row["backend_type"] == "autovacuum worker" and str(text).startswith("autovacuum: "):
            # The table, and whether it is to prevent wraparound.
            digest = str(text)
        found.append(Session(**row, query_digest=digest))
    return found


def sessions_of(conn: Connection, pids: Sequence[int]) -> list[Session]:
    """:param pids: of server processes; 0 for prepared transactions, which have none.
    :return: those that are still there, the oldest transaction first."""
    found = _sessions(conn, " WHERE a.pid = ANY(%s) ORDER BY a.xact_start", (list(pids),)) if any(pids) else []
    if 0 in pids:
        found.append(Session(0, "a prepared transaction", None, None, "prepared transaction"))
    return found


def _halves(key: int) -> tuple[int, int]:
    return key >> 32, key & 0xFFFFFFFF


@dataclass(frozen=True)
class Holder:
    """Who holds the runner lock."""

    session: Session
    run_id: str | None
    since: str | None
    ops_host: str | None
    who: str | None

    def sentence(self) -> str:
        """:return: run, since when, from which host, server process."""
        told = f"run {self.run_id}" if self.run_id else (self.session.application_name or "a session")
        if self.who:
            told += f" by {self.who}"
        if self.ops_host or self.session.client:
            told += f" from host {self.ops_host or self.session.client}"
        if self.since:
            told += f" since {self.since}"
        return f"{told} (server process {self.session.pid})"

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a result."""
        return {
            "pid": self.session.pid,
            "application_name": self.session.application_name,
            "client": self.session.client,
            "run_id": self.run_id,
            "since": self.since,
            "ops_host": self.ops_host,
            "who": self.who,
        }


def application_name(run_id: str) -> str:
    """:return: the name that every session of a run carries, from which others read the run."""
    return f"pgops {run_id}"


def run_id_of(name: str) -> str | None:
    """:return: the run that a session's application_name tells, None where it is no session of a playbook's run."""
    match = re.match(r"pgops ([0-9]{8}T[0-9]{6}Z-[0-9a-f]{6})\b", name)
    return match.group(1) if match else None


def holder(conn: Connection) -> Holder | None:
    """:return: who holds the runner lock of this database, or None. Takes no lock."""
    pids: list[int] = []
    for key in (RUNNER_KEY, WORKER_KEY):
        pids += [int(row["pid"]) for row in fetch_all(conn, _RUNNER_LOCK, _halves(key))]
    if not pids:
        return None
    found = _sessions(conn, " WHERE a.pid = ANY(%s) ORDER BY array_position(%s, a.pid)", (pids, pids))
    if not found:
        return None
    session = found[0]
    match = re.match(r"pgops (\S+)", session.application_name)
    run_id = match.group(1) if match else None
    row: dict[str, Any] | None = None
    if run_id and fetch_one(conn, "SELECT 1 AS yes WHERE to_regclass('pgops.run') IS NOT NULL"):
        row = fetch_one(
            conn,
            """SELECT to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since, ops_host, who """
            "FROM pgops.run WHERE id = %s",
            (run_id,),
        )
    return Holder(
        session=session,
        run_id=run_id,
        since=(row or {}).get("since") or session.since,
        ops_host=(row or {}).get("ops_host"),
        who=(row or {}).get("who"),
    )


class RunnerLock:
    """The lock that makes one run at a time of a database: a session's advisory lock, so it dies with its session.

    Polled with ``pg_try_advisory_lock``, never waited for: a waiter holds a snapshot, CREATE INDEX CONCURRENTLY waits
    for every snapshot, and the two deadlock (measured). It is held by the session that works, not by one beside it: a
    killed module's statement goes on in the server for a while, and so long the lock must not be free.
    """

    def __init__(
        self,
        conn: Connection,
        *,
        wait_s: float = 30.0,
        control: Control | None = None,
        tell: Callable[[str], None] = lambda text: None,
        sleep: Sleep = time.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        """:param conn: a direct connection in autocommit.
        :param wait_s: seconds to wait for another run; 0 looks once.
        :param tell: is told who is waited for.
        """
        self._conn = conn
        self._wait_s = wait_s
        self._control = control
        self._tell = tell
        self._sleep = sleep
        self._clock = clock

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """:raises RunnerBusy: held by another run when the wait is over; names it.
        :raises Interrupted: asked to stop while waiting.
        """
        deadline = self._clock() + self._wait_s
        told: int | None = None
        while True:
            if self._try():
                return
            other = holder(self._conn)
            if self._clock() >= deadline:
                raise RunnerBusy(
                    f"Database {self._conn.info.dbname} is being migrated by "
                    f"{other.sentence() if other else 'another run'}; waited {self._wait_s:g} s, nothing was changed.",
                    sqlstate=errorcodes.LOCK_NOT_AVAILABLE,
                    database=self._conn.info.dbname,
                    hint="Wait for it and start again, or end it at its next safe point with stop.yml.",
                    extra={"reason": "busy", "holder": other.as_dict() if other else None},
                )
            if other is not None and other.session.pid != told:
                told = other.session.pid
                self._tell(f"waiting for {other.sentence()}")
            if self._control is not None:
                self._control.check()
            self._sleep(RUNNER_POLL_S)

    def _try(self) -> bool:
        row = fetch_one(self._conn, "SELECT pg_catalog.pg_try_advisory_lock(%s) AS got", (RUNNER_KEY,))
        if not row or not row["got"]:
            return False
        # A build that a killed run left behind still goes on in the server: it holds the second lock, shared.
        row = fetch_one(self._conn, "SELECT pg_catalog.pg_try_advisory_lock(%s) AS got", (WORKER_KEY,))
        if not row or not row["got"]:
            fetch_one(self._conn, "SELECT pg_catalog.pg_advisory_unlock(%s)", (RUNNER_KEY,))
            return False
        fetch_one(self._conn, "SELECT pg_catalog.pg_advisory_unlock(%s)", (WORKER_KEY,))
        return True

    def release(self) -> None:
        """Give the lock back; a session that is gone has done so already."""
        if self._conn.closed:
            return
        try:
            fetch_one(self._conn, "SELECT pg_catalog.pg_advisory_unlock(%s)", (RUNNER_KEY,))
        except psycopg2.Error:
            self._conn.close()


def join_run(conn: Connection) -> None:
    """Let another session of the run hold the run's second lock, shared, as long as it lives."""
    fetch_one(conn, "SELECT pg_catalog.pg_try_advisory_lock_shared(%s)", (WORKER_KEY,))


def is_running(conn: Connection) -> bool:
    """:return: whether any run holds a lock on this database."""
    return holder(conn) is not None


def blockers_of(conn: Connection, pid: int) -> list[Session]:
    """:return: the sessions that server process ``pid`` waits for at this moment."""
    row = fetch_one(conn, "SELECT pg_catalog.pg_blocking_pids(%s) AS pids", (pid,))
    return sessions_of(conn, row["pids"] if row else [])


def still_open(conn: Connection, sessions: Sequence[Session]) -> list[Session]:
    """:return: those of the sessions that are in the same transaction as when they were seen, as they are now."""
    seen = {(session.pid, session.transaction) for session in sessions if session.pid and session.transaction}
    found = sessions_of(conn, [pid for pid, _ in seen])
    return [session for session in found if (session.pid, session.transaction) in seen]


_TABLE_NAMED = re.compile(
    rf"""(?ix)\b(?:
        (?:ALTER|DROP|TRUNCATE|LOCK|CREATE(?:\s+UNLOGGED)?)\s+TABLE\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:ONLY\s+)?
      | REFERENCES\s+
      | CREATE\s+(?:UNIQUE\s+)?INDEX\b[^()]*?\bON\s+(?:ONLY\s+)?
      | TRIGGER\b[^()]*?\bON\s+
      | UPDATE\s+(?:ONLY\s+)? | DELETE\s+FROM\s+(?:ONLY\s+)? | INSERT\s+INTO\s+
    )({NAME})(?:\s*\.\s*({NAME}))?"""
)


# What follows UPDATE where it begins no statement: in a foreign key, a trigger, a policy, a GRANT or a SELECT.
_NO_TABLE = frozenset(
    {"set", "on", "of", "or", "to", "cascade", "restrict", "no", "using", "with", "skip", "nowait"}
)  # fmt: skip

# A quoted name first: what looks like a comment or a string in it is neither.
_NO_NAMES = re.compile(r"""(?P<name>"(?:[^"]|"")*")|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'""", re.DOTALL)


@lru_cache(maxsize=4096)
def tables_in(statement: str) -> tuple[tuple[str, str], ...]:
    """:return: (schema, table) that a statement names as what it alters or refers to, as far as its text tells.

    Only used to look before asking and to name what a version touched; nothing is decided by it.
    """
    text = _NO_NAMES.sub(lambda token: token["name"] or " ", statement)
    found: list[tuple[str, str]] = []
    for match in _TABLE_NAMED.finditer(text):
        first, second = match.group(1), match.group(2)
        name = (folded(first), folded(second)) if second else ("public", folded(first))
        if name not in found and not (second is None and first.lower() in _NO_TABLE):
            found.append(name)
    return tuple(found)
