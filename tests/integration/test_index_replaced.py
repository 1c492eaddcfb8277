# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""An index that takes the place of an earlier version's: one of the two always serves, wherever it is cut off."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_build,
    ledger,
    migrate,
    preview,
    way_back,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_lint import lint
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import scan_tree
from support.engine import (
    InterruptAt,
    Told,
    do,
    fingerprint,
    holding,
    rows,
    way,
)
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"

NARROW = {"name": "people_name", "table": "people", "columns": ["name"], "where": "NOT gone", "why": "a test"}
WIDE = {"name": "people_name", "table": "people", "columns": ["name", "id"], "replaces": V2, "why": "a test"}
OTHER = {"name": "people_gone", "table": "people", "columns": ["gone"], "why": "a test"}

AS_V2 = {"people_name": "(name) WHERE (NOT gone)"}
AS_V3 = {"people_name": "(name, id)", "people_gone": "(gone)"}

# What is sent, in this order, when the narrow one gives way; and on the way back.
STAGES = ["CREATE INDEX", "DROP INDEX", "ALTER INDEX"]


@pytest.fixture
def migrations(tmp_path: Path) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id integer PRIMARY KEY, name text, gone boolean);",
        "DROP TABLE public.people;",
    )  # fmt: skip
    add(tree, V2, NARROW)
    add(tree, V3, WIDE, OTHER)
    return tree.render()


def add(tree: TestTree, version: str, *given: dict[str, Any], **keys: Any) -> None:
    tree.add(version, "add_indexes", [{"indexes": "indexes.yml"}], {"indexes.yml": list(given)}, **keys)


@pytest.fixture
def before(target: Any, migrations: list[dict[str, Any]]) -> str:
    """The fingerprint before version 3; the narrow index has a comment that must come back with it."""
    migrate.apply(target, migrations, Selection(target=V2), way())
    do(target, "INSERT INTO people SELECT n, 'p' || n, false FROM generate_series(1, 2000) n")
    do(target, "COMMENT ON INDEX people_name IS 'the report of the office stands on it'")
    return fingerprint(target)


def found(target: Any) -> dict[str, str]:
    """Every index of the table but its key, invalid ones with a word."""
    return {
        row["name"]: row["definition"]
        for row in rows(
            target,
            "SELECT c.relname AS name, CASE WHEN i.indisvalid THEN '' ELSE 'INVALID ' END || "
            "substring(pg_get_indexdef(c.oid) FROM 'USING btree (.*)') AS definition FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = 'people'::regclass AND NOT i.indisprimary",
        )
    }


class Killed(BaseException):
    """As kill -9: nothing tidies up."""


def kill_at(monkeypatch: pytest.MonkeyPatch, stage: str, *, after: bool) -> None:
    """End the process just before or just after the first statement of that kind on the index in question."""
    real = index_build.execute

    def execute(conn: Any, statement: Any, *given: Any) -> Any:
        text = statement if isinstance(statement, str) else statement.as_string(conn)
        hit = text.startswith(stage) and "people_name" in text
        if hit and not after:
            raise Killed
        done = real(conn, statement, *given)
        if hit:
            raise Killed
        return done

    monkeypatch.setattr(index_build, "execute", execute)


