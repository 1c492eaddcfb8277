# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Somebody sets the clock of the host on which a run works: it goes on, nobody comes in between, and it still ends with its controller."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import RUN, applying_by_another_clock, do, rows, state, wait_for, wait_until_told, way
from support.recording_client import RecordingClient
from support.tree import TestTree

V1 = "20260101000001"
OTHER = "20260101T000000Z-0000bb"
# So many batches that the run still works when the second runner comes, on a slow machine too.
ROWS, LEASE_S = 4000, 2.5
HOUR = 3600.0


@dataclass
class Host:
    """The host of the run as its clock goes, and the controller that renews the lease there."""

    lease: Path
    clock: Any = field(default_factory=lambda: multiprocessing.get_context("spawn").Value("d", 0.0))
    _left: threading.Event = field(default_factory=threading.Event)
    _renewing: threading.Lock = field(default_factory=threading.Lock)

    def set_clock(self, seconds: float) -> None:
        with self._renewing:
            self.clock.value = seconds
            time.sleep(0.3)  # several looks of the run at a lease of the old time

    @contextmanager
    def controller(self) -> Iterator[None]:
        thread = threading.Thread(target=self._renew)
        thread.start()
        try:
            yield
        finally:
            self.leave()
            thread.join()

    def leave(self) -> None:
        self._left.set()

    def _renew(self) -> None:
        while not self._left.wait(0.3):
            with self._renewing:
                now = time.time() + self.clock.value
                os.utime(self.lease, (now, now))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "lease").touch()
    return Host(tmp_path / "lease")


@pytest.fixture
def migrations(tmp_path: Path, target: Any) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    step = {
        "table": "people", "key": "id", "batch_size": 100, "adapt": False, "pause_ms": 250, "statement": "fill.sql.j2",
    }  # fmt: skip
    up = {"fill.sql.j2": "UPDATE public.people SET touched = touched + 1 WHERE id BETWEEN $1 AND $2;"}
    tree.add(
        V1,
        "fill",
        [{"backfill": step}, {"analyze": ["people"]}],
        up,
        rollback={"safety": "partial", "stays": "the count"},
    )
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, touched integer NOT NULL DEFAULT 0)",
        f"INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, {ROWS}) n",
    )
    return tree.render()


@pytest.fixture
def client(target: Any, migrations: list[dict[str, Any]]) -> Iterator[RecordingClient]:
    with RecordingClient(target, "people") as made:
        yield made
        made.nothing_is_lost()


def whole(target: Any, migrations: list[dict[str, Any]]) -> None:
    """Each row was changed once, the ledger says so by the server's clock, and the next run has nothing to do."""
    assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 1, "n": ROWS}]
    assert state(target, V1)["state"] == "applied"
    with closing(connect(target, application_name="test")) as conn:
        assert ledger.broken_link(ledger.audit_rows(conn)) is None
    far = (
        "SELECT count(*) AS n FROM pgops.migration m, pgops.audit a WHERE greatest(abs(extract(epoch FROM now() - m.finished_at)), "
        "abs(extract(epoch FROM now() - a.at))) > 600 OR m.finished_at < m.started_at OR extract(epoch FROM m.finished_at - m.started_at) > 600"
    )
    assert rows(target, far) == [{"n": 0}]
    assert migrate.apply(target, migrations, Selection(), way("20260101T000000Z-00000a"))["applied"] == []


@pytest.mark.parametrize("seconds", [HOUR, pytest.param(-HOUR, marks=pytest.mark.slow)])
def test_a_run_goes_on_when_its_clock_is_set_and_keeps_a_second_runner_out(
    target: Any, migrations: list[dict[str, Any]], client: RecordingClient, host: Host, tmp_path: Path, seconds: float
) -> None:
    path = tmp_path / "progress"
    with host.controller(), applying_by_another_clock(target, migrations, path, host.lease, LEASE_S, host.clock) as run:
        wait_until_told(path, '"done": 300')
        host.set_clock(seconds)
        # Longer than its lease: the clock of before does not save it, and that of now does not end it.
        time.sleep(2 * LEASE_S)
        with pytest.raises(locks.RunnerBusy) as caught:
            migrate.apply(target, migrations, Selection(), way(OTHER, lock_wait_s=0.3))
        assert caught.value.extra["holder"]["run_id"] == RUN
        run.join(timeout=60)
        assert run.exitcode == 0
    whole(target, migrations)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_without_its_controller_it_ends_though_the_clock_was_set(
    target: Any, migrations: list[dict[str, Any]], client: RecordingClient, host: Host, tmp_path: Path, seconds: float
) -> None:
    path = tmp_path / "progress"
    with host.controller(), applying_by_another_clock(target, migrations, path, host.lease, LEASE_S, host.clock) as run:
        wait_until_told(path, '"done": 300')
        host.leave()
        host.set_clock(seconds)
        run.join(timeout=60)
    assert (state(target, V1)["state"], state(target, V1)["reason"]) == ("failed", "interrupted")
    done = {row["touched"]: row["n"] for row in rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1")}
    assert 300 <= done[1] < ROWS
    with closing(connect(target, application_name="test")) as conn:
        wait_for(lambda: not locks.is_running(conn), what="a free lock")
    migrate.apply(target, migrations, Selection(), way(OTHER))
    whole(target, migrations)
