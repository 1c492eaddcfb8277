# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Indexes: built concurrently, remains of ours rebuilt, other people's left alone, interrupted without a trace."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import indexes, migrate, statements
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import InterruptAt, Told, do, holding, rows, state, wait_for, way
from support.index_steps import PEOPLE_NAME, PETS_NAME, people_and_pets, wanted
from support.index_steps import VERSION as V1
from support.tree import TestTree


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    return people_and_pets(target, tmp_path)


def built(target: Any, name: str) -> dict[str, Any] | None:
    found = rows(
        target,
        "SELECT indisvalid AS valid, pg_get_indexdef(indexrelid) AS definition FROM pg_index "
        "WHERE indexrelid = to_regclass(%s)",
        (f"public.{name}",),
    )
    return found[0] if found else None


def leave_invalid(target: Any, statement: str, table: str = "people") -> None:
    """As a build that is cut off leaves it: a unique index over doubles."""
    with pytest.raises(psycopg2.errors.UniqueViolation):
        do(target, f"UPDATE {table} SET name = 'same' WHERE id < 3", statement)
    do(target, f"UPDATE {table} SET name = 'p' || id")


@pytest.mark.parametrize(
    ("index", "definition"),
    [
        (PEOPLE_NAME, "CREATE INDEX people_name ON public.people USING btree (name)"),
        (
            {**PEOPLE_NAME, "unique": True, "where": "NOT gone", "include": ["gone"]},
            "CREATE UNIQUE INDEX people_name ON public.people USING btree (name) INCLUDE (gone) WHERE (NOT gone)",
        ),
        (
            {**PEOPLE_NAME, "columns": [
                {"expression": "lower(name)", "opclass": "text_pattern_ops"}, {"column": "id", "order": "desc", "nulls": "last"},
            ]},
            "CREATE INDEX people_name ON public.people USING btree (lower(name) text_pattern_ops, id DESC NULLS LAST)",
        ),
        (
            {**PEOPLE_NAME, "method": "gin", "columns": [{"expression": "to_tsvector('english', coalesce(name, ''))"}]},
            "CREATE INDEX people_name ON public.people USING gin (to_tsvector('english'::regconfig, COALESCE(name, ''::text)))",
        ),
    ],
)  # fmt: skip
def test_it_is_built_as_declared_and_a_second_run_keeps_it(
    target: Any, tree: TestTree, index: dict[str, Any], definition: str
) -> None:
    migrate.apply(target, wanted(tree, index), Selection(), way())
    assert built(target, "people_name") == {"valid": True, "definition": definition}
    oid = rows(target, "SELECT 'people_name'::regclass::oid::int AS oid")
    do(target, "DROP SCHEMA pgops CASCADE")
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert result["applied"][0]["skipped"] == ["index public.people_name"]
    assert rows(target, "SELECT 'people_name'::regclass::oid::int AS oid") == oid


def test_writers_and_readers_go_on_while_it_builds(target: Any, tree: TestTree) -> None:
    """The build waits for a transaction that has written to the table; whoever comes meanwhile does not."""
    migrations = wanted(tree, PEOPLE_NAME)
    with holding(target, "UPDATE people SET gone = true WHERE id = 1") as writer:
        building = threading.Thread(target=migrate.apply, args=(target, migrations, Selection(), way()))
        building.start()
        time.sleep(1)
        started = time.monotonic()
        do(target, "UPDATE people SET gone = true WHERE id = 2")
        assert time.monotonic() - started < 0.5
        assert building.is_alive()
        writer.close()
        building.join(timeout=20)
    assert built(target, "people_name")["valid"]


def test_an_old_snapshot_does_not_kill_the_build(target: Any, tree: TestTree) -> None:
    """With the lock_timeout of other DDL it would end invalid after 100 ms."""
    migrations = wanted(tree, PEOPLE_NAME)
    told = Told()
    with holding(target, "SELECT count(*) FROM pets") as reader:
        with reader.cursor() as cursor:
            cursor.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pets")
        threading.Timer(2.5, reader.close).start()
        migrate.apply(target, migrations, Selection(), way(progress=told))
    assert built(target, "people_name")["valid"]
    assert told.said("held up by pid") or told.said("waiting for old snapshots")


def test_the_remains_of_a_build_are_built_again(target: Any, tree: TestTree) -> None:
    leave_invalid(target, "CREATE UNIQUE INDEX CONCURRENTLY people_name ON people (name)")
    assert built(target, "people_name")["valid"] is False
    told = Told()
    migrate.apply(target, wanted(tree, {**PEOPLE_NAME, "unique": True}), Selection(), way(progress=told))
    assert built(target, "people_name")["valid"] is True
    assert told.said("index public.people_name is invalid, left by a build that was cut off")


