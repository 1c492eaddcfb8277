# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A statement that would change nothing asks for no lock: who holds the table is no matter to it."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog_states, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_states import states_of
from support.engine import Told, do, holding, rows, way
from support.lock_line import Line
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
TABLES = """
CREATE TABLE public.people (id integer PRIMARY KEY, name text DEFAULT 'nobody', age integer DEFAULT -1, born date,
    seen timestamptz DEFAULT now(), CONSTRAINT adult CHECK (age > 17));
CREATE TABLE public.pets (id integer PRIMARY KEY, name text);
ALTER TABLE public.pets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY all_pets ON public.pets USING (true);
CREATE RULE kept AS ON DELETE TO public.pets DO INSTEAD NOTHING;
CREATE VIEW public.names AS SELECT name FROM public.pets;
"""
# What each of them finds as it would leave it, in the words of the result.
NOTHING = {
    "ALTER TABLE public.people ALTER COLUMN id SET NOT NULL": "public.people.id has NOT NULL",
    "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL": "public.people.name has no NOT NULL",
    "ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'nobody'": "public.people.name has the default",
    "ALTER TABLE public.people ALTER COLUMN age SET DEFAULT -1": "public.people.age has the default",
    "ALTER TABLE public.people ALTER COLUMN seen SET DEFAULT now()": "public.people.seen has the default",
    "ALTER TABLE public.people ALTER COLUMN born DROP DEFAULT": "public.people.born has no default",
    "ALTER TABLE public.people DROP COLUMN IF EXISTS height": "public.people has no column height",
    "ALTER TABLE public.people DROP CONSTRAINT IF EXISTS tall": "public.people has no constraint tall",
    "ALTER TABLE public.people DISABLE ROW LEVEL SECURITY": "public.people has no row level security",
    "ALTER TABLE public.people NO FORCE ROW LEVEL SECURITY": "public.people has no forced row level security",
    "ALTER TABLE public.pets ENABLE ROW LEVEL SECURITY": "public.pets has row level security",
    "ALTER TABLE public.pets FORCE ROW LEVEL SECURITY": "public.pets has forced row level security",
    "DROP TRIGGER IF EXISTS log ON public.people": "public.people has no trigger log",
    "DROP POLICY IF EXISTS mine ON public.people": "public.people has no policy mine",
    "DROP RULE IF EXISTS quiet ON public.people": "public.people has no rule quiet",
    "ALTER TABLE public.people ADD COLUMN IF NOT EXISTS age integer, ADD COLUMN IF NOT EXISTS born date": (
        "column public.people.age, column public.people.born"
    ),
    "ALTER TABLE public.people DROP COLUMN IF EXISTS height, ALTER COLUMN id SET NOT NULL": (
        "public.people has no column height, public.people.id has NOT NULL"
    ),
}
# Of these the server locks nothing that is there, and the engine asks for nothing.
OF_NOTHING = [
    "DROP TABLE IF EXISTS public.toys",
    "DROP INDEX IF EXISTS public.toys_name",
    "DROP TYPE IF EXISTS public.mood",
    "DROP TRIGGER IF EXISTS log ON public.toys",
    "ALTER TABLE IF EXISTS public.toys RENAME TO games",
    "ALTER TABLE IF EXISTS public.toys DROP COLUMN IF EXISTS a",
]
# They look like the ones above, and have something to do.
SOMETHING = [
    "ALTER TABLE public.people ALTER COLUMN born SET DEFAULT NULL",
    "ALTER TABLE public.names ALTER COLUMN name DROP NOT NULL",
    "ALTER TABLE public.names DROP CONSTRAINT IF EXISTS adult",
    "ALTER TABLE public.people ADD COLUMN IF NOT EXISTS xmin integer",
    "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL",
    "ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'somebody'",
    "ALTER TABLE public.people ALTER COLUMN name SET DEFAULT $$'nobody'$$",
    "ALTER TABLE public.people ALTER COLUMN age SET DEFAULT 1",
    "ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT",
    "ALTER TABLE public.people DROP COLUMN IF EXISTS age",
    "ALTER TABLE public.people DROP COLUMN age",
    "ALTER TABLE public.people DROP COLUMN height",
    "ALTER TABLE public.people DROP COLUMN IF EXISTS ctid",
    "ALTER TABLE public.people DROP CONSTRAINT IF EXISTS adult",
    "ALTER TABLE public.people ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE public.pets DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE public.people FORCE ROW LEVEL SECURITY",
    "DROP POLICY IF EXISTS all_pets ON public.pets",
    "DROP RULE IF EXISTS kept ON public.pets",
    "ALTER TABLE public.toys ALTER COLUMN name DROP NOT NULL",
    "ALTER TABLE public.people ALTER COLUMN height DROP NOT NULL",
    "ALTER TABLE public.people DROP COLUMN IF EXISTS height, DROP COLUMN IF EXISTS age",
    "ALTER TABLE public.people DROP COLUMN IF EXISTS height, ALTER COLUMN name SET STATISTICS 10",
    "ALTER TABLE public.people ADD COLUMN IF NOT EXISTS age integer, ADD COLUMN IF NOT EXISTS height integer",
]


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "tables", TABLES, "DROP VIEW public.names;\nDROP TABLE public.pets;\nDROP TABLE public.people;")
    migrate.apply(target, tree.render(), Selection(), way())
    return tree


