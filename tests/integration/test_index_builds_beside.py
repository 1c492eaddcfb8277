# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Somebody else builds an index of the same table: neither build ends the other, in whichever order they begin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support import server as servers
from support.engine import RUN, InterruptAt, Told, When, do, holding, rows, state, target_of, wait_for, way
from support.index_steps import PEOPLE_NAME as NAME
from support.index_steps import VERSION as V1
from support.index_steps import people_and_pets, wanted
from support.server import OWNER, Server
from support.tree import TestTree

AGAIN = "20260101T000000Z-00000a"
THEIRS = "CREATE INDEX CONCURRENTLY theirs ON people (gone)"


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    return people_and_pets(target, tmp_path)


def valid(target: Any) -> dict[str, bool]:
    found = rows(
        target,
        "SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index "
        "WHERE indrelid = 'people'::regclass AND NOT indisprimary",
    )
    return {row["name"]: row["indisvalid"] for row in found}


def brief(run_id: str = RUN, **more: Any) -> migrate.Way:
    """Where nobody waits for the other, the test ends all the same."""
    return way(run_id, **{"builds": IndexBuilds(timeout_s=20), **more})


class Person:
    """Types one statement, in a thread."""

    def __init__(self, server: Server, database: str, statement: str) -> None:
        self.said: str | None = None
        self._thread = threading.Thread(target=self._type, args=(server, database, statement), daemon=True)
        self._thread.start()

    def _type(self, server: Server, database: str, statement: str) -> None:
        with server.session(database) as conn, conn.cursor() as cursor:
            # In a deadlock it is the other one that is ended.
            cursor.execute("SET deadlock_timeout = '60s'")
            try:
                cursor.execute(statement)
                self.said = "done"
            except psycopg2.Error as exc:
                self.said = str(exc)

    def ended(self) -> str | None:
        self._thread.join(timeout=30)
        return self.said


def is_there(target: Any, index: str) -> Callable[[], bool]:
    return lambda: index in valid(target)


def waits_in_line(server: Server, statement: str) -> None:
    wait_for(
        lambda: server.execute(
            f"SELECT 1 FROM pg_stat_activity WHERE query LIKE '{statement}%' AND wait_event = 'relation'"
        ),
        what="somebody in line",
    )


@contextmanager
def a_build_of_theirs(server: Server, target: Any, statement: str = THEIRS) -> Iterator[tuple[Person, Any]]:
    """One that has begun, and goes on when the client's transaction ends."""
    with holding(target, "UPDATE people SET gone = true WHERE id = 1") as client:
        person = Person(server, target.database, statement)
        wait_for(is_there(target, statement.split()[3]), what="their build")
        yield person, client


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_build_of_somebody_else_is_waited_for_and_not_called_remains(
    server: Server, target: Any, tree: TestTree
) -> None:
    migrations = wanted(tree, NAME)
    with a_build_of_theirs(server, target) as (person, client):
        told = When("index public.people_name: waiting for pid", client.close)
        (applied,) = migrate.apply(target, migrations, Selection(), brief(progress=told))["applied"]
    assert person.ended() == "done"
    assert valid(target) == {"theirs": True, "people_name": True}
    assert told.said("which may be building an index of its table")
    assert applied["notes"] == []
    assert not told.said("held up by pid")


@pytest.mark.slow
@pytest.mark.majors(15, 18)
def test_a_build_that_somebody_elses_deadlocks_with_is_done_when_that_one_is(
    server: Server, target: Any, tree: TestTree
) -> None:
    """Theirs stands in line with a snapshot for which ours waits."""
    migrations, told = wanted(tree, NAME), Told()
    with holding(target, "UPDATE people SET gone = true WHERE id = 1"):
        ours = threading.Thread(target=migrate.apply, args=(target, migrations, Selection(), brief(progress=told)))
        ours.start()
        wait_for(is_there(target, "people_name"), what="our build")
        person = Person(server, target.database, THEIRS)
        waits_in_line(server, "CREATE INDEX CONCURRENTLY theirs")
    # Theirs goes on for a while when ours has been ended.
    with holding(target, "SELECT count(*) FROM people") as reader, reader.cursor() as cursor:
        cursor.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM people")
        wait_for(lambda: told.said("index public.people_name: waiting for pid"), what="our wait")
    ours.join(timeout=30)
    assert person.ended() == "done"
    assert told.said(
        "the build of index public.people_name deadlocked with another session: once more when that is done"
    )
    assert valid(target) == {"theirs": True, "people_name": True}
    assert state(target, V1)["state"] == "applied"
    # It is ours still.
    migrate.revert(target, Reverts(), brief(AGAIN))
    assert valid(target) == {"theirs": True}


