# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that stopped half-way may be mended where it failed, and only there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
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