def second(tree: TestTree, *up: str, down: str = "SELECT 1;", **budgets: int) -> list[dict[str, Any]]:
    tree.add_sql(V2, "second", ";\n".join(up) + ";", down, budgets=budgets or {"lock_budget_s": 8})
    return tree.render()


def told(statement: str) -> dict[str, Any]:
    (raw,) = grammar().parser.parse_sql(statement)
    return {"states": states_of(raw.stmt)}


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_what_holds_already_is_told_from_what_does_not(target: Any) -> None:
    """And the server itself takes ACCESS EXCLUSIVE for nothing: that is why nobody asks it."""
    with closing(connect(target, application_name="test")) as conn:
        execute(conn, TABLES)
        for statement, words in NOTHING.items():
            assert catalog_states.holding(conn, [told(statement)]) == {0}, statement
            assert ", ".join(catalog_states.describe(told(statement))) == words
            taken = locked_by(conn, statement)
            # Where it drops what is not on the table it reads the table at most; there only the engine asked for more.
            assert taken <= ({"AccessShareLock"} if statement.startswith("DROP") else {"AccessExclusiveLock"}), (
                statement
            )
            assert taken or statement.startswith("DROP"), statement
        for statement in OF_NOTHING:
            assert locked_by(conn, statement) == set(), statement
        for statement in SOMETHING:
            assert catalog_states.holding(conn, [told(statement)]) == set(), statement
        asked = [told(statement) for statement in (*NOTHING, *SOMETHING, "SELECT 1")]
        assert catalog_states.holding(conn, asked) == set(range(len(NOTHING)))


def locked_by(conn: Any, statement: str) -> set[str]:
    """The strongest lock that the statement leaves on each table; nothing of it stays."""
    execute(conn, "BEGIN")
    execute(conn, statement)
    found = fetch_all(
        conn,
        "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' "
        "AND relation IN (to_regclass('public.people'), to_regclass('public.pets'))",
    )
    execute(conn, "ROLLBACK")
    strong = {row["mode"] for row in found if row["mode"] == "AccessExclusiveLock"}
    return strong or {row["mode"] for row in found}


def test_a_table_with_heirs_is_left_to_the_statement(target: Any) -> None:
    do(
        target,
        "CREATE TABLE public.base (name text DEFAULT 'a'); CREATE TABLE public.heir () INHERITS (public.base)",
        "ALTER TABLE public.heir ALTER COLUMN name SET DEFAULT 'b'",
    )
    with closing(connect(target, application_name="test")) as conn:
        for statement in ("SET DEFAULT 'a'", "DROP NOT NULL"):
            asked = told(f"ALTER TABLE public.base ALTER COLUMN name {statement}")
            assert catalog_states.holding(conn, [asked]) == set()


def test_a_not_null_that_is_not_validated_has_something_to_do(target: Any) -> None:
    """Since 18 SET NOT NULL validates it."""
    do(
        target,
        "CREATE TABLE public.people (name text)",
        "ALTER TABLE public.people ADD CONSTRAINT named NOT NULL name NOT VALID",
    )
    asked = told("ALTER TABLE public.people ALTER COLUMN name SET NOT NULL")
    with closing(connect(target, application_name="test")) as conn:
        assert catalog_states.holding(conn, [asked]) == set()
        execute(conn, "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL")
        assert catalog_states.holding(conn, [asked]) == {0}


@pytest.mark.parametrize(
    "before",
    ["CREATE TEMP TABLE people (name text NOT NULL)", "SET search_path = app, public"],
    ids=["a temporary table", "another path"],
)
def test_a_name_without_a_schema_is_that_which_the_session_means(target: Any, before: str) -> None:
    do(target, "CREATE TABLE public.people (name text)", "CREATE SCHEMA app")
    do(target, "CREATE TABLE app.people (name text NOT NULL)")
    short = told("ALTER TABLE people ALTER COLUMN name DROP NOT NULL")
    whole = told("ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL")
    trigger = told("DROP TRIGGER IF EXISTS log ON people")
    with closing(connect(target, application_name="test")) as conn:
        assert catalog_states.holding(conn, [short, whole, trigger]) == {0, 1, 2}
        execute(conn, before)
        assert catalog_states.holding(conn, [short, whole, trigger]) == {1}


def test_no_default_is_another_thing_where_the_domain_has_one(target: Any, tmp_path: Any) -> None:
    tree = TestTree(tmp_path / "sql")
    do(
        target,
        "CREATE DOMAIN public.five AS integer DEFAULT 5",
        "CREATE TABLE public.fives (id integer, n public.five)",
    )
    up = "ALTER TABLE public.fives ALTER COLUMN n SET DEFAULT NULL;\nINSERT INTO public.fives (id) VALUES (1);"
    tree.add_sql(V1, "no_five", up, "DELETE FROM public.fives WHERE id = 1;")
    migrate.apply(target, tree.render(), Selection(), way())
    assert rows(target, "SELECT n FROM public.fives") == [{"n": None}]


