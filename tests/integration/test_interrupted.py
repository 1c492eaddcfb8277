# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Cut off at any step, by any means: the ledger says so, the lock is free, and the next run goes on at that step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support.engine import (
    InterruptAt,
    Told,
    applying,
    do,
    fingerprint,
    holding,
    rows,
    state,
    wait_for,
    wait_until_told,
    way,
)
from support.kept import keep
from support.recording_client import RecordingClient
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"

# Step of version 2, what is told when it is at work, and what another session does so that it stays at work: of ANALYZE
# nothing, it takes its time over SLOW_STATISTICS.
STEPS = {
    "sql": (1, "pg_sleep", None),
    "validate": (2, "validating public.people.adult", None),
    "indexes": (3, "building index public.people_name", "UPDATE people SET age = 20 WHERE id = 1"),
    "backfill": (4, "backfilling public.people", "SELECT 1 FROM people WHERE id = 9000 FOR UPDATE"),
    "analyze": (5, "analyzing public.people", None),
}
SLOW_STATISTICS = "CREATE STATISTICS slow_ages ON (slow(age)) FROM people"


@pytest.fixture
def migrations(tmp_path: Path, target: Any) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id integer PRIMARY KEY, name text, age integer, done integer NOT NULL DEFAULT 0);",
        "DROP TABLE public.people;",
    )  # fmt: skip
    tree.add(
        V2,
        "everything",
        [
            {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
            {"validate": [{"table": "people", "constraint": "adult"}]},
            {"indexes": "indexes.yml"},
            {"backfill": {"table": "people", "key": "id", "batch_size": 500, "statement": "fill.sql.j2"}},
            {"analyze": ["people"]},
        ],
        {
            "up.sql.j2": "CREATE TABLE public.made_first (id integer);\nSELECT pg_sleep(1);\n"
            "ALTER TABLE public.people ADD CONSTRAINT adult CHECK (age > 17 AND slow(age)) NOT VALID;",
            "down.sql.j2": "ALTER TABLE public.people DROP CONSTRAINT adult;\nDROP TABLE public.made_first;",
            "indexes.yml": [{"name": "people_name", "table": "people", "columns": [{"column": "name"}], "why": "a test"}],
            "fill.sql.j2": "UPDATE public.people SET done = done + 1 WHERE id BETWEEN $1 AND $2;",
        },
        rollback={"safety": "partial", "stays": "what was counted"},
    )  # fmt: skip
    rendered = tree.render()
    migrate.apply(target, rendered, Selection(target=V1), way("20260101T000000Z-000000"))
    prepare(target)
    return rendered


def prepare(target: Any, rows_too: bool = True) -> None:
    """Data with which every step takes long enough to be caught at it."""
    do(
        target,
        "CREATE FUNCTION slow(integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN IF $1 = 99 THEN PERFORM pg_sleep(1); END IF; RETURN true; END'",
    )
    if rows_too:
        do(
            target,
            "INSERT INTO people (id, name, age) SELECT n, 'p' || n, CASE WHEN n = 10000 THEN 99 ELSE 18 END "
            "FROM generate_series(1, 10000) n",
        )


def uninterrupted(server: Any, target: Any, migrations: list[dict[str, Any]]) -> str:
    """The fingerprint of a database where nothing was cut off."""

    def make(clean: Any) -> None:
        migrate.apply(clean, migrations, Selection(target=V1), way())
        prepare(clean, rows_too=False)
        migrate.apply(clean, migrations, Selection(), way())

    name = f"{target.database}_clean"
    server.create_database(name, template=keep(server, "uninterrupted", make))
    return fingerprint(target.with_(database=name))


@pytest.fixture
def client(target: Any, migrations: list[dict[str, Any]]) -> Iterator[RecordingClient]:
    """Writes to the table that is migrated, from before the first step to the end of the last run."""
    with RecordingClient(target, "people") as made:
        yield made


@pytest.fixture
def whole(server: Any, target: Any, migrations: list[dict[str, Any]], client: RecordingClient) -> Any:
    """After the test: everything is as if nothing had happened, and what the client has committed is there."""

    def check() -> None:
        client.nothing_is_lost()
        assert state(target, V2)["state"] == "applied"
        assert rows(target, "SELECT done, count(*) AS n FROM people GROUP BY 1") == [{"done": 1, "n": 10000}]
        assert rows(target, "SELECT indexrelid::regclass::text AS i FROM pg_index WHERE NOT indisvalid") == []
        assert rows(target, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
        conn = connect(target, application_name="test")
        assert ledger.broken_link(ledger.audit_rows(conn)) is None
        conn.close()
        assert fingerprint(target) == uninterrupted(server, target, migrations)

    return check


@pytest.fixture
def finished(target: Any, migrations: list[dict[str, Any]], whole: Any) -> Any:
    """After the test: one more run, and everything is as if nothing had happened."""

    def check() -> None:
        result = migrate.apply(target, migrations, Selection(), way("20260101T000000Z-00000a"))
        assert [item["version"] for item in result["applied"]] == [V2]
        whole()

    return check


def one_quick(first: str, *others: str) -> list[Any]:
    """Parameters of which `make test` takes the first."""
    return [first, *(pytest.param(other, marks=pytest.mark.slow) for other in others)]


def at_work(target: Any, kind: str, migrations: list[dict[str, Any]], stack: ExitStack) -> None:
    """Do the steps before that one, and have somebody in its way, so that it stays at work."""
    told, statement = STEPS[kind][1:]
    if kind == "analyze":
        do(target, SLOW_STATISTICS)
        stack.callback(do, target, "DROP STATISTICS slow_ages")
    if statement:
        control = Control()
        with pytest.raises(Interrupted):
            migrate.apply(target, migrations, Selection(), way(control=control, progress=InterruptAt(control, told)))
        stack.enter_context(holding(target, statement))


@pytest.mark.parametrize("kind", one_quick(*STEPS))
def test_after_kill_9_of_the_module_the_next_run_goes_on(
    target: Any, migrations: list[dict[str, Any]], finished: Any, tmp_path: Path, kind: str
) -> None:
    ordinal, told, _ = STEPS[kind]
    path = tmp_path / "progress"
    with ExitStack() as stack:
        at_work(target, kind, migrations, stack)
        with applying(target, migrations, path) as process:
            wait_until_told(path, told)
            time.sleep(0.3)  # in the middle of it, not as it begins
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        left = state(target, V2)
        assert left["state"] == "applying"
        assert left["steps"].split()[: ordinal - 1] == [f"{n}:done" for n in range(1, ordinal)]
        assert not left["steps"].split()[ordinal - 1].endswith("done")
        # The statement that the killed module left behind ends soon, and with it the lock.
        conn = connect(target, application_name="test")
        wait_for(lambda: not locks.is_running(conn), what="a free lock")
        conn.close()
    finished()


@pytest.mark.parametrize("kind", one_quick(*STEPS))
def test_after_kill_9_of_the_server_the_next_run_goes_on(
    server: Any, target: Any, migrations: list[dict[str, Any]], finished: Any, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "progress"
    caught: list[PgopsError] = []

    def run() -> None:
        try:
            migrate.apply(target, migrations, Selection(), way(progress=Progress(str(path))))
        except PgopsError as error:
            caught.append(error)

    stack = ExitStack()
    try:
        at_work(target, kind, migrations, stack)
        working = threading.Thread(target=run)
        working.start()
        wait_until_told(path, STEPS[kind][1])
        time.sleep(0.3)
        server.kill()
        working.join(timeout=30)
    finally:
        server.start()
        stack.close()
    assert caught[0].extra["reason"] == "connection_lost"
    assert "the connection to" in caught[0].message and "was lost" in caught[0].message
    assert caught[0].extra["not_applied"] == [V2]
    assert "\n" not in caught[0].message
    finished()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "restart"])
@pytest.mark.parametrize("kind", list(STEPS))
def test_after_the_end_of_the_server_the_same_run_goes_on(
    server: Any, target: Any, migrations: list[dict[str, Any]], whole: Any, kind: str, end: str
) -> None:
    told, done = Told(), []
    with ExitStack() as stack:
        at_work(target, kind, migrations, stack)
        working = threading.Thread(
            target=lambda: done.append(
                migrate.apply(target, migrations, Selection(), way(progress=told, reconnect_s=60.0))
            )
        )
        working.start()
        try:
            wait_for(lambda: told.said(STEPS[kind][1]), what=f"the step {kind}")
            time.sleep(0.3)
            server.kill() if end == "kill" else server.stop()
            wait_for(lambda: told.said("connection lost at"), what="the loss")
        finally:
            server.start()
        working.join(timeout=60)
    (result,) = done
    (lost,) = result["reconnected"]
    assert (lost["version"], lost["step"]) == (V2, STEPS[kind][0])
    assert [item["version"] for item in result["applied"]] == [V2]
    whole()


@pytest.mark.slow
@pytest.mark.parametrize("kind", one_quick(*STEPS))
def test_without_its_controller_the_job_ends_by_itself(
    target: Any, migrations: list[dict[str, Any]], finished: Any, tmp_path: Path, kind: str
) -> None:
    ordinal, told, _ = STEPS[kind]
    lease = tmp_path / "lease"
    lease.touch()

    class Leaving(Progress):
        """The controller that dies when the step begins: from then on the lease is old."""

        def emit(self, text: str, **fields: Any) -> None:
            if told in text:
                os.utime(lease, (0, 0))

    with ExitStack() as stack:
        at_work(target, kind, migrations, stack)
        control = Control(str(lease), lease_seconds=60, interval=0.1).start()
        started = time.monotonic()
        with pytest.raises(Interrupted, match="the controller has not been heard of for"):
            migrate.apply(target, migrations, Selection(), way(progress=Leaving(), control=control))
        assert time.monotonic() - started < 30
    control.stop()
    left = state(target, V2)
    assert (left["state"], left["reason"]) == ("failed", "interrupted")
    assert left["failed_step"] in (ordinal, ordinal + 1)
    conn = connect(target, application_name="test")
    assert not locks.is_running(conn)
    conn.close()
    finished()


def test_an_interruption_between_two_versions_leaves_the_next_untouched(
    target: Any, migrations: list[dict[str, Any]]
) -> None:
    control = Control()
    control.request("a test asked for it")
    with pytest.raises(Interrupted, match=f"not applied: {V2}"):
        migrate.apply(target, migrations, Selection(), way(control=control))
    assert state(target, V2).get("state") in (None, "failed")
    assert migrate.apply(target, migrations, Selection(), way())["applied"]


def test_the_lost_connection_of_a_step_is_told_in_one_sentence(
    target: Any, migrations: list[dict[str, Any]], superuser_connection: Any, tmp_path: Path, finished: Any
) -> None:
    """An administrator ends the session: the server still answers, so the failure is written down."""
    path = tmp_path / "progress"
    caught: list[PgopsError] = []

    def run() -> None:
        try:
            migrate.apply(target, migrations, Selection(), way(progress=Progress(str(path))))
        except PgopsError as error:
            caught.append(error)

    working = threading.Thread(target=run)
    working.start()
    wait_until_told(path, "pg_sleep")
    with superuser_connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    working.join(timeout=30)
    assert caught[0].extra["reason"] == "connection_lost"
    assert caught[0].extra["recorded"] is True
    assert state(target, V2)["reason"] == "connection_lost"
    finished()


# The whole way, through Ansible.


def in_playbook(playbook: Any, target: Any) -> None:
    """A tree whose second version takes long."""
    sql = playbook.folder / "own sql"
    tree = TestTree(sql)
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;"
    )
    tree.add_sql(V2, "slow", "\n".join(["SELECT pg_sleep(0.3);"] * 200), "SELECT 1;")
    playbook.variables["pgops_sql"] = str(sql)
    playbook.variables["pgops_phases"] = ["plan", "apply", "report"]
    playbook.variables["pgops_lease"] = 3


