# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Clients that work by a timetable, in a process of their own, so that neither they nor what is measured waits for the other's Python.

Each client has a transaction due every so often. One that is due while the client is stuck in an earlier one counts from when it was due:
else a tool that stops everybody for ten seconds would be charged with one slow transaction a client, and not with the hundreds that the
application wanted in that time (coordinated omission). What was due and never came to its turn is counted as failed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import psycopg2

LATE_S = 1.0
# After the timetable's end: who has not caught up by then is taken for stuck for good.
CATCH_UP_S = 60.0
CONNECT_S = 120.0


@dataclass(frozen=True)
class Transaction:
    """One transaction of the timetable; moments are of time.monotonic, which all processes of a machine share."""

    due: float
    ended: float
    fault: str | None

    @property
    def seconds(self) -> float:
        """:return: from when it was due to its end."""
        return self.ended - self.due


@dataclass(frozen=True)
class Seen:
    """What the clients saw of a stretch of time; milliseconds."""

    transactions: int
    failed: int
    late: int
    worst_ms: float
    p99_ms: float
    faults: tuple[str, ...]


def seen(transactions: Sequence[Transaction], since: float, until: float) -> Seen:
    """:return: what was due in this stretch, by the timetable."""
    due = [one for one in transactions if since <= one.due < until]
    waits = sorted(one.seconds for one in due)
    if not waits:
        return Seen(0, 0, 0, 0.0, 0.0, ())
    faults = [one.fault for one in due if one.fault]
    return Seen(
        transactions=len(due),
        failed=len(faults),
        late=sum(wait > LATE_S for wait in waits),
        worst_ms=waits[-1] * 1000,
        p99_ms=waits[min(len(waits) - 1, int(len(waits) * 0.99))] * 1000,
        faults=tuple(sorted(set(faults))),
    )


@dataclass(frozen=True)
class Work:
    """What the clients do: kinds of transaction, each a list of statements with ``%(id)s`` for a row's number.

    :ivar connection: what psycopg2 connects with.
    :ivar period_s: seconds from one transaction of a client to its next.
    :ivar timeout_s: the clients' statement_timeout, 0 for none.
    """

    connection: dict[str, Any]
    kinds: Sequence[Sequence[str]]
    rows: int
    count: int = 8
    period_s: float = 0.04
    timeout_s: float = 0.0


class Timetable:
    """`with Timetable(work) as clients: …` and then `clients.transactions`."""

    def __init__(self, work: Work) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.transactions: list[Transaction] = []
        self._ended = spawn.Event()
        self._ready = spawn.Event()
        self._answer, theirs = spawn.Pipe(duplex=False)
        self._process = spawn.Process(target=_all, args=(work, self._ready, self._ended, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        if not self._ready.wait(CONNECT_S):
            self._process.kill()
            raise RuntimeError(f"the clients did not connect in {CONNECT_S:g} s")
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._answer.poll(CATCH_UP_S + 30):
            self.transactions = [Transaction(*one) for one in self._answer.recv()]
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
        if not self.transactions and exc[0] is None:
            raise RuntimeError("the clients did not answer")


def _all(work: Work, ready: Any, ended: Any, answer: Any) -> None:
    """The clients' process."""
    done: list[tuple[float, float, str | None]] = []
    connections = [_connect(work) for _ in range(work.count)]
    begin = time.monotonic() + 0.05
    until: list[float] = []
    threads = [
        threading.Thread(target=_client, args=(work, number, conn, begin, until, done))
        for number, conn in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    ready.set()
    parent = multiprocessing.parent_process()
    while not ended.wait(0.05):
        if parent is not None and not parent.is_alive():
            # Killed: nobody is left who would end the clients.
            os._exit(1)
    until.append(time.monotonic())
    for thread in threads:
        thread.join()
    answer.send(done)


def _connect(work: Work) -> Any:
    conn = psycopg2.connect(application_name="benchmark client", **work.connection)
    with conn.cursor() as cursor:
        cursor.execute("SET statement_timeout = %s", (f"{int(work.timeout_s * 1000)}ms",))
    conn.commit()
    return conn


def _client(
    work: Work, number: int, conn: Any, begin: float, until: list[float], done: list[tuple[float, float, str | None]]
) -> None:
    chance = random.Random(number)
    due = begin + work.period_s * number / work.count
    while True:
        # In small pieces, so that the end of the timetable is noticed.
        while (left := due - time.monotonic()) > 0 and not until:
            time.sleep(min(left, 0.05))
        if until and due >= until[0]:
            break
        if until and time.monotonic() > until[0] + CATCH_UP_S:
            done.append((due, time.monotonic(), "never came to its turn"))
            due += work.period_s
            continue
        fault = None
        try:
            if conn.closed:
                conn = _connect(work)
            with conn.cursor() as cursor:
                for statement in chance.choice(work.kinds):
                    cursor.execute(statement, {"id": chance.randrange(1, work.rows + 1)})
            conn.commit()
        except psycopg2.Error as error:
            fault = f"{error.pgcode}: {str(error).strip().splitlines()[0]}"
            if not conn.closed:
                conn.rollback()
        done.append((due, time.monotonic(), fault))
        due += work.period_s
    conn.close()