HELD = "LOCK TABLE public.people, public.pets IN ROW EXCLUSIVE MODE"


def test_where_all_is_as_it_would_be_the_step_goes_through_at_once(target: Any, tree: TestTree) -> None:
    migrations, seen = second(tree, *NOTHING, *OF_NOTHING), Told()
    with holding(target, HELD), Line(target) as line:
        started = time.monotonic()
        result = migrate.apply(target, migrations, Selection(), way(progress=seen))
        assert time.monotonic() - started < 5
    assert ", ".join(result["applied"][0]["skipped"]) == ", ".join(NOTHING.values())
    assert seen.said("nothing to do, public.people has no column height, public.people.id has NOT NULL: skipped")
    assert (line.waited, line.held) == (set(), set())


def test_without_the_look_it_waits_for_its_lock(target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is about."""
    monkeypatch.setattr(catalog_states, "holding", lambda *given: set())
    with holding(target, HELD), pytest.raises(locks.LockWaitExhausted):
        migrate.apply(target, second(tree, *NOTHING, lock_budget_s=1), Selection(), way())


def test_what_an_earlier_statement_undoes_is_done_again(target: Any, tree: TestTree) -> None:
    """The look before the transaction says that it holds, the one right before the statement counts."""
    up = [
        "ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT",
        "ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'nobody'",
        "ALTER TABLE public.people DROP CONSTRAINT IF EXISTS old_enough",
        "ALTER TABLE public.people ADD CONSTRAINT old_enough CHECK (age > 0) NOT VALID",
        "ALTER TABLE public.people DROP CONSTRAINT IF EXISTS old_enough",
        "DO $$ BEGIN ALTER TABLE public.pets NO FORCE ROW LEVEL SECURITY; END $$",
        "ALTER TABLE public.pets FORCE ROW LEVEL SECURITY",
    ]
    result = migrate.apply(target, second(tree, *up), Selection(), way())
    assert result["applied"][0]["skipped"] == ["public.people has no constraint old_enough"]
    (found,) = rows(
        target,
        "SELECT (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'people'::regclass AND adnum = 2) AS name, "
        "(SELECT count(*) FROM pg_constraint WHERE conname = 'old_enough') AS checks, "
        "(SELECT relforcerowsecurity FROM pg_class WHERE oid = 'pets'::regclass) AS forced",
    )
    assert found == {"name": "'nobody'::text", "checks": 0, "forced": True}


def test_somebody_who_changes_it_between_the_two_looks_is_seen(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = catalog_states.holding, []

    def then_changed(conn: Any, statements: Any) -> set[int]:
        found = look(conn, statements)
        if not looks:
            do(target, "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL")
        looks.append(found)
        return found

    monkeypatch.setattr(catalog_states, "holding", then_changed)
    up = "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL"
    result = migrate.apply(target, second(tree, up), Selection(), way())
    assert (looks, result["applied"][0]["skipped"]) == ([{0}, set()], [])
    (column,) = rows(
        target, "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'name'"
    )
    assert column["attnotnull"] is False


def test_a_default_of_a_table_that_somebody_has_to_himself_is_waited_for(target: Any, tree: TestTree) -> None:
    """To read it takes a lock of a reader, which no limit of the step's may miss."""
    up = "ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'nobody'"
    migrations = second(tree, up, lock_budget_s=1)
    with (
        holding(target, "LOCK TABLE public.people IN ACCESS EXCLUSIVE MODE"),
        pytest.raises(locks.LockWaitExhausted, match="the reporting job"),
    ):
        migrate.apply(target, migrations, Selection(), way())


def test_on_the_way_down_too(target: Any, tree: TestTree) -> None:
    down = "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL, DISABLE ROW LEVEL SECURITY;"
    migrate.apply(target, second(tree, "SELECT 1", down=down), Selection(), way())
    with holding(target, HELD), Line(target) as line:
        result = migrate.revert(target, Reverts(), way())
    assert result["reverted"][0]["left"] == []
    assert result["reverted"][0]["already"] == [
        "public.people.name has no NOT NULL",
        "public.people has no row level security",
    ]
    assert (line.waited, line.held) == (set(), set())


def test_a_way_down_of_several_parts_is_skipped_only_where_all_are_gone(target: Any, tree: TestTree) -> None:
    up = "ALTER TABLE public.people ADD COLUMN a integer, ADD COLUMN b integer"
    down = "ALTER TABLE public.people DROP COLUMN IF EXISTS a, DROP COLUMN IF EXISTS b;"
    columns = "SELECT count(*) AS n FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname IN ('a', 'b')"
    for gone, already in (["a"], []), (["a", "b"], ["public.people has no column a", "public.people has no column b"]):
        migrate.apply(target, second(tree, up, down=down), Selection(), way())
        do(target, *(f"ALTER TABLE public.people DROP COLUMN {name}" for name in gone))
        (reverted,) = migrate.revert(target, Reverts(), way())["reverted"]
        assert (reverted["left"], reverted["already"]) == ([], already)
        assert rows(target, columns) == [{"n": 0}]