def test_an_invalid_index_of_somebody_else_is_told_and_left_alone(target: Any, tree: TestTree) -> None:
    leave_invalid(target, "CREATE UNIQUE INDEX CONCURRENTLY their_index ON people (name)")
    told = Told()
    migrate.apply(target, wanted(tree, PEOPLE_NAME), Selection(), way(progress=told))
    assert built(target, "their_index")["valid"] is False
    assert told.said("index public.their_index is invalid and not ours")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "CREATE INDEX people_name ON people (id)",
            r"columns: wanted \(name \[text_ops\]\), found \(id \[int4_ops\]\)",
        ),
        ("CREATE UNIQUE INDEX people_name ON people (name)", "unique: wanted no, found yes"),
        ("CREATE INDEX people_name ON people (name) WHERE gone", "where: wanted none, found gone"),
        ("CREATE INDEX people_name ON people (name DESC)", r"found \(name DESC NULLS FIRST"),
        ("CREATE INDEX people_name ON people USING hash (name)", "method: wanted btree, found hash"),
        ("CREATE INDEX people_name ON pets (name)", "table: wanted people, found pets"),
        ("CREATE VIEW people_name AS SELECT 1", "wanted an index, found another relation"),
    ],
)
def test_another_definition_under_that_name_is_refused(target: Any, tree: TestTree, statement: str, told: str) -> None:
    do(target, statement)
    with pytest.raises(PgopsError, match=f"index public.people_name exists already with another definition: .*{told}"):
        migrate.apply(target, wanted(tree, PEOPLE_NAME), Selection(), way())
    assert state(target, V1)["state"] == "failed"


def test_an_index_of_that_name_in_another_schema_is_another_index(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE SCHEMA other",
        "CREATE TABLE other.people (LIKE public.people)",
        "CREATE INDEX people_name ON other.people (id)",
    )
    migrate.apply(target, wanted(tree, PEOPLE_NAME), Selection(), way())
    assert built(target, "people_name")["valid"]


