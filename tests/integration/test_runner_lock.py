# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""One runner a database, and DDL that lets others pass."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, lock_forecast, locks, migrate, stopping
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.engine import RUN, Told, When, do, holding, rows, state, way
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;"
    )
    tree.add_sql(
        V2, "add_age", "ALTER TABLE public.people ADD COLUMN age integer;",
        "ALTER TABLE public.people DROP COLUMN age;", budgets={"lock_budget_s": 1},
    )  # fmt: skip
    return tree


def lock_of(target: Any, run_id: str = RUN) -> Any:
    conn = connect(target, application_name=locks.application_name(run_id))
    return conn, locks.RunnerLock(conn, wait_s=0)


def test_the_second_run_is_told_who_since_when_and_from_where(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    conn, lock = lock_of(target)
    with lock, pytest.raises(locks.RunnerBusy) as caught:
        migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-000002", lock_wait_s=0.3))
    message = caught.value.message
    assert f"run {RUN} by tester from host ops-1 since 20" in message
    assert f"(server process {conn.info.backend_pid})" in message
    assert caught.value.extra["holder"]["run_id"] == RUN
    conn.close()


def test_the_second_run_waits_politely_and_goes_on(target: Any, tree: TestTree) -> None:
    conn, lock = lock_of(target)
    lock.acquire()
    told = When(f"waiting for run {RUN}", conn.close)
    result = migrate.apply(target, tree.render(), Selection(target=V1), way(progress=told, lock_wait_s=10))
    assert [item["version"] for item in result["applied"]] == [V1]
    assert told.said(f"waiting for run {RUN}")


def test_waiting_holds_no_snapshot_and_no_lock(target: Any) -> None:
    """A session in pg_advisory_lock() would hold up CREATE INDEX CONCURRENTLY for ever; one that polls does not."""
    do(target, "CREATE TABLE public.people (id integer)")
    first, lock = lock_of(target)
    second = connect(target, application_name=locks.application_name("other"))
    with lock:
        waiting = threading.Thread(
            target=lambda: pytest.raises(locks.RunnerBusy, locks.RunnerLock(second, wait_s=3).acquire), daemon=True
        )
        waiting.start()
        started = time.monotonic()
        execute(first, "SET statement_timeout = '2s'")
        execute(first, "CREATE INDEX CONCURRENTLY people_id ON public.people (id)")
        assert time.monotonic() - started < 2
        waiting.join()
    first.close()
    second.close()


def test_the_lock_goes_with_its_session(target: Any, superuser_connection: Any) -> None:
    conn, lock = lock_of(target)
    lock.acquire()
    with superuser_connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
    other, second = lock_of(target)
    with second:
        assert locks.is_running(other)
    assert not locks.is_running(other)
    other.close()


def test_the_lock_is_not_free_while_a_build_of_a_killed_run_goes_on(target: Any) -> None:
    worker = connect(target, application_name=locks.application_name(RUN))
    locks.join_run(worker)
    other, lock = lock_of(target, "other")
    with pytest.raises(locks.RunnerBusy, match=f"run {RUN}"):
        lock.acquire()
    worker.close()
    time.sleep(0.2)
    lock.acquire()
    other.close()


def test_one_database_does_not_wait_for_another(server: Any, target: Any, database: str) -> None:
    server.create_database(f"{database}_2")
    first, lock = lock_of(target)
    second, other = lock_of(target.with_(database=f"{database}_2"))
    with lock, other:
        pass
    first.close()
    second.close()


def test_ddl_gives_way_and_names_who_holds_on(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    with holding(target, "SELECT count(*) FROM public.people") as reader:
        started = time.monotonic()
        with pytest.raises(locks.LockWaitExhausted) as caught:
            migrate.apply(target, tree.render(), Selection(), way())
        assert time.monotonic() - started < 4
        assert f"pid {reader.info.backend_pid} (the reporting job" in caught.value.message
        assert "since 20" in caught.value.message
        assert "count(*)" not in str(caught.value.as_dict())
        assert caught.value.extra["blockers"][0]["pid"] == reader.info.backend_pid
    assert caught.value.extra["reason"] == "lock_wait"
    assert state(target, V2) == {"state": "failed", "failed_step": 1, "reason": "lock_wait", "steps": "1:pending"}
    assert migrate.apply(target, tree.render(), Selection(), way())["applied"][0]["resumed"] is True


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forecast, so nobody looks before asking: what is left is the short lock_timeout."""
    monkeypatch.setattr(lock_forecast, "forecast", lambda *given: {})


@pytest.mark.usefixtures("blind")
def test_others_wait_no_longer_than_the_lock_timeout(target: Any, tree: TestTree) -> None:
    """Behind a waiting ALTER every later reader queues; with 100 ms and a pause the worst of them waits about that."""
    tree.add_sql(
        V2, "add_age", "ALTER TABLE public.people ADD COLUMN age integer;",
        "ALTER TABLE public.people DROP COLUMN age;", budgets={"lock_budget_s": 8},
    )  # fmt: skip
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    worst = [0.0]
    ended = threading.Event()

    def client() -> None:
        conn = connect(target, application_name="client")
        while not ended.is_set():
            started = time.monotonic()
            fetch_one(conn, "SELECT count(*) AS n FROM public.people")
            worst[0] = max(worst[0], time.monotonic() - started)
            time.sleep(0.01)
        conn.close()

    with holding(target, "SELECT count(*) FROM public.people") as reader:
        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        threading.Timer(2.5, reader.close).start()
        try:
            result = migrate.apply(target, tree.render(), Selection(), way())
        finally:
            ended.set()
            for thread in clients:
                thread.join()
    assert result["applied"]
    assert worst[0] < 0.6


@pytest.mark.usefixtures("blind")
def test_without_the_short_timeout_the_clients_would_wait(target: Any, tree: TestTree) -> None:
    """The test above sees what it is about: a patient lock_timeout makes a client wait as long as the reader reads."""
    tree.add_sql(
        V2, "add_age", "ALTER TABLE public.people ADD COLUMN age integer;",
        "ALTER TABLE public.people DROP COLUMN age;", budgets={"lock_budget_s": 1, "lock_timeout_ms": 5000},
    )  # fmt: skip
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    conn = connect(target, application_name="client")
    with holding(target, "SELECT count(*) FROM public.people") as reader:
        threading.Timer(2.5, reader.close).start()
        applying = threading.Thread(target=migrate.apply, args=(target, tree.render(), Selection(), way()))
        applying.start()
        deadline = time.monotonic() + 5
        worst = 0.0
        while applying.is_alive() and time.monotonic() < deadline:
            started = time.monotonic()
            fetch_one(conn, "SELECT count(*) AS n FROM public.people")
            worst = max(worst, time.monotonic() - started)
            time.sleep(0.01)
        applying.join()
    conn.close()
    assert worst > 0.6


def test_long_transactions_are_waited_for_before_anything_is_asked(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    told = Told()
    with holding(target, "SELECT count(*) FROM public.people") as reader:
        time.sleep(1.2)
        with pytest.raises(locks.LockWaitExhausted):
            migrate.apply(target, tree.render(), Selection(), way(progress=told))
        assert told.said(f"waiting for pid {reader.info.backend_pid}")


def test_the_whole_transaction_of_a_step_starts_again(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V2, "two", "INSERT INTO public.people VALUES (1);\nALTER TABLE public.people ADD COLUMN age integer;",
        "ALTER TABLE public.people DROP COLUMN age;", budgets={"lock_budget_s": 8},
    )  # fmt: skip
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    with holding(target, "SELECT count(*) FROM public.people") as reader:
        migrate.apply(target, tree.render(), Selection(), way(progress=When("waiting for pid", reader.close)))
    assert rows(target, "SELECT count(*) AS n FROM public.people") == [{"n": 1}]


def test_stop_says_that_nothing_runs(target: Any) -> None:
    assert stopping.stop(target, by="a test")["was_running"] is False


def test_stop_tells_a_run_that_is_connected_and_holds_no_lock(target: Any) -> None:
    backup = connect(target.as_backup(), application_name="pgops 20260101T000000Z-0a1b2c backup")
    try:
        found = stopping.stop(target, by="a test")
        assert (found["was_running"], found["sessions"]) == (False, ["20260101T000000Z-0a1b2c"])
    finally:
        backup.close()
    assert stopping.stop(target, by="a test")["sessions"] == []


def test_stop_ends_a_run_at_its_next_safe_point(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V2, "slow", "\n".join(["SELECT pg_sleep(0.5);"] * 40), "SELECT 1;",
    )  # fmt: skip
    caught: list[PgopsError] = []

    def apply() -> None:
        try:
            migrate.apply(target, tree.render(), Selection(), way(control=Control()))
        except PgopsError as error:
            caught.append(error)

    applying = threading.Thread(target=apply)
    applying.start()
    while applying.is_alive() and not rows(target, "SELECT 1 AS x FROM pg_class WHERE relname = 'people'"):
        time.sleep(0.05)
    time.sleep(0.5)
    found = stopping.stop(target, by="anna on ops-2", wait_s=15)
    applying.join()
    assert (found["was_running"], found["stopped"]) == (True, True)
    assert isinstance(caught[0], Interrupted)
    assert "anna on ops-2 asked it to stop" in caught[0].message
    assert state(target, V2)["reason"] == "interrupted"
    assert rows(target, "SELECT event FROM pgops.audit ORDER BY seq DESC LIMIT 1") == [{"event": "interrupted"}]


def test_stop_is_bounded(target: Any) -> None:
    conn, lock = lock_of(target)
    with lock, pytest.raises(PgopsError, match=r"still works on .* after 0.5 s: it could not be asked"):
        stopping.stop(target, by="a test", wait_s=0.5)
    conn.close()


def test_tables_in_a_statement() -> None:
    names = locks.tables_in(
        """-- ALTER TABLE not_me
        ALTER TABLE ONLY public."Big" ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES other.thing (id) ON DELETE SET NULL;
        CREATE UNIQUE INDEX i ON plain USING btree (x); CREATE TRIGGER t AFTER UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION f();
        UPDATE public.rows SET a = 'ALTER TABLE nor_me'"""
    )
    assert set(names) == {
        ("public", "Big"), ("other", "thing"), ("public", "plain"), ("public", "watched"), ("public", "rows"),
    }  # fmt: skip


def test_the_ledger_knows_the_run(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    assert rows(target, "SELECT id, who, ops_host, result, finished_at IS NOT NULL AS done FROM pgops.run") == [
        {"id": RUN, "who": "tester", "ops_host": "ops-1", "result": "applied", "done": True}
    ]
    conn = connect(target, application_name="test")
    assert ledger.broken_link(ledger.audit_rows(conn)) is None
    conn.close()
