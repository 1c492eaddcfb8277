# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PgBouncer before the server: its clients wait while names are swapped, and go on whatever becomes of the swap."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import pgbouncer, swap
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support import pool as pools
from support.backups import RUN, names
from support.server import APP, BACKUP, OWNER


@pytest.fixture
def staged(server: Any, database: str) -> str:
    """A kept copy with two people, while the live database has lost them."""
    server.execute(
        f"CREATE TABLE people AS SELECT g AS id FROM generate_series(1, 2) g; GRANT SELECT ON people TO {APP}",
        database=database,
    )
    server.execute(f"GRANT CONNECT ON DATABASE {database} TO {APP}")
    name = f"{database}_restore_x"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {database} OWNER {OWNER}")
    server.execute("DELETE FROM people", database=database)
    mark = Mark("restored", database, "earlier", "2026-01-01T00:00:00Z", state="verified", restored_xid=1)
    server.execute(f"COMMENT ON DATABASE {name} IS '{mark.text()}'")
    return name


def pool_of(target: Any, bouncer: pools.Bouncer, **more: Any) -> pgbouncer.Pool:
    found = pgbouncer.declared(target, {**bouncer.settings, **more})
    assert found is not None
    return found


class Asking(threading.Thread):
    """A client of the pool that never connects anew: every error counts."""

    def __init__(self, bouncer: pools.Bouncer, database: str) -> None:
        super().__init__(daemon=True)
        self.conn = bouncer.connect(database)
        self.errors: list[str] = []
        self.seen: list[int] = []
        self.ended = threading.Event()

    def run(self) -> None:
        with closing(self.conn), self.conn.cursor() as cursor:
            while not self.ended.is_set():
                try:
                    cursor.execute("SELECT count(*) FROM people")
                    self.seen.append(cursor.fetchone()[0])
                except psycopg2.Error as error:
                    self.errors.append(str(error))
                    return
                time.sleep(0.002)


def test_clients_of_the_pool_see_the_other_database_and_no_error(
    target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:
    clients = [Asking(bouncer, database) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer)).run()
    time.sleep(0.3)
    for client in clients:
        client.ended.set()
        client.join(30)
    assert [client.errors for client in clients] == [[], [], [], []]
    assert all((client.seen[0], client.seen[-1]) == (0, 2) for client in clients)
    assert not bouncer.paused(database)