def make_fast(playbook: Any) -> None:
    folder = next((playbook.folder / "own sql" / "migrations").glob(f"{V2}_*"))
    (folder / "up.sql.j2").write_text("SELECT 1;\n")


def wait_until_slow(target: Any) -> None:
    def slow() -> bool:
        conn = connect(target, application_name="test")
        try:
            with locks.as_login_role(conn):
                return bool(
                    [
                        row
                        for row in locks.fetch_all(
                            conn, "SELECT query FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%'", ()
                        )
                    ]
                )
        finally:
            conn.close()

    wait_for(slow, seconds=60, what="the slow version")


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_job_at_the_next_safe_point(playbook: Any, target: Any, sent: int) -> None:
    in_playbook(playbook, target)
    # So long that it is not the lease that ends it.
    playbook.variables["pgops_lease"] = 600
    run = playbook.start("migrate.yml")
    wait_until_slow(target)
    os.killpg(run.pid, sent)
    output, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    if sent == signal.SIGINT:
        assert "The run was interrupted in the phase apply; the plan had pending " in output
        assert "next: ansible-playbook migrate.yml -l local\n" in output
        assert "next: ansible-playbook rollback.yml -l local -e rollback_through=" in output
    wait_for(lambda: state(target, V2).get("state") == "failed", seconds=30, what="the record of the interruption")
    assert state(target, V2)["reason"] == "interrupted"
    make_fast(playbook)
    rc, stdout, _ = playbook("migrate.yml")
    assert rc == 0, stdout
    assert state(target, V2)["state"] == "applied"


