# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A run that loses its connection goes on in another one: it looks at what happened, and repeats nothing.

The longer ones, with servers that are killed, restarted and failed over, are in test_reconnect_faults.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import RunnerLock
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.cut import Network
from support.engine import RUN, AtRows, Told, do, rows, state, wait_for, way
from support.recording_client import RecordingClient
from support.server import Server
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
OTHER = "20260101T000000Z-0000bb"


# Nobody waits for it twice.
SLOW = "SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM pgops.audit WHERE event = 'apply_resumed') THEN 0 ELSE 60 END)"


def written(folder: Path, middle: str = "SELECT pg_sleep(0)") -> list[dict[str, Any]]:
    """What is done twice is seen: a row too many."""
    tree = TestTree(folder)
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (name text, age integer);", "DROP TABLE public.people;"
    )
    tree.add(
        V2,
        "fill_people",
        [{"sql": {"up": f"{name}.sql.j2", "down": f"not_{name}.sql.j2"}} for name in ("one", "two")],
        {
            "one.sql.j2": "INSERT INTO public.people VALUES ('one', 1);\n"
            f"{middle};\n"
            "ALTER TABLE public.people ADD COLUMN IF NOT EXISTS age integer;",
            "two.sql.j2": "INSERT INTO public.people VALUES ('two', 2);",
            "not_one.sql.j2": "DELETE FROM public.people WHERE name = 'one';",
            "not_two.sql.j2": "DELETE FROM public.people WHERE name = 'two';",
        },
    )
    return tree.render()


@pytest.fixture
def migrations(tmp_path: Path) -> list[dict[str, Any]]:
    return written(tmp_path / "sql")


@pytest.fixture(autouse=True)
def client(target: Any) -> Iterator[None]:
    """A client that writes meanwhile has lost nothing in the end."""
    with RecordingClient(target) as made:
        yield
        made.nothing_is_lost()


class At(Told):
    """Does something each time that something is told."""

    def __init__(self, acts: dict[str, Callable[[], object]]) -> None:
        super().__init__()
        self.acts = acts

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        for part, act in self.acts.items():
            if part in text:
                act()


def once(act: Callable[[], object]) -> Callable[[], object]:
    left = [act]
    return lambda: left.pop()() if left else None


def later(act: Callable[[], object], seconds: float = 0.2) -> Callable[[], object]:
    """In the middle of what is told, not before it is begun."""
    return lambda: threading.Timer(seconds, act).start()


def steady(**more: Any) -> migrate.Way:
    return way(**{"reconnect_s": 30.0, **more})


def asleep(act: Callable[[], object]) -> Callable[[float], None]:
    """Something happens while the run is without a connection."""
    act = once(act)

    def sleep(seconds: float) -> None:
        act()
        time.sleep(seconds)  # as the run itself would

    return sleep


@pytest.fixture
def end(server: Server, database: str) -> Callable[[], object]:
    """Somebody ends every session of the run."""
    return lambda: server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND application_name = '{locks.application_name(RUN)}'"
    )


def events(target: Any) -> list[str]:
    with closing(connect(target, application_name="test")) as conn:
        found = ledger.audit_rows(conn)
        assert ledger.broken_link(found) is None
        return [row["event"] for row in found]


def whole(target: Any) -> None:
    """Each statement was done once, and the ledger says so."""
    assert rows(target, "SELECT name FROM people ORDER BY 1") == [{"name": "one"}, {"name": "two"}]
    assert [state(target, version)["state"] for version in (V1, V2)] == ["applied", "applied"]
    assert events(target).count("applied") == 2
    with closing(connect(target, application_name="test")) as conn:
        assert not locks.is_running(conn)


def stopped(target: Any, migrations: list[dict[str, Any]], **more: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), steady(**more))
    assert "\n" not in caught.value.message
    return caught.value


# --- goes on -----------------------------------------------------------------------------------------------------------


def test_a_session_that_is_ended_in_mid_statement_is_followed_by_another(
    target: Any, tmp_path: Path, end: Callable[[], object]
) -> None:
    told = At({"pg_sleep": once(later(end))})
    result = migrate.apply(target, written(tmp_path / "sql", SLOW), Selection(), steady(progress=told))
    assert [item["version"] for item in result["applied"]] == [V1, V2]
    (lost,) = result["reconnected"]
    assert (lost["version"], lost["step"]) == (V2, 1)
    assert lost["waited_s"] < 10 and lost["lost_at"].endswith("Z")
    assert told.said(f"Step 1 of 2 of version {V2} in {target.database}: connection lost at 20")
    assert told.said(f", going on with step 1 of 2 of version {V2}")
    assert events(target) == ["apply_started", "applied", "apply_started", "reconnected", "apply_resumed", "applied"]
    assert not result["applied"][1]["resumed"]
    assert [step["step"] for step in result["applied"][1]["step_durations"]] == [1, 2]
    assert result["applied"][1]["step_durations"][0]["duration_s"] > lost["waited_s"]
    whole(target)