def test_what_does_not_end_in_time_is_ended_and_the_others_wait(
    target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:
    with closing(bouncer.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute("BEGIN; SELECT 1")
        swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer, pause_seconds=0.3)).run()
        with pytest.raises(psycopg2.Error):
            cursor.execute("SELECT 1")
    assert not bouncer.paused(database)
    with closing(bouncer.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM people")
        assert cursor.fetchone() == (2,)


def test_after_a_swap_that_fails_the_clients_go_on(
    server: Any, target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:

    def hold(step: str) -> None:
        if step == "pool paused":
            with closing(server.connect(database, autocommit=False)) as conn, conn.cursor() as cursor:
                cursor.execute("INSERT INTO people VALUES (9); PREPARE TRANSACTION 'late'")

    with pytest.raises(PgopsError, match="prepared transaction late"):
        swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer), after=hold).run()
    began = time.monotonic()
    with closing(bouncer.connect(database)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM people")
    assert time.monotonic() - began < 1
    assert not bouncer.paused(database)
    assert names(server, database) == [database, staged]


class Killed(BaseException):
    """Ends a swap as kill -9 would: nothing is undone."""


@pytest.mark.parametrize("at", ["pool paused", "fence: commit"])
def test_a_killed_run_leaves_them_waiting_and_the_next_lets_them_go_on(
    server: Any,
    target: Any,
    database: str,
    staged: str,
    bouncer: pools.Bouncer,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    def die(step: str) -> None:
        if step == at:
            raise Killed

    pool = pool_of(target, bouncer)
    dying = swap.Swap(target, staged, run_id="killed", after=die, pool=pool)
    dying._lift = lambda mark: (_ for _ in ()).throw(Killed())  # type: ignore[method-assign]
    with monkeypatch.context() as dead, pytest.raises(Killed):
        dead.setattr(pgbouncer, "resume", lambda pool: None)
        dying.run()
    assert bouncer.paused(database)
    look, undo = swap.Asked("unfence"), swap.Asked("unfence", confirmed=True)
    if at == "pool paused":
        assert "a confirmed rollback lets them go on" in str(swap.release_pool(target, pool, look, run_id=RUN))
        assert bouncer.paused(database)
    assert swap.resume(target, undo, run_id=RUN, pool=pool)["state"] == ("nothing" if at == "pool paused" else "lifted")
    assert "they go on" in str(swap.release_pool(target, pool, undo, run_id=RUN))
    assert not bouncer.paused(database)
    assert swap.release_pool(target, pool, undo, run_id=RUN) is None


@pytest.mark.slow
def test_what_cannot_be_meant_or_reached_is_refused_before_anything(
    server: Any, target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:
    for settings, said in (
        ({"password": "x"}, "A password belongs into the file of pgops_passfile"),
        ({"port": "many"}, "no number"),
        ({"hots": "pool"}, "rollback_pgbouncer has no field hots; it takes .*host.*"),
    ):
        with pytest.raises(PgopsError, match=said):
            pgbouncer.declared(target, settings)
    assert pgbouncer.declared(target, {}) is None
    for more, said in (({"port": 1}, "does not let"), ({"user": APP}, "does not let|admin")):
        with pytest.raises(PgopsError, match=said):
            swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer, **more)).run()
        assert server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{database}'") == [(True,)]
    assert not bouncer.paused(database)


def test_a_pool_that_does_not_pause_stops_the_rollback_before_anything(
    server: Any, target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:
    """A user who may look and no more."""
    with pytest.raises(PgopsError, match=f"does not pause {database}: .*; nothing was touched") as caught:
        swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer, user=BACKUP)).run()
    assert caught.value.extra["reason"] == "pgbouncer"
    assert server.execute(f"SELECT datallowconn FROM pg_database WHERE datname = '{database}'") == [(True,)]
    assert not bouncer.paused(database)


def test_a_pool_that_is_gone_when_it_should_go_on_is_told_with_what_lets_it(
    target: Any, database: str, staged: str, bouncer: pools.Bouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbouncer, "RESUME_SECONDS", 0.3)

    def kill(step: str) -> None:
        if step == "swap: commit":
            bouncer.process.kill()
            bouncer.process.wait()

    with pytest.raises(PgopsError, match=f"{database} is swapped, and PgBouncer .* STILL HOLDS the clients") as caught:
        swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer), after=kill).run()
    assert f'RESUME "{database}"' in str(caught.value.hint)
    assert caught.value.extra["databases"][database]["aside"]


def test_a_name_that_the_pool_does_not_know_stops_no_rollback_and_is_told(
    server: Any, target: Any, database: str, staged: str, bouncer: pools.Bouncer
) -> None:
    done = swap.Swap(target, staged, run_id=RUN, pool=pool_of(target, bouncer, database="elsewhere")).run()
    assert "knows no database elsewhere (field database of rollback_pgbouncer), so it holds nobody" in done["pool"]
    assert server.execute("SELECT count(*) FROM people", database=database) == [(2,)]


@pytest.mark.slow
def test_the_playbook_takes_it_from_its_variable(
    playbook: Any, database: str, staged: str, bouncer: pools.Bouncer, server: Any
) -> None:
    playbook.variables["rollback_pgbouncer"] = bouncer.settings
    playbook.variables["pgops_phases"] = ["apply"]
    bouncer.say(f'PAUSE "{database}"')
    shown = playbook("rollback.yml", "--check", rollback_strategy="swap", rollback_swap_to=staged)
    assert shown.rc == 0, shown.output
    assert "a confirmed rollback lets them go on" in shown.stdout
    done = playbook("rollback.yml", rollback_strategy="swap", rollback_swap_to=staged, rollback_confirm=database)
    assert done.rc == 0, done.output
    assert "though no swap was under way; they go on" in done.stdout
    assert not bouncer.paused(database)
    assert server.execute("SELECT count(*) FROM people", database=database) == [(2,)]
