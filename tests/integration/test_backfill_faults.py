# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A backfill that is cut off in its middle, by whatever: each row is changed once, the ledger is true, no client loses a row.

kill -9 of the worker and of the server, and a controller that is gone, are in test_interrupted.py for each kind of step.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.throttle import Limits
from support import server as servers
from support.cut import Network
from support.engine import RUN, Told, do, rows, state, target_of, wait_for, way
from support.podman import IMAGE, podman
from support.server import EMBEDDED_MAJOR, MIGRATOR, OWNER, SUPERUSER, Containers, Server
from support.standby import standby_of
from support.tree import TestTree

V1 = "20260101000001"
ROWS, BATCH = 4000, 100
UP = "UPDATE public.people SET touched = touched + 1 WHERE id BETWEEN $1 AND $2;"


@pytest.fixture
def migrations(tmp_path: Path) -> list[dict[str, Any]]:
    """Batches with a rest between them, so that there is a middle to be cut off in."""
    tree = TestTree(tmp_path / "sql")
    step = {
        "table": "people",
        "key": "id",
        "batch_size": BATCH,
        "adapt": False,
        "pause_ms": 20,
        "statement": "fill.sql.j2",
    }
    rollback = {"safety": "partial", "stays": "what was counted"}
    tree.add(V1, "fill", [{"backfill": step}], {"fill.sql.j2": UP}, rollback=rollback)
    return tree.render()


def people(target: Target) -> None:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, touched integer NOT NULL DEFAULT 0, visits integer NOT NULL DEFAULT 0)",
        f"INSERT INTO people (id) SELECT generate_series(1, {ROWS})",
    )


class Clients:
    """Two clients that count visits: what they were told is committed must be there at the end."""

    def __init__(self, connected: Callable[[], Any]) -> None:
        self.committed = self.uncertain = 0
        self.slowest = 0.0
        self._connected = connected
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(seed,), daemon=True) for seed in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _work(self, seed: int) -> None:
        pick = random.Random(seed)
        while not self._ended.is_set():
            with suppress(psycopg2.Error), closing(self._connected()) as conn, conn.cursor() as cursor:
                conn.autocommit = True
                while not self._ended.is_set():
                    began = time.monotonic()
                    with self._lock:
                        self.uncertain += 1
                    cursor.execute("UPDATE people SET visits = visits + 1 WHERE id = %s", (pick.randint(1, ROWS),))
                    with self._lock:
                        self.uncertain -= 1
                        self.committed += 1
                        self.slowest = max(self.slowest, time.monotonic() - began)
                    time.sleep(0.005)  # a client thinks between two transactions
            time.sleep(0.05)  # and before it connects again


class Middle(Told):
    """Does something when so many rows are done."""

    def __init__(self, act: Callable[[], object], at: int = 1000) -> None:
        super().__init__()
        self.act, self.at, self.acted = act, at, False

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if not self.acted and (fields.get("done") or 0) >= self.at:
            self.acted = True
            self.act()


def as_client(server: Server, database: str) -> Callable[[], Any]:
    return lambda: server.connect(database, SUPERUSER)


def true(target: Target, clients: Clients) -> None:
    """The ledger says how far it is, row for row, and what clients were told is there."""
    done = rows(target, "SELECT count(*) AS n, max(touched) AS most FROM people WHERE touched > 0")[0]
    assert rows(target, "SELECT (progress->>'rows')::int AS n FROM pgops.step") == [{"n": done["n"]}]
    assert done["most"] == 1
    visits = rows(target, "SELECT sum(visits) AS n FROM people")[0]["n"]
    assert clients.committed > 0
    assert clients.committed <= visits <= clients.committed + clients.uncertain


def finished(target: Target, migrations: list[dict[str, Any]], clients: Clients) -> None:
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-00000a"))
    assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 1, "n": ROWS}]
    assert state(target, V1)["state"] == "applied"
    with closing(connect(target, application_name="test")) as conn:
        assert ledger.broken_link(ledger.audit_rows(conn)) is None
    true(target, clients)


