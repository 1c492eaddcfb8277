# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One piece of work on one table or index, believed only when the server says that it was done.

VACUUM and ANALYZE by a role without the right warn and succeed: ``last_vacuum``, ``last_analyze`` and sizes tell the truth.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_rebuilds,
    lock_forecast,
    lock_modes,
    locks,
    maintenance_obstacles,
    maintenance_partitions,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.index_rebuilds import Started
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import ANALYZE, FREEZE, REINDEX, Item
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care, Running, Watch
from psycopg2 import errorcodes, sql

DONE, SKIPPED, CANCELLED, FAILED, NOT_BEGUN = "done", "skipped", "cancelled", "failed", "not begun"
# How often a lock is asked for, with a rest between.
LOCK_TRIES = 5
LOCK_REST_S = 0.2
# Who has to end waits so long for the remains of a rebuild to go.
CLEAN_UP_S = 10.0
# Of a table that was to be frozen: less than this says that something holds its rows back.
FROZEN_SHARE = 0.9

_TABLE = """
SELECT pg_catalog.clock_timestamp()::text AS now, pg_catalog.pg_table_size(c.oid) AS bytes, c.relkind::text AS kind,
       coalesce(pg_catalog.pg_stat_get_last_vacuum_time(c.oid) >= %(since)s::timestamptz, false) AS vacuumed,
       coalesce(pg_catalog.pg_stat_get_last_analyze_time(c.oid) >= %(since)s::timestamptz, false) AS analyzed,
       coalesce(greatest(pg_catalog.pg_stat_get_last_autovacuum_time(c.oid), pg_catalog.pg_stat_get_last_vacuum_time(c.oid))
                >= %(planned)s::timestamptz, false) AS vacuumed_meanwhile,
       coalesce(greatest(pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid), pg_catalog.pg_stat_get_last_analyze_time(c.oid))
                >= %(planned)s::timestamptz, false) AS analyzed_meanwhile,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_catalog.age(c.relfrozenxid) END AS xid_age,
       CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_catalog.mxid_age(c.relminmxid) END AS multixact_age
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""
_INDEX = """
SELECT c.oid::bigint AS oid, pg_catalog.pg_relation_size(c.oid) AS bytes,
       i.indisvalid AND i.indisready AND i.indislive AS valid
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
 WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    :ivar state: ``done``, ``skipped``, ``cancelled``, ``failed`` or ``not begun``; ``why`` of any but the first.
    :ivar bytes_before: of the table without its indexes, or of the index.
    :ivar out_of_time: its time was over: the next run expects it to take longer.
    :ivar again: it may be tried again in this run.
    :ivar settled: somebody else has done it, or does it just now, or it is gone: it is not due any more.
    :ivar written: of a partitioned table, and of each one below it, the rows written below it in all when it was analyzed.
    """

    item: Item
    state: str
    why: str | None = None
    seconds: float = 0.0
    bytes_before: int | None = None
    bytes_after: int | None = None
    out_of_time: bool = False
    again: bool = False
    settled: bool = False
    written: dict[str, int] | None = None
    sqlstate: str | None = None
    notes: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a result."""
        given = asdict(self)
        item = given.pop("item")
        del given["again"]
        told = {name: item[name] for name in ("action", "with_analyze", "rank", "forecast_s", "bytes")}
        back = (
            self.bytes_before - self.bytes_after
            if self.bytes_before is not None and self.bytes_after is not None
            else 0
        )
        return {
            "object": self.item.object,
            "table": self.item.table,
            **told,
            "reasons": list(self.item.reasons),
            **given,
            "notes": list(self.notes),
            "given_back": back if self.state == DONE else 0,
        }


