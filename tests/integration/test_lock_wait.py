# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A lock is asked for when nobody holds it: clients do not notice, and who is in the way is named."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import lock_forecast, lock_wait, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.query_digest import query_digest
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import RUN, Told, do, holding, rows, wait_for, way
from support.lock_line import Line
from support.server import MIGRATOR
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1,
        "tables",
        "CREATE TABLE public.people (id integer PRIMARY KEY, name text);\n"
        "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer, name text);",
        "DROP TABLE public.pets;\nDROP TABLE public.people;",
    )
    migrate.apply(target, tree.render(), Selection(), way())
    return tree


def second(tree: TestTree, up: str, down: str = "SELECT 1;", **budgets: int) -> list[dict[str, Any]]:
    tree.add_sql(V2, "second", up, down, budgets=budgets or {"lock_budget_s": 8})
    return tree.render()


FOREIGN_KEY = (
    "ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES public.people NOT VALID;"
)
COLUMN = "ALTER TABLE public.people ADD COLUMN age integer;"


@contextmanager
def leaving(target: Any, statement: str, seconds: float, name: str = "the reporting job") -> Iterator[Any]:
    """Somebody who holds on and goes after a while."""
    with holding(target, statement, name=name) as conn:
        timer = threading.Timer(seconds, conn.close)
        timer.start()
        yield conn
        timer.join()


READER = "SELECT count(*) FROM public.people"
WRITER = "LOCK TABLE public.people IN ROW EXCLUSIVE MODE"


@pytest.mark.parametrize(
    ("statement", "held_by"), [(COLUMN, READER), (FOREIGN_KEY, WRITER)], ids=["column", "foreign key"]
)
def test_while_somebody_is_in_the_way_nothing_is_asked_for(
    target: Any, tree: TestTree, statement: str, held_by: str
) -> None:
    """Of a foreign key neither side: who waits for the parent with the child in hand keeps the child's writers out."""
    migrations = second(tree, statement)
    told = Told()
    with leaving(target, held_by, 1.5) as conn, Line(target) as line:
        pid = conn.info.backend_pid
        started = time.monotonic()
        migrate.apply(target, migrations, Selection(), way(progress=told))
        assert time.monotonic() - started > 1.3
    assert line.waited == set()
    assert told.said(f"waiting for pid {pid} (the reporting job")


NAMES = "CREATE VIEW public.names AS SELECT id, name FROM public.people"
TRIGGER = (
    "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
    "CREATE TRIGGER touch AFTER INSERT ON public.people FOR EACH ROW EXECUTE FUNCTION public.touch()"
)
LABELLED = "CREATE TYPE public.kind AS ENUM ('a'); ALTER TABLE public.people ADD COLUMN kind public.kind"
REPLACED = "CREATE OR REPLACE VIEW public.names AS SELECT id, upper(name) AS name FROM public.people;"


@pytest.mark.parametrize(
    ("there", "statement"),
    [
        pytest.param(NAMES, REPLACED, id="view"),
        pytest.param(NAMES, "ALTER VIEW public.names SET (security_barrier);", id="options"),
        pytest.param(TRIGGER, "DROP FUNCTION public.touch() CASCADE;", id="function"),
        pytest.param(LABELLED, "DROP TYPE public.kind CASCADE;", id="type"),
        pytest.param(NAMES, "ALTER TABLE public.people DROP COLUMN name CASCADE;", id="column"),
        pytest.param(NAMES, "DO $$ BEGIN EXECUTE 'ALTER TABLE public.people ADD COLUMN z integer'; END $$;", id="block"),
    ],
)  # fmt: skip
def test_what_only_the_catalog_or_a_text_tells_is_looked_for_too(
    target: Any, tree: TestTree, there: str, statement: str
) -> None:
    do(target, there)
    # Of a view the reader holds the table too, and the table's own reader not the view.
    held_by = "SELECT count(*) FROM public.names" if there == NAMES else READER
    with leaving(target, held_by, 1.2) as conn, Line(target) as line:
        told, pid = Told(), conn.info.backend_pid
        migrate.apply(target, second(tree, statement), Selection(), way(progress=told))
        assert told.said(f"waiting for pid {pid} (the reporting job")
    assert line.waited == set()


