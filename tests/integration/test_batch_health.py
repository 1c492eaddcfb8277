# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between two batches the clients are looked at: what makes the next batch not begin, each seen on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import batch_health, fleet
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.engine import Told, When, target_of, wait_for, way
from support.server import SUPERUSER, Server, free_port
from support.tree import TestTree

V1 = "20260101000000"


@pytest.fixture
def pair(server: Server, database: str) -> Iterator[dict[str, Target]]:
    """Two databases of a server, each a batch of its own."""
    server.create_database(f"{database}_b")
    yield {name: target_of(server, name) for name in (database, f"{database}_b")}


@pytest.fixture
def tree(tmp_path: Path) -> list[dict[str, Any]]:
    made = TestTree(tmp_path / "sql")
    made.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n", "DROP TABLE public.rooms;\n")
    return made.render()


def migrate(
    pair: dict[str, Target],
    tree: list[dict[str, Any]],
    limits: batch_health.Limits,
    meanwhile: Callable[[], None],
    **more: Any,
) -> dict[str, dict[str, Any]]:
    """Both databases; `meanwhile` is what happens while the clients of a batch are watched."""
    ways = {name: way(sleep=lambda _seconds: meanwhile(), **more) for name in pair}
    return fleet.apply(
        pair, tree, Selection(), ways.__getitem__, batches=[[name] for name in pair], expected={}, limits=limits
    )


def unwell(
    pair: dict[str, Target], tree: list[dict[str, Any]], limits: batch_health.Limits, meanwhile: Callable[[], None]
) -> str:
    """What is found after the first batch; the second one was not begun."""
    first, second = pair
    with pytest.raises(PgopsError) as stopped:
        migrate(pair, tree, limits, meanwhile)
    assert stopped.value.extra["reason"] == "unwell"
    assert stopped.value.extra["untouched"] == [second]
    assert f"What the batch applied stays: {V1}. Not begun: {second}." in stopped.value.message
    assert stopped.value.extra["databases"][first]["applied"][0]["version"] == V1
    conn = connect(pair[second], application_name="test")
    with conn.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('pgops') IS NULL")
        assert cursor.fetchone() == (True,)
    conn.close()
    (finding,) = stopped.value.extra["unwell"][first]
    return str(finding)


def clients(server: Server, database: str, *, well: int, failing: int) -> Callable[[], None]:
    """So many transactions of an application, told to the statistics by the end of its session."""

    def work() -> None:
        conn = server.connect(database)
        with conn.cursor() as cursor:
            for _ in range(well):
                cursor.execute("SELECT 1")
            for _ in range(failing):
                with suppress(psycopg2.Error):
                    cursor.execute("SELECT gone FROM public.rooms")
        conn.close()
        time.sleep(0.2)  # the server's end of the session is not waited for by close()

    return work


LIMITS = batch_health.Limits(pause=1)


