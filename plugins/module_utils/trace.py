# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every statement of a migration really does: locks and how long, rewrites, scans, rows, WAL, temporary files, memory.

Nothing is read out of the SQL. After each statement the session itself is asked which locks its transaction holds and what became of
the tables behind them, so DDL in DO blocks, functions and triggers is seen like any other. A second session samples pg_locks meanwhile:
it tells at what moment of a long statement a lock came, and is all that there is of a statement that commits by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

import psycopg2
import psycopg2.extensions
from ansible_collections.whitecross.pgops.plugins.module_utils import server_host
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_sampler import (
    BLOCKS_WRITES,
    NOTED,
    SAMPLE_S,
    LockSampler,
    Sampled,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from ansible_collections.whitecross.pgops.plugins.module_utils.trace_queries import (
    HELD,
    INDEXES,
    OUTSIDE,
    SIZES,
    TEMPORARY,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.traced_text import (
    begins,
    commits,
    is_around,
    only_reads,
    shown,
)
from psycopg2.extensions import TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS

if TYPE_CHECKING:
    from typing_extensions import Self

# What only reads, takes no lock that anybody would notice and is over sooner is left out: the engine's own looks at the catalog.
QUIET_S = 0.05
TABLES = ("r", "p", "m", "f")
LEDGER = "pgops"


@dataclass
class _Held:
    """A lock of the transaction in hand: since when, and the statement that it came with."""

    since: float
    by: int


@dataclass
class _Statement:
    """One statement that was sent; times by ``time.monotonic()``."""

    text: str
    began: float
    ended: float = 0.0
    wal: int = 0
    rows: int = 0
    scans: set[int] = field(default_factory=set)
    rewrites: set[int] = field(default_factory=set)
    memory: int | None = None
    around: bool = False


@dataclass
class _Work(Sampled):
    """What one session does: the transaction in hand, and what is known of its tables."""

    wal: int = 0
    statements: list[_Statement] = field(default_factory=list)
    held: dict[tuple[int, str], _Held] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    scans: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def forget(self) -> None:
        self.statements, self.held = [], {}
        self.files, self.scans, self.rows, self.names = {}, {}, {}, {}


class TracingCursor(psycopg2.extensions.cursor):
    """Sends statements as ever, and shows each to the trace."""

    trace: Trace | None = None

    def execute(self, query: Any, vars: Any = None) -> None:
        """As the driver's own."""
        if self.trace is None:
            super().execute(query, vars)
            return
        text = query if isinstance(query, str) else query.as_string(self.connection)
        self.trace.around(self.connection, text, lambda: super(TracingCursor, self).execute(query, vars))


class Trace:
    """Watches an apply: give it as ``watch`` of its :class:`migrate.Way`, inside a ``with`` block.

    :ivar entries: what was seen, a mapping for each statement of a step, in their order; the same statement of one step once.
    """

    def __init__(self, connect: Callable[[], Connection], *, direction: str = "up") -> None:
        """:param connect: opens another session in the same database."""
        self._connect = connect
        self._direction = direction
        self.entries: list[dict[str, Any]] = []
        self._by_text: dict[tuple[str, int, str], dict[str, Any]] = {}
        self._sessions: dict[int, _Work] = {}
        self._step: dict[str, Any] = {}
        self._step_from = 0
        self._indexes: dict[int, int] = {}
        self._temporary = 0
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        self._observer = self._connect()
        try:
            self._sampler = LockSampler(self._connect(), self._sessions)
        except BaseException:
            self._observer.close()
            raise
        self._indexes = {row["oid"]: row["file"] for row in fetch_all(self._observer, INDEXES)}
        self._temporary = self._temporary_bytes()
        self._sampler.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sampler.end()
        # After a failure the step in hand has no end, and the server may be gone.
        with suppress(psycopg2.Error):
            self._end_step()
        self._observer.close()

    # -- migrate.Way.watch ----------------------------------------------------------------------------------------------

    def session(self, conn: Connection) -> None:
        """See :class:`StepWatch`."""
        execute(conn, HELD)
        work = _Work(conn.info.backend_pid, server_host.of(conn) is not None)
        with self._lock:
            self._sessions[work.pid] = work
        work.wal = self._held(conn)[0]["wal"]

        def cursor(of: Connection, name: str | bytes | None = None, *more: Any) -> TracingCursor:
            made = TracingCursor(of, name, *more)
            made.trace = self
            return made

        conn.cursor_factory = cursor

    def step(self, context: StepContext, step: Mapping[str, Any]) -> None:
        """See :class:`StepWatch`."""
        self._end_step()
        self._step = {
            "version": context.version,
            "ordinal": context.ordinal,
            "step": str(step.get("name") or context.kind),
            "kind": context.kind,
            "direction": context.direction,
        }
        self._step_from = len(self.entries)

    # -- a statement ----------------------------------------------------------------------------------------------------

    def around(self, conn: Connection, text: str, send: Callable[[], None]) -> None:
        """Send a statement and note what it did; called in the thread that works."""
        work = self._sessions.get(conn.info.backend_pid)
        if work is None:
            send()
            return
        if commits(text):
            self._look(conn, work, None)
            outside = self._outside(work)
            send()
            self._commit(work, outside, time.monotonic())
            return
        statement = _Statement(text, time.monotonic(), around=is_around(text))
        work.seen, work.memory = {}, None
        work.executing = statement.began
        self._sampler.wake()
        try:
            send()
        finally:
            work.executing = None
            statement.ended = time.monotonic()
            statement.memory = work.memory
        status = conn.info.transaction_status
        if status == TRANSACTION_STATUS_INERROR:
            return
        if begins(text, "ROLLBACK"):
            work.forget()
            return
        if begins(text, "BEGIN"):
            work.forget()
        work.statements.append(statement)
        self._look(conn, work, statement)
        if status != TRANSACTION_STATUS_INTRANS:
            self._by_itself(work, statement)

    def _held(self, conn: Connection) -> list[dict[str, Any]]:
        return fetch_all(conn, "EXECUTE pgops_trace")

    def _look(self, conn: Connection, work: _Work, statement: _Statement | None) -> None:
        """Ask the session what its transaction holds by now, and what came with the last statement.

        :param statement: None before the COMMIT, for what the statements sent along with it have done."""
        rows = self._held(conn)
        if statement is None:
            statement = _Statement("COMMIT", time.monotonic(), time.monotonic(), around=True)
            work.statements.append(statement)
        statement.wal, work.wal = rows[0]["wal"] - work.wal, rows[0]["wal"]
        number = len(work.statements) - 1
        rows = [row for row in rows if row["oid"] is not None and row["schema"] != LEDGER]
        # The first time that the session has a lock on a table: what its file was before, others still see.
        work.files |= self._files_outside(
            [row["oid"] for row in rows if row["oid"] not in work.files and row["kind"] in TABLES]
        )
        for row in rows:
            oid = row["oid"]
            for mode in row["modes"]:
                if mode in NOTED and (oid, mode) not in work.held:
                    before_first = work.seen.get((oid, mode), (0.0, 0.0))[0]
                    work.held[oid, mode] = _Held(max(statement.began, before_first), number)
            if row["name"] is None:
                continue  # it is gone by now; from outside it is still there
            if row["kind"] in TABLES:
                work.names[oid] = row["name"]
                if row["scans"] > work.scans.get(oid, 0):
                    statement.scans.add(oid)
                statement.rows += row["rows"] - work.rows.get(oid, 0)
                if work.files.get(oid, row["file"]) != row["file"]:
                    statement.rewrites.add(oid)
            work.scans[oid], work.rows[oid] = row["scans"], row["rows"]
            work.files[oid] = row["file"]

    def _files_outside(self, oids: list[int]) -> dict[int, int]:
        if not oids:
            return {}
        with self._lock:
            return {row["oid"]: row["file"] for row in fetch_all(self._observer, OUTSIDE, (oids,))}

    def _outside(self, work: _Work) -> dict[int, dict[str, Any]]:
        """:return: the relations of the transaction that others know, as they see them."""
        oids = {oid for oid, _ in work.held} | set(work.names)
        if not oids:
            return {}
        with self._lock:
            return {row["oid"]: row for row in fetch_all(self._observer, OUTSIDE, (sorted(oids),))}

    def _commit(self, work: _Work, outside: Mapping[int, Mapping[str, Any]], now: float) -> None:
        """Every lock is held until now."""
        locks: dict[int, list[dict[str, Any]]] = {}
        for (oid, mode), held in work.held.items():
            table = outside.get(oid)
            if table is None or table["kind"] not in TABLES:
                continue
            told = {"table": table["name"], "mode": mode, "seconds": round(now - held.since, 3)}
            locks.setdefault(held.by, []).append(told)
        self._note(work, locks, {oid: str(row["name"]) for oid, row in outside.items()})

    def _by_itself(self, work: _Work, statement: _Statement) -> None:
        """A statement outside any transaction block: what the sampler saw of it is all that is known of its locks."""
        locks: list[dict[str, Any]] = []
        if work.seen:
            with self._lock:
                rows = fetch_all(self._observer, OUTSIDE, (sorted({oid for oid, _ in work.seen}),))
            known = {row["oid"]: row for row in rows if row["schema"] != LEDGER and row["kind"] in TABLES}
            locks = [
                {
                    "table": known[oid]["name"],
                    "mode": mode,
                    "seconds": round(min(last + SAMPLE_S, statement.ended) - first, 3),
                }
                for (oid, mode), (first, last) in work.seen.items()
                if oid in known
            ]
        self._note(work, {len(work.statements) - 1: locks}, work.names)

    def _note(self, work: _Work, locks: dict[int, list[dict[str, Any]]], names: Mapping[int, str]) -> None:
        if not self._step:
            work.forget()  # the ledger, before the first step
            return
        ahead: list[dict[str, Any]] = []
        wal_ahead = 0
        last: dict[str, Any] | None = None
        for number, statement in enumerate(work.statements):
            ahead += locks.get(number, [])
            if statement.around:
                wal_ahead += statement.wal
                continue
            blocking = [lock for lock in ahead if lock["mode"] in NOTED]
            quiet = only_reads(statement.text) and statement.ended - statement.began < QUIET_S
            if quiet and not (blocking or statement.rows or statement.rewrites):
                continue
            last = self._entry(statement, ahead, names, statement.wal)
            ahead = []
        if ahead and any(lock["mode"] in BLOCKS_WRITES for lock in ahead):
            if last is None:
                last = self._entry(work.statements[0], [], names, wal_ahead)
            self._join(last, ahead)
        work.forget()

    def _entry(
        self, statement: _Statement, locks: list[dict[str, Any]], names: Mapping[int, str], wal: int
    ) -> dict[str, Any]:
        text = shown(statement.text)
        with self._lock:
            key = (str(self._step.get("version")), int(self._step.get("ordinal") or 0), text)
            entry = self._by_text.get(key)
            if entry is None:
                entry = {
                    **self._step, "statement": text, "calls": 0, "seconds": 0.0, "locks": [], "rewrites": [], "scans": [], "rows": 0,
                    "wal_bytes": 0, "temp_bytes": 0, "memory_bytes": None, "indexes": {},
                }  # fmt: skip
                self._by_text[key] = entry
                self.entries.append(entry)
            entry["calls"] += 1
            entry["seconds"] = round(entry["seconds"] + statement.ended - statement.began, 4)
            entry["rows"] += statement.rows
            entry["wal_bytes"] += max(0, wal)
            for word, oids in (("rewrites", statement.rewrites), ("scans", statement.scans)):
                found = {names[oid] for oid in oids if oid in names and not names[oid].startswith(f"{LEDGER}.")}
                entry[word] = sorted({*entry[word], *found})
            if statement.memory is not None:
                entry["memory_bytes"] = max(statement.memory, entry["memory_bytes"] or 0)
            self._join(entry, locks)
            return entry

    @staticmethod
    def _join(entry: dict[str, Any], locks: list[dict[str, Any]]) -> None:
        """Of a statement that ran more than once the longest counts: nobody waits for two of its transactions."""
        for lock in locks:
            same = next((x for x in entry["locks"] if (x["table"], x["mode"]) == (lock["table"], lock["mode"])), None)
            if same is None:
                entry["locks"].append(dict(lock))
            else:
                same["seconds"] = max(same["seconds"], lock["seconds"])

    # -- the end of a step ----------------------------------------------------------------------------------------------

    def _end_step(self) -> None:
        if not self._step:
            return
        of_step = self.entries[self._step_from :]
        with self._lock:
            found = {row["oid"]: row for row in fetch_all(self._observer, INDEXES)}
            new = [oid for oid, row in found.items() if self._indexes.get(oid) != row["file"]]
            sizes = fetch_all(self._observer, SIZES, (new,)) if new else []
            temporary = self._temporary_bytes()
            self._indexes = {oid: row["file"] for oid, row in found.items()}
            used, self._temporary = max(0, temporary - self._temporary), temporary
        if of_step:
            slowest = max(of_step, key=lambda entry: float(entry["seconds"]))
            slowest["temp_bytes"] += used
            for row in sizes:
                if row["bytes"] is not None:
                    _maker(of_step, found[row["oid"]]["name"])["indexes"][found[row["oid"]]["name"]] = int(row["bytes"])

    def _temporary_bytes(self) -> int:
        row = fetch_one(self._observer, TEMPORARY)
        return int(row["bytes"]) if row else 0


def _maker(entries: list[dict[str, Any]], index: str) -> dict[str, Any]:
    """:return: the entry of the step that names the index, else the slowest one."""
    name = index.partition(".")[2]
    slowest = max(entries, key=lambda entry: float(entry["seconds"]))
    return next((entry for entry in entries if name in entry["statement"]), slowest)
