# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Failover, a cut network, a server without a free connection: what a run does then, and that the next one completes.

Servers that are killed and restarted in mid-step are in test_interrupted.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.cut import Network
from support.engine import Told, When, do, holding, rows, state, target_of, wait_for, way
from support.recording_client import RecordingClient
from support.server import APP, OWNER, Server
from support.standby import standby_of
from support.tree import TestTree

pytestmark = pytest.mark.slow

V1 = "20260101000001"
ROWS = 2000
DATABASE = "faults"
AGAIN = "20260101T000000Z-00000a"


def backfill(folder: Path) -> list[dict[str, Any]]:
    """Batches with a rest between them, so that there is a middle."""
    tree = TestTree(folder / "backfill")
    step = {
        "table": "people", "key": "id", "batch_size": 100, "adapt": False, "pause_ms": 20, "statement": "fill.sql.j2",
    }  # fmt: skip
    up = {"fill.sql.j2": "UPDATE public.people SET touched = touched + 1 WHERE id BETWEEN $1 AND $2;"}
    tree.add(V1, "fill", [{"backfill": step}], up, rollback={"safety": "partial", "stays": "what was counted"})
    return tree.render()


def column(folder: Path, **budgets: int) -> list[dict[str, Any]]:
    tree = TestTree(folder / "column")
    down = "ALTER TABLE public.people DROP COLUMN more;"
    tree.add_sql(V1, "add_more", "ALTER TABLE public.people ADD COLUMN more integer;", down, budgets=budgets)
    return tree.render()


def indexes(folder: Path) -> list[dict[str, Any]]:
    tree = TestTree(folder / "indexes")
    given = [
        {"name": f"{table}_name", "table": table, "columns": [{"column": "name"}], "why": "a test"}
        for table in ("people", "pets")
    ]
    tree.add(V1, "add_indexes", [{"indexes": "indexes.yml"}], {"indexes.yml": given})
    return tree.render()


# Of the test in hand, as soon as there is a table; its connections are not counted by those tests that count them.
CLIENTS: list[RecordingClient] = []


@pytest.fixture(autouse=True)
def clients() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().__exit__()


def people(target: Any, *, with_client: bool = True) -> None:
    """Tables with rows, and a client who writes from then on."""
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, touched integer NOT NULL DEFAULT 0)",
        f"INSERT INTO people SELECT n, 'p' || n FROM generate_series(1, {ROWS}) n",
        "CREATE TABLE pets AS SELECT * FROM people",
    )
    if with_client:
        CLIENTS.append(RecordingClient(target, "people").__enter__())