@pytest.mark.slow
def test_after_kill_9_of_ansible_the_job_ends_with_its_lease(playbook: Any, target: Any) -> None:
    in_playbook(playbook, target)
    run = playbook.start("migrate.yml")
    wait_until_slow(target)
    # The worker too: left alone, it would ask the job to stop.
    for worker in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii").split():
        os.kill(int(worker), signal.SIGKILL)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    wait_for(lambda: state(target, V2).get("state") == "failed", seconds=30, what="the end of the lease")
    make_fast(playbook)
    rc, stdout, _ = playbook("migrate.yml")
    assert rc == 0, stdout
    assert "20260101000002 slow applied" in stdout


@pytest.mark.slow
def test_after_kill_9_of_ansible_alone_its_worker_asks_the_job_to_stop(playbook: Any, target: Any) -> None:
    in_playbook(playbook, target)
    playbook.variables["pgops_lease"] = 600
    run = playbook.start("migrate.yml")
    wait_until_slow(target)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    wait_for(lambda: state(target, V2).get("state") == "failed", seconds=30, what="the word of the orphan")
    assert state(target, V2)["reason"] == "interrupted"


def test_stop_yml_ends_a_running_migration(playbook: Any, target: Any) -> None:
    in_playbook(playbook, target)
    run = playbook.start("migrate.yml")
    wait_until_slow(target)
    rc, stdout, document = playbook("stop.yml")
    assert rc == 0, stdout
    assert "has ended after" in stdout
    output, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "asked it to stop" in output
    assert (
        "To go on: ansible-playbook migrate.yml -l local; to go back: ansible-playbook rollback.yml -l local" in output
    )
    stopped = next(iter(document["hosts"]["local-1"].values()))["stop"]
    assert (stopped["was_running"], stopped["stopped"]) == (True, True)