def test_a_drop_waits_for_a_build_of_somebody_else(server: Server, target: Any, tree: TestTree) -> None:
    migrate.apply(target, wanted(tree, NAME), Selection(), brief())
    with a_build_of_theirs(server, target) as (person, client):
        told = When("index public.people_name: waiting for pid", client.close)
        migrate.revert(target, Reverts(), brief(AGAIN, progress=told))
    assert person.ended() == "done"
    assert valid(target) == {"theirs": True}


@pytest.mark.slow
def test_the_wanted_index_that_somebody_builds_by_hand_is_taken_over(
    server: Server, target: Any, tree: TestTree
) -> None:
    by_hand = "CREATE INDEX CONCURRENTLY people_name ON people (name)"
    with a_build_of_theirs(server, target, by_hand) as (person, client):
        told = When("index public.people_name: waiting for pid", client.close)
        (applied,) = migrate.apply(target, wanted(tree, NAME), Selection(), brief(progress=told))["applied"]
    assert person.ended() == "done"
    assert applied["skipped"] == ["index public.people_name"]
    assert valid(target) == {"people_name": True}
    # It is theirs.
    migrate.revert(target, Reverts(), brief(AGAIN))
    assert valid(target) == {"people_name": True}


@pytest.mark.slow
def test_a_wait_that_is_too_long_names_who_builds_and_leaves_them_alone(
    server: Server, target: Any, tree: TestTree
) -> None:
    migrations = wanted(tree, NAME)
    with a_build_of_theirs(server, target) as (person, _), pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(timeout_s=1)))
    assert "hit its time limit of 1 s before it built index public.people_name: pid" in caught.value.message
    assert "holds the lock that a build of an index takes" in caught.value.message
    assert "-e migrate_index_timeout=SECONDS" in caught.value.hint
    assert (caught.value.extra["reason"], caught.value.sqlstate) == ("time_limit", "55006")
    assert person.ended() == "done"
    assert valid(target) == {"theirs": True}
    migrate.apply(target, migrations, Selection(), brief(AGAIN))
    assert valid(target) == {"theirs": True, "people_name": True}


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_does_not_wait_for_somebody_elses_build(
    server: Server, target: Any, tree: TestTree
) -> None:
    control = Control()
    with a_build_of_theirs(server, target) as (person, _):
        told = InterruptAt(control, "waiting for pid")
        with pytest.raises(Interrupted):
            migrate.apply(target, wanted(tree, NAME), Selection(), brief(progress=told, control=control))
        assert person.said is None
    assert person.ended() == "done"
    assert valid(target) == {"theirs": True}


def test_an_index_that_is_being_built_is_not_unsound_and_what_is_left_is(
    server: Server, target: Any, tree: TestTree
) -> None:
    do(target, "INSERT INTO pets VALUES (1, 'x'), (2, 'x')")
    with closing(connect(target, application_name="test")) as conn:
        with a_build_of_theirs(server, target) as (person, _):
            assert integrity.invalid_indexes(conn) == []
        assert person.ended() == "done"
        with pytest.raises(psycopg2.errors.UniqueViolation):
            do(target, "CREATE UNIQUE INDEX CONCURRENTLY remains ON pets (name)")
        assert [index["name"] for index in integrity.invalid_indexes(conn)] == ["public.remains"]


@pytest.fixture
def vacuumed(tmp_path: Any) -> Iterator[Any]:
    """The database of a server on which an autovacuum of the table people takes half an hour, with two equal names in it."""
    server = servers.embedded_server()
    try:
        server.create_database("vacuumed", OWNER)
        target = target_of(server, "vacuumed")
        do(
            target,
            "CREATE TABLE people (id integer PRIMARY KEY, name text, gone boolean)",
            "INSERT INTO people SELECT n, repeat('x', 500) || n, false FROM generate_series(1, 20000) n",
            "UPDATE people SET name = 'same' WHERE id < 3",
        )
        with pytest.raises(psycopg2.errors.UniqueViolation):
            do(target, "CREATE UNIQUE INDEX CONCURRENTLY people_name ON people (name)")
        do(
            target,
            "UPDATE people SET name = name || id",
            "ALTER TABLE people SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, "
            "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)",
        )
        server.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        server.execute("SELECT pg_reload_conf()")
        at_work = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND query LIKE '%people%'"
        wait_for(lambda: server.execute(at_work), 60, "the autovacuum")
        yield target
    finally:
        servers.discard(server)


@pytest.mark.slow
def test_remains_are_built_again_while_an_autovacuum_is_at_work(vacuumed: Any, tmp_path: Any) -> None:
    told, began = Told(), time.monotonic()
    migrate.apply(
        vacuumed,
        wanted(TestTree(tmp_path / "sql"), {**NAME, "unique": True}),
        Selection(),
        way(progress=told, builds=IndexBuilds(timeout_s=60)),
    )
    assert valid(vacuumed) == {"people_name": True}
    assert not told.said("may be building")
    assert time.monotonic() - began < 30
