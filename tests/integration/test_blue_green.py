# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that cannot be online: beside the live database, in step with it, and then in its place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green,
    blue_green_change,
    blue_green_compare,
    blue_green_state,
    catalog,
    database_marks,
    ledger,
    migrate,
    plan,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from support.blue_green import AGAIN, ONLINE, RUN, WIDE, change_of, fill, killed, prepared, slots, versions
from support.engine import InterruptAt, When, target_of, wait_for, way
from support.server import APP, BACKUP, MIGRATOR
from support.tree import TestTree


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    return TestTree(tmp_path / "sql")


@pytest.fixture
def migrations(server: Any, target: Any, database: str, tree: TestTree) -> list[dict[str, Any]]:
    """A filled database in which what is online is applied."""
    made = versions(tree)
    fill(server, target, made)
    return made


@pytest.fixture(autouse=True)
def _given_up(server: Any, target: Any) -> Iterator[None]:
    """A subscription keeps its database from being dropped, and its workers are few."""
    yield
    blue_green.give_up(change_of(server, target, AGAIN))


def nothing_is_left(server: Any, database: str) -> None:
    """No slot, no new database, no publication, and the schema may be changed again."""
    assert slots(server, database) == 0
    assert (
        server.execute(f"SELECT datname FROM pg_database WHERE datname LIKE '{database}%' AND datname LIKE '%green%'")
        == []
    )
    assert server.execute("SELECT pubname FROM pg_publication", database=database) == []
    name = blue_green_state.link_name(database)
    assert server.execute(f"SELECT subname FROM pg_subscription WHERE subname = '{name}'") == []
    server.execute("CREATE TABLE free_again (id int); DROP TABLE free_again", database=database)