def test_without_a_budget_the_next_run_goes_on(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    told = At({"pg_sleep": once(end)})
    error = stopped(target, migrations, progress=told, reconnect_s=0.0)
    assert error.extra["reason"] == "connection_lost"
    assert not told.said("connection lost at")
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


def test_a_session_that_is_ended_between_two_versions_is_followed_by_another(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    told = At({"create_people: applied": once(end)})
    result = migrate.apply(target, migrations, Selection(), steady(progress=told))
    assert [(lost["version"], lost["step"]) for lost in result["reconnected"]] == [(V2, 1)]
    whole(target)


def losing_the_answer_to(what: str) -> Callable[[bytes], bool]:
    """To the COMMIT of the first step of the second version, or of that version's end."""
    seen: list[str] = []

    def lose(data: bytes) -> bool:
        if b"SET state = 'done'" in data and b"COMMIT" in data:
            seen.append("step")
        elif b"SET state = 'applied'" in data:
            seen.append("end")
        elif data.rstrip(b"\0").endswith(b"COMMIT") and seen[-1:] == ["end"]:
            seen.append("version")
        else:
            return False
        # Of the first version one step and its end come before.
        return seen.count(what) == 2 and seen[-1] == what

    return lose


@pytest.mark.parametrize("what", ["step", "version"])
def test_what_was_committed_without_an_answer_is_not_done_twice(
    server: Server, target: Any, migrations: list[dict[str, Any]], what: str
) -> None:
    told = Told()
    with Network(server.host, server.port, lose_answer=losing_the_answer_to(what)) as network:
        through = target.with_(port=str(network.port))
        result = migrate.apply(through, migrations, Selection(), steady(progress=told))
    assert len(result["reconnected"]) == 1
    second = result["applied"][1]
    assert second["skipped"] == ["column public.people.age"]
    assert [step["step"] for step in second["step_durations"]] == [1, 2]
    if what == "step":
        assert told.said(f"going on with step 2 of 2 of version {V2}")
    else:
        assert told.said(f"version {V2} was applied, and only the answer was lost")
    whole(target)


def test_its_own_session_that_still_lives_on_the_server_is_waited_for(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    """As after a cut network: the server has not noticed, and the lock is held."""
    with Network(server.host, server.port) as network:
        told = At({"pg_sleep": once(network.strand), "waiting for its own session of before": network.bury})
        through = target.with_(port=str(network.port))
        result = migrate.apply(through, migrations, Selection(), steady(progress=told))
    assert told.said("waiting for its own session of before to end (server process ")
    assert len(result["reconnected"]) == 1
    whole(target)


def test_a_backfill_may_lose_its_session_more_than_once(target: Any, tmp_path: Path, end: Callable[[], object]) -> None:
    tree = TestTree(tmp_path / "more")
    step = {"table": "people", "key": "id", "batch_size": 50, "adapt": False, "statement": "fill.sql.j2"}
    up = {"fill.sql.j2": "UPDATE public.people SET touched = touched + 1 WHERE id BETWEEN $1 AND $2;"}
    tree.add(V1, "fill", [{"backfill": step}], up, rollback={"safety": "partial", "stays": "what was counted"})
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, touched integer NOT NULL DEFAULT 0)",
        "INSERT INTO people (id) SELECT generate_series(1, 500)",
    )
    result = migrate.apply(target, tree.render(), Selection(), steady(progress=AtRows([100, 300], end)))
    assert len(result["reconnected"]) == 2
    assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 1, "n": 500}]
    (figures,) = result["applied"][0]["step_durations"]
    assert (figures["rows"], figures["batches"]) == (500, 10)


# --- does not go on ----------------------------------------------------------------------------------------------------