def test_a_stop_request_ends_it_after_the_batch(server: Server, target: Any, migrations: list[dict[str, Any]]) -> None:
    people(target)

    def ask() -> None:
        with closing(connect(target, application_name="test")) as conn:
            assert ledger.ask_to_stop(conn, RUN, "somebody on call")
        time.sleep(1.5)  # the run looks once a second, and the few rows of a test would be done by then

    with Clients(as_client(server, target.database)) as clients:
        with pytest.raises(Interrupted, match="somebody on call asked it to stop"):
            migrate.apply(target, migrations, Selection(), way(progress=Middle(ask, at=BATCH)))
        assert (state(target, V1)["state"], state(target, V1)["reason"]) == ("failed", "interrupted")
        done = rows(target, "SELECT count(*) AS n FROM people WHERE touched > 0")[0]["n"]
        assert 0 < done < ROWS and done % BATCH == 0
        time.sleep(0.2)  # the clients work on after the run has ended
    true(target, clients)
    finished(target, migrations, clients)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["restart", "kill"])
def test_after_the_end_of_the_server_the_next_run_goes_on(
    server: Server, target: Any, migrations: list[dict[str, Any]], end: str
) -> None:
    people(target)
    act = server.stop if end == "restart" else server.kill
    with Clients(as_client(server, target.database)) as clients:
        try:
            with pytest.raises(PgopsError) as caught:
                migrate.apply(target, migrations, Selection(), way(progress=Middle(act)))
        finally:
            server.start()
        assert caught.value.extra["reason"] == "connection_lost"
        assert caught.value.extra["not_applied"] == [V1]
        time.sleep(0.5)  # the clients find the server again
    true(target, clients)
    finished(target, migrations, clients)


@pytest.mark.slow
def test_after_a_failover_the_next_run_goes_on_at_the_new_primary(migrations: list[dict[str, Any]]) -> None:
    primary = servers.embedded_server()
    try:
        primary.create_database("x", OWNER)
        with standby_of(primary) as standby:
            target = replace(target_of(primary, "x"), host="127.0.0.1,127.0.0.1", port=f"{primary.port},{standby.port}")
            people(target)

            def either() -> Any:
                return psycopg2.connect(
                    host=target.host, port=target.port, dbname="x", user=SUPERUSER, passfile=str(primary.passfile),
                    target_session_attrs="read-write", connect_timeout=2,
                )  # fmt: skip

            def fail_over() -> None:
                primary.kill()
                standby.execute("SELECT pg_promote()")

            with Clients(either) as clients:
                with pytest.raises(PgopsError) as caught:
                    migrate.apply(target, migrations, Selection(), way(progress=Middle(fail_over)))
                assert caught.value.extra["reason"] == "connection_lost"
                true_there = rows(target, "SELECT count(*) AS n FROM people WHERE touched > 0")[0]["n"]
                # Its own commits are lazy: the last batches may be gone, with what the ledger said of them.
                assert 0 < true_there < ROWS
                finished_at = clients.committed
                wait_for(lambda: clients.committed > finished_at + 10, what="clients at the new primary")
            true(target, clients)
            finished(target, migrations, clients)
    finally:
        servers.discard(primary)


@pytest.mark.slow
def test_it_waits_for_a_standby_that_falls_behind(migrations: list[dict[str, Any]]) -> None:
    primary = servers.embedded_server()
    try:
        primary.create_database("x", OWNER)
        primary.execute(f"GRANT pg_monitor TO {MIGRATOR}")
        target = target_of(primary, "x")
        people(target)
        with standby_of(primary) as standby:
            standby.execute("SELECT pg_wal_replay_pause()")
            resumed: list[float] = []

            class Resuming(Told):
                """Lets the standby replay when the pause is told."""

                def emit(self, text: str, **fields: Any) -> None:
                    super().emit(text, **fields)
                    if "pauses: standby walreceiver is" in text:
                        standby.execute("SELECT pg_wal_replay_resume()")
                        resumed.append(time.monotonic())

            told = Resuming()
            limits = Limits.of({"replica_lag_s": 0.1})
            # It looks once a second, and a quick machine is through by then.
            for step in (step for migration in migrations for step in migration["steps"] if step["kind"] == "backfill"):
                step["pause_ms"] = 100
            result = migrate.apply(target, migrations, Selection(), way(progress=told, throttle=limits))
            assert resumed
            assert told.said("goes on after")
            (step,) = result["applied"][0]["step_durations"]
            assert step["throttle"]["reasons"]["replica lag"] >= 1
            assert "unseen" not in step["throttle"]
        assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 1, "n": ROWS}]
    finally:
        servers.discard(primary)