def refused(server: Any, target: Any, migrations: list[dict[str, Any]], **more: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        prepared(server, target, migrations, **more)
    nothing_is_left(server, target.database)
    return caught.value


@pytest.mark.majors(15, 16, 17, 18, slow=(15, 16, 17))
def test_there_over_and_back(server: Any, target: Any, database: str, tree: TestTree) -> None:
    migrations = versions(tree)
    fill(server, target, migrations)
    done = prepared(server, target, migrations)
    assert done["state"] == "ready" and done["versions"] == [WIDE]
    assert done["compared"]["rows"] == 600
    assert not prepared(server, target, migrations)["changed"]
    server.execute(
        "INSERT INTO students (name) VALUES ('later'); DELETE FROM visits WHERE id = 7; TRUNCATE events",
        database=database,
    )
    over = blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    assert over["left"] is None
    nothing_is_left(server, database)
    assert server.execute("SELECT count(*), max(id) FROM students", database=database) == [(201, 201)]
    assert server.execute("SELECT count(*) FROM visits", database=database) == [(199,)]
    assert server.execute("SELECT count(*) FROM events", database=database) == [(0,)]
    assert server.execute("SELECT count(*) FROM busy", database=database) == [(199,)]
    assert server.execute(
        "INSERT INTO students (name) VALUES ('new') RETURNING id, level, twice", database=database
    ) == [(202, "low", 6)]
    typed = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'students'::regclass AND attname = 'id'"
    assert server.execute(typed, database=database) == [("bigint",)]
    with closing(server.connect(database)) as conn:
        found = ledger.read(conn)
        assert [(row.version, row.state) for row in found.migrations] == [(ONLINE, "applied"), (WIDE, "applied")]
        rows = ledger.audit_rows(conn)
        assert ledger.broken_link(rows) is None
        assert [row["event"] for row in rows][-2:] == ["applied", "database_swapped"]
    # Back again, and what was frozen and published there is so no more.
    swap.Swap(target, over["aside"], run_id=AGAIN).run()
    assert server.execute("SELECT count(*) FROM students", database=database) == [(201,)]
    nothing_is_left(server, database)


def test_migrate_refuses_such_a_version_and_a_new_database_takes_it(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    with pytest.raises(PgopsError, match="strategy: blue_green") as caught:
        migrate.apply(target, migrations, Selection(), way())
    assert "blue_green.yml" in str(caught.value.hint)
    tree.add_sql(
        "20260101000002",
        "behind",
        "CREATE TABLE {{ schema }}.behind (id int PRIMARY KEY);",
        "DROP TABLE {{ schema }}.behind;",
    )
    made = tree.render()
    with pytest.raises(PgopsError, match="declared strategy"):
        migrate.apply(target, made, Selection(target="20260101000002"), way())
    change = change_of(server, target)
    assert blue_green.prepare(change, made, way(RUN), check_only=True)["versions"] == [WIDE]
    nothing_is_left(server, database)


def test_what_replication_does_not_carry_is_refused_in_words(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    server.execute(
        "CREATE TABLE keyless (id int); CREATE UNLOGGED TABLE quick (id int PRIMARY KEY); SELECT lo_create(0)",
        database=database,
    )
    error = refused(server, target, migrations)
    assert "keyless, which has no replica identity" in error.message
    assert "the unlogged table quick" in error.message
    assert "1 large objects" in error.message
    assert "REPLICA IDENTITY FULL" in str(error.hint)


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("up", "told"),
    [
        ("ALTER TABLE {{ schema }}.students RENAME COLUMN name TO label;", "renamed to label"),
        ("ALTER TABLE {{ schema }}.visits RENAME TO stays;", "renamed to public.stays"),
        ("ALTER TABLE {{ schema }}.students ADD COLUMN must int NOT NULL;", "the column must"),
        (
            "ALTER TABLE {{ schema }}.visits ADD CONSTRAINT own FOREIGN KEY (id) REFERENCES {{ schema }}.students;",
            "new foreign key own",
        ),
        ("ALTER TABLE {{ schema }}.visits DROP CONSTRAINT visits_pkey;", "loses its primary key"),
        (
            "INSERT INTO {{ schema }}.students (name) VALUES ('x');",
            "rows that a version has written into public.students",
        ),
        ("UPDATE {{ schema }}.students SET name = 'x';", "writes rows"),
        ("ALTER TABLE {{ schema }}.students ADD COLUMN x nonsense;", "nonsense"),
    ],
)
def test_a_version_that_cannot_be_kept_in_step_is_given_up(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree, up: str, told: str
) -> None:
    assert told in refused(server, target, versions(tree, up)).message
    assert server.execute("SELECT count(*) FROM students", database=database) == [(200,)]


def test_a_value_that_the_new_type_does_not_take_ends_it_and_nothing_is_left(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    error = refused(
        server, target, versions(tree, "ALTER TABLE {{ schema }}.students ALTER COLUMN score TYPE numeric(3, 2);")
    )
    assert "could not be written into the new database" in error.message
    assert "works on" in error.message


def test_a_secret_and_a_server_that_does_not_reach_itself_are_refused(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    error = refused(server, target, migrations, settings={"connection": {"password": "sentinel-4711"}})
    assert "password" in error.message and "4711" not in error.message + str(error.hint)
    error = refused(server, target, migrations, settings={"connection": {"host": "127.0.0.1", "passfile": "/nowhere"}})
    assert "cannot subscribe to its own database" in error.message


def test_ddl_is_frozen_meanwhile_and_temporary_tables_are_not(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    prepared(server, target, migrations)
    for statement in (
        "ALTER TABLE students ADD COLUMN late int",
        "DROP TABLE visits CASCADE",
        "CREATE INDEX late ON students (name)",
        "GRANT SELECT ON students TO PUBLIC",
    ):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="frozen until its blue-green change"):
            server.execute(statement, database=database)
    server.execute(
        "CREATE TEMPORARY TABLE t (id serial PRIMARY KEY); CREATE INDEX ON t (id); DROP TABLE t; REFRESH MATERIALIZED VIEW busy",
        database=database,
    )
    # Whoever goes around the freeze is seen.
    server.execute(
        "ALTER EVENT TRIGGER pgops_blue_green_ddl DISABLE; ALTER TABLE students ADD COLUMN late int; "
        "ALTER EVENT TRIGGER pgops_blue_green_ddl ENABLE ALWAYS",
        database=database,
    )
    with pytest.raises(PgopsError, match="is not the one that"):
        blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    removed = blue_green.give_up(change_of(server, target, AGAIN))
    assert removed["changed"]
    nothing_is_left(server, database)
    assert not blue_green.give_up(change_of(server, target, AGAIN))["changed"]


def test_a_row_that_somebody_wrote_into_the_copy_is_seen(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    prepared(server, target, migrations)
    server.execute("UPDATE students SET name = 'forged' WHERE id = 3", database=f"{database}_green")
    with pytest.raises(PgopsError, match="differs from") as caught:
        blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    assert caught.value.object_name == "public.students"
    assert server.execute("SELECT name FROM students WHERE id = 3", database=database) == [("student 3",)]
    blue_green.give_up(change_of(server, target, AGAIN))
    nothing_is_left(server, database)


def test_an_edited_version_and_nothing_prepared_are_refused(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    change = change_of(server, target, AGAIN)
    with pytest.raises(PgopsError, match="nothing to change"):
        blue_green.change_over(change, migrations, confirmed=True)
    prepared(server, target, migrations)
    assert blue_green.change_over(change, migrations, confirmed=False)["state"] == "ready"
    edited = versions(tree, "ALTER TABLE {{ schema }}.visits ALTER COLUMN id TYPE bigint;")
    for stage in (
        lambda: blue_green.change_over(change, edited, confirmed=True),
        lambda: prepared(server, target, edited),
    ):
        with pytest.raises(PgopsError, match="another text"):
            stage()
    assert server.execute("SELECT count(*) FROM students", database=database) == [(200,)]


def test_a_row_that_the_new_shape_does_not_take_later_stops_it_and_that_is_told(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    made = versions(tree, "ALTER TABLE {{ schema }}.students ALTER COLUMN score TYPE numeric(4, 2);")
    prepared(server, target, made)
    server.execute("INSERT INTO students (name, score) VALUES ('much', 500)", database=database)
    change = change_of(server, target, AGAIN)
    wait_for(lambda: blue_green.status(change)["state"] == "left")
    assert plan.status(target, made)["blue_green"]["active"] is False
    with pytest.raises(PgopsError, match="could not be written into it"):
        blue_green.change_over(change, made, confirmed=True)
    assert server.execute("SELECT count(*) FROM students", database=database) == [(201,)]


def test_a_long_transaction_and_a_second_run_are_told(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], monkeypatch: Any
) -> None:
    prepared(server, target, migrations)
    change = change_of(server, target, AGAIN)
    with blue_green_change.alone(change), pytest.raises(PgopsError, match="Another blue-green run"):
        blue_green.change_over(change, migrations, confirmed=True)
    monkeypatch.setattr(blue_green_compare, "_TRIES", 2)
    monkeypatch.setattr(blue_green_compare, "_AGAIN_SECONDS", 0.1)
    with server.session(database, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute("UPDATE students SET seen = now() WHERE id = 1")
        with pytest.raises(PgopsError, match="could not be compared"):
            blue_green.change_over(change, migrations, confirmed=True)
    assert blue_green.change_over(change, migrations, confirmed=True)["left"] is None


@pytest.mark.slow
def test_an_interrupted_copy_leaves_nothing(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    control = Control()
    work = Work(RUN, control=control, progress=InterruptAt(control, "copying the rows"))
    with pytest.raises(Interrupted, match="a test asked for it"):
        prepared(server, target, migrations, work=work)
    nothing_is_left(server, database)
    # A transaction that does not end keeps the slot from being made.
    control = Control()
    work = Work(RUN, control=control, progress=When("waiting for open", lambda: control.end_after(0.5)))
    with server.session(database, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        with pytest.raises(Interrupted, match="its time of"):
            prepared(server, target, migrations, work=work)
        assert slots(server, database) == 0


def test_a_role_that_is_no_superuser_and_the_fence_of_a_rollback_are_refused(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        error = refused(server, target.with_(restore_user=MIGRATOR), migrations)
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert "is no superuser" in error.message and "pgops_restore_user" in str(error.hint)
    prepared(server, target, migrations)
    other = f"{database}_restore_1"
    server.create_database(other)
    staged = Mark(database_marks.RESTORED, database, RUN, "2026", state=database_marks.FENCED, aside="x")
    fenced = Mark(database_marks.LIVE, database, RUN, "2026", state=database_marks.FENCED, aside=other)
    with server.session() as conn:
        database_marks.set_mark(conn, other, staged)
        database_marks.set_mark(conn, database, fenced)
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    with pytest.raises(PgopsError, match="is fenced and clients are kept out"):
        blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true; COMMENT ON DATABASE {database} IS NULL")


@pytest.mark.slow
def test_a_server_that_cannot_decode_is_refused_with_the_statement(own_server: Any, tree: TestTree) -> None:
    own_server.create_database("plain")
    target = target_of(own_server, "plain")
    migrations = versions(tree)
    fill(own_server, target, migrations)
    own_server.execute("ALTER SYSTEM SET wal_level = replica")
    own_server.execute("ALTER SYSTEM SET max_wal_senders = 1")
    own_server.stop()
    own_server.start()
    with pytest.raises(PgopsError, match="wal_level is replica; max_wal_senders leaves 1 free") as caught:
        prepared(own_server, target, migrations)
    assert "ALTER SYSTEM SET wal_level = logical" in str(caught.value.hint)


def test_the_new_database_is_what_the_versions_make_with_all_that_the_old_one_had(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    server.execute(
        f"""
        REVOKE ALL ON DATABASE {database} FROM PUBLIC;
        GRANT CONNECT ON DATABASE {database} TO {APP}, {MIGRATOR}, {BACKUP};
        ALTER DATABASE {database} SET work_mem = '7MB';
        ALTER ROLE {APP} IN DATABASE {database} SET statement_timeout = '5s';
        COMMENT ON DATABASE {database} IS 'the one that matters';
        """
    )
    with server.session(database) as conn:
        before = catalog.database_properties(conn)
    prepared(server, target, migrations)
    blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    server.create_database(f"{database}_reference")
    migrate.apply(target.with_(database=f"{database}_reference"), migrations, Selection(strategy="any"), way())
    with server.session(database) as conn, server.session(f"{database}_reference") as other:
        assert catalog.database_properties(conn) == before
        found = catalog.compare(catalog.inventory(other), catalog.inventory(conn), reparse=conn, ignore=())
    assert [str(one) for one in found] == []


class Killed(BaseException):
    """Ends the work as a kill does: what it would do at its end is left out."""


def dies_at(step: str) -> Any:
    def after(done: str) -> None:
        if done == step:
            raise Killed

    return after


@pytest.mark.few(1)
@pytest.mark.parametrize("step", ["linked", "frozen", "created", "applied", "copied"])
def test_what_a_killed_preparation_left_is_taken_away_by_the_next(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], step: str, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(blue_green, "_given_up", lambda change, conn, exc: exc)
        with pytest.raises(Killed):
            prepared(server, target, migrations, after=dies_at(step))
    assert blue_green.status(change_of(server, target))["state"] == "left"
    with pytest.raises(PgopsError, match="not prepared|never whole|is gone"):
        blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    assert prepared(server, target, migrations, run_id=AGAIN)["changed"]
    assert blue_green.status(change_of(server, target))["state"] == "ready"
    blue_green.give_up(change_of(server, target, AGAIN))
    nothing_is_left(server, database)


@pytest.mark.few(1)
@pytest.mark.parametrize("step", ["replication ended", "swap: commit", "fence: commit", "last row arrived"])
def test_a_killed_change_over_is_finished_by_the_next(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], step: str, monkeypatch: Any
) -> None:
    prepared(server, target, migrations)
    with monkeypatch.context() as patch:
        patch.setattr(swap.Swap, "_lift", lambda self, mark: False)
        patch.setattr(blue_green, "_go_on", lambda change: None)
        with pytest.raises(Killed):
            blue_green.change_over(change_of(server, target, AGAIN, after=dies_at(step)), migrations, confirmed=True)
    over = blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    assert over["left"] is None
    nothing_is_left(server, database)
    assert server.execute("SELECT count(*) FROM students WHERE level = 'low'", database=database) == [(200,)]
    with closing(server.connect(database)) as conn:
        assert ledger.broken_link(ledger.audit_rows(conn)) is None
        assert ledger.read(conn).get(WIDE).state == "applied"
        assert database_marks.database(conn, database).mark is None
        assert not blue_green_state.has_marker(conn)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["fence: commit", "replication ended", "swap: commit"])
def test_both_stages_survive_a_real_kill(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], step: str
) -> None:
    assert killed(server, target, migrations, "prepare", "linked") == -signal.SIGKILL
    assert slots(server, database) >= 1
    prepared(server, target, migrations)
    assert killed(server, target, migrations, "change_over", step) == -signal.SIGKILL
    over = wait_for(lambda: tried(server, target, migrations))
    assert over["left"] is None
    nothing_is_left(server, database)
    assert server.execute("SELECT count(*) FROM students WHERE level = 'low'", database=database) == [(200,)]


def tried(server: Any, target: Any, migrations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The server notices the death of a killed run's sessions a moment later."""
    try:
        return blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    except PgopsError as error:
        if error.extra.get("locked") or error.extra.get("pending_swap", {}).get("running"):
            return None
        raise


@pytest.mark.slow
def test_a_change_over_that_fails_lifts_the_fence_and_both_stay_in_step(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    prepared(server, target, migrations)

    def fails(done: str) -> None:
        if done == "replication ended":
            raise PgopsError("a test failed it")

    with pytest.raises(PgopsError, match="a test failed it"):
        blue_green.change_over(change_of(server, target, AGAIN, after=fails), migrations, confirmed=True)
    server.execute("INSERT INTO students (name) VALUES ('after the fence')", database=database)
    over = blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    assert over["left"] is None
    assert server.execute("SELECT count(*) FROM students WHERE name = 'after the fence'", database=database) == [(1,)]


def test_under_load_no_row_is_lost_and_none_is_doubled(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    server.execute("CREATE TABLE sent (id bigint PRIMARY KEY, client int NOT NULL)", database=database)
    stop, acknowledged, uncertain = threading.Event(), [], []

    def client(number: int) -> None:
        at = number * 1_000_000
        while not stop.is_set():
            try:
                with closing(server.connect(database)) as conn, conn.cursor() as cursor:
                    while not stop.is_set():
                        at += 1
                        try:
                            cursor.execute("INSERT INTO sent VALUES (%s, %s)", (at, number))
                            cursor.execute("UPDATE students SET seen = now() WHERE id = %s", (1 + at % 200,))
                        except psycopg2.Error:
                            # Whether the server has taken it is not known to whom loses the answer.
                            uncertain.append(at)
                            raise
                        acknowledged.append(at)
            except psycopg2.Error:
                continue

    clients = [threading.Thread(target=client, args=(number,)) for number in (1, 2, 3)]
    for one in clients:
        one.start()
    try:
        prepared(server, target, migrations)
        over = blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True)
    finally:
        stop.set()
        for one in clients:
            one.join()
    there = {row[0] for row in server.execute("SELECT id FROM sent", database=database)}
    assert len(there) == server.execute("SELECT count(*) FROM sent", database=database)[0][0]
    assert set(acknowledged) <= there
    assert there <= set(acknowledged) | set(uncertain)
    assert over["outage_ms"] > 0 and over["left"] is None
    assert server.execute("SELECT count(*) FROM students", database=database) == [(200,)]
    nothing_is_left(server, database)