def test_a_step_that_loses_its_session_a_second_time_ends_the_run(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    error = stopped(target, migrations, progress=At({"pg_sleep": end}))
    assert "was lost a second time, with nothing done in between" in error.message
    assert "See in the server's log" in error.hint
    assert (error.extra["reason"], error.extra["recorded"]) == ("connection_lost", True)
    assert len(error.extra["partial"]["reconnected"]) == 1
    assert state(target, V2)["reason"] == "connection_lost"
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


def test_another_run_that_has_the_database_by_then_is_named(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    other = connect(target, application_name=locks.application_name(OTHER))
    sleep = asleep(RunnerLock(other, wait_s=5).acquire)
    try:
        error = stopped(target, migrations, progress=At({"pg_sleep": once(end)}), sleep=sleep)
    finally:
        other.close()
    assert f"and run {OTHER} " in error.message and "has taken over since: nothing was repeated" in error.message
    assert (error.extra["reason"], error.extra["holder"]["run_id"]) == ("busy", OTHER)
    # The other one has the word.
    assert error.extra["recorded"] is False
    assert state(target, V2)["state"] == "applying"
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


def test_what_another_run_has_applied_by_then_stays_that_runs(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    sleep = asleep(lambda: migrate.apply(target, migrations, Selection(), way(OTHER)))
    error = stopped(target, migrations, progress=At({"pg_sleep": once(end)}), sleep=sleep)
    assert f"version {V2} is applied by run {OTHER} since: nothing was repeated" in error.message
    assert error.extra["reason"] == "moved"
    assert rows(target, "SELECT state, run_id FROM pgops.migration WHERE version = %s", (V2,)) == [
        {"state": "applied", "run_id": OTHER}
    ]
    whole(target)


def test_what_a_failover_has_lost_is_not_applied_anew(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    """The server that answers by now does not know a version that this run has applied."""
    sleep = asleep(lambda: do(target, f"DELETE FROM pgops.migration WHERE version = '{V1}'"))
    error = stopped(target, migrations, progress=At({"pg_sleep": once(end)}), sleep=sleep)
    assert f"version {V1}, which was in the ledger, is not in that of the server" in error.message
    assert "whether a failover has lost what was committed" in error.hint
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 0}]


def test_when_the_budget_ends_the_run_ends_and_the_next_goes_on(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    with Network(server.host, server.port) as network:
        told = At({"pg_sleep": once(network.refuse)})
        began = time.monotonic()
        error = stopped(target.with_(port=str(network.port)), migrations, progress=told, reconnect_s=1.0)
    assert time.monotonic() - began < 10
    assert "and no other was to be had in 1 s (migrate_reconnect): Cannot connect to" in error.message
    assert "nothing listens there" in error.message
    assert (error.extra["reason"], error.extra["not_applied"]) == ("connection_lost", [V2])
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


def test_a_password_that_is_refused_by_then_is_not_waited_for(
    server: Server, target: Any, migrations: list[dict[str, Any]], tmp_path: Path, end: Callable[[], object]
) -> None:
    passfile = tmp_path / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_bytes(server.passfile.read_bytes())
    sleep = asleep(lambda: passfile.write_text("*:*:*:*:another\n"))
    told = At({"pg_sleep": once(end)})
    error = stopped(target.with_(passfile=str(passfile)), migrations, progress=told, sleep=sleep)
    assert "and another one is refused: Cannot connect to" in error.message
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


@pytest.mark.parametrize("how", ["its controller", "the ledger"])
def test_a_stop_request_ends_the_wait(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object], how: str
) -> None:
    control = Control()

    def ask() -> None:
        if how == "its controller":
            control.request("somebody on call asked it to stop")
        else:
            with closing(connect(target, application_name="test")) as conn:
                assert ledger.ask_to_stop(conn, RUN, "somebody on call")

    told = At({"pg_sleep": once(end)})
    with pytest.raises(Interrupted, match=f"Step 1 of 2 of version {V2} .* was interrupted: somebody on call asked"):
        migrate.apply(target, migrations, Selection(), steady(progress=told, control=control, sleep=asleep(ask)))
    assert (state(target, V2)["state"], state(target, V2)["reason"]) == ("failed", "interrupted")
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 0}]
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    whole(target)


def test_before_the_first_version_it_begins_anew(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run, cut = ledger.start_run, once(end)

    def start(conn: Any, run: Any) -> None:
        cut()
        start_run(conn, run)

    monkeypatch.setattr(ledger, "start_run", start)
    result = migrate.apply(target, migrations, Selection(), steady())
    assert [(lost["version"], lost["step"]) for lost in result["reconnected"]] == [(None, None)]
    whole(target)


def test_after_the_last_version_it_writes_down_its_end(
    target: Any, migrations: list[dict[str, Any]], end: Callable[[], object]
) -> None:
    told = At({"fill_people: applied": once(end)})
    result = migrate.apply(target, migrations, Selection(), steady(progress=told))
    assert [lost["version"] for lost in result["reconnected"]] == [None]
    assert rows(target, "SELECT result FROM pgops.run") == [{"result": "applied"}]
    assert result["audit"]["seq"] == len(events(target))
    whole(target)


# --- through Ansible ---------------------------------------------------------------------------------------------------


def test_migrate_yml_goes_on_by_itself_and_says_so(playbook: Any, target: Any) -> None:
    tree = TestTree(playbook.folder / "own sql")
    tree.add_sql(
        V1,
        "create_people",
        f"CREATE TABLE public.people (id integer);\n{SLOW};",
        "DROP TABLE public.people;",
    )
    playbook.variables["pgops_sql"] = str(tree.folder)
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    run = playbook.start("migrate.yml")
    ended = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{target.database}' AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )
    wait_for(lambda: playbook.server.execute(ended), seconds=100, what="the slow statement")
    output, _ = run.communicate(timeout=100)
    assert run.returncode == 0, output
    assert f"(step 1 of {V1}), connected again after " in output
    assert state(target, V1)["state"] == "applied"
    (journal,) = (playbook.state / "journal" / "local").iterdir()
    assert '"lost_at"' in journal.read_text(encoding="utf-8")