def test_a_view_that_is_put_back_is_looked_for_too(target: Any, tree: TestTree) -> None:
    do(target, NAMES)
    migrations = second(tree, REPLACED, "CREATE OR REPLACE VIEW public.names AS SELECT id, name FROM public.people;")
    migrate.apply(target, migrations, Selection(), way())
    with leaving(target, "SELECT count(*) FROM public.names", 1.2), Line(target) as line:
        migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert line.waited == set()
    assert "upper" not in rows(target, "SELECT pg_get_viewdef('names'::regclass) AS d")[0]["d"]


def test_without_the_look_it_stands_in_line(target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is about."""
    monkeypatch.setattr(lock_forecast, "forecast", lambda *given: {})
    with leaving(target, READER, 1.5), Line(target) as line:
        migrate.apply(target, second(tree, COLUMN), Selection(), way())
    assert line.waited == {"people"}


@pytest.mark.parametrize("asks_ahead", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_who_comes_between_the_look_and_the_question_is_not_waited_for_in_line(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch, asks_ahead: bool
) -> None:
    look = lock_forecast.in_the_way
    blind = time.monotonic() + 1.0
    monkeypatch.setattr(lock_forecast, "in_the_way", lambda *given: look(*given) if time.monotonic() > blind else [])
    if not asks_ahead:
        monkeypatch.setattr(lock_forecast, "ask", lambda *given: None)
    with leaving(target, READER, 1.5), Line(target) as line:
        migrate.apply(target, second(tree, COLUMN), Selection(), way())
    assert line.waited == (set() if asks_ahead else {"people"})


def test_who_waits_is_in_the_way_too(target: Any, tree: TestTree) -> None:
    """A person's ALTER that stands in line would be overtaken by nobody: whoever asks now is queued behind it."""
    with leaving(target, READER, 1.2):
        other = connect(target, application_name="a person")
        standing = threading.Thread(target=execute, args=(other, "BEGIN; LOCK TABLE public.people"))
        standing.start()
        time.sleep(0.2)
        wanted = lock_forecast.forecast(
            other_look := connect(target, application_name="look"),
            {0: [{"schema": "public", "name": "people", "mode": "ROW EXCLUSIVE"}]},
        )[0]
        assert [found.application_name for found in lock_forecast.in_the_way(other_look, wanted)] == ["a person"]
        standing.join()
        other.close()
        other_look.close()


def test_on_a_table_that_is_never_free_it_stands_in_line_at_last(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "BUSY_S", 0.6)
    ended = threading.Event()

    def client(begin_s: float) -> None:
        conn = connect(target, application_name="client")
        time.sleep(begin_s)
        while not ended.is_set():
            execute(conn, "BEGIN; SELECT count(*) FROM public.people; SELECT pg_sleep(0.08); COMMIT")
        conn.close()

    clients = [threading.Thread(target=client, args=(0.03 * number,)) for number in range(3)]
    for thread in clients:
        thread.start()
    time.sleep(0.3)
    try:
        with Line(target) as line:
            migrate.apply(target, second(tree, COLUMN), Selection(), way())
    finally:
        ended.set()
        for thread in clients:
            thread.join()
    assert line.waited == {"people"}


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE public.people ADD COLUMN IF NOT EXISTS age integer;",
        "ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES public.people (id) ON DELETE RESTRICT;",
        "ALTER TABLE public.pets ADD CONSTRAINT pets_self FOREIGN KEY (id) REFERENCES public.pets;",
        "CREATE TABLE public.toys (id integer PRIMARY KEY, owner integer CONSTRAINT toys_owner REFERENCES public.people);",
    ],
    ids=["column", "foreign key", "self", "table"],
)
def test_no_lock_is_asked_for_when_there_is_nothing_to_do(target: Any, tree: TestTree, statement: str) -> None:
    """Even a writer of both tables is no matter; PostgreSQL itself asks for ACCESS EXCLUSIVE with IF NOT EXISTS."""
    do(target, COLUMN)
    if "age" not in statement:
        do(target, statement)
    migrations = second(tree, statement)
    held = "LOCK TABLE public.people, public.pets IN ROW EXCLUSIVE MODE"
    with holding(target, held), Line(target) as line:
        started = time.monotonic()
        result = migrate.apply(target, migrations, Selection(), way())
        assert time.monotonic() - started < 3
    assert result["applied"][0]["skipped"]
    assert (line.waited, line.held) == (set(), set())


