# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A way down that loses its connection goes on in another one, by the rules of the way up in test_reconnect.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks, migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.cut import Network
from support.engine import AtRows, Told, When, do, rows, state, wait_for, way
from support.server import Server
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
DOWN, OTHER, AGAIN = "20260101T000000Z-0000dd", "20260101T000000Z-0000bb", "20260101T000000Z-0000aa"
BOTH = Reverts(steps=2)

# Nobody waits for it twice.
SLOW = "SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM pgops.audit WHERE event = 'reconnected') THEN 0 ELSE 60 END)"


def apply(target: Any, folder: Path, middle: str = "SELECT pg_sleep(0)") -> None:
    """Two versions; what is taken back twice is seen: each step of the second takes one away."""
    tree = TestTree(folder / "sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE public.people (name text, n integer);", "DROP TABLE public.people;")
    index = {"name": "people_name", "table": "people", "columns": [{"column": "name"}], "why": "a test"}
    tree.add(
        V2,
        "fill_people",
        [
            {"sql": {"up": "one.sql.j2", "down": "not_one.sql.j2"}},
            {"indexes": "indexes.yml"},
            {"sql": {"up": "two.sql.j2", "down": "not_two.sql.j2"}},
        ],
        {
            "one.sql.j2": "INSERT INTO public.people VALUES ('one', 1);",
            "two.sql.j2": "INSERT INTO public.people VALUES ('two', 2);",
            "indexes.yml": [index],
            "not_one.sql.j2": f"UPDATE public.kept SET n = n - 1;\n{middle};\nDELETE FROM public.people WHERE name = 'one';",
            "not_two.sql.j2": "UPDATE public.kept SET n = n - 1;\nDELETE FROM public.people WHERE name = 'two';",
        },
    )
    do(target, "CREATE TABLE kept (n integer)", "INSERT INTO kept VALUES (2)")
    migrate.apply(target, tree.render(), Selection(), way())


@pytest.fixture
def applied(target: Any, tmp_path: Path) -> None:
    apply(target, tmp_path)


@pytest.fixture
def end(server: Server, database: str) -> Callable[[], object]:
    """Somebody ends every session of the way down."""
    return lambda: server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND application_name = '{locks.application_name(DOWN)}'"
    )


def later(act: Callable[[], object], seconds: float = 0.2) -> Callable[[], object]:
    """In the middle of what is told, not before it is begun."""
    return lambda: threading.Timer(seconds, act).start()


def steady(**more: Any) -> migrate.Way:
    return way(DOWN, **{"reconnect_s": 30.0, **more})


def events(target: Any) -> list[str]:
    with closing(connect(target, application_name="test")) as conn:
        found = ledger.audit_rows(conn)
        assert ledger.broken_link(found) is None
        return [row["event"] for row in found]


def whole(target: Any) -> None:
    """Each statement was done once, and the ledger says so."""
    assert rows(target, "SELECT n, to_regclass('public.people') AS people FROM kept") == [{"n": 0, "people": None}]
    assert [state(target, version)["state"] for version in (V1, V2)] == ["reverted", "reverted"]
    assert events(target).count("reverted") == 2
    with closing(connect(target, application_name="test")) as conn:
        assert not locks.is_running(conn)


def stopped(target: Any, **more: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, BOTH, steady(**more))
    assert "\n" not in caught.value.message
    return caught.value


def asleep(act: Callable[[], object]) -> Callable[[float], None]:
    """Something happens while the run is without a connection."""
    left = [act]

    def sleep(seconds: float) -> None:
        if left:
            left.pop()()
        time.sleep(seconds)  # as the run itself would

    return sleep


# --- goes on -----------------------------------------------------------------------------------------------------------