def test_it_is_built_aside_then_takes_the_name_and_the_way_back_brings_the_first(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    told = Told()
    for _ in range(2):
        migrate.apply(target, migrations, Selection(), way(progress=told))
        assert found(target) == AS_V3
        migrate.revert(target, Reverts(), way(progress=told))
        assert found(target) == AS_V2
        assert fingerprint(target) == before
    work = [text for text in told.texts if "index public.people_name" in text and "%" not in text]
    once = [
        "building index public.people_name_pgops_new",
        "dropping index public.people_name",
        "renaming index public.people_name_pgops_new to people_name",
    ]
    assert work[:3] == [f"{once[0]} (2 of 2)", *once[1:]]
    assert work[3:6] == once


def test_a_query_has_one_of_the_two_at_any_time(
    target: Any, migrations: list[dict[str, Any]], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = index_build.execute

    def execute(conn: Any, statement: Any, *given: Any) -> Any:
        done = real(conn, statement, *given)
        seen.append([d for d in found(target).values() if d.startswith("(name")])
        return done

    monkeypatch.setattr(index_build, "execute", execute)
    migrate.apply(target, migrations, Selection(), way())
    migrate.revert(target, Reverts(), way())
    assert len(seen) > 10
    assert all(seen)


@pytest.mark.few(6)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("then", ["resumed", "reverted"])
def test_cut_off_at_any_stage_it_goes_on_or_back(
    target: Any,
    migrations: list[dict[str, Any]],
    before: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    after: bool,
    then: str,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stage, after=after)
        migrate.apply(target, migrations, Selection(), way())
    if then == "resumed":
        assert migrate.apply(target, migrations, Selection(), way())["applied"][0]["resumed"]
        assert found(target) == AS_V3
    migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == AS_V2
    assert fingerprint(target) == before


@pytest.mark.few(3)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stage", [*STAGES, "COMMENT ON"])
def test_the_way_back_cut_off_at_any_stage_goes_on(
    target: Any,
    migrations: list[dict[str, Any]],
    before: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    after: bool,
) -> None:
    migrate.apply(target, migrations, Selection(), way())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stage, after=after)
        migrate.revert(target, Reverts(), way())
    migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == AS_V2
    assert fingerprint(target) == before


@pytest.mark.few(3)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("down_stage", STAGES)
def test_cut_off_on_both_ways(
    target: Any,
    migrations: list[dict[str, Any]],
    before: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    down_stage: str,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, stage, after=True)
        migrate.apply(target, migrations, Selection(), way())
    with monkeypatch.context() as patch:
        kill_at(patch, down_stage, after=True)
        try:
            migrate.revert(target, Reverts(version=V3), way())
        except Killed:
            patch.undo()
            migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == AS_V2
    assert fingerprint(target) == before


@pytest.mark.slow
def test_interrupted_while_it_builds_nothing_of_it_is_left_and_the_first_serves(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    control = Control()
    with holding(target, "UPDATE people SET gone = true WHERE id = 1"):
        threading.Timer(1.5, control.request, args=("a test asked for it",)).start()
        with pytest.raises(Interrupted):
            migrate.apply(target, migrations, Selection(), way(control=control))
        assert found(target)["people_name"] == AS_V2["people_name"]
    migrate.apply(target, migrations, Selection(), way())
    assert found(target) == AS_V3


@pytest.mark.parametrize("told", ["building index public.people_name_pgops_new", "dropping index", "renaming index"])
def test_asked_to_end_it_stops_at_the_next_stage(
    target: Any, migrations: list[dict[str, Any]], before: str, told: str
) -> None:
    control = Control()
    try:
        migrate.apply(target, migrations, Selection(), way(control=control, progress=InterruptAt(control, told)))
    except Interrupted:
        migrate.apply(target, migrations, Selection(), way())
    assert found(target) == AS_V3
    migrate.revert(target, Reverts(), way())
    assert fingerprint(target) == before


@pytest.mark.parametrize("then", ["resumed", "reverted"])
def test_a_drop_that_hits_its_limit_leaves_an_invalid_one_that_the_next_run_ends(
    target: Any, tmp_path: Path, migrations: list[dict[str, Any]], before: str, then: str
) -> None:
    """A reader holds the table: the drop has marked the index, waits for the reader, and is cancelled."""
    tree = TestTree(tmp_path / "sql")
    add(tree, V3, WIDE, OTHER, budgets={"index_timeout_s": 2})
    hurried = tree.render()
    reading: list[Any] = []

    class Reading(Told):
        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if text == "dropping index public.people_name" and not reading:
                reading.append(holding(target, "SELECT count(*) FROM people"))
                reading[0].__enter__()

    with pytest.raises(
        PgopsError, match="hit its time limit of 2 s when it dropped index public.people_name"
    ) as caught:
        migrate.apply(target, hurried, Selection(), way(progress=Reading()))
    reading[0].__exit__(None, None, None)
    assert caught.value.sqlstate == "57014"
    assert found(target)["people_name"] == "INVALID " + AS_V2["people_name"]
    assert found(target)["people_name_pgops_new"] == AS_V3["people_name"]
    if then == "resumed":
        migrate.apply(target, hurried, Selection(), way())
        assert found(target) == AS_V3
    migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == AS_V2
    assert fingerprint(target) == before


def test_readers_and_writers_go_on_meanwhile(target: Any, migrations: list[dict[str, Any]], before: str) -> None:
    stop, worst = threading.Event(), [0.0]

    def client() -> None:
        conn = connect(target, application_name="client")
        with conn.cursor() as cursor:
            while not stop.is_set():
                started = time.monotonic()
                cursor.execute("UPDATE people SET gone = NOT gone WHERE id = 7")
                cursor.execute("SELECT count(*) FROM people WHERE name = 'p7'")
                worst[0] = max(worst[0], time.monotonic() - started)
        conn.close()

    working = threading.Thread(target=client)
    working.start()
    try:
        for _ in range(3):
            migrate.apply(target, migrations, Selection(), way())
            migrate.revert(target, Reverts(), way())
    finally:
        stop.set()
        working.join()
    assert worst[0] < 1.0


def test_a_third_definition_is_refused_and_left_alone(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    do(target, "DROP INDEX people_name", "CREATE INDEX people_name ON people (id, name)")
    with pytest.raises(PgopsError, match="index public.people_name exists already with another definition"):
        migrate.apply(target, migrations, Selection(), way())
    assert found(target) == {"people_name": "(id, name)"}


def test_a_stranger_under_the_name_aside_is_refused_and_left_alone(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    do(target, "CREATE INDEX people_name_pgops_new ON people (id)")
    with pytest.raises(PgopsError, match="people_name_pgops_new exists already .* it is not ours"):
        migrate.apply(target, migrations, Selection(), way())
    assert found(target) == {**AS_V2, "people_name_pgops_new": "(id)", "people_gone": "(gone)"}


def test_where_the_first_one_is_missing_the_second_is_simply_built(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    do(target, "DROP INDEX people_name")
    migrate.apply(target, migrations, Selection(), way())
    assert found(target) == AS_V3
    migrate.revert(target, Reverts(), way())
    assert found(target) == {}


def test_a_database_that_has_the_second_already_is_no_stranger_to_either_version(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    migrate.revert(target, Reverts(version=V2), way())
    do(target, "CREATE INDEX people_name ON people (name, id)")
    theirs = fingerprint(target)
    result = migrate.apply(target, migrations, Selection(), way())
    assert [item["skipped"] for item in result["applied"]] == [["index public.people_name"]] * 2
    migrate.revert(target, Reverts(through=V2), way())
    assert found(target) == {"people_name": "(name, id)"}
    assert fingerprint(target) == theirs


def test_the_first_version_reverted_alone_leaves_what_the_second_owns(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    migrate.apply(target, migrations, Selection(), way())
    assert "it stays" in way_back.preview_revert(target, Reverts(version=V2))["prepared"]
    result = migrate.revert(target, Reverts(version=V2), way())
    assert result["reverted"][0]["left"] == ["index public.people_name"]
    assert found(target) == AS_V3
    # Nobody asks for the first any more: the second just goes.
    migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == {}


def test_the_first_version_applied_again_under_the_second_owns_its_index_again(
    target: Any, migrations: list[dict[str, Any]], before: str
) -> None:
    migrate.apply(target, migrations, Selection(), way())
    migrate.revert(target, Reverts(version=V2), way())
    migrate.apply(target, migrations, Selection(allow_out_of_order=True), way())
    assert found(target) == AS_V3
    migrate.revert(target, Reverts(version=V3), way())
    assert found(target) == AS_V2
    migrate.revert(target, Reverts(version=V2), way())
    assert found(target) == {}


def test_plan_and_rollback_show_the_statements(target: Any, migrations: list[dict[str, Any]], before: str) -> None:
    shown = preview.preview(target, migrations, Selection())["prepared"]
    assert f"-- people_name takes the place of the one that version {V2} made" in shown
    lines = [line for line in shown.splitlines() if "people_name" in line and not line.startswith("--")]
    assert lines == [
        'CREATE INDEX CONCURRENTLY "people_name_pgops_new" ON "public"."people" USING "btree" ("name", "id");',
        'DROP INDEX CONCURRENTLY "public"."people_name";',
        'ALTER INDEX "public"."people_name_pgops_new" RENAME TO "people_name";',
    ]
    migrate.apply(target, migrations, Selection(), way())
    back = way_back.preview_revert(target, Reverts())["prepared"]
    assert 'USING "btree" ("name") WHERE NOT gone;' in back
    assert back.rstrip().endswith('ALTER INDEX "public"."people_name_pgops_new" RENAME TO "people_name";')


def test_a_long_name_is_cut_so_that_the_name_aside_fits(target: Any, tmp_path: Path) -> None:
    do(target, "CREATE TABLE people (id integer PRIMARY KEY, name text, gone boolean)")
    name = "ä" * 31
    tree = TestTree(tmp_path / "long")
    add(tree, V2, {**NARROW, "name": name})
    add(tree, V3, {**WIDE, "name": name})
    migrate.apply(target, tree.render(), Selection(), way())
    assert found(target) == {name: "(name, id)"}
    migrate.revert(target, Reverts(), way())
    assert found(target) == {name: "(name) WHERE (NOT gone)"}


def test_the_ledger_holds_what_the_way_back_needs(target: Any, migrations: list[dict[str, Any]], before: str) -> None:
    migrate.apply(target, migrations, Selection(), way())
    conn = connect(target, application_name="test")
    (index, _) = ledger.stored(conn, V3)["steps"][0]["indexes"]
    conn.close()
    assert (index["replaces"]["version"], index["replaces"]["where"]) == (V2, "NOT gone")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"replaces": V1}, f"version {V1} makes no index 'people_name' before this one that could be replaced"),
        ({"replaces": V1}, f"did you mean '{V2}'?"),
        ({"replaces": V2, "name": "other"}, f"version {V2} makes no index 'other'"),
        ({"replaces": 5}, "'replaces' must be text, not 5"),
    ],
)  # fmt: skip
def test_what_is_replaced_must_be_there(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    tree = TestTree(tmp_path / "sql")
    add(tree, V2, NARROW)
    add(tree, V3, {**WIDE, **change})
    messages = [finding.message for finding in lint(scan_tree(tree.folder))]
    assert [message for message in messages if told in message], messages


def test_another_definition_without_that_word_is_still_refused(tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    add(tree, V2, NARROW)
    add(tree, V3, {key: value for key, value in WIDE.items() if key != "replaces"})
    assert [finding.rule for finding in lint(scan_tree(tree.folder))] == ["duplicate-index"]
    add(tree, V3, WIDE)
    assert lint(scan_tree(tree.folder)) == []


# -- what the table has of the first one besides ---------------------------------------------------------------------------

CODE = {"name": "people_code", "table": "people", "columns": ["code"], "unique": True, "why": "a test"}
WIDE_CODE = {**CODE, "include": ["name"], "replaces": V2}


def codes(folder: Path, first: dict[str, Any] = CODE, second: dict[str, Any] = WIDE_CODE) -> list[dict[str, Any]]:
    tree = TestTree(folder / "codes")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (code text NOT NULL, name text, wing text NOT NULL);",
        "DROP TABLE public.people;",
    )  # fmt: skip
    add(tree, V2, first)
    add(tree, V3, second)
    return tree.render()


def published(server: Any, target: Any, given: list[dict[str, Any]]) -> str:
    """With the first index as the replica identity of a table whose rows are published."""
    migrate.apply(target, given, Selection(target=V2), way())
    do(target, "INSERT INTO people SELECT 'c' || n, 'p' || n, 'w' FROM generate_series(1, 50) n")
    do(target, "ALTER TABLE people REPLICA IDENTITY USING INDEX people_code")
    server.execute("CREATE PUBLICATION to_the_warehouse FOR TABLE people", database=target.database)
    return fingerprint(target)


def identity(target: Any) -> list[str]:
    query = "SELECT c.relname AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indisreplident"
    return [row["name"] for row in rows(target, query)]


def clients_write(target: Any) -> None:
    do(target, "UPDATE people SET name = name || '.' WHERE code = 'c1'")
    do(target, "DELETE FROM people WHERE code = (SELECT max(code) FROM people)")


def test_the_replica_identity_goes_along_both_ways(server: Any, target: Any, tmp_path: Path) -> None:
    given = codes(tmp_path)
    first = published(server, target, given)
    migrate.apply(target, given, Selection(), way())
    assert identity(target) == ["people_code"]
    clients_write(target)
    migrate.revert(target, Reverts(), way())
    assert identity(target) == ["people_code"]
    clients_write(target)
    assert fingerprint(target) == first


@pytest.mark.parametrize("then", ["resumed", "reverted"])
@pytest.mark.parametrize("stage", ["CREATE UNIQUE INDEX", *STAGES[1:]])
def test_cut_off_after_any_stage_the_table_keeps_its_replica_identity(
    server: Any, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, then: str
) -> None:
    given = codes(tmp_path)
    first = published(server, target, given)
    real = index_build.execute

    def execute(conn: Any, statement: Any, *more: Any) -> Any:
        text = statement if isinstance(statement, str) else statement.as_string(conn)
        if text.startswith(stage) and stage == "DROP INDEX":
            raise Killed  # it has been handed over, and the first is there still
        done = real(conn, statement, *more)
        if text.startswith(stage):
            raise Killed
        return done

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(index_build, "execute", execute)
        migrate.apply(target, given, Selection(), way())
    clients_write(target)
    if then == "resumed":
        migrate.apply(target, given, Selection(), way())
        clients_write(target)
    migrate.revert(target, Reverts(version=V3), way())
    clients_write(target)
    assert identity(target) == ["people_code"]
    assert fingerprint(target) == first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unique": False}, "it is not unique"),
        ({"where": "wing = 'w'"}, "it leaves rows out"),
        ({"columns": ["code", "name"]}, "name may be null"),
        ({"columns": ["code", {"expression": "lower(wing)"}]}, "it has an expression"),
    ],
)
def test_one_that_cannot_be_the_replica_identity_is_refused_before_anything_is_built(
    server: Any, target: Any, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    given = codes(tmp_path, second={**CODE, "replaces": V2, **change})
    first = published(server, target, given)
    with pytest.raises(PgopsError, match="index public.people_code cannot be replaced") as caught:
        migrate.apply(target, given, Selection(), way())
    assert f'replica identity of "public"."people", and the new one cannot be: {told}' in caught.value.message
    assert "REPLICA IDENTITY" in str(caught.value.hint)
    assert list(found(target)) == ["people_code"]
    clients_write(target)
    assert fingerprint(target) == first
    do(target, "ALTER TABLE people REPLICA IDENTITY FULL")
    migrate.apply(target, given, Selection(), way())


def test_the_way_down_takes_no_replica_identity_away(server: Any, target: Any, tmp_path: Path) -> None:
    given = codes(tmp_path)
    published(server, target, given)
    with pytest.raises(PgopsError, match="people_code is the replica identity") as caught:
        migrate.revert(target, Reverts(version=V2), way())
    assert "REPLICA IDENTITY DEFAULT" in str(caught.value.hint)
    clients_write(target)
    do(target, "ALTER TABLE people REPLICA IDENTITY FULL")
    migrate.revert(target, Reverts(version=V2), way())
    assert found(target) == {}


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "ALTER TABLE people ADD CONSTRAINT people_code UNIQUE USING INDEX people_code",
            "constraint people_code of people",
        ),
        ("CREATE TABLE visits (code text CONSTRAINT whose REFERENCES people (code))", "constraint whose of visits"),
    ],
    ids=["its own", "a foreign key"],
)
def test_one_that_a_constraint_stands_on_is_refused_before_anything_is_built(
    target: Any, tmp_path: Path, statement: str, told: str
) -> None:
    given = codes(tmp_path)
    migrate.apply(target, given, Selection(target=V2), way())
    do(target, statement)
    first = fingerprint(target)
    with pytest.raises(PgopsError, match=f"people_code cannot be replaced, {told} stands on it; nothing was built"):
        migrate.apply(target, given, Selection(), way())
    assert fingerprint(target) == first


