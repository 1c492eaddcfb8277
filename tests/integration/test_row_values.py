# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""No value of a row reaches a message, the ledger, the audit or the progress: what the server or a trigger says of one is told
by SQLSTATE and place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import checks, declared, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import Told, do, rows, way
from support.tree import NO_DIFFERENCE, TestTree

V1 = "20260101000001"
NAME, PHONE = "Sentinella", "5551234567"
BACKFILL = "UPDATE public.pupils SET seen = true WHERE id BETWEEN $1 AND $2 AND NOT seen;\n"


@pytest.fixture(autouse=True)
def pupils(target: Any) -> None:
    do(
        target,
        "CREATE TABLE pupils (id integer PRIMARY KEY, name text, phone text, seen boolean NOT NULL DEFAULT false)",
        f"INSERT INTO pupils VALUES (1, '{NAME}', '{PHONE}')",
    )


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    return TestTree(tmp_path / "sql")


def with_trigger(target: Any, body: str) -> None:
    do(
        target,
        f"CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body}; RETURN NEW; END $f$",
        "CREATE TRIGGER looks BEFORE UPDATE ON pupils FOR EACH ROW EXECUTE FUNCTION looks()",
    )


def backfilling(tree: TestTree) -> list[dict[str, Any]]:
    step = {"backfill": {"table": "pupils", "key": "id", "statement": "b.sql.j2", "irreversible": "it stays"}}
    files = {"b.sql.j2": BACKFILL, "verify.sql.j2": NO_DIFFERENCE}
    tree.add(V1, "fill", [step], files, rollback={"safety": "none", "stays": "what was seen"})
    return tree.render()


def stepping(tree: TestTree, up: str) -> list[dict[str, Any]]:
    tree.add_sql(V1, "step", up, "SELECT 1;")
    return tree.render()


def failed(target: Any, migrations: list[dict[str, Any]]) -> PgopsError:
    """The error of a run, of which nothing that it leaves behind may tell a value."""
    told = Told()
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way(progress=told))
    error = caught.value
    left = [error.message, error.as_dict(), told.events]
    left += [rows(target, f"SELECT * FROM pgops.{table}") for table in ("migration", "step", "run", "audit")]
    assert rows(target, "SELECT count(*) AS n FROM pgops.audit WHERE event = 'failed'") == [{"n": 1}]
    assert NAME.lower() not in str(left).lower() and PHONE not in str(left)
    return error


@pytest.mark.parametrize(
    "raised",
    [
        "RAISE EXCEPTION 'Phone % of % is not valid', NEW.phone, NEW.name",
        "RAISE EXCEPTION USING MESSAGE = NEW.name, ERRCODE = '23514', HINT = NEW.phone, CONSTRAINT = NEW.name",
        "RAISE undefined_table USING MESSAGE = NEW.name",
        "ASSERT NEW.name IS NULL, NEW.name",
    ],
)
def test_what_a_trigger_says_is_told_by_sqlstate_and_place(target: Any, tree: TestTree, raised: str) -> None:
    with_trigger(target, raised)
    error = failed(target, backfilling(tree))
    at = "ASSERT" if raised.startswith("ASSERT") else "RAISE"
    assert f"PL/pgSQL function looks() line 1 at {at} raised an error" in error.message
    assert f"(SQLSTATE {error.sqlstate})" in error.message
    assert "server's log" in str(error.hint)


def test_what_a_block_of_the_version_says_is_told_and_what_it_calls_is_not(target: Any, tree: TestTree) -> None:
    said = "DO $$ BEGIN RAISE EXCEPTION '% pupil(s) without a school', 17 USING HINT = 'Give them one.'; END $$;"
    error = failed(target, stepping(tree, said))
    assert "17 pupil(s) without a school" in error.message
    assert error.hint == "Give them one."
    with_trigger(target, "RAISE EXCEPTION 'no %', NEW.name")
    called = "DO $$ BEGIN UPDATE public.pupils SET seen = true; RAISE EXCEPTION 'never'; END $$;"
    with pytest.raises(PgopsError, match=r"looks\(\) line 1 at RAISE raised an error") as caught:
        migrate.apply(target, stepping(tree, called), Selection(), way("20260101T000000Z-000002"))
    assert NAME not in f"{caught.value.message}{caught.value.as_dict()}"


def test_a_notice_is_told_where_the_version_has_words_for_it(target: Any, tree: TestTree) -> None:
    with_trigger(target, "RAISE NOTICE 'updating %', NEW.name; RAISE WARNING '%', NEW.phone")
    up = """DROP VIEW IF EXISTS public.nobody_has_it;
DO $$ BEGIN RAISE NOTICE '% pupil(s), 100 %% of '
    'them', 3; RAISE INFO '%', 4; UPDATE public.pupils SET seen = true; END $$;"""
    told = Told()
    migrate.apply(target, stepping(tree, up), Selection(), way(progress=told))
    assert told.said('NOTICE:  view "nobody_has_it" does not exist, skipping')
    assert told.said("NOTICE:  3 pupil(s), 100 % of them")
    assert told.said("3 notice(s) of a function or the server are not shown")
    assert not told.said(NAME) and not told.said(PHONE)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("NEW.updated := now()", 'record "new" has no field "updated"'),
        ("INSERT INTO public.pupils_log VALUES (1)", 'relation "public.pupils_log" does not exist'),
        ("PERFORM lost FROM public.pupils", 'column "lost" does not exist'),
    ],
)
def test_a_broken_trigger_is_told_with_the_names_that_it_lacks(
    target: Any, tree: TestTree, body: str, said: str
) -> None:
    with_trigger(target, body)
    error = failed(target, backfilling(tree))
    assert said in error.message
    assert "It is PL/pgSQL function looks() line 1 at " in str(error.hint)
    assert "depends_on" not in str(error.hint)


