# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which order and with how much memory the indexes of a step are built, several tables side by side.

No two builds run on one table: they deadlock, and one of them is left invalid (measured).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import lost_session, server_host
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import MEMORY_MB
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import as_login_role
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

Index = Mapping[str, Any]
# Builds one index on a session; the text tells which of how many it is, and the last whether an earlier session was lost
# over it, so that it is looked at first.
Work = Callable[[Connection, Index, str, bool], None]

# On each table the quick kinds first: what is cut off then has most of its indexes (the original: the largest last).
_RANK = {"gist": 1, "spgist": 1, "gin": 2}
# Of what the host has available, what builds may take where nobody says it.
_SHARE_OF_HOST = 4
# The least of maintenance_work_mem for each process of a parallel build (CREATE INDEX in PostgreSQL's manual).
_PROCESS_KB = 32 * 1024
# What a sort reads ahead of each of its runs when it merges them (MERGE_BUFFER_SIZE and a block in tuplesort.c).
_RUN_KB = 264

_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS "table", c.relkind::text AS kind,
       CASE WHEN c.relkind IN ('r', 'm') THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END AS bytes
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
"""
# Whose statement is at most a second old; of a session that may not be seen, nobody knows. A monitor, a report or a dump alone is no
# reason to take longer.
_CLIENTS = """
SELECT count(*) AS n FROM pg_catalog.pg_stat_activity
 WHERE datid IS NOT NULL AND usesysid IS NOT NULL AND usename <> session_user AND application_name NOT LIKE 'pgops%'
   AND (state IS NULL
        OR backend_type = 'client backend' AND (state = 'active' OR state_change > clock_timestamp() - interval '1 second'))
"""
FEWEST_CLIENTS = 2
# Parallel workers of a build while clients work. With 2 on two processors one of a hundred transactions took 10.3 ms, with 1 it took
# 7.9 ms, and the builds as long; with none they took 1.4 times as long (benchmarks/under_load.py).
WORKERS_BUSY = 1
# What a session begins with, whatever was SET on this one.
_SETTINGS = """
SELECT max(reset_val) FILTER (WHERE name = 'maintenance_work_mem') AS memory_kb,
       max(reset_val) FILTER (WHERE name = 'max_parallel_maintenance_workers') AS a_build,
       max(reset_val) FILTER (WHERE name = 'max_parallel_workers') AS together
  FROM pg_catalog.pg_settings