def complete(target: Any) -> None:
    """The ledger says applied, each row was changed once or not at all, every index serves, the chain holds, and what a
    client has committed is there."""
    while CLIENTS:
        CLIENTS.pop().nothing_is_lost(target)
    assert state(target, V1)["state"] == "applied"
    assert len(rows(target, "SELECT DISTINCT touched FROM people")) == 1
    assert rows(target, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    with closing(connect(target, application_name="test")) as conn:
        assert ledger.broken_link(ledger.audit_rows(conn)) is None


def filled(target: Any) -> None:
    """Complete, and no row was left out."""
    assert rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1") == [{"touched": 1, "n": ROWS}]
    complete(target)


class Middle(Told):
    """Does something when so many rows are done."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.acts = [act]

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if self.acts and (fields.get("done") or 0) >= 500:
            self.acts.pop()()


@pytest.fixture
def primary(own_server: Server) -> Server:
    own_server.create_database(DATABASE, OWNER)
    return own_server


# --- failover ----------------------------------------------------------------------------------------------------------


def test_a_failover_in_mid_backfill_is_followed_within_the_run(primary: Server, tmp_path: Path) -> None:
    with standby_of(primary) as standby:
        target = target_of(primary, DATABASE).with_(host="127.0.0.1,127.0.0.1", port=f"{primary.port},{standby.port}")
        people(target)

        def fail_over() -> None:
            primary.kill()
            threading.Timer(2, standby.execute, args=("SELECT pg_promote()",)).start()

        told = Middle(fail_over)
        result = migrate.apply(target, backfill(tmp_path), Selection(), way(progress=told, reconnect_s=60.0))
        (lost,) = result["reconnected"]
        assert lost["waited_s"] > 1.5
        filled(target)


def test_a_standby_that_answers_is_not_the_server_to_go_on_with(primary: Server, tmp_path: Path) -> None:
    """As behind one name of a proxy, where libpq is not told which of two servers it is to take."""
    with standby_of(primary) as standby, Network(primary.host, primary.port) as network:
        target = target_of(primary, DATABASE).with_(port=str(network.port))
        people(target)

        def fail_over() -> None:
            primary.kill()
            network.lead_to(standby.host, standby.port)
            threading.Timer(3, standby.execute, args=("SELECT pg_promote()",)).start()

        result = migrate.apply(
            target, backfill(tmp_path), Selection(), way(progress=Middle(fail_over), reconnect_s=60.0)
        )
        assert result["reconnected"][0]["waited_s"] > 2.5
        filled(target)


def test_a_standby_that_is_never_promoted_ends_the_run(primary: Server, tmp_path: Path) -> None:
    with standby_of(primary) as standby, Network(primary.host, primary.port) as network:
        target = target_of(primary, DATABASE).with_(port=str(network.port))
        people(target)
        wanted = backfill(tmp_path)

        def lose() -> None:
            network.lead_to(standby.host, standby.port)
            network.reset()

        with pytest.raises(PgopsError, match="is a standby, which takes no writes") as caught:
            migrate.apply(target, wanted, Selection(), way(progress=Middle(lose), reconnect_s=2.0))
        assert caught.value.extra["reason"] == "connection_lost"
        network.lead_to(primary.host, primary.port)
        migrate.apply(target, wanted, Selection(), way(AGAIN))
        complete(target)


def test_another_cluster_that_answers_is_refused(server: Server, target: Any, primary: Server, tmp_path: Path) -> None:
    with Network(server.host, server.port) as network:
        through = target.with_(port=str(network.port))
        people(target)
        wanted = backfill(tmp_path)
        primary.create_database(target.database, OWNER)
        # The tests' servers have passwords of their own.
        with primary.passfile.open(encoding="ascii") as theirs:
            password = next(line for line in theirs if ":white_cross_migrator:" in line).rpartition(":")[2].strip()
        ours = server.passfile.read_text(encoding="ascii")
        mine = next(line for line in ours.splitlines() if ":white_cross_migrator:" in line).rpartition(":")[2]
        assert mine != password
        primary.execute(f"ALTER ROLE white_cross_migrator PASSWORD '{mine}'")

        def lose() -> None:
            network.lead_to(primary.host, primary.port)
            network.reset()

        with pytest.raises(PgopsError, match="by now is another cluster") as caught:
            migrate.apply(through, wanted, Selection(), way(progress=Middle(lose), reconnect_s=30.0))
        assert caught.value.extra["reason"] == "connection_lost"
        assert primary.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'", database=target.database) == []
        migrate.apply(target, wanted, Selection(), way(AGAIN))
        complete(target)


# --- a network that is cut while a step waits for locks -----------------------------------------------------------------


def test_a_network_that_is_cut_for_30_s_while_it_waits_for_locks_is_waited_for(
    server: Server, target: Any, tmp_path: Path
) -> None:
    people(target)
    with Network(server.host, server.port) as network:
        through = target.with_(port=str(network.port))

        def cut() -> None:
            network.freeze()
            threading.Timer(30, network.thaw).start()

        told, done = When("waiting for pid", cut), []
        with holding(target, "SELECT 1 FROM people LIMIT 1"):
            working = threading.Thread(
                target=lambda: done.append(
                    migrate.apply(through, column(tmp_path), Selection(), way(progress=told, reconnect_s=60.0))
                )
            )
            working.start()
            wait_for(lambda: told.said("waiting for pid"), what="the wait")
            slowest, until = 0.0, time.monotonic() + 31
            while time.monotonic() < until:
                began = time.monotonic()
                rows(target, "SELECT count(*) FROM people")
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.2)  # a client every now and then: more of them would only press the server
        working.join(timeout=60)
    assert done[0]["applied"]
    # It looks, and has asked for nothing: nobody queues behind it.
    assert slowest < 2
    complete(target)


@pytest.mark.parametrize("told_to_server", [True, False])
def test_a_network_that_is_cut_for_good_while_it_waits_for_locks_leaves_nothing(
    server: Server, target: Any, tmp_path: Path, told_to_server: bool
) -> None:
    people(target)
    wanted = column(tmp_path)
    with Network(server.host, server.port) as network:
        through = target.with_(port=str(network.port))

        def cut() -> None:
            if not told_to_server:
                network.strand()
            network.refuse()

        with holding(target, "SELECT 1 FROM people LIMIT 1"), pytest.raises(PgopsError) as caught:
            migrate.apply(through, wanted, Selection(), way(progress=When("waiting for pid", cut), reconnect_s=2.0))
        assert caught.value.extra["reason"] == "connection_lost"
        # Of what the server still takes for alive no client sees anything.
        began = time.monotonic()
        do(target, "SET lock_timeout = '1s'", "UPDATE people SET name = name WHERE id = 1")
        assert time.monotonic() - began < 2
        assert rows(target, "SELECT 1 FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'more'") == []
        network.bury()
    migrate.apply(target, wanted, Selection(), way(AGAIN))
    complete(target)


# --- out of connections -------------------------------------------------------------------------------------------------


class Crowd:
    """Clients that leave so many connections free; those of superusers stay."""

    def __init__(self, server: Server) -> None:
        self.server, self.sessions = server, []
        # One session for all looks: one that comes and goes takes a place for a moment.
        self.watch = server.connect()

    def leave(self, free: int) -> None:
        with suppress(psycopg2.OperationalError):
            while True:
                self.sessions.append(self.server.connect(DATABASE, APP))
        for _ in range(free):
            self.sessions.pop().close()
        if free:
            # The server's end of it goes a moment later.
            wait_for(lambda: self._count() == len(self.sessions), what="free connections")

    def _count(self) -> int:
        return self.look(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{APP}'")

    def look(self, query: str) -> int:
        with self.watch.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def go(self) -> None:
        for session in self.sessions:
            session.close()
        self.sessions.clear()
        wait_for(lambda: not self._count(), what="nobody")


@pytest.fixture
def crowd(primary: Server) -> Iterator[Crowd]:
    primary.execute("ALTER SYSTEM SET max_connections = 12")
    primary.stop()
    primary.start()
    primary.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {APP}")
    people(target_of(primary, DATABASE), with_client=False)
    made = Crowd(primary)
    # What made the tables has gone.
    wait_for(lambda: made.look("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == 1)
    yield made
    made.go()
    made.watch.close()


def test_without_a_free_connection_nothing_is_begun(primary: Server, crowd: Crowd, tmp_path: Path) -> None:
    target, wanted = target_of(primary, DATABASE), backfill(tmp_path)
    crowd.leave(0)
    with pytest.raises(PgopsError, match="the server has no free connection slot") as caught:
        migrate.apply(target, wanted, Selection(), way(reconnect_s=30.0))
    assert caught.value.sqlstate == "53300"
    assert primary.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'", database=DATABASE) == []
    crowd.go()
    migrate.apply(target, wanted, Selection(), way(AGAIN))
    complete(target)


@pytest.mark.parametrize("kind", ["sql", "backfill", "indexes"])
def test_with_one_connection_only_each_kind_of_step_goes_on(
    primary: Server, crowd: Crowd, tmp_path: Path, kind: str
) -> None:
    """The session beside it, that tells, and those that build side by side, are not to be had."""
    target = target_of(primary, DATABASE)
    told = Told()
    wanted = {"sql": column, "backfill": backfill, "indexes": indexes}[kind](tmp_path)
    with ExitStack() as stack:
        if kind == "sql":
            conn = stack.enter_context(holding(target, "SELECT 1 FROM people LIMIT 1"))
            told = When("waiting for pid", conn.close)
        crowd.leave(1)
        migrate.apply(target, wanted, Selection(), way(progress=told))
    if kind == "sql":
        assert told.said("(the reporting job, role white_cross_migrator, idle in transaction")
    if kind == "indexes":
        assert told.said("the server has no free connection slot: 1 instead of 2 builds at one time")
    crowd.go()
    complete(target)


def test_a_connection_that_others_have_taken_by_then_is_waited_for(
    primary: Server, crowd: Crowd, tmp_path: Path
) -> None:
    target = target_of(primary, DATABASE)
    crowd.leave(1)

    def take_it() -> None:
        crowd.look(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE application_name LIKE 'pgops %' AND pid <> pg_backend_pid()"
        )
        crowd.leave(0)
        threading.Timer(3, crowd.go).start()

    told = Middle(take_it)
    result = migrate.apply(target, backfill(tmp_path), Selection(), way(progress=told, reconnect_s=30.0))
    assert result["reconnected"][0]["waited_s"] > 2
    filled(target)