def test_a_foreign_key_with_another_rule_is_still_seen(target: Any, tree: TestTree) -> None:
    do(target, FOREIGN_KEY)
    other = FOREIGN_KEY.replace("NOT VALID", "ON DELETE CASCADE NOT VALID")
    with pytest.raises(Exception, match="ON DELETE CASCADE, found FOREIGN KEY") as caught:
        migrate.apply(target, second(tree, other), Selection(), way())
    assert "pgops_twin" not in str(caught.value)


def test_a_blocker_is_told_with_the_digest_of_its_query_and_no_literal(target: Any, tree: TestTree) -> None:
    migrations = second(tree, COLUMN, lock_budget_s=1)
    secret = "UPDATE public.people SET name = 'Doe 123-45-6789' WHERE id = 4711"
    with holding(target, secret), pytest.raises(locks.LockWaitExhausted) as caught:
        migrate.apply(target, migrations, Selection(), way())
    (blocker,) = caught.value.extra["blockers"]
    assert blocker["query_digest"] == query_digest("update public.people set name = 'x' where id = 1 -- for the test")
    assert f"query {blocker['query_digest']}" in caught.value.message
    assert "6789" not in str(caught.value.as_dict())
    assert "4711" not in str(caught.value.as_dict())


@pytest.mark.slow
def test_the_servers_own_digest_is_told_where_it_computes_one(
    server: Any, target: Any, tree: TestTree, database: str
) -> None:
    server.execute(f"ALTER DATABASE {database} SET compute_query_id = on")
    with holding(target, READER), pytest.raises(locks.LockWaitExhausted) as caught:
        migrate.apply(target, second(tree, COLUMN, lock_budget_s=1), Selection(), way())
    digest = caught.value.extra["blockers"][0]["query_digest"]
    known = rows(target, f"SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid() /* {RUN} */")
    assert digest.startswith("query_id ") and known


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("SELECT 1", "select   2 -- a comment", True),
        ("SELECT 'a'", "SELECT 'it''s another", True),
        ("SELECT $$a$$, E'b\\'c'", "SELECT $x$ $$ $x$, ''", True),
        ("SELECT * FROM t WHERE id IN (1, 2, 3)", "SELECT * FROM t WHERE id IN (4)", True),
        ("SELECT a FROM t", "SELECT b FROM t", False),
        ('SELECT "A" FROM t', 'SELECT "B" FROM t', False),
        ("SELECT t1.a FROM t1", "SELECT t2.a FROM t2", False),
    ],
)
def test_digests_differ_by_the_shape_of_a_query(one: str, other: str, same: bool) -> None:
    assert (query_digest(one) == query_digest(other)) is same


def test_there_is_no_digest_of_a_query_that_is_hidden() -> None:
    assert query_digest("<insufficient privilege>") is query_digest("") is query_digest(None) is None


def test_an_exclusive_lock_of_a_person_is_waited_for_and_named(target: Any, tree: TestTree) -> None:
    """For reads too: a foreign key counts its orphans before."""
    told = Told()
    with leaving(target, "LOCK TABLE public.people IN ACCESS EXCLUSIVE MODE", 2.0, "psql"):
        migrate.apply(target, second(tree, FOREIGN_KEY), Selection(), way(progress=told))
    assert told.said("waiting for pid")
    assert told.said("(psql, role white_cross_migrator, idle in transaction")


