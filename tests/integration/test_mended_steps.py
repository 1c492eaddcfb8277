# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that stopped half-way may be mended where it failed, and only there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, plan, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.tree import NO_DIFFERENCE, TestTree

V1, V2 = "20260101000001", "20260101000002"
NAMES = {"name": "people_name_idx", "table": "people", "columns": ["name"], "why": "a test"}
CODES = {"name": "people_code_key", "table": "people", "columns": ["code"], "unique": True, "why": "a test"}


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    """A table with two rows of one code."""
    tree = TestTree(tmp_path / "sql")
    up = "CREATE TABLE public.people (id integer PRIMARY KEY, name text, code text, done text CHECK (done <> 'x'));"
    tree.add_sql(V1, "people", up, "DROP TABLE public.people;")
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO people SELECT n, 'x', 'same' FROM generate_series(1, 2) n")
    return tree


def with_indexes(tree: TestTree, *indexes: dict[str, Any]) -> None:
    tree.add(V2, "indexes", [{"indexes": "indexes.yml"}], {"indexes.yml": list(indexes)})


def apply(target: Any, tree: TestTree) -> dict[str, Any]:
    return migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))


def indexes(target: Any) -> list[str]:
    found = rows(target, "SELECT indexname AS name FROM pg_indexes WHERE tablename = 'people' ORDER BY 1")
    return [row["name"] for row in found if row["name"] != "people_pkey"]


def test_an_index_that_could_not_be_built_may_be_mended(target: Any, tree: TestTree) -> None:
    with_indexes(tree, CODES)
    with pytest.raises(PgopsError, match="Step 1 of 1"):
        apply(target, tree)
    assert indexes(target) == []
    with_indexes(tree, {**CODES, "unique": False})
    (item,) = apply(target, tree)["applied"]
    assert item["resumed"]
    assert indexes(target) == ["people_code_key"]


def test_an_index_that_could_not_be_built_may_be_left_out(target: Any, tree: TestTree) -> None:
    with_indexes(tree, NAMES, CODES)
    with pytest.raises(PgopsError, match="Step 1 of 1"):
        apply(target, tree)
    with_indexes(tree, NAMES)
    apply(target, tree)
    assert indexes(target) == ["people_name_idx"]


def test_the_whole_step_may_be_left_out_where_it_has_built_nothing(target: Any, tree: TestTree) -> None:
    steps = [{"sql": {"up": "a.sql.j2", "down": "b.sql.j2"}}, {"indexes": "indexes.yml"}]
    sql = {"a.sql.j2": "ALTER TABLE people ADD x int;", "b.sql.j2": "ALTER TABLE people DROP x;"}
    tree.add(V2, "indexes", steps, {**sql, "indexes.yml": [CODES]})
    with pytest.raises(PgopsError, match="Step 2 of 2"):
        apply(target, tree)
    tree.add(V2, "indexes", steps[:1], sql)
    apply(target, tree)
    assert indexes(target) == []
    # Killed before it was written down as applied.
    do(target, f"UPDATE pgops.migration SET state = 'applying' WHERE version = '{V2}'")
    assert apply(target, tree)["applied"][0]["resumed"]


@pytest.mark.parametrize("now", [[{**NAMES, "columns": ["id"]}], []], ids=["changed", "left out"])
def test_an_index_that_is_built_stays_as_it_was_and_is_named(target: Any, tree: TestTree, now: list[Any]) -> None:
    with_indexes(tree, NAMES, CODES)
    with pytest.raises(PgopsError, match="Step 1 of 1"):
        apply(target, tree)
    assert indexes(target) == ["people_name_idx"]
    mended = {**CODES, "unique": False}
    with_indexes(tree, *now, mended)
    with pytest.raises(PgopsError) as caught:
        apply(target, tree)
    assert (
        f"Version {V2} stopped at step 1 in {target.database}, and index public.people_name_idx, which its step 1 has "
        "built already, was edited since (20260101000002_indexes/indexes.yml (edited)); put its definition back or revert "
        "the version first." in caught.value.message
    )
    with_indexes(tree, NAMES, mended)
    apply(target, tree)
    assert indexes(target) == ["people_code_key", "people_name_idx"]


def backfill(tree: TestTree, value: str) -> None:
    step = {"table": "people", "key": "id", "statement": "fill.sql.j2", "remaining": "left.sql.j2"}
    files = {
        "fill.sql.j2": f"UPDATE public.people SET done = {value} WHERE id BETWEEN $1 AND $2;",
        "left.sql.j2": "SELECT count(*) FROM public.people WHERE done IS NULL;",
        "verify.sql.j2": NO_DIFFERENCE,
    }
    rollback = {"safety": "partial", "stays": "what was filled"}
    tree.add(V2, "fill", [{"backfill": step | {"batch_size": 1, "adapt": False}}], files, rollback=rollback)


def test_a_backfill_that_failed_in_its_first_batch_may_be_mended(target: Any, tree: TestTree) -> None:
    backfill(tree, "'x'")
    with pytest.raises(PgopsError, match="Step 1 of 1"):
        apply(target, tree)
    backfill(tree, "'y'")
    apply(target, tree)
    assert rows(target, "SELECT DISTINCT done FROM people") == [{"done": "y"}]