def test_a_session_that_is_ended_in_mid_statement_is_followed_by_another(
    target: Any, tmp_path: Path, end: Callable[[], object]
) -> None:
    apply(target, tmp_path, SLOW)
    told = When("pg_sleep", later(end))
    result = migrate.revert(target, BOTH, steady(progress=told))
    assert [item["version"] for item in result["reverted"]] == [V2, V1]
    (lost,) = result["reconnected"]
    assert (lost["version"], lost["step"]) == (V2, 1)
    assert told.said(f"Step 1 of 3 of version {V2} on the way down in {target.database}: connection lost at 20")
    assert told.said(f", going on with step 1 of 3 of version {V2} on the way down")
    assert result["reverted"][0]["duration_s"] > lost["waited_s"]
    whole(target)


def losing_the_answer_to(what: bytes) -> Callable[[bytes], bool]:
    """To a statement, or to the COMMIT of the transaction that it stands in, once."""
    seen: list[bytes] = []

    def lose(data: bytes) -> bool:
        if what in data:
            seen.append(what)
            return b"CONCURRENTLY" in what
        if seen == [what] and data.rstrip(b"\0").endswith(b"COMMIT"):
            seen.append(b"COMMIT")
            return b"CONCURRENTLY" not in what
        return False

    return lose


@pytest.mark.parametrize(
    "what", ["SET state = 'reverted'", pytest.param("DROP INDEX CONCURRENTLY", marks=pytest.mark.slow)]
)
def test_what_was_done_without_an_answer_is_not_done_twice(
    server: Server, target: Any, applied: None, what: str
) -> None:
    told = Told()
    with Network(server.host, server.port, lose_answer=losing_the_answer_to(what.encode())) as network:
        through = target.with_(port=str(network.port))
        result = migrate.revert(through, BOTH, steady(progress=told))
    assert len(result["reconnected"]) == 1
    assert all(item["already"] == [] and item["left"] == [] for item in result["reverted"])
    if "DROP" in what:
        assert told.said("index public.people_name is gone already: skipped")
    else:
        assert told.said(f"version {V2} was reverted, and only the answer was lost")
    whole(target)


def test_a_session_that_is_ended_between_two_versions_is_followed_by_another(
    target: Any, applied: None, end: Callable[[], object]
) -> None:
    """Before the older one is begun it is looked whether it can go."""
    told = When("fill_people: reverted", end)
    result = migrate.revert(target, BOTH, steady(progress=told))
    assert [(lost["version"], lost["step"]) for lost in result["reconnected"]] == [(None, None)]
    assert told.said(f"The look before version {V1} goes in {target.database}: connection lost at 20")
    whole(target)


@pytest.mark.slow
def test_before_the_first_version_it_looks_again(
    target: Any, applied: None, end: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    data_loss, cut = way_back.data_loss, [end]

    def count(*given: Any) -> Any:
        if cut:
            cut.pop()()
        return data_loss(*given)

    monkeypatch.setattr(way_back, "data_loss", count)
    result = migrate.revert(target, BOTH, steady())
    assert [(lost["version"], lost["step"]) for lost in result["reconnected"]] == [(None, None)]
    whole(target)


@pytest.mark.slow
def test_after_the_last_version_it_writes_down_its_end(target: Any, applied: None, end: Callable[[], object]) -> None:
    result = migrate.revert(target, BOTH, steady(progress=When("create_people: reverted", end)))
    assert [lost["version"] for lost in result["reconnected"]] == [None]
    assert rows(target, "SELECT result FROM pgops.run WHERE id = %s", (DOWN,)) == [{"result": "reverted"}]
    assert result["audit"]["seq"] == len(events(target))
    whole(target)


@pytest.mark.slow
def test_batches_may_lose_their_session_more_than_once(target: Any, tmp_path: Path, end: Callable[[], object]) -> None:
    tree = TestTree(tmp_path / "more")
    step = {
        "table": "people", "key": "id", "batch_size": 50, "adapt": False, "statement": "up.sql.j2", "down": "down.sql.j2",
    }  # fmt: skip
    files = {
        f"{name}.sql.j2": f"UPDATE public.people SET touched = touched {sign} 1 WHERE id BETWEEN $1 AND $2;"
        for name, sign in (("up", "+"), ("down", "-"))
    }
    tree.add(V1, "fill", [{"backfill": step}], files)
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, touched integer NOT NULL DEFAULT 0)",
        "INSERT INTO people (id) SELECT generate_series(1, 500)",
    )
    migrate.apply(target, tree.render(), Selection(), way())
    result = migrate.revert(target, Reverts(), steady(progress=AtRows([100, 300], end)))
    assert len(result["reconnected"]) == 2
    assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 0, "n": 500}]