def test_several_tables_side_by_side_but_one_build_a_table(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: dict[str, int] = {"people": 0, "pets": 0}
    worst: list[tuple[int, int]] = []
    guard = threading.Lock()
    original = indexes.build

    def build(context: Any, remembered: Any, conn: Any, index: Any, place: str) -> None:
        with guard:
            running[index["table"]] += 1
            worst.append((max(running.values()), sum(running.values())))
        time.sleep(0.2)
        original(context, remembered, conn, index, place)
        with guard:
            running[index["table"]] -= 1

    monkeypatch.setattr(indexes, "build", build)
    migrations = wanted(
        tree, PEOPLE_NAME, {**PEOPLE_NAME, "name": "people_gone", "columns": [{"column": "gone"}]},
        PETS_NAME, {**PETS_NAME, "name": "pets_both", "columns": [{"column": "name"}, {"column": "id"}]},
    )  # fmt: skip
    migrate.apply(target, migrations, Selection(), way())
    assert max(per_table for per_table, _ in worst) == 1
    assert max(together for _, together in worst) == 2
    assert all(built(target, name)["valid"] for name in ("people_name", "people_gone", "pets_name", "pets_both"))


def test_an_interrupted_build_is_cancelled_and_leaves_nothing(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, PEOPLE_NAME)
    control = Control()
    with holding(target, "UPDATE people SET gone = true WHERE id = 1"):
        threading.Timer(1.5, control.request, args=("a test asked for it",)).start()
        with pytest.raises(Interrupted, match="a test asked for it"):
            migrate.apply(target, migrations, Selection(), way(control=control))
    assert built(target, "people_name") is None or built(target, "people_name")["valid"] is False
    assert state(target, V1) == {"state": "failed", "failed_step": 1, "reason": "interrupted", "steps": "1:running"}
    assert migrate.apply(target, migrations, Selection(), way())["applied"][0]["resumed"]
    assert built(target, "people_name")["valid"]


def test_what_is_done_before_an_interruption_stays_done(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, PEOPLE_NAME, {**PEOPLE_NAME, "name": "people_gone", "columns": [{"column": "gone"}]})
    control = Control()
    with pytest.raises(Interrupted):
        migrate.apply(
            target, migrations, Selection(), way(control=control, progress=InterruptAt(control, "people_gone"))
        )
    assert built(target, "people_name")["valid"]
    assert built(target, "people_gone") is None
    result = migrate.apply(target, migrations, Selection(), way())
    assert result["applied"][0]["skipped"] == []
    assert built(target, "people_gone")["valid"]


def test_a_build_that_fails_leaves_no_invalid_index(target: Any, tree: TestTree) -> None:
    do(target, "UPDATE people SET name = 'same' WHERE id < 3")
    with pytest.raises(
        PgopsError, match="failed when it built index public.people_name: could not create unique"
    ) as caught:
        migrate.apply(target, wanted(tree, {**PEOPLE_NAME, "unique": True}), Selection(), way())
    assert caught.value.sqlstate == "23505"
    assert "same" not in caught.value.message
    assert built(target, "people_name") is None


def test_a_build_that_hits_its_limit_is_told_apart(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, PEOPLE_NAME, budgets={"index_timeout_s": 1})
    held = holding(target, "UPDATE people SET gone = true WHERE id = 1")
    with held, pytest.raises(PgopsError, match="hit its time limit of 1 s when it built index") as caught:
        migrate.apply(target, migrations, Selection(), way())
    assert caught.value.extra["reason"] == "time_limit"


def test_progress_names_phase_and_holder(target: Any, tree: TestTree) -> None:
    told = Told()
    migrations = wanted(tree, PEOPLE_NAME)
    with holding(target, "UPDATE people SET gone = true WHERE id = 1", name="nightly import") as writer:
        threading.Timer(2.6, writer.close).start()
        migrate.apply(target, migrations, Selection(), way(progress=told))
    waits = [text for text in told.texts if "waiting for writers before build" in text]
    assert len(waits) >= 2
    assert "nightly import" in waits[0]


def test_the_way_down_drops_what_was_built_and_no_more(target: Any, tree: TestTree) -> None:
    do(target, "CREATE INDEX people_name ON people (name)")
    migrations = wanted(tree, PEOPLE_NAME, PETS_NAME)
    migrate.apply(target, migrations, Selection(), way())
    migrate.revert(target, Reverts(), way())
    assert built(target, "people_name")["valid"]
    assert built(target, "pets_name") is None


def test_the_way_down_leaves_an_index_of_that_name_that_is_another(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, PEOPLE_NAME, PETS_NAME)
    migrate.apply(target, migrations, Selection(), way())
    do(
        target,
        "DROP INDEX people_name, pets_name",
        "CREATE INDEX people_name ON pets (name)",
        "CREATE INDEX pets_name ON pets (id)",
    )
    told = Told()
    left = migrate.revert(target, Reverts(), way(progress=told))["reverted"][0]["left"]
    assert left == ["index public.pets_name", "index public.people_name"]
    assert built(target, "people_name") is not None and built(target, "pets_name") is not None
    assert told.said("index public.people_name is not as this version made it")


def test_an_index_that_somebody_makes_meanwhile_is_not_taken_for_our_remains(target: Any, tree: TestTree) -> None:
    """The first build waits for a writer; the name of the second is taken, by an invalid index, before it begins."""
    second = {**PEOPLE_NAME, "name": "people_gone", "columns": [{"column": "gone"}]}
    migrations = wanted(tree, PEOPLE_NAME, second)
    failed: list[PgopsError] = []

    def work() -> None:
        try:
            migrate.apply(target, migrations, Selection(), way())
        except PgopsError as error:
            failed.append(error)

    do(target, "INSERT INTO pets VALUES (1, 'x'), (2, 'x')")
    with holding(target, "UPDATE people SET gone = true WHERE id = 1") as writer:
        building = threading.Thread(target=work)
        building.start()
        wait_for(lambda: built(target, "people_name"), what="the first build")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            do(target, "CREATE UNIQUE INDEX CONCURRENTLY people_gone ON pets (name)")
        writer.close()
        building.join(timeout=20)
    assert failed[0].sqlstate == "42P07"
    assert built(target, "people_gone")["definition"].endswith("ON public.pets USING btree (name)")
    # Nor is it on the way down, or in the next run.
    with pytest.raises(PgopsError, match="people_gone exists already with another definition"):
        migrate.apply(target, migrations, Selection(), way())
    migrate.revert(target, Reverts(), way())
    assert built(target, "people_name") is None
    assert built(target, "people_gone") is not None


def test_an_invalid_index_that_somebody_may_be_building_is_waited_for(target: Any, tree: TestTree) -> None:
    leave_invalid(target, "CREATE UNIQUE INDEX CONCURRENTLY people_name ON people (name)")
    migrations = wanted(tree, {**PEOPLE_NAME, "unique": True})
    began = time.monotonic()
    with holding(target, "LOCK TABLE people IN SHARE UPDATE EXCLUSIVE MODE") as other:
        with pytest.raises(PgopsError, match=r"people_name is invalid, and pid \d+ .* may be building it") as caught:
            migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(timeout_s=1)))
        assert str(other.info.backend_pid) in caught.value.message
    assert time.monotonic() - began > 1
    assert built(target, "people_name") == {
        "valid": False,
        "definition": "CREATE UNIQUE INDEX people_name ON public.people USING btree (name)",
    }
    migrate.apply(target, migrations, Selection(), way())
    assert built(target, "people_name")["valid"] is True


def test_names_are_quoted(target: Any, tree: TestTree) -> None:
    do(target, 'CREATE TABLE "Odd "" table" (id integer PRIMARY KEY, "a b" text)')
    conn = connect(target, application_name="test")
    index = {"name": 'x"y', "schema": "public", "table": 'Odd " table', "columns": [{"column": "a b"}]}
    assert statements.create_index(index).as_string(conn) == (
        'CREATE INDEX CONCURRENTLY "x""y" ON "public"."Odd "" table" USING "btree" ("a b")'
    )
    conn.close()