def test_a_backfill_that_left_rows_may_be_mended_as_its_hint_says(target: Any, tree: TestTree) -> None:
    backfill(tree, "CASE id WHEN 1 THEN 'y' END")
    with pytest.raises(PgopsError, match="still counts 1 rows"):
        apply(target, tree)
    backfill(tree, "'z'")
    apply(target, tree)
    assert rows(target, "SELECT DISTINCT done FROM people") == [{"done": "z"}]


def test_a_backfill_that_is_half_done_stays_as_it_was(target: Any, tree: TestTree) -> None:
    backfill(tree, "CASE id WHEN 1 THEN 'y' ELSE 'x' END")
    with pytest.raises(PgopsError, match="Step 1 of 1"):
        apply(target, tree)
    backfill(tree, "'z'")
    with pytest.raises(PgopsError, match="the text of its step 1, which is half done, was edited since"):
        apply(target, tree)


def outside_one_transaction(tree: TestTree, *statements: str, down: str = "SELECT 1;", **keys: Any) -> None:
    """A step of which each statement is committed for itself."""
    tree.add_sql(V2, "several", "\n".join(f"{one};" for one in statements), down, **{"transaction": False, **keys})


FIRST, SECOND = "INSERT INTO public.people VALUES (3, 'c')", "INSERT INTO public.people VALUES (4, 'd')"
FAULTY, MENDED = "INSERT INTO public.people (nom) VALUES (5)", "INSERT INTO public.people VALUES (5, 'e')"


def stopped(target: Any, tree: TestTree) -> str:
    with pytest.raises(PgopsError) as caught:
        apply(target, tree)
    return caught.value.message


def ids(target: Any) -> list[int]:
    return [row["id"] for row in rows(target, "SELECT id FROM people ORDER BY id")]


def test_the_statement_that_failed_outside_one_transaction_may_be_mended(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY, "DELETE FROM public.people WHERE id = 1")
    stopped(target, tree)
    assert ids(target) == [1, 2, 3, 4]
    outside_one_transaction(tree, FIRST, SECOND, MENDED)
    (item,) = apply(target, tree)["applied"]
    assert item["resumed"]
    # What is committed ran once: its keys would clash.
    assert ids(target) == [1, 2, 3, 4, 5]


def test_the_last_statement_that_failed_outside_one_transaction_may_be_left_out(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY)
    stopped(target, tree)
    outside_one_transaction(tree, FIRST, SECOND)
    apply(target, tree)
    assert ids(target) == [1, 2, 3, 4]
    (step,) = rows(target, f"SELECT state, progress FROM pgops.step WHERE version = '{V2}'")
    assert (step["state"], step["progress"]["statements"]) == ("done", 2)


def test_a_statement_that_is_committed_stays_as_it_was(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY)
    stopped(target, tree)
    for now in ([FIRST, SECOND.replace("'d'", "'x'"), MENDED], [FIRST], [SECOND, FIRST, MENDED]):
        outside_one_transaction(tree, *now)
        assert (
            f"Version {V2} stopped at step 1 in {target.database}, and the text of its step 1, of which the first 2 statements "
            "are committed, was edited since"
        ) in (told := stopped(target, tree))
        assert "put those statements back or revert the version first." in told
    assert ids(target) == [1, 2, 3, 4]


def test_what_is_committed_is_not_run_again_in_one_transaction(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, "UPDATE public.people SET id = id + 10", FAULTY)
    stopped(target, tree)
    outside_one_transaction(tree, "UPDATE public.people SET id = id + 10", MENDED, transaction=True)
    assert "of its step 1 the first statement is committed" in stopped(target, tree)
    assert ids(target) == [11, 12]


def test_a_placeholder_may_be_mended_where_its_key_is_not_there_yet(target: Any, tree: TestTree) -> None:
    do(target, "CREATE TABLE owners (id integer PRIMARY KEY, name text NOT NULL)")
    key = "ALTER TABLE public.people ADD CONSTRAINT {0} FOREIGN KEY (id) REFERENCES public.owners (id) ON DELETE RESTRICT ON UPDATE RESTRICT NOT VALID"

    def with_placeholder(name: str) -> None:
        placeholders = [{"constraint": name, "row": {"name": "unknown"}}]
        step = {"sql": {"up": "up.sql.j2", "down": "down.sql.j2", "placeholders": placeholders}}
        files = {
            "up.sql.j2": f"{FIRST};\n{key.format(name)};\n",
            "down.sql.j2": f"ALTER TABLE public.people DROP CONSTRAINT {name};\n",
            "verify.sql.j2": NO_DIFFERENCE,
        }
        tree.add(V2, "keys", [step], files, transaction=False)

    do(target, "ALTER TABLE people ADD CONSTRAINT taken CHECK (id > 0)")
    with_placeholder("taken")
    stopped(target, tree)
    with_placeholder("free")
    do(target, "INSERT INTO owners SELECT id, 'o' FROM people")
    apply(target, tree)
    assert rows(
        target, "SELECT conname::text AS n FROM pg_constraint WHERE conrelid = 'people'::regclass AND contype = 'f'"
    ) == [{"n": "free"}]