def test_a_prepared_transaction_is_in_the_way_and_has_no_session(server: Any, target: Any, tree: TestTree) -> None:
    conn = connect(target, application_name="x")
    execute(conn, "BEGIN")
    execute(conn, WRITER)
    execute(conn, "PREPARE TRANSACTION 'forgotten'")
    try:
        with pytest.raises(locks.LockWaitExhausted, match="a prepared transaction"):
            migrate.apply(target, second(tree, COLUMN, lock_budget_s=1), Selection(), way())
    finally:
        execute(conn, "ROLLBACK PREPARED 'forgotten'")
        conn.close()


def audited(target: Any) -> list[dict[str, Any]]:
    return rows(
        target,
        "SELECT version, run_id, detail->>'application_name' AS name, (detail->>'limit_s')::float AS limit_s, detail->>'pid' AS pid "
        "FROM pgops.audit WHERE event = 'blocker_terminated' ORDER BY seq",
    )


def test_nobody_is_ended_unless_it_was_asked_for(target: Any, tree: TestTree) -> None:
    with holding(target, READER) as conn:
        time.sleep(1.1)
        with pytest.raises(locks.LockWaitExhausted):
            migrate.apply(target, second(tree, COLUMN, lock_budget_s=1), Selection(), way())
        execute(conn, "SELECT 1")
    assert audited(target) == []


def test_who_idles_in_a_transaction_past_the_limit_is_ended_and_audited(target: Any, tree: TestTree) -> None:
    told = Told()
    with holding(target, READER, name="a forgotten psql") as conn:
        pid = conn.info.backend_pid
        result = migrate.apply(
            target, second(tree, COLUMN), Selection(), way(progress=told, terminate_idle_after_s=1.5)
        )
        with pytest.raises(Exception, match="terminating connection|closed the connection"):
            execute(conn, "SELECT 1")
    assert result["applied"][0]["terminated"][0]["pid"] == pid
    assert audited(target) == [
        {"version": V2, "run_id": RUN, "name": "a forgotten psql", "limit_s": 1.5, "pid": str(pid)}
    ]
    assert told.said(f"ended pid {pid} (a forgotten psql")


@pytest.mark.parametrize(
    "who",
    [
        "working",
        pytest.param("pg_dump", marks=pytest.mark.slow),
        pytest.param("pgops 20260101T000000Z-00000b backup", marks=pytest.mark.slow),
        "younger",
        pytest.param("elsewhere", marks=pytest.mark.slow),
    ],
)
def test_nobody_else_is_ended(target: Any, tree: TestTree, who: str) -> None:
    """Who works, dumps, backs up, idles for less than the limit, or holds what is not needed."""
    migrations = second(tree, COLUMN, lock_budget_s=1)
    name = who if who.startswith("pg") else "a person"
    statement = "SELECT count(*) FROM public.pets" if who == "elsewhere" else READER
    with holding(target, statement, name=name) as conn:
        working = threading.Thread(target=execute, args=(conn, "SELECT pg_sleep(3)"))
        if who == "working":
            working.start()
        else:
            time.sleep(1.1)
        asked = way(terminate_idle_after_s=60 if who == "younger" else 0.3)
        if who == "elsewhere":
            migrate.apply(target, migrations, Selection(), asked)
        else:
            with pytest.raises(locks.LockWaitExhausted):
                migrate.apply(target, migrations, Selection(), asked)
        if who == "working":
            working.join()
        assert fetch_all(conn, "SELECT 1 AS one") == [{"one": 1}]
    assert audited(target) == []


