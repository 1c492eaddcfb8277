# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Batches give way to a server that is pressed: they pause or slow down, go on, and tell why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, throttle
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits, Throttle
from support.engine import InterruptAt, Told, do, holding, rows, way
from support.server import MIGRATOR, Server
from support.tree import TestTree

V1 = "20260101000001"
# Of what a test does not ask for nothing presses, whatever else the machine does.
QUIET = {"replica_lag_s": 0, "lock_wait_s": 0, "active_sessions": 0, "wal_mb_s": 0, "requested_checkpoints": 0}


@pytest.fixture
def migrations(target: Any, tmp_path: Any) -> list[dict[str, Any]]:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, upper_name text)",
        "INSERT INTO people (id, name) SELECT n, repeat('p', 100) FROM generate_series(1, 1000) n",
    )
    tree = TestTree(tmp_path / "sql")
    step = {"table": "people", "key": "id", "batch_size": 100, "adapt": False, "statement": "fill.sql.j2"}
    tree.add(
        V1, "fill", [{"backfill": step}],
        {"fill.sql.j2": "UPDATE public.people SET upper_name = upper(name) WHERE id BETWEEN $1 AND $2;"},
        rollback={"safety": "partial", "stays": "what was filled"},
    )  # fmt: skip
    return tree.render()


@pytest.fixture
def sees_all(server: Server) -> Iterator[None]:
    """As the roles' page asks for it: the role that logs in may look at others' sessions."""
    server.execute(f"GRANT pg_read_all_stats TO {MIGRATOR}")
    yield
    server.execute(f"REVOKE pg_read_all_stats FROM {MIGRATOR}")


def apply(target: Any, migrations: list[dict[str, Any]], told: Told, **more: Any) -> dict[str, Any]:
    result = migrate.apply(target, migrations, Selection(), way(progress=told, **more))
    (step,) = result["applied"][0]["step_durations"]
    return dict(step)


class AtPause(Told):
    """Ends what presses as soon as the pause is told."""

    def __init__(self, end: Callable[[], object]) -> None:
        super().__init__()
        self.end = end

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if "pauses" in text:
            self.end()


def filled(target: Any) -> int:
    return int(rows(target, "SELECT count(upper_name) AS n FROM people")[0]["n"])


@contextmanager
def waiting_client(target: Any) -> Iterator[Callable[[], None]]:
    """One who waits for a lock that another holds; the yielded function ends the waiting."""
    do(target, "CREATE TABLE elsewhere (id integer PRIMARY KEY)", "INSERT INTO elsewhere VALUES (1)")
    with holding(target, "UPDATE elsewhere SET id = 1") as holder:
        conn = connect(target, application_name="a waiting client")
        waiting = threading.Thread(target=execute, args=(conn, "UPDATE elsewhere SET id = 1"))
        waiting.start()
        try:
            yield holder.close
        finally:
            holder.close()
            waiting.join()
            conn.close()


def test_it_pauses_while_somebody_waits_long_for_a_lock_and_goes_on(
    target: Any, migrations: list[dict[str, Any]]
) -> None:
    with waiting_client(target) as let_go:
        time.sleep(0.2)
        told = AtPause(let_go)
        step = apply(target, migrations, told, throttle=Limits.of({**QUIET, "lock_wait_s": 0.1}))
    assert told.said("(a waiting client) waits for a lock since")
    assert told.said("backfilling public.people goes on after")
    assert step["throttle"]["reasons"] == {"lock waits": 1}
    assert step["throttle"]["paused_s"] >= 0.5
    assert filled(target) == 1000


def test_nobody_who_waits_no_longer_than_the_limit_makes_it_pause(
    target: Any, migrations: list[dict[str, Any]]
) -> None:
    with waiting_client(target):
        step = apply(target, migrations, Told(), throttle=Limits.of({**QUIET, "lock_wait_s": 3600}))
    assert "paused_s" not in step.get("throttle", {})


def test_it_pauses_while_more_sessions_are_active_than_the_limit(
    target: Any, migrations: list[dict[str, Any]], sees_all: None
) -> None:
    clients = [connect(target, application_name=f"client {number}") for number in range(3)]

    def work(conn: Any) -> None:
        with suppress(psycopg2.errors.QueryCanceled):
            execute(conn, "SELECT pg_sleep(600)")

    told = AtPause(lambda: [conn.cancel() for conn in clients])
    with ExitStack() as stack:
        for conn in clients:
            working = threading.Thread(target=work, args=(conn,))
            stack.callback(conn.close)
            stack.callback(working.join)
            stack.callback(conn.cancel)
            working.start()
        time.sleep(0.2)
        step = apply(target, migrations, told, throttle=Limits.of({**QUIET, "active_sessions": 2}))
    assert told.said("sessions are active (limit 2)")
    assert step["throttle"]["reasons"] == {"active sessions": 1}
    assert filled(target) == 1000


def test_a_stop_request_ends_a_pause(target: Any, migrations: list[dict[str, Any]]) -> None:
    control = Control()
    with waiting_client(target), pytest.raises(Interrupted, match="a test asked for it"):
        time.sleep(0.2)
        stop, began = InterruptAt(control, "pauses"), time.monotonic()
        apply(target, migrations, stop, control=control, throttle=Limits.of({**QUIET, "lock_wait_s": 0.1}))
    # Not when the pause has had its end.
    assert time.monotonic() - began < throttle.PAUSE_MOST_S
    assert filled(target) == 0