"""


@dataclass(frozen=True)
class Table:
    """A table of the step. :ivar kind: ``relkind``. :ivar bytes: size of its rows, without indexes."""

    kind: str
    bytes: int


def tables(conn: Connection, wanted: Sequence[Index]) -> dict[tuple[str, str], Table]:
    """:return: by (schema, table) those that are there. Takes ACCESS SHARE for their size."""
    names = list(dict.fromkeys((schema_of(index), str(index["table"])) for index in wanted))
    rows = fetch_all(conn, _TABLES, ([schema for schema, _ in names], [table for _, table in names]))
    return {(row["schema"], row["table"]): Table(row["kind"], int(row["bytes"])) for row in rows}


@dataclass
class Queue:
    """What is still to be built on one table. :ivar bytes: that each build reads."""

    bytes: int
    indexes: list[Index]

    @property
    def work(self) -> int:
        """Bytes to read for all of it."""
        return self.bytes * len(self.indexes)


def queues(todo: Sequence[Index], found: Mapping[tuple[str, str], Table]) -> list[Queue]:
    """:return: the builds of each table, quick kinds first and GIN last; the table with the most bytes to read first, so
    that it is not the one that everybody waits for at the end."""
    by_table: dict[tuple[str, str], list[Index]] = {}
    for index in todo:
        by_table.setdefault((schema_of(index), str(index["table"])), []).append(index)
    made = [
        Queue(
            found[name].bytes if name in found else 0,
            sorted(indexes, key=lambda index: _RANK.get(str(index.get("method") or "btree"), 0)),
        )
        for name, indexes in by_table.items()
    ]
    return sorted(made, key=lambda queue: queue.work, reverse=True)


class Memory:
    """Shares the memory budget among the builds that run at one time, and the server's parallel workers with it."""

    def __init__(self, context: StepContext) -> None:
        self._lock = threading.Lock()
        self._given: dict[int, int] = {}
        self._set: dict[int, tuple[int, int]] = {}
        row = fetch_one(context.conn, _SETTINGS)
        assert row is not None
        self._a_build, self._together = int(row["a_build"]), int(row["together"])
        self._server_kb = int(row["memory_kb"])
        self.budget_kb = _budget_kb(context, self._server_kb)

    def take(self, conn: Connection, at_once: int, index: Index, table_bytes: int, *, busy: bool) -> None:
        """Set what the next build of a session may use.

        :param at_once: how many builds may run at one time from now on, this one too.
        :param table_bytes: the size of the rows that it reads.
        :param busy: whether clients work.
        """
        # How many of them a build really uses depends on the table's size, and on the memory for each: the server sees to both.
        # The second scan of a build has no parallel workers, and leaves its processors to the other.
        # Builds side by side share those of one, rounded up.
        share_of_one = -(-self._a_build // at_once)
        workers = min(share_of_one, self._together // at_once, WORKERS_BUSY if busy else share_of_one)
        with self._lock:
            self._given.pop(id(conn), None)
            share = min(self.budget_kb // at_once, self.budget_kb - sum(self._given.values()))
            if str(index.get("method") or "btree") == "btree":
                share = min(share, max(self._server_kb, sort_kb(table_bytes, workers)))
            # The server's smallest is 1 MB before 18.
            self._given[id(conn)] = share = max(1024, share)
        if self._set.get(id(conn)) == (share, workers):
            return
        self._set[id(conn)] = (share, workers)
        execute(
            conn,
            sql.SQL("SET maintenance_work_mem = {}; SET max_parallel_maintenance_workers = {}").format(
                sql.Literal(f"{share}kB"), sql.Literal(workers)
            ),
        )

    def give_back(self, conn: Connection) -> None:
        """The session builds no more."""
        with self._lock:
            self._given.pop(id(conn), None)
            self._set.pop(id(conn), None)


def sort_kb(table_bytes: int, workers: int) -> int:
    """:return: kB with which a B-tree build of a table sorts at its best: so many that it merges once, and no more, as runs
    that are larger than the processor's caches take longer to sort (256 MB took 8 % more of the processor's time than 64 MB,
    benchmarks/indexes.py)."""
    return (workers + 1) * max(_PROCESS_KB, math.isqrt(table_bytes // 1024 * _RUN_KB))


def _budget_kb(context: StepContext, server_kb: int) -> int:
    """:param server_kb: what the server gives one build by itself; less than that helps nobody."""
    if context.builds.memory_mb is not None:
        return context.builds.memory_mb * 1024
    host = server_host.of(context.conn)
    available = host.available_memory_bytes() if host else None
    budget = MEMORY_MB * 1024
    if available is not None:
        budget = min(budget, available // 1024 // _SHARE_OF_HOST)
    return max(server_kb, budget)


def run(context: StepContext, waiting: Sequence[Queue], work: Work, *, empty: bool = False) -> None:
    """Work through the queues, one build of each at a time, ``migrate_index_workers`` of them side by side, and
    ``migrate_index_workers_busy`` while clients work.

    The session with the runner lock stays free for the ledger, unless there is one queue only.

    :param waiting: see :func:`queues`.
    :param empty: no table has a row: another session costs more than it saves, and memory is no question.
    :raises PgopsError: the first failure; what the other sessions have in hand is finished before.
    :raises Interrupted: asked to end.
    """
    total = sum(len(queue.indexes) for queue in waiting)
    if not total:
        return
    if empty or len(waiting) == 1 or context.builds.workers == 1:
        memory = None if empty else Memory(context)
        try:
            for number, (queue, index) in enumerate([(each, index) for each in waiting for index in each.indexes], 1):
                if memory is not None:
                    memory.take(context.conn, 1, index, queue.bytes, busy=clients_work(context.conn))
                work(context.conn, index, _place(number, total), False)
        finally:
            if not empty:
                _reset(context.conn)
        return
    _SideBySide(context, waiting, work, Memory(context), total).run()


def clients_work(conn: Connection) -> bool:
    """:return: whether at least two sessions of others have done something in the last second. :raises psycopg2.Error: the session was lost."""
    with as_login_role(conn):
        row = fetch_one(conn, _CLIENTS)
    return row is not None and int(row["n"]) >= FEWEST_CLIENTS


def _reset(conn: Connection) -> None:
    # A session that is lost says so at its next statement; here it would stand for what went wrong before.
    with suppress(psycopg2.Error):
        execute(conn, "RESET maintenance_work_mem; RESET max_parallel_maintenance_workers")


def _place(number: int, total: int) -> str:
    return f" ({number} of {total})" if total > 1 else ""


class _SideBySide:
    """Sessions that each take the next index of the table with the most work left, on which no other session builds, until none
    is left or one of them has failed. With table by table instead, three tables and two sessions end with one that waits.

    The first session always builds. Before each of its indexes it looks whether clients work, and how many of the others may.
    """

    def __init__(self, context: StepContext, waiting: Sequence[Queue], work: Work, memory: Memory, total: int) -> None:
        self._context, self._work, self._memory, self._total = context, work, memory, total
        self._waiting = list(waiting)
        self._building = 0
        self._begun = 0
        self._allowed = 1
        self._leads = True
        self._busy: bool | None = None
        self._guard = threading.Condition()
        self._sessions: list[Connection] = []
        self._failures: list[BaseException] = []

    def run(self) -> None:
        count = min(self._context.builds.workers, len(self._waiting))
        self._open(count)
        threads = [
            threading.Thread(target=self._work_through, args=(conn, number), name=f"pgops-build-{number}")
            for number, conn in enumerate(self._sessions or [self._context.conn])
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._close()
            _reset(self._context.conn)
        if self._failures:
            # An interruption ends all of them; what failed by itself is the better story.
            own = [exc for exc in self._failures if not isinstance(exc, Interrupted)]
            raise (own or self._failures)[0]

    def _open(self, count: int) -> None:
        """Open so many sessions, fewer where the server has no more: with none of them our own builds."""
        try:
            for _ in range(count):
                self._sessions.append(self._another())
        except PgopsError as error:
            if error.sqlstate != errorcodes.TOO_MANY_CONNECTIONS:
                self._close()
                raise
            told = f"{len(self._sessions) or 1} instead of {count} builds at one time"
            self._context.tell(f"the server has no free connection slot: {told}")
        except BaseException:
            self._close()
            raise

    def _another(self) -> Connection:
        """:return: a session to build with; where one is lost while it is opened, and our own stands, it is opened once more."""
        try:
            return self._context.connect()
        except (PgopsError, psycopg2.Error) as exc:
            # Without our own the run does not hold its lock: nothing is built then.
            if not lost_session.is_of_a_connection(exc) or lost_session.is_lost(self._context.conn, exc):
                raise
        self._context.control.check()
        self._context.tell("a session was lost while it was opened to build an index: once more")
        return self._context.connect()

    def _close(self) -> None:
        for conn in self._sessions:
            conn.close()

    def _work_through(self, conn: Connection, number: int) -> None:
        try:
            while True:
                if number == 0 and self._waiting:
                    self._decide(conn)
                with self._guard:
                    if self._is_done():
                        return
                    if not (self._waiting and self._may_build(number)):
                        self._guard.wait()
                        continue
                    mine = max(self._waiting, key=lambda queue: queue.work)
                    self._waiting.remove(mine)
                    self._begun += 1
                    place = _place(self._begun, self._total)
                    self._building += 1
                    at_once = min(self._allowed, self._building + len(self._waiting))
                conn = self._work_on(conn, mine, place, at_once)
                self._memory.give_back(conn)
                with self._guard:
                    self._building -= 1
                    if mine.indexes:
                        self._waiting.append(mine)
                    self._guard.notify_all()
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            self._failures.append(exc)
        finally:
            self._memory.give_back(conn)
            with self._guard:
                self._leads = self._leads and number != 0
                self._guard.notify_all()

    def _is_done(self) -> bool:
        return bool(self._failures) or not (self._waiting or self._building)

    def _may_build(self, number: int) -> bool:
        return number < self._allowed or not self._leads

    def _decide(self, conn: Connection) -> None:
        try:
            busy = clients_work(conn)
        except psycopg2.Error as exc:
            if not conn.closed or exc.pgcode is not None:
                raise
            # The build that comes now finds it lost, too, and goes on in another.
            return
        allowed = self._context.builds.workers_busy if busy else self._context.builds.workers
        with self._guard:
            self._allowed = min(allowed, len(self._sessions) or 1)
            self._guard.notify_all()
        if busy != self._busy and (busy or self._busy is not None):
            how = f"{self._allowed} at one time" if self._allowed > 1 else "one after the other"
            self._context.tell(f"{'clients' if busy else 'no clients'} are at work: indexes are built {how}")
        self._busy = busy

    def _work_on(self, conn: Connection, queue: Queue, place: str, at_once: int) -> Connection:
        """Build the first one of the queue.

        :return: the session to go on with: another one where the first was lost while the server went on."""
        index = queue.indexes.pop(0)
        try:
            self._memory.take(conn, at_once, index, queue.bytes, busy=bool(self._busy))
            self._work(conn, index, place, False)
            return conn
        except psycopg2.Error as exc:
            # With an SQLSTATE somebody has ended the session, or the server goes down: no reason to begin again.
            if not conn.closed or exc.pgcode is not None:
                raise
            self._memory.give_back(conn)
            self._context.control.check()
            try:
                conn = self._context.connect()
            except PgopsError:
                raise exc from None
            with self._guard:
                self._sessions.append(conn)
            name = f"{schema_of(index)}.{index['name']}"
            self._context.tell(f"the session that built index {name} was lost: another one looks what became of it")
            self._memory.take(conn, at_once, index, queue.bytes, busy=bool(self._busy))
            try:
                self._work(conn, index, place, True)
            except psycopg2.Error:
                if not conn.closed:
                    raise
                raise PgopsError(
                    f"{self._context.doing} broke off: the session that built index {name} was lost twice.",
                    sqlstate=errorcodes.CONNECTION_FAILURE,
                    database=self._context.database,
                    object_name=name,
                    hint="See in the server's log who or what ends it, then run it again: it goes on at this index.",
                    extra={"reason": "connection_lost"},
                ) from None
            return conn