def test_transactions_that_roll_back_stop_the_next_batch(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first = next(iter(pair))
    finding = unwell(pair, tree, LIMITS, clients(server, first, well=20, failing=60))
    # How many there were in all is not ours to say: an autovacuum worker of the database adds its own.
    assert re.search(r"\b60 of \d{2,3} transactions rolled back within 1 s", finding)


def test_a_database_that_always_rolls_back_a_part_is_as_well_as_before(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first = next(iter(pair))
    server.execute("CREATE TABLE public.before (id integer)", database=first)
    clients(server, first, well=200, failing=100)()
    done = migrate(pair, tree, LIMITS, clients(server, first, well=60, failing=30))
    assert list(done) == list(pair)
    assert done[first]["health"]["error_rate"] > LIMITS.error_rate, "it would have stopped any other database"


def connected(server: Server, *databases: str) -> list[Any]:
    """A session of an application in each."""
    pool = [server.connect(database, SUPERUSER) for database in databases]
    for conn in pool:
        with conn.cursor() as cursor:
            cursor.execute("SET application_name = 'the application'")
    return pool


def leave(*pool: Any) -> None:
    for conn in pool:
        conn.close()
    time.sleep(0.2)  # the server's end of a session is not waited for by close()


def test_clients_that_are_all_gone_after_the_batch_are_missed(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first = next(iter(pair))
    pool = connected(server, *[first] * batch_health.FEWEST_CLIENTS)
    told = unwell(pair, tree, batch_health.Limits(pause=1), lambda: leave(*pool))
    assert "no client is connected any longer, and 2 sessions were before the batch" in told


def test_one_client_that_leaves_or_one_that_stays_is_no_finding(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first, second = pair
    pool = connected(server, first, second, second)
    done = migrate(pair, tree, batch_health.Limits(pause=1), lambda: leave(*pool[:2]))
    assert [found["health"]["findings"] for found in done.values()] == [[], []]
    leave(pool[2])


def test_what_our_own_retries_roll_back_is_no_error_of_a_client(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    """A session tells its counters when it ends: the look waits for those of the run."""
    first = next(iter(pair))
    own = connect(pair[first], application_name="pgops 20260101T000000Z-000001")
    with own.cursor() as cursor:
        for _ in range(40):
            with suppress(psycopg2.Error):
                cursor.execute("SELECT 1 / 0")
    ending = threading.Timer(1.0, own.close)
    ending.start()
    before = {first: batch_health.look_before(pair[first])}
    calls = []

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        calls.append(seconds)
        if seconds == 1.0:
            clients(server, first, well=30, failing=0)()

    found = batch_health.look_after(
        {first: pair[first]}, before, {}, batch_health.Limits(pause=1, error_rate=1), control=Control(), sleep=sleep
    )
    ending.join()
    assert calls[0] == batch_health.POLL_S, "there was a session to wait for"
    assert found[first]["findings"] == []


def test_a_probe_that_fails_stops_the_next_batch(pair: dict[str, Target], tree: list[dict[str, Any]]) -> None:
    broken = batch_health.Limits(pause=0, probe="SELECT name FROM public.rooms")
    assert 'the probe failed: column "name" does not exist' in unwell(pair, tree, broken, lambda: None)


def test_a_probe_tells_no_value_of_a_row(pair: dict[str, Target], tree: list[dict[str, Any]]) -> None:
    number = batch_health.Limits(pause=0, probe="SELECT ('9999999' || '1234567')::integer")
    told = unwell(pair, tree, number, lambda: None)
    assert "the probe failed" in told
    assert "1234567" not in told


def test_a_session_lost_in_the_probe_keeps_what_the_batch_did(
    pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first, second = pair
    with pytest.raises(PgopsError) as stopped:
        migrate(
            pair,
            tree,
            batch_health.Limits(pause=0, probe="SELECT pg_terminate_backend(pg_backend_pid())"),
            lambda: None,
        )
    assert stopped.value.extra["untouched"] == [second]
    assert stopped.value.extra["databases"][first]["applied"][0]["version"] == V1


def test_a_standby_that_is_gone_stops_the_next_batch(target: Target, tree: list[dict[str, Any]]) -> None:
    before = {target.database: batch_health.Before(0.0, frozenset(), ("replica_1",))}
    seen = batch_health.look_after(
        {target.database: target}, before, {}, batch_health.Limits(pause=0), control=Control(), sleep=lambda _s: None
    )
    assert seen[target.database]["findings"] == ["no longer connected since the batch: standby replica_1"]


def test_where_nearly_all_rolls_back_not_everything_is_let_pass(target: Target, server: Server) -> None:
    before = {target.database: batch_health.Before(60.0, frozenset())}
    failing = clients(server, target.database, well=2, failing=100)
    seen = batch_health.look_after(
        {target.database: target}, before, {}, LIMITS, control=Control(), sleep=lambda _s: failing()
    )
    (finding,) = seen[target.database]["findings"]
    assert "and 65.0 % are let pass" in finding


def test_a_probe_that_takes_too_long_stops_the_next_batch(pair: dict[str, Target], tree: list[dict[str, Any]]) -> None:
    slow = batch_health.Limits(pause=0, probe="SELECT pg_sleep(0.1)", probe_limit=20)
    assert "and 20 ms are let pass" in unwell(pair, tree, slow, lambda: None)


def test_a_probe_writes_nothing(pair: dict[str, Target], tree: list[dict[str, Any]]) -> None:
    writing = batch_health.Limits(pause=0, probe="INSERT INTO public.rooms VALUES (1)")
    assert "read-only transaction" in unwell(pair, tree, writing, lambda: None)


def test_an_index_that_became_invalid_stops_the_next_batch_and_an_older_one_does_not(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first = next(iter(pair))

    def invalid(name: str) -> None:
        statement = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.{name}'::regclass"
        server.execute(f"SET allow_system_table_mods = on; {statement}", database=first)

    server.execute("CREATE TABLE public.other (id integer); CREATE INDEX other_id ON public.other (id)", database=first)
    invalid("other_id")
    finding = unwell(pair, tree, LIMITS, lambda: invalid("rooms_pkey"))
    assert finding.startswith("invalid since the batch: ")
    assert "rooms_pkey" in finding
    assert "other_id" not in finding


def test_a_version_that_its_own_verification_rejects_stops_the_next_batch(
    pair: dict[str, Target], tmp_path: Path
) -> None:
    made = TestTree(tmp_path / "sql")
    folder = made.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer);\n", "DROP TABLE public.rooms;\n")
    (folder / "verify.sql.j2").write_text("SELECT 'room 7' AS object, 'a door' AS expected, 'none' AS found;\n")
    finding = unwell(pair, made.render(), batch_health.Limits(pause=0), lambda: None)
    assert finding == f"verification of {V1}: room 7: expected a door, found none"


def test_a_request_to_stop_while_the_clients_are_watched_leaves_the_rest(
    pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first, second = pair
    control = Control()
    with pytest.raises(Interrupted) as stopped:
        migrate(pair, tree, LIMITS, lambda: control.request("somebody asked it to stop"), control=control)
    assert stopped.value.extra["untouched"] == [second]
    assert stopped.value.extra["databases"][first]["applied"]


def test_a_second_run_looks_at_nobody(pair: dict[str, Target], tree: list[dict[str, Any]]) -> None:
    nobody = batch_health.Limits(pause=0)
    migrate(pair, tree, nobody, lambda: None)
    again = migrate(pair, tree, LIMITS, lambda: pytest.fail("there was nothing to watch"))
    assert [found["applied"] for found in again.values()] == [[], []]


class Restart:
    """Ends the server at the first pause after a word of the run, and brings it back at the next one where it is to."""

    def __init__(self, server: Server, *, comes_back: bool) -> None:
        self.told, self.comes_back = Told(), comes_back
        self.left = [server.kill, server.start] if comes_back else [server.kill]

    def sleep(self, seconds: float) -> None:
        if self.left and self.told.said("are watched for"):
            self.left.pop(0)()
        time.sleep(min(seconds, 0.1))


def test_a_look_that_the_server_cuts_off_is_made_again_and_where_it_is_not_the_next_run_judges(
    own_server: Server, tree: list[dict[str, Any]]
) -> None:
    databases = ["canary", "other"]
    for name in databases:
        own_server.create_database(name)
    pair = {name: target_of(own_server, name) for name in databases}

    def run(restart: Restart, **more: Any) -> dict[str, dict[str, Any]]:
        own = way(progress=restart.told, sleep=restart.sleep, reconnect_s=0.5 if not restart.comes_back else 30)
        return fleet.apply(
            pair,
            tree,
            Selection(),
            lambda _name: own,
            batches=[["canary"], ["other"]],
            expected={},
            limits=LIMITS,
            **more,
        )

    with pytest.raises(PgopsError) as stopped:
        run(Restart(own_server, comes_back=False))
    assert (stopped.value.extra["reason"], stopped.value.sqlstate) == ("not_looked_at", "08001")
    assert (stopped.value.extra["not_looked_at"], stopped.value.extra["untouched"]) == (["canary"], ["other"])
    assert stopped.value.extra["applied"] == [V1]
    assert f"What the batch applied stays: {V1}. Not begun: other." in stopped.value.message
    own_server.start()
    done = run(Restart(own_server, comes_back=True), judged_again={"canary": [V1]})
    assert [len(found["applied"]) for found in done.values()] == [0, 1]
    assert done["canary"]["health"]["findings"] == []

    def crash(_seconds: float) -> None:
        own_server.kill()
        own_server.start()

    seen = batch_health.look_after(
        pair, dict.fromkeys(pair, batch_health.Before(0.0, frozenset())), {}, LIMITS, control=Control(), sleep=crash
    )
    assert seen["canary"]["transactions"] >= 0, "a server that crashed counts from zero"


def test_what_a_failover_has_lost_of_a_batch_is_a_finding(target: Target, tree: list[dict[str, Any]]) -> None:
    before = {target.database: batch_health.Before(0.0, frozenset())}
    seen = batch_health.look_after(
        {target.database: target}, before, {target.database: tree}, batch_health.Limits(pause=0), control=Control(),
        sleep=lambda _s: None,
    )  # fmt: skip
    assert seen[target.database]["findings"] == [f"not applied on the server that answers by now: {V1}"]


def test_a_request_to_stop_before_a_database_is_begun_leaves_it_untouched(
    pair: dict[str, Target], tree: list[dict[str, Any]]
) -> None:
    first, second = pair
    control = Control()
    told = When(": applied in", lambda: control.request("somebody asked it to stop"))
    ways = {name: way(progress=told, control=control) for name in pair}
    with pytest.raises(Interrupted) as stopped:
        fleet.apply(pair, tree, Selection(), ways.__getitem__, batches=[[first, second]], expected={})
    assert stopped.value.extra["untouched"] == [second]


@pytest.fixture
def late_standby(server: Server, tmp_path: Path) -> Iterator[None]:
    """A standby of the embedded server that applies what it gets two seconds late."""
    folder = Path(tempfile.mkdtemp(prefix="pgops-standby-"))
    shutil.chown(folder, server.owner_uid, server.owner_uid)
    values = {"PGPASSFILE": str(server.passfile), "PATH": os.environ["PATH"]}
    replicating = {"user": server.owner_uid, "group": server.owner_uid, "extra_groups": []} if server.owner_uid else {}
    passfile = folder / "passfile"
    shutil.copy(server.passfile, passfile)
    shutil.chown(passfile, server.owner_uid, server.owner_uid)
    values["PGPASSFILE"] = str(passfile)
    subprocess.run(
        [server.bindir / "pg_basebackup", "-D", folder / "data", "-R", "-X", "stream", "-c", "fast", "-h", server.host,
         "-p", str(server.port), "-U", SUPERUSER], check=True, cwd=folder, env=values, **replicating,
    )  # fmt: skip
    own = {
        "port": str(free_port()),
        "recovery_min_apply_delay": "2s",
        "unix_socket_directories": str(folder),
        "listen_addresses": "",
    }
    process = subprocess.Popen(
        # The primary's settings, which a standby must not be below, and its own after them.
        [server.bindir / "postgres", "-D", folder / "data", *server.postgres[3:],
         *(word for name, value in own.items() for word in ("-c", f"{name}={value}"))],
        cwd=folder, env=values, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **replicating,
    )  # fmt: skip
    try:
        wait_for(lambda: server.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), seconds=30)
        with server.member("white_cross_migrator", "pg_monitor"):
            yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("late_standby")
def test_a_standby_that_stays_behind_stops_the_next_batch(
    server: Server, pair: dict[str, Target], tree: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(pair))
    monkeypatch.setattr(batch_health, "LAG_PATIENCE_S", 1.0)

    def write() -> None:
        for number in range(40):
            server.execute(f"CREATE TABLE public.n{time.monotonic_ns()} AS SELECT {number} AS id", database=first)
            time.sleep(0.1)  # the standby tells how far it is at each commit that it applies

    late = batch_health.Limits(pause=1, replication_lag=0.5)
    assert "a standby is 2 s behind" in unwell(pair, tree, late, write)
    monkeypatch.setattr(batch_health, "LAG_PATIENCE_S", 60.0)
    patient = {name: way(sleep=time.sleep) for name in pair}
    fleet.apply(
        pair, tree, Selection(), patient.__getitem__, batches=[[name] for name in pair], expected={},
        limits=batch_health.Limits(pause=0, replication_lag=5),
    )  # fmt: skip


class CutAfter(Told):
    """Ends the run's own sessions as soon as a version is applied in this database."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__()
        self.server, self.database = server, database

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if ": applied in" in text and fields.get("database") == self.database:
            self.server.execute(
                f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{self.database}'"
            )


def test_a_connection_lost_between_two_versions_keeps_what_the_others_did(
    server: Server, pair: dict[str, Target], tmp_path: Path
) -> None:
    first, second = pair
    made = TestTree(tmp_path / "sql")
    made.add_sql(V1, "rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);\n", "DROP TABLE public.rooms;\n")
    later = "20260101000001"
    made.add_sql(
        later, "beds", "ALTER TABLE public.rooms ADD beds integer;\n", "ALTER TABLE public.rooms DROP beds;\n",
        expected_by_rows={10: 1},
    )  # fmt: skip
    ways = {first: way(), second: way(progress=CutAfter(server, second))}
    with pytest.raises(PgopsError) as stopped:
        fleet.apply(pair, made.render(), Selection(), ways.__getitem__, batches=[[first, second]], expected={})
    error = stopped.value
    assert (error.database, error.extra["reason"]) == (second, "connection_lost")
    assert (error.extra["applied"], error.extra["not_applied"]) == ([V1], [later])
    assert [item["version"] for item in error.extra["databases"][first]["applied"]] == [V1, later]
    assert [item["version"] for item in error.extra["databases"][second]["applied"]] == [V1]


# -- a watch ----------------------------------------------------------------------------------------------------------


def test_a_watch_compares_the_probe_with_what_it_took_before_the_apply(server: Server, target: Target) -> None:
    sleeps = "CREATE OR REPLACE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 1 FROM pg_sleep({0})'"
    limits = replace(LIMITS, probe="SELECT answer()", probe_limit=5000.0)

    def look(seen: dict[str, Any] | None) -> dict[str, Any]:
        found = batch_health.look_again(target, seen, limits, control=Control(), sleep=lambda _s: None)
        return json.loads(json.dumps(found))

    server.execute(sleeps.format(0.05), database=target.database)
    usual = look(None)
    begun = look({**usual["seen"], "counters": None})
    assert look(begun["seen"])["findings"] == []
    server.execute(sleeps.format(0.5), database=target.database)
    slower = look(begun["seen"])
    (signal,) = slower["signals"]
    assert (signal["kind"], signal["limit"]) == ("performance", 50.0)
    assert signal["value"] > 50
    assert slower["findings"] == [signal["told"]]
    assert "before the apply" in signal["told"]
    assert look({**begun["seen"], "before": {**usual["seen"]["before"], "probe_ms": None}})["findings"] == []


def test_too_few_transactions_are_added_to_those_of_the_next_look(server: Server, target: Target) -> None:
    def look(seen: dict[str, Any] | None) -> dict[str, Any]:
        return batch_health.look_again(target, seen, LIMITS, control=Control(), sleep=lambda _s: None)

    usual = look(None)
    first = look({**usual["seen"], "counters": None})
    second = look(first["seen"])
    assert second["error_rate"] is None
    assert second["seen"]["counters"] == first["seen"]["counters"]


def test_a_watch_judges_what_was_since_its_last_look(server: Server, target: Target) -> None:
    def look(seen: dict[str, Any] | None) -> dict[str, Any]:
        found = batch_health.look_again(target, seen, LIMITS, control=Control(), sleep=lambda _s: None)
        return json.loads(json.dumps(found))  # as a module gives it to the next one

    def clients(query: str) -> None:
        with closing(server.connect(target.database)) as conn, conn.cursor() as cursor:
            for _ in range(batch_health.FEWEST_TRANSACTIONS):
                with suppress(psycopg2.Error):
                    cursor.execute(query)
        # A session tells its counters when it ends, and is gone after that.
        gone = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{target.database}'"
        wait_for(lambda: not server.execute(gone), seconds=20)

    clients("SELECT 1")
    usual = look(None)
    clients("SELECT 1 / 0")
    first = look({**usual["seen"], "counters": None})
    assert first["seen"]["before"] == usual["seen"]["before"], "what is usual was before the apply"
    assert (usual["findings"], first["findings"]) == ([], []), "what was meanwhile is no error of a client"
    clients("SELECT 1 / 0")
    second = look(first["seen"])
    assert "transactions rolled back within 0 s" in second["findings"][0]
    clients("SELECT 1")
    third = look(second["seen"])
    assert third["findings"] == [], "the errors were before the second look"
    assert third["transactions"] >= batch_health.FEWEST_TRANSACTIONS
    server.execute(
        "CREATE TABLE marks (id int); CREATE INDEX marks_id ON marks (id);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'marks_id'::regclass",
        database=target.database,
    )
    assert look(third["seen"])["findings"] == ["invalid since the apply: public.marks_id"]