def test_a_pause_without_an_end_lets_one_batch_by_at_a_time(
    target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What presses need not be of our making, and may last for hours."""
    monkeypatch.setattr(throttle, "PAUSE_MOST_S", 0.02)
    monkeypatch.setattr(throttle, "LOOK_S", 0.005)
    told = Told()
    with waiting_client(target):
        time.sleep(0.2)
        step = apply(target, migrations, told, throttle=Limits.of({**QUIET, "lock_wait_s": 0.1}))
    assert told.said("one batch, though pid")
    assert step["throttle"]["reasons"]["lock waits"] > 1
    assert filled(target) == 1000


def test_it_slows_down_where_more_wal_is_written_than_the_limit(
    target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LOOK_S", 0.0)
    rests: list[float] = []
    told = Told()

    def sleep(seconds: float) -> None:
        rests.append(seconds)
        time.sleep(seconds)

    step = apply(target, migrations, told, sleep=sleep, throttle=Limits.of({**QUIET, "wal_mb_s": 0.5}))
    assert told.said("slows down")
    assert told.said("MB/s of WAL are written (limit 0.5 MB/s)")
    assert rests and step["throttle"]["slowed_s"] == pytest.approx(sum(rests), abs=0.01)
    assert filled(target) == 1000


def test_it_slows_down_when_checkpoints_come_before_their_time(
    server: Server, target: Any, migrations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "LOOK_S", 0.0)

    class Busy(Told):
        """A checkpoint is asked for with each batch."""

        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if fields.get("done") and fields["done"] <= 500:
                server.execute("CHECKPOINT")

    told = Busy()
    step = apply(target, migrations, told, throttle=Limits.of({**QUIET, "requested_checkpoints": 1}))
    assert told.said("checkpoint(s) came before their time")
    assert told.said("goes on at full speed")
    assert "requested checkpoints" in step["throttle"]["reasons"]


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_quiet_server_costs_no_rest(target: Any, migrations: list[dict[str, Any]]) -> None:
    rests: list[float] = []
    step = apply(target, migrations, Told(), sleep=rests.append, throttle=Limits.of({**QUIET, "lock_wait_s": 60}))
    assert rests == []
    # A role without pg_read_all_stats is told what it cannot see, instead of nothing.
    unseen = dict.fromkeys(["replica lag", "active sessions"], f"GRANT pg_monitor TO {MIGRATOR}")
    assert step["throttle"] == {"unseen": unseen}


def test_a_limit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PgopsError, match=r"migrate_throttle has no 'replica_lag'; it has active_sessions, "):
        Limits.of({"replica_lag": 5})
    with pytest.raises(PgopsError, match="must be a number, 0 or more"):
        Limits.of({"replica_lag_s": "much"})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"active_sessions": float("nan")}, "active_sessions must be a number"),
        ({"wal_mb_s": float("inf")}, "wal_mb_s must be a number"),
        ({"except_standbys": "replica1"}, "except_standbys must be a list of application_name, not 'replica1'"),
        ({"except_standbys": 5}, "except_standbys must be a list of application_name, not 5"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(PgopsError, match=told):
        Limits.of(given)


def test_the_lag_of_a_standby_that_replays_nothing_grows_with_the_time(target: Any) -> None:
    """The server's own replay_lag stands still then; a standby with nothing to replay has none."""
    conn = connect(target, application_name="test")
    now = [100.0]
    told: list[str] = []
    looks = Throttle(conn, Limits(), tell=told.append, check=lambda: None, clock=lambda: now[0])
    seen = {"sees_all": True, "active": 0, "waiting": None, "checkpoints": 0}

    def judged(wal: int, replayed: int, name: str = "standby_1") -> dict[str, str]:
        standby = {"name": name, "replayed": replayed, "seconds": 0.001}
        return looks._judge({**seen, "wal": wal, "standbys": [standby]}, now[0]).pauses

    assert judged(1000, 1000) == {}
    now[0] = 105.0
    assert judged(2000, 1000) == {}
    now[0] = 120.0
    assert judged(3000, 1000) == {"replica lag": "standby standby_1 is 15 s behind (limit 10 s)"}
    now[0] = 121.0
    assert judged(3000, 2500) == {}
    assert judged(3000, 3000) == {}
    conn.close()


@pytest.mark.slow
def test_the_limits_of_an_environment_reach_the_batches(
    playbook: Any, target: Any, migrations: list[dict[str, Any]]
) -> None:
    sql = playbook.folder / "own sql"
    step = {"table": "people", "key": "id", "batch_size": 10, "adapt": False, "statement": "fill.sql.j2"}
    TestTree(sql).add(
        V1, "fill", [{"backfill": step}],
        {"fill.sql.j2": "UPDATE public.people SET upper_name = upper(name) WHERE id BETWEEN $1 AND $2;",
         "verify.sql.j2": "SELECT 'people' AS object, 'filled' AS expected, 'not' AS found FROM public.people WHERE upper_name IS NULL;"},
        rollback={"safety": "partial", "stays": "what was filled"},
    )  # fmt: skip
    playbook.variables |= {"pgops_sql": str(sql), "pgops_phases": ["plan", "apply", "report"]}
    rc, stdout, _ = playbook("migrate.yml", migrate_throttle={"replica_lag": 5})
    assert rc != 0
    assert "migrate_throttle has no 'replica_lag'; it has active_sessions, except_standbys" in stdout
    rc, stdout, document = playbook("migrate.yml", migrate_throttle={**QUIET, "wal_mb_s": 0.001})
    assert rc == 0, stdout
    (database,) = document["hosts"]["local-1"].values()
    (told,) = database["apply"]["applied"][0]["step_durations"]
    assert (told["rows"], told["batches"]) == (1000, 100)