@pytest.mark.parametrize(
    ("sees", "told_of_it"),
    [(False, "since when is hidden without pg_read_all_stats"), (True, "this role may not end it")],
)
def test_a_session_that_this_role_may_not_end_is_told(
    server: Any, target: Any, tree: TestTree, database: str, sees: bool, told_of_it: str
) -> None:
    told = Told()
    migrations = second(tree, COLUMN, lock_budget_s=2)
    with server.session(database) as superuser, superuser.cursor() as cursor:
        cursor.execute("SET application_name = 'an administrator'")
        cursor.execute("BEGIN; " + READER)
        seeing = server.member(MIGRATOR, "pg_read_all_stats") if sees else nullcontext()
        with seeing, pytest.raises(locks.LockWaitExhausted):
            migrate.apply(target, migrations, Selection(), way(progress=told, terminate_idle_after_s=0.5))
        cursor.execute("SELECT 1")
    assert told.said(told_of_it)
    assert audited(target) == []


def test_a_validation_takes_no_lock_that_a_reader_or_writer_meets_and_says_how_much_it_reads(
    target: Any, tree: TestTree
) -> None:
    do(target, FOREIGN_KEY)
    tree.add(V2, "valid", [{"validate": [{"table": "pets", "constraint": "pets_owner"}]}], budgets={"lock_budget_s": 8})
    told = Told()
    with (
        leaving(target, "LOCK TABLE public.pets IN SHARE UPDATE EXCLUSIVE MODE", 1.5, "a vacuum"),
        Line(target) as line,
    ):
        migrate.apply(target, tree.render(), Selection(), way(progress=told))
    assert line.waited == set()
    assert told.said("waiting for pid")
    assert told.said("validating public.pets.pets_owner (1 of 1, about ")
    taken = lock_forecast.forecast(
        conn := connect(target, application_name="look"),
        {
            0: [
                {
                    "schema": "public",
                    "name": "pets",
                    "mode": "ROW SHARE",
                    "follow": ["referenced"],
                    "part": "pets_owner",
                }
            ]
        },
    )
    conn.close()
    assert [(lock.name, lock.mode) for lock in taken[0]] == [("people", "ROW SHARE")]


def test_the_session_that_works_has_its_name_and_every_time_limit(target: Any, tree: TestTree) -> None:
    names = (
        "application_name",
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "tcp_keepalives_idle",
        "tcp_user_timeout",
    )
    shown = " || ' ' || ".join(f"current_setting('{name}')" for name in names)
    told = Told()
    migrate.apply(
        target,
        second(tree, f"DO $$ BEGIN RAISE NOTICE 'session: %', {shown}; END $$;"),
        Selection(),
        way(progress=told),
    )
    assert told.said(f"session: pgops {RUN} 100ms 5min 1min 10 30000"), told.texts


def test_a_running_pg_dump_is_named_and_waited_for(target: Any, tree: TestTree) -> None:
    do(target, "INSERT INTO public.people SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n")
    told = Told()
    backup = target.as_backup()
    # It stops at its full pipe, with its locks in hand, until somebody reads.
    dump = subprocess.Popen(
        [Path(backup.bindir) / "pg_dump", *backup.client_arguments(), backup.database],
        env=backup.client_environment(),
        stdout=subprocess.PIPE,
    )
    wait_for(
        lambda: rows(target, "SELECT 1 AS one FROM pg_stat_activity WHERE application_name = 'pg_dump'"),
        what="pg_dump",
    )
    time.sleep(0.5)
    reading = threading.Timer(1.5, dump.communicate)
    reading.start()
    with Line(target) as line:
        migrate.apply(target, second(tree, COLUMN), Selection(), way(progress=told, terminate_idle_after_s=0.1))
    reading.join()
    assert dump.returncode == 0
    assert line.waited == set()
    assert told.said("(pg_dump, role white_cross_backup")


ROW = "UPDATE public.pets SET name = 'held' WHERE id = 5"
ALTER_AND_UPDATE = COLUMN + "\nUPDATE public.pets SET name = 'new' WHERE id < 100;"


@pytest.fixture
def a_row(target: Any, tree: TestTree) -> None:
    do(target, "INSERT INTO public.pets SELECT n, n, 'old' FROM generate_series(1, 9) n")