def test_the_order_of_cluster_and_the_statistics_of_an_expression_go_along_both_ways(
    target: Any, tmp_path: Path
) -> None:
    lower: dict[str, Any] = {**CODE, "unique": False, "columns": [{"expression": "lower(name)"}]}
    given = codes(tmp_path, lower, {**lower, "columns": ["code", {"expression": "lower(name)"}], "replaces": V2})
    migrate.apply(target, given, Selection(target=V2), way())
    do(
        target,
        "ALTER TABLE people CLUSTER ON people_code",
        "ALTER INDEX people_code ALTER COLUMN 1 SET STATISTICS 1234",
    )
    first = fingerprint(target)
    query = (
        "SELECT i.indisclustered AS clustered, a.attnum AS column, a.attstattarget AS target FROM pg_index i "
        "JOIN pg_attribute a ON a.attrelid = i.indexrelid WHERE a.attstattarget > 0"
    )
    migrate.apply(target, given, Selection(), way())
    assert rows(target, query) == [{"clustered": True, "column": 2, "target": 1234}]
    migrate.revert(target, Reverts(), way())
    assert fingerprint(target) == first


def test_what_the_second_one_cannot_be_is_told_and_comes_back_with_the_first(target: Any, tmp_path: Path) -> None:
    given = codes(tmp_path, second={**CODE, "where": "wing = 'w'", "replaces": V2})
    migrate.apply(target, given, Selection(target=V2), way())
    do(target, "ALTER TABLE people CLUSTER ON people_code")
    first = fingerprint(target)
    told = Told()
    migrate.apply(target, given, Selection(), way(progress=told))
    note = 'CLUSTER went by index public.people_code, and cannot go by the new one: "public"."people" has none now'
    assert note in told.texts
    migrate.revert(target, Reverts(), way())
    assert fingerprint(target) == first


def test_a_table_in_use_is_waited_for_and_clients_do_not_stand_behind(server: Any, target: Any, tmp_path: Path) -> None:
    given = codes(tmp_path)
    published(server, target, given)

    reading = holding(target, "SELECT count(*) FROM people")

    class Reading(Told):
        """A reader comes just before the table is asked for, and stays until it has been named."""

        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if text.startswith("making index"):
                reading.__enter__()
            elif "waiting for" in text and "the reporting job" in text:
                reading.__exit__(None, None, None)

    migrate.apply(target, given, Selection(), way(progress=Reading()))
    assert identity(target) == ["people_code"]