@dataclass
class Worker:
    """A session that works.

    :ivar conn: of the role that maintains, in autocommit.
    :ivar book: of the role that writes the ledger; ``lock`` guards it, since all workers share it.
    :ivar owner: opens a session of the role that owns the objects.
    :ivar planned: the server's time when the plan was made.
    """

    conn: Connection
    book: Connection
    owner: Callable[[], Connection]
    lock: Any
    watch: Watch
    care: Care
    run_id: str
    planned: str
    tell: Callable[..., None]
    sleep: Callable[[float], None] = time.sleep

    def prepare(self) -> None:
        """Cost delay for the session. What a killed module has begun the server ends by itself a second later."""
        delay = sql.Literal(f"{self.care.cost_delay_ms:g}ms")
        execute(self.conn, sql.SQL("SET vacuum_cost_delay = {}").format(delay))
        with suppress(psycopg2.Error):  # a platform that cannot notice
            execute(self.conn, "SET client_connection_check_interval = '1s'")

    def work(self, item: Item) -> Outcome:
        """Do it and prove it. Takes SHARE UPDATE EXCLUSIVE on the table: no reader and no writer waits."""
        if item.lacks:
            return Outcome(item, FAILED, item.lacks, sqlstate=errorcodes.INSUFFICIENT_PRIVILEGE)
        there = self._in_use(item)
        if there is not None:
            return there
        users = TableLock(item.table_oid, item.table_schema, item.table_name, lock_modes.ACCESS_EXCLUSIVE)
        old = maintenance_obstacles.old_transactions(self.conn, users, self.sleep) if item.action == REINDEX else None
        if old is not None:
            return Outcome(item, SKIPPED, old, again=True)
        return self._rebuild(item) if item.action == REINDEX else self._vacuum(item)

    # VACUUM and ANALYZE

    def _vacuum(self, item: Item) -> Outcome:
        before = self._table(item)
        if before is None:
            return Outcome(item, SKIPPED, "it is gone", settled=True)
        meanwhile = self._meanwhile(item, before)
        if meanwhile:
            return Outcome(item, SKIPPED, meanwhile, bytes_before=int(before["bytes"]), settled=True)
        written = maintenance_partitions.written(self.conn, item.oid) if item.kind == "p" else None
        del self.conn.notices[:]
        ended = self._run(item, _statement(item, truncate=self.care.truncate))
        if ended.state != DONE:
            return replace(ended, bytes_before=int(before["bytes"]))
        after = self._table(item, since=str(before["now"]))
        if after is None:
            return replace(ended, state=SKIPPED, why="it is gone", settled=True)
        ended = replace(ended, bytes_before=int(before["bytes"]), bytes_after=int(after["bytes"]), written=written)
        return self._proved(item, ended, before, after)

    def _meanwhile(self, item: Item, before: dict[str, Any]) -> str | None:
        if item.action == ANALYZE:
            return "somebody has analyzed it since the plan was made" if before["analyzed_meanwhile"] else None
        if item.action != FREEZE and before["vacuumed_meanwhile"]:
            return "somebody has vacuumed it since the plan was made"
        return None

    def _proved(self, item: Item, ended: Outcome, before: dict[str, Any], after: dict[str, Any]) -> Outcome:
        analyzed = bool(after["analyzed"])
        vacuumed = bool(after["vacuumed"]) or after["bytes"] < before["bytes"]
        wants_statistics = item.action == ANALYZE or item.with_analyze
        if (item.action != ANALYZE and not vacuumed) or (wants_statistics and not analyzed):
            said = "; ".join(line.partition(":")[2].strip() for line in self.conn.notices if line.startswith("WARNING"))
            word = "ANALYZE" if item.action == ANALYZE else "VACUUM"
            why = f"{word} ended without an error, and the server does not say that it was done"
            return replace(ended, state=FAILED, why=f"{why}: {said}" if said else why)
        if item.action == FREEZE:
            left = self._not_frozen(item, before, after)
            if left:
                return replace(ended, state=FAILED, why=left)
        return ended

    def _not_frozen(self, item: Item, before: dict[str, Any], after: dict[str, Any]) -> str | None:
        for age in item.due:
            if after[age] > FROZEN_SHARE * before[age]:
                by = maintenance_obstacles.holds_back(self.conn)
                return f"it was vacuumed, and its {age.replace('_', ' ')} is still {after[age]:,}: {by} holds it back"
        return None

    def _table(self, item: Item, since: str | None = None) -> dict[str, Any] | None:
        given = {"schema": item.schema, "name": item.name, "since": since or "infinity", "planned": self.planned}
        return fetch_one(self.conn, _TABLE, given)

    # REINDEX

    def _rebuild(self, item: Item) -> Outcome:
        before = self._index(item)
        if before is None or int(before["oid"]) != item.oid:
            return Outcome(
                item, SKIPPED, "it is gone, or somebody has rebuilt it since the plan was made", settled=True
            )
        if not before["valid"]:
            return Outcome(item, SKIPPED, "it is invalid by now")
        with self.lock:
            started = index_rebuilds.start(self.book, item.schema, item.name, item.table_oid, self.run_id)
        name = sql.Identifier(item.schema, item.name)
        ended = self._run(item, sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(name), lock_timeout_ms=0)
        after = None if self.conn.closed else self._index(item)
        ended = replace(ended, bytes_before=int(before["bytes"]), bytes_after=int(after["bytes"]) if after else None)
        if ended.state == DONE and (after is None or after["oid"] == before["oid"] or not after["valid"]):
            why = "REINDEX ended without an error, and the index is the one of before"
            ended = replace(ended, state=FAILED, why=why)
        swapped = after is not None and after["oid"] != before["oid"] and bool(after["valid"])
        if ended.state == CANCELLED and swapped:
            # It was ended while it waited to drop what it had replaced: the work is done.
            ended = replace(ended, state=DONE, why=None, out_of_time=False)
        return self._settled(started, ended)

    def _settled(self, started: Started, ended: Outcome) -> Outcome:
        """Drop what it has left and write down how it ended; what cannot be dropped now is the next run's."""
        left = self.drop_remains(started)
        if left:
            told = f"{', '.join(left)} is still there, its table is in use: the next run drops it first"
            return replace(ended, notes=(*ended.notes, told))
        detail = {name: getattr(ended, name) for name in ("bytes_before", "bytes_after", "seconds", "why")}
        with self.lock:
            index_rebuilds.end(self.book, started, done=ended.state == DONE, run_id=self.run_id, detail=detail)
        return ended

    def drop_remains(self, started: Started) -> list[str]:
        """Drop what a rebuild of ours has left, and nothing else, as the role that owns it: MAINTAIN is no right to drop.

        :return: what could not be dropped within :data:`CLEAN_UP_S`.
        """
        with self.lock:
            there = index_rebuilds.remains(self.book, started)
        if not there:
            return []
        left = []
        with closing(self.owner()) as conn:
            execute(conn, f"SET statement_timeout = {int(1000 * CLEAN_UP_S)}")
            for remain in there:
                self.tell(f"dropping {remain.full_name}, which a rebuild has left")
                try:
                    execute(conn, index_rebuilds.drop_statement(remain))
                except psycopg2.Error as exc:
                    if conn.closed or exc.pgcode is None:
                        raise
                    left.append(remain.full_name)
        return left

    def _index(self, item: Item) -> dict[str, Any] | None:
        return fetch_one(self.conn, _INDEX, {"schema": item.schema, "name": item.name})

    # Both

    def _in_use(self, item: Item) -> Outcome | None:
        """:return: skipped, for who holds what excludes our lock, after a few looks; None where nobody does."""
        wanted = TableLock(item.table_oid, item.table_schema, item.table_name, lock_modes.SHARE_UPDATE_EXCLUSIVE)
        there: list[locks.Session] = []
        for _ in range(LOCK_TRIES):
            there = lock_forecast.in_the_way(self.conn, [wanted])
            if not there:
                return None
            if any(session.backend_type == "autovacuum worker" for session in there):
                break  # it does the same work, and one to prevent wraparound gives way to nobody
            self.sleep(LOCK_REST_S * (0.5 + random.random()))
        why = f"its table is in use by {'; '.join(session.sentence() for session in there)}"
        # An autovacuum does the same; only one to prevent wraparound freezes all that there is.
        word = "to prevent wraparound" if item.action == FREEZE else "autovacuum worker"
        settled = item.action != REINDEX and any(word in f"{one.backend_type} {one.query_digest}" for one in there)
        return Outcome(item, SKIPPED, why, again=True, settled=settled)

    def _run(self, item: Item, statement: sql.Composable, lock_timeout_ms: int | None = None) -> Outcome:
        timeout = self.care.lock_timeout_ms if lock_timeout_ms is None else lock_timeout_ms
        begun = time.monotonic()
        running = Running(self.conn.info.backend_pid, self.conn, _what(item), item.action == REINDEX, self.tell, begun)
        self.tell(running.what)
        for attempt in range(LOCK_TRIES):
            execute(self.conn, f"SET lock_timeout = {timeout}")
            if not self.watch.started(running):
                return Outcome(item, NOT_BEGUN, self.watch.stopped or "its time was over")
            try:
                execute(self.conn, statement)
                return Outcome(item, DONE, seconds=round(time.monotonic() - begun, 3))
            except psycopg2.Error as exc:
                self.watch.over(running)
                if self.conn.closed or exc.pgcode is None:
                    raise
                seconds = round(time.monotonic() - begun, 3)
                if exc.pgcode == errorcodes.QUERY_CANCELED:
                    return Outcome(
                        item, CANCELLED, running.why or "somebody has cancelled it", seconds,
                        out_of_time=running.out_of_time, again=running.why is not None and not running.out_of_time,
                    )  # fmt: skip
                if exc.pgcode == errorcodes.DEADLOCK_DETECTED:
                    why = "it deadlocked with another session, and gave way"
                    return Outcome(item, CANCELLED, why, seconds, again=True)
                if exc.pgcode == errorcodes.LOCK_NOT_AVAILABLE:
                    if attempt + 1 < LOCK_TRIES:
                        self.sleep(LOCK_REST_S * (0.5 + random.random()))
                        continue
                    lost = self._in_use(item) or Outcome(item, SKIPPED, "its lock was not to be had", again=True)
                    return replace(lost, seconds=seconds)
                failed = from_psycopg(exc, f"{_word(item)} failed", statement=statement.as_string(self.conn))
                return Outcome(item, FAILED, failed.message, seconds, sqlstate=exc.pgcode)
            finally:
                self.watch.over(running)
                self._absorb(running)
        raise AssertionError("the last attempt returns")

    def _absorb(self, running: Running) -> None:
        """A cancel that came too late for its statement must not end the next one."""
        if running.why is None or self.conn.closed:
            return
        for _ in range(3):
            with suppress(psycopg2.errors.QueryCanceled):
                execute(self.conn, "SELECT pg_catalog.pg_sleep(0.01)")


def _statement(item: Item, *, truncate: bool) -> sql.Composed:
    name = sql.Identifier(item.schema, item.name)
    if item.action == ANALYZE:
        return sql.SQL("ANALYZE {}").format(name)
    options = [*(["FREEZE"] if item.action == FREEZE else []), *(["ANALYZE"] if item.with_analyze else [])]
    if not truncate:
        # Else VACUUM takes ACCESS EXCLUSIVE for as long as it cuts the empty end off the file. Where it is wanted, the table's own
        # vacuum_truncate has the last word.
        options.append("TRUNCATE FALSE")
    chosen = sql.SQL(f"({', '.join(options)}) ") if options else sql.SQL("")
    return sql.SQL("VACUUM {}{}").format(chosen, name)


def _word(item: Item) -> str:
    return {ANALYZE: "ANALYZE", REINDEX: "REINDEX"}.get(item.action, "VACUUM")


def _what(item: Item) -> str:
    return {
        ANALYZE: f"analyzing {item.object}",
        REINDEX: f"rebuilding index {item.object}",
        FREEZE: f"freezing {item.object}",
    }.get(item.action, f"vacuuming {item.object}")