# --- does not go on ----------------------------------------------------------------------------------------------------


def test_when_the_budget_ends_it_ends_and_the_next_goes_on(server: Server, target: Any, applied: None) -> None:
    with Network(server.host, server.port) as network:
        told = When("pg_sleep", network.refuse)
        error = stopped(target.with_(port=str(network.port)), progress=told, reconnect_s=1.0)
    assert "and no other was to be had in 1 s (rollback_reconnect): Cannot connect to" in error.message
    assert (error.extra["reason"], error.extra["not_reverted"]) == ("connection_lost", [V2, V1])
    assert state(target, V2)["state"] == "reverting"
    migrate.revert(target, BOTH, way(AGAIN))
    whole(target)


@pytest.mark.slow
def test_without_a_budget_the_next_one_goes_on(target: Any, applied: None, end: Callable[[], object]) -> None:
    told = When("pg_sleep", end)
    error = stopped(target, progress=told, reconnect_s=0.0)
    assert error.extra["reason"] == "connection_lost"
    assert not told.said("connection lost at")
    migrate.revert(target, BOTH, way(AGAIN))
    whole(target)


@pytest.mark.slow
def test_what_another_run_has_reverted_by_then_stays_that_runs(
    target: Any, applied: None, end: Callable[[], object]
) -> None:
    sleep = asleep(lambda: migrate.revert(target, BOTH, way(OTHER)))
    error = stopped(target, progress=When("pg_sleep", end), sleep=sleep)
    assert f"is reverted by run {OTHER} since: nothing was repeated" in error.message
    assert error.extra["reason"] == "moved"
    whole(target)


@pytest.mark.slow
def test_a_version_that_a_failover_has_brought_back_is_not_reverted_anew(
    target: Any, applied: None, end: Callable[[], object]
) -> None:
    """The server that answers by now does not know that the newer version went."""
    sleep = asleep(lambda: do(target, f"UPDATE pgops.migration SET state = 'applied' WHERE version = '{V2}'"))
    error = stopped(target, progress=When("fill_people: reverted", end), sleep=sleep)
    assert f"version {V2} is applied by run {DOWN} since: nothing was repeated" in error.message
    assert (error.extra["reverted"], error.extra["not_reverted"]) == ([V2], [V1])
    assert rows(target, "SELECT to_regclass('public.people') IS NOT NULL AS there") == [{"there": True}]


@pytest.mark.slow
def test_a_step_that_loses_its_session_a_second_time_ends_it(
    target: Any, applied: None, end: Callable[[], object]
) -> None:
    class Each(Told):
        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if "pg_sleep" in text:
                end()

    error = stopped(target, progress=Each())
    assert "was lost a second time, with nothing done in between" in error.message
    assert (error.extra["reason"], error.extra["recorded"]) == ("connection_lost", True)
    assert (state(target, V2)["state"], state(target, V2)["reason"]) == ("reverting", "connection_lost")
    migrate.revert(target, BOTH, way(AGAIN))
    whole(target)


# --- through Ansible ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rollback_yml_goes_on_by_itself_and_says_so(playbook: Any, target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE public.people (id integer);", f"{SLOW};\nDROP TABLE public.people;")
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    migrate.apply(target, tree.render(), Selection(), way())
    run = playbook.start("rollback.yml", rollback_confirm=target.database)
    ended = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{target.database}' AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )
    wait_for(lambda: playbook.server.execute(ended), seconds=100, what="the slow statement")
    output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert f"(step 1 of {V1}), connected again after " in output
    assert state(target, V1)["state"] == "reverted"