@pytest.mark.parametrize(
    "body",
    [
        "EXECUTE 'SELECT 1 ' || NEW.phone || ' ' || NEW.name || ' x'",
        "EXECUTE 'SELECT 1 FROM ' || quote_ident(NEW.name)",
        "EXECUTE 'SELECT ' || quote_ident(NEW.name)",
        "PERFORM NEW.name::regclass",
        "PERFORM NEW.phone::integer",
        "PERFORM now() AT TIME ZONE NEW.name",
    ],
)
def test_a_value_that_a_trigger_takes_for_something_else_is_not_told(target: Any, tree: TestTree, body: str) -> None:
    with_trigger(target, body)
    assert '"…"' in failed(target, backfilling(tree)).message


def test_a_key_that_may_be_a_name_stays_in_no_ledger_when_its_batches_are_done(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE pupils DROP CONSTRAINT pupils_pkey, ADD PRIMARY KEY (name)")
    step = {"backfill": {"table": "pupils", "key": "name", "statement": "b.sql.j2", "irreversible": "it stays"}}
    files = {"b.sql.j2": BACKFILL.replace("id BETWEEN", "name BETWEEN"), "verify.sql.j2": NO_DIFFERENCE}
    tree.add(V1, "fill", [step], files, rollback={"safety": "none", "stays": "what was seen"})
    told = Told()
    migrate.apply(target, tree.render(), Selection(), way(progress=told))
    assert rows(target, "SELECT seen FROM pupils") == [{"seen": True}]
    left = [rows(target, f"SELECT * FROM pgops.{table}") for table in ("migration", "step", "run", "audit")]
    assert NAME not in f"{left}{told.events}"


@pytest.mark.parametrize("cast", ["name::regclass::text", "name::regtype::text", "phone::integer::text"])
def test_a_value_that_the_statement_takes_for_something_else_is_not_told(
    target: Any, tree: TestTree, cast: str
) -> None:
    assert '"…"' in failed(target, stepping(tree, f"UPDATE public.pupils SET name = {cast};")).message


ON_ROWS = [
    "SELECT id::text, 'a', 'b' FROM public.pupils WHERE phone::integer < 0",
    "SELECT id::text, 'a', 'b' FROM public.pupils WHERE now() AT TIME ZONE name > now()",
    "SELECT id::text, 'a', 'b' FROM public.pupils WHERE name::regclass IS NULL",
]


def of_a_version(conn: Any, query: str) -> list[Any]:
    return declared.check_statements(conn, {"version": V1, "verify": [{"sql": query}]}, Control())


def of_a_named_check(conn: Any, query: str) -> list[Any]:
    check = {"name": "c", "title": "c", "versions": [], "level": "fail", "query": query, "expect": {"no_rows": True}}
    return checks.run(conn, [check], [], control=Control())[1]


@pytest.mark.parametrize("asked", [of_a_version, of_a_named_check])
@pytest.mark.parametrize("query", ON_ROWS)
def test_a_verification_that_fails_at_a_row_tells_no_value(
    target: Any, query: str, asked: Callable[[Any, str], list[Any]]
) -> None:
    with closing(connect(target, application_name="test")) as conn:
        (found,) = asked(conn, query)
    assert "SQLSTATE" in str(found) and '"…"' in str(found)
    assert NAME not in str(found) and PHONE not in str(found)


def test_an_error_of_nobodys_statement_tells_no_value_either(target: Any) -> None:
    with closing(connect(target, application_name="test")) as conn:
        for query in ON_ROWS[:2]:
            with pytest.raises(psycopg2.Error) as caught:
                execute(conn, query)
            message = from_psycopg(caught.value, "Something failed").message
            assert "SQLSTATE 22" in message and NAME not in message and PHONE not in message


def test_rows_with_a_label_are_told_by_their_place_where_their_key_may_be_a_name(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE TYPE public.mood AS ENUM ('A')",
        "CREATE TABLE kin (name text PRIMARY KEY, mood public.mood)",
    )
    step = {"sql": {"up": "types.sql.j2", "down": "remove_labels"}}
    files = {"types.sql.j2": "ALTER TYPE public.mood ADD VALUE 'B';\n", "verify.sql.j2": NO_DIFFERENCE}
    tree.add(V1, "label", [step], files)
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, f"INSERT INTO kin VALUES ('{NAME}', 'B')")
    with pytest.raises(PgopsError, match=r"1 row\(s\) of kin.mood, ctid \(0,1\)") as caught:
        migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert NAME not in f"{caught.value.message}{caught.value.as_dict()}"
    assert 'SELECT "ctid" FROM "public"."kin"' in str(caught.value.hint)
