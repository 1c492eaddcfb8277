# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Calling the engine from a test: a run, a progress that is kept, one query, a session that holds something."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, labels, ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.monitor import Monitor
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext

from support.server import BACKUP, MIGRATOR, OWNER, RESTORE, Server

RUN = "20260101T000000Z-000001"


def target_of(server: Server, database: str) -> Target:
    """How the modules come to a database of the tests' server: as the migrator who acts as the owner."""
    return Target(
        host=server.host,
        port=str(server.port),
        user=MIGRATOR,
        owner=OWNER,
        database=database,
        passfile=str(server.passfile),
        backup_user=BACKUP,
        restore_user=RESTORE,
        bindir=str(server.bindir),
    )


def way(run_id: str = RUN, **more: Any) -> migrate.Way:
    """What apply and revert need to know of the run."""
    return migrate.Way(ledger.Run(run_id, "migrate", "local", "tester", "ops-1"), **more)


class Told(Progress):
    """Keeps what was told instead of writing it to a file."""

    def __init__(self) -> None:
        super().__init__(None)
        self.events: list[dict[str, Any]] = []

    def emit(self, text: str, **fields: Any) -> None:
        self.events.append({"text": text, **{key: value for key, value in fields.items() if value is not None}})

    @property
    def texts(self) -> list[str]:
        return [event["text"] for event in self.events]

    def said(self, part: str) -> bool:
        return any(part in text for text in self.texts)


class When(Told):
    """Does something once, as soon as something is told: a test that waits for a word depends on no pace."""

    def __init__(self, part: str, do: Callable[[], object]) -> None:
        super().__init__()
        self.part, self.do = part, do

    def emit(self, text: str, **fields: Any) -> None:
        first = self.part in text and not self.said(self.part)
        super().emit(text, **fields)
        if first:
            self.do()


class AtRows(Told):
    """Does something each time that so many rows are done."""

    def __init__(self, marks: Sequence[int], do: Callable[[], object]) -> None:
        super().__init__()
        self.marks, self.do = list(marks), do

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if self.marks and (fields.get("done") or 0) >= self.marks[0]:
            self.marks.pop(0)
            self.do()


class InterruptAt(Told):
    """Asks the job to end as soon as something is told, where `field` is given once that field is not 0."""

    def __init__(self, control: Control, part: str, *, field: str | None = None) -> None:
        super().__init__()
        self.control, self.part, self.field = control, part, field

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if self.part in text and (self.field is None or fields.get(self.field)):
            # As the lease's thread does it: not in the thread that works.
            asking = threading.Thread(target=self.control.request, args=("a test asked for it",))
            asking.start()
            asking.join()


class WithoutLedger(StepContext):
    """A step of a version that no ledger knows."""

    def save(self, state: str, progress: Any = None) -> None:
        pass

    def saved(self, state: str, progress: Any) -> str:
        return "SELECT"


def take_back_labels(conn: Connection, step: dict[str, Any], kept: list[str]) -> Told:
    """The way down of a step whose labels go, as the engine runs it, without its ledger."""
    told, control = Told(), Control()

    def another() -> Connection:
        other = psycopg2.connect(conn.dsn)
        other.autocommit = True
        return other

    with Monitor(another, control, RUN) as monitor:
        context = WithoutLedger(
            conn, another, monitor, control, told, str(conn.info.dbname), "1", "down", 1, 1, "sql", budgets={}
        )
        labels.down(context, step, {"skipped": kept})
    return told


def rows(target: Target, query: str, params: Any = None) -> list[dict[str, Any]]:
    conn = connect(target, application_name="test")
    try:
        return fetch_all(conn, query, params)
    finally:
        conn.close()


def do(target: Target, *statements: str) -> None:
    conn = connect(target, application_name="test")
    try:
        for statement in statements:
            execute(conn, statement)
    finally:
        conn.close()


def fingerprint(target: Target) -> str:
    conn = connect(target, application_name="test")
    try:
        return catalog.fingerprint(catalog.inventory(conn))
    finally:
        conn.close()


@contextmanager
def holding(target: Target, statement: str, *, name: str = "the reporting job") -> Iterator[Any]:
    """Another session with an open transaction in which the statement ran."""
    conn = connect(target, application_name=name)
    try:
        execute(conn, "BEGIN")
        execute(conn, statement)
        yield conn
    finally:
        conn.close()


def state(target: Target, version: str) -> dict[str, Any]:
    """The ledger's row of a version, and its steps as text."""
    found = rows(
        target,
        "SELECT state, failed_step, reason, (SELECT string_agg(ordinal || ':' || state, ' ' ORDER BY ordinal) "
        "FROM pgops.step s WHERE s.version = m.version AND s.direction = 'up') AS steps "
        "FROM pgops.migration m WHERE version = %s",
        (version,),
    )
    return found[0] if found else {}


def _apply_in_process(target: Target, migrations: list[dict[str, Any]], run_id: str, path: str) -> None:
    migrate.apply(target, migrations, Selection(), way(run_id, progress=Progress(path)))


@contextmanager
def applying(target: Target, migrations: list[dict[str, Any]], path: Path, run_id: str = RUN) -> Iterator[Any]:
    """An apply in a process of its own, to be killed; what it tells is in `path`."""
    process = multiprocessing.get_context("spawn").Process(
        target=_apply_in_process, args=(target, migrations, run_id, str(path))
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _apply_by_another_clock(
    target: Target, migrations: list[dict[str, Any]], path: str, lease: str, lease_s: float, set_by: Any
) -> None:
    real_time = time.time
    # The wall clock only: what is monotonic nobody can set.
    time.time = lambda: real_time() + set_by.value
    control = Control(lease, lease_seconds=lease_s, interval=0.05).start()
    migrate.apply(target, migrations, Selection(), way(progress=Progress(path), control=control))


@contextmanager
def applying_by_another_clock(
    target: Target, migrations: list[dict[str, Any]], path: Path, lease: Path, lease_s: float, set_by: Any
) -> Iterator[Any]:
    """An apply in a process of its own, whose wall clock differs by the seconds in `set_by`, a value that both see."""
    process = multiprocessing.get_context("spawn").Process(
        target=_apply_by_another_clock, args=(target, migrations, str(path), str(lease), lease_s, set_by)
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextmanager
def as_it_was(target: Target) -> Iterator[None]:
    """Whatever happens inside, the schema is the same afterwards, to the last privilege."""
    with closing(connect(target, application_name="test")) as conn:
        before = catalog.inventory(conn)
        yield
        different = [str(one) for one in catalog.compare(before, catalog.inventory(conn), ignore=())]
        assert not different, "\n".join(different)


def wait_for(condition: Callable[[], Any], seconds: float = 20, what: str = "what the test waits for") -> Any:
    """Poll until the condition holds; fails aloud when it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen in {seconds} s")


def wait_until_told(path: Path, part: str) -> None:
    wait_for(lambda: path.exists() and part in path.read_text(), what=f"progress {part!r}")