@pytest.mark.slow
def test_a_network_that_is_cut_between_two_batches_for_30_s_is_waited_for(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    people(target)
    with Network(server.host, server.port) as network, Clients(as_client(server, target.database)) as clients:

        def cut() -> None:
            network.freeze()
            threading.Timer(30, network.thaw).start()

        through = target.with_(port=str(network.port))
        migrate.apply(through, migrations, Selection(), way(progress=Middle(cut)))
    finished_now = rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1")
    assert finished_now == [{"touched": 1, "n": ROWS}]
    assert clients.slowest < 5
    true(target, clients)


def cut_in_a_batch(cut: Callable[[Network], None]) -> Callable[[Network, bytes], None]:
    """Acts when the eleventh batch is on its way to the server."""
    seen = [0]

    def watch(network: Network, data: bytes) -> None:
        seen[0] += data.count(b"EXECUTE pgops_backfill")
        if seen[0] == 11:
            seen[0] += 1
            cut(network)

    return watch


@pytest.mark.slow
def test_a_worker_that_is_cut_off_within_a_batch_holds_its_rows_for_seconds_only(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    people(target)

    def cut(network: Network) -> None:
        network.freeze()
        threading.Timer(30, network.thaw).start()

    with (
        Network(server.host, server.port, cut_in_a_batch(cut)) as network,
        Clients(as_client(server, target.database)) as clients,
        pytest.raises(PgopsError) as caught,
    ):
        migrate.apply(target.with_(port=str(network.port)), migrations, Selection(), way())
    assert caught.value.extra["reason"] == "connection_lost"
    assert clients.slowest < 15
    true(target, clients)
    finished(target, migrations, clients)


@pytest.mark.slow
def test_after_a_network_that_is_cut_for_good_the_next_run_goes_on(
    server: Server, target: Any, migrations: list[dict[str, Any]]
) -> None:
    people(target)
    with (
        Network(server.host, server.port, cut_in_a_batch(Network.reset)) as network,
        Clients(as_client(server, target.database)) as clients,
        pytest.raises(PgopsError) as caught,
    ):
        migrate.apply(target.with_(port=str(network.port)), migrations, Selection(), way())
    assert caught.value.extra["reason"] == "connection_lost"
    wait_for(lambda: not rows(target, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"), what="a free lock")
    true(target, clients)
    finished(target, migrations, clients)


class SmallDisk(Containers):
    """A container with a file system of 24 MB at /small."""

    def _start_container(self) -> Path:
        self.directory = Path(tempfile.mkdtemp(prefix="pgops-test-"))
        podman("run", "--detach", "--name", self.name, "--label", "pgops-test=1", "--shm-size", "256m", "--network", "host",
               "--tmpfs", "/var/run/postgresql:mode=1777", "--tmpfs", "/small:size=24m,mode=1777", IMAGE, "sleep", "infinity")  # fmt: skip
        return self.directory


@pytest.mark.slow
@pytest.mark.container
def test_on_a_full_disk_it_says_what_to_free_and_the_next_run_goes_on(migrations: list[dict[str, Any]]) -> None:
    machine = SmallDisk()
    try:
        server = machine.server(EMBEDDED_MAJOR)
        podman("exec", "--user", "postgres", machine.name, "mkdir", "/small/tables")
        server.execute("CREATE TABLESPACE small LOCATION '/small/tables'")
        server.execute(f"GRANT CREATE ON TABLESPACE small TO {OWNER}")
        server.create_database("x", OWNER)
        target = target_of(server, "x")
        people(target)
        do(
            target,
            "ALTER TABLE people ADD filler text NOT NULL DEFAULT repeat('x', 1000)",
            "ALTER TABLE people SET (autovacuum_enabled = false)",
            "ALTER TABLE people ALTER filler SET STORAGE PLAIN",
            "UPDATE people SET filler = repeat('x', 1000)",
            "VACUUM FULL people",
            "ALTER TABLE people SET TABLESPACE small",
        )
        # Something else that fills the disk: the table has 5 MB, and its new versions need as much.
        podman("exec", "--user", "postgres", machine.name, "fallocate", "-l", "16M", "/small/something_else")
        with Clients(lambda: server.connect("x", SUPERUSER)) as clients:
            time.sleep(0.2)  # some commits before the disk is full
        with pytest.raises(PgopsError) as caught:
            migrate.apply(target, migrations, Selection(), way())
        assert caught.value.sqlstate == "53100"
        assert "Free room for public.people" in str(caught.value.hint)
        assert "\n" not in caught.value.message
        done = rows(target, "SELECT count(*) AS n FROM people WHERE touched > 0")[0]["n"]
        assert 0 < done < ROWS and done % BATCH == 0
        true(target, clients)
        podman("exec", "--user", "postgres", machine.name, "rm", "/small/something_else")
        finished(target, migrations, clients)
    finally:
        machine.remove()