@pytest.mark.usefixtures("a_row")
def test_a_row_that_somebody_holds_is_waited_for_without_the_tables_lock_in_hand(target: Any, tree: TestTree) -> None:
    """No forecast knows a row's lock: each attempt keeps the clients of the altered table out for a lock_timeout."""
    told = Told()
    with leaving(target, ROW, 1.5) as conn:
        pid = conn.info.backend_pid
        migrate.apply(target, second(tree, ALTER_AND_UPDATE), Selection(), way(progress=told))
    attempts = [text for text in told.texts if text.startswith("[1/2] ALTER TABLE")]
    assert len(attempts) <= 3, told.texts
    assert told.said(f"gave way to pid {pid} (the reporting job")
    assert told.said(f"waiting for pid {pid} (the reporting job")


@pytest.mark.parametrize("also", ["", COLUMN.replace("people", "pets")], ids=["alone", "with a lock that is known"])
def test_nobody_is_ended_for_a_lock_that_is_only_guessed(target: Any, tree: TestTree, also: str) -> None:
    """A reader is in nobody's way when a DO block inserts."""
    block = "DO $$ BEGIN INSERT INTO public.people VALUES (1, 'x'); END $$;"
    with holding(target, READER) as conn:
        time.sleep(1.1)
        leaves = threading.Timer(0.7, execute, (conn, "COMMIT"))
        leaves.start()
        migrate.apply(target, second(tree, block + also, lock_budget_s=4), Selection(), way(terminate_idle_after_s=0.3))
        leaves.join()
        assert fetch_all(conn, "SELECT 1 AS one") == [{"one": 1}]
    assert audited(target) == []


@pytest.mark.usefixtures("a_row")
def test_who_idles_past_the_limit_with_a_row_in_hand_is_ended(target: Any, tree: TestTree) -> None:
    """It was seen before it had idled that long."""
    with holding(target, ROW, name="a forgotten psql") as conn:
        pid = conn.info.backend_pid
        migrations = second(tree, ALTER_AND_UPDATE, lock_budget_s=4)
        result = migrate.apply(target, migrations, Selection(), way(terminate_idle_after_s=1.0))
    assert [session["pid"] for session in result["applied"][0]["terminated"]] == [pid]
    assert [entry["pid"] for entry in audited(target)] == [str(pid)]


def test_a_table_that_an_earlier_version_of_the_run_made_is_looked_at(target: Any, tree: TestTree) -> None:
    """Since its commit clients use it as any other."""
    clients: list[Any] = []

    class ClientComes(Told):
        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if "SELECT 4711" in text and not clients:
                clients.append(connect(target, application_name="an early client"))
                execute(clients[0], "BEGIN; SELECT count(*) FROM public.toys")
                threading.Timer(1.5, clients[0].close).start()

    tree.add_sql("20260101000003", "between", "SELECT 4711;", "SELECT 1;")
    tree.add_sql("20260101000004", "alters", "ALTER TABLE public.toys ADD COLUMN age integer;", "SELECT 1;")
    told = ClientComes()
    with Line(target) as line:
        migrate.apply(
            target,
            second(tree, "CREATE TABLE public.toys (id integer PRIMARY KEY);", "DROP TABLE public.toys;"),
            Selection(),
            way(progress=told),
        )
    assert clients
    assert "toys" not in line.waited
    assert told.said("(an early client")


@pytest.mark.usefixtures("a_row")
def test_the_error_names_who_holds_on_though_the_last_attempt_did_not_see_it(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor looks every 50 ms, and on a loaded machine too late for one attempt."""
    look, seen = locks.blockers_of, []

    def once(conn: Any, pid: int) -> list[locks.Session]:
        found = [] if seen else look(conn, pid)
        seen.extend(found)
        return found

    monkeypatch.setattr(locks, "blockers_of", once)
    with holding(target, ROW) as conn:
        pid = conn.info.backend_pid
        with pytest.raises(locks.LockWaitExhausted) as caught:
            migrate.apply(target, second(tree, ALTER_AND_UPDATE, lock_budget_s=4), Selection(), way())
    assert [blocker["pid"] for blocker in caught.value.extra["blockers"]] == [pid]