def test_what_a_mended_statement_finds_as_it_should_be_stays_on_the_way_down(target: Any, tree: TestTree) -> None:
    do(target, "UPDATE people SET done = 'y'", "ALTER TABLE people ALTER COLUMN name SET NOT NULL")
    fill = "UPDATE public.people SET code = 'x'"
    down = "ALTER TABLE public.people ALTER COLUMN code DROP NOT NULL;\n"
    code = "ALTER TABLE public.people ALTER COLUMN code SET NOT NULL"
    outside_one_transaction(tree, code, FAULTY, down=down)
    stopped(target, tree)
    name, done = (f"ALTER TABLE public.people ALTER COLUMN {column} SET NOT NULL" for column in ("name", "done"))
    more = "".join(f"ALTER TABLE public.people ALTER COLUMN {column} DROP NOT NULL;\n" for column in ("name", "done"))
    outside_one_transaction(tree, code, fill, name, done, down=down + more)
    apply(target, tree)
    not_null = "SELECT attname::text AS n FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnotnull AND attnum > 0 ORDER BY 1"
    assert [row["n"] for row in rows(target, not_null)] == ["code", "done", "id", "name"]
    migrate.revert(target, Reverts(), way())
    assert [row["n"] for row in rows(target, not_null)] == ["id", "name"]


def test_what_was_there_before_a_mended_statement_stays_on_the_way_down(target: Any, tree: TestTree) -> None:
    do(target, "CREATE TABLE old (id integer PRIMARY KEY)")
    made = "CREATE TABLE public.made (id integer PRIMARY KEY)"
    outside_one_transaction(tree, made, FAULTY, down="DROP TABLE public.made;\n")
    stopped(target, tree)
    unless_there = "DO $$ BEGIN EXECUTE 'CREATE TABLE IF NOT EXISTS public.{0} (id integer PRIMARY KEY)'; END $$"
    down = "DROP TABLE public.new;\nDROP TABLE public.old;\nDROP TABLE public.made;\n"
    outside_one_transaction(tree, made, unless_there.format("old"), unless_there.format("new"), down=down)
    apply(target, tree)
    migrate.revert(target, Reverts(), way())
    tables = rows(target, "SELECT tablename::text AS n FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    assert [row["n"] for row in tables] == ["old", "people"]


def test_a_failure_says_what_is_committed_and_what_may_be_mended(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY)
    assert stopped(target, tree).endswith(
        f"not applied: {V2} (stopped at step 1 of 1, 2 of 3 statements of this step are committed). These 2 must stay as they "
        "are, what comes behind them may be mended."
    )
    (row,) = [row for row in plan.status(target, tree.render())["versions"] if row["version"] == V2]
    assert row["told"] == "failed at step 1 of 1, 2 of 3 statements of this step are committed"


def test_a_failure_in_the_middle_of_a_backfill_says_that_its_text_must_stay(target: Any, tree: TestTree) -> None:
    backfill(tree, "CASE id WHEN 1 THEN 'y' ELSE 'x' END")
    assert stopped(target, tree).endswith(
        f"not applied: {V2} (stopped at step 1 of 1, 1 of 2 rows done (50.00 %), 1 to go). The text of this step must stay as it "
        "is, since rows were changed by it: mend the rows, or go back first."
    )


def test_a_failure_of_which_nothing_is_left_says_nothing_of_the_sort(target: Any, tree: TestTree) -> None:
    for one_transaction in (True, False):
        outside_one_transaction(tree, FAULTY, FIRST, transaction=one_transaction)
        assert stopped(target, tree).endswith(f"not applied: {V2} (stopped at step 1 of 1).")


def test_check_shows_what_is_to_run_and_not_what_is_committed(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY)
    stopped(target, tree)
    outside_one_transaction(tree, FIRST, SECOND, MENDED)
    shown = preview.preview(target, tree.render(), Selection())["prepared"]
    assert shown.splitlines()[1:] == [
        "-- step 1 of 1: sql up",
        "-- the first 2 statements are committed already",
        "-- each in a transaction of its own",
        f"{MENDED};",
    ]
    outside_one_transaction(tree, FIRST, SECOND)
    shown = preview.preview(target, tree.render(), Selection())["prepared"]
    assert shown.splitlines()[1:] == ["-- step 1 of 1: sql up", "-- all of its statements are committed already"]


def test_that_only_the_transaction_is_another_one_is_said_so(target: Any, tree: TestTree) -> None:
    outside_one_transaction(tree, FIRST, SECOND, FAULTY)
    stopped(target, tree)
    outside_one_transaction(tree, FIRST, SECOND, MENDED, transaction=True)
    assert (
        f"Version {V2} stopped at step 1 in {target.database}, and its `transaction: false`, under which of its step 1 the first 2 "
        f"statements are committed, was edited since ({V2}_several/migration.yml (edited), {V2}_several/up.sql.j2 (edited)); put that key "
        "back or revert the version first."
    ) in stopped(target, tree)
