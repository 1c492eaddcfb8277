# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A trace tells what a statement does by looking at the session that runs it, never by reading it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.trace import Trace
from support.backups import PATIENT, fill
from support.engine import do, way
from support.rehearsals import locks_of
from support.tree import TestTree

V1 = "20260101000001"


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, rows=3000)
    return database


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    return TestTree(tmp_path / "sql")


@pytest.fixture
def traced(target: Any, filled: str, tree: TestTree) -> Iterator[Any]:
    """Apply the tree and say what was seen."""

    def apply() -> dict[str, Any]:
        trace = Trace(lambda: connect(target, application_name="trace"))
        with trace:
            migrate.apply(target, tree.render(), Selection(), way(watch=trace))
        return {"steps": trace.entries}

    yield apply


def only(found: dict[str, Any], part: str) -> dict[str, Any]:
    """The one statement that has this in its text."""
    entries = [entry for entry in found["steps"] if part in entry["statement"]]
    assert len(entries) == 1, [entry["statement"] for entry in found["steps"]]
    return dict(entries[0])


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_rewrite_a_scan_and_a_plain_index_are_seen(tree: TestTree, traced: Any) -> None:
    tree.add_sql(
        V1,
        "change",
        "ALTER TABLE students ALTER COLUMN score TYPE numeric;\nCREATE INDEX students_note ON students (note);\n"
        "ALTER TABLE visits ADD CONSTRAINT cheap CHECK (price < 1000);\nUPDATE visits SET price = price + 1;",
        "DROP INDEX students_note;\nALTER TABLE visits DROP CONSTRAINT cheap;\n",
        rollback={"safety": "partial", "stays": "prices"},
    )
    found = traced()
    rewrite = only(found, "ALTER COLUMN score")
    assert rewrite["rewrites"] == ["public.students"]
    assert rewrite["wal_bytes"] > 100_000
    assert {"table": "public.students", "mode": "AccessExclusiveLock"}.items() <= rewrite["locks"][0].items()
    index = only(found, "CREATE INDEX")
    assert index["indexes"].keys() >= {"public.students_note"} and index["indexes"]["public.students_note"] > 8192
    assert index["rewrites"] == []
    check = only(found, "ADD CONSTRAINT")
    assert (check["scans"], check["rewrites"]) == (["public.visits"], [])
    update = only(found, "UPDATE visits")
    assert update["rows"] == 3000
    # Of the ledger, which the engine writes in the same transaction, nothing is told.
    assert "pgops" not in str(found["steps"])


def test_what_functions_and_triggers_hide_is_seen(target: Any, tree: TestTree, traced: Any) -> None:
    do(
        target,
        "CREATE FUNCTION hidden() RETURNS void LANGUAGE plpgsql AS $$BEGIN ALTER TABLE visits ALTER COLUMN price TYPE text; END$$",
        "CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN EXECUTE 'LOCK TABLE visits IN SHARE ROW EXCLUSIVE MODE'; RETURN NEW; END$$",
        "CREATE TRIGGER touched BEFORE UPDATE ON students FOR EACH STATEMENT EXECUTE FUNCTION touched()",
        "DROP VIEW expensive",
        "DROP INDEX visits_student",
    )
    tree.add_sql(
        V1,
        "call",
        "UPDATE students SET level = 'low' WHERE id = 1;\nSELECT hidden();",
        "SELECT 1;",
        rollback={"safety": "partial", "stays": "all"},
    )
    found = traced()
    assert ("public.visits", "ShareRowExclusiveLock") in {
        (x["table"], x["mode"]) for x in only(found, "UPDATE students")["locks"]
    }
    called = only(found, "hidden()")
    assert called["rewrites"] == ["public.visits"]
    assert locks_of(found)["public.visits", "AccessExclusiveLock"] >= 0


def test_a_lock_counts_from_its_statement_to_the_commit(tree: TestTree, traced: Any) -> None:
    tree.add_sql(
        V1,
        "slow",
        "SELECT pg_sleep(0.3);\nALTER TABLE visits ADD COLUMN a int;\nSELECT pg_sleep(0.3);\nALTER TABLE students ADD COLUMN b int;",
        "ALTER TABLE students DROP COLUMN b;\nALTER TABLE visits DROP COLUMN a;",
    )
    found = locks_of(traced())
    held = found["public.visits", "AccessExclusiveLock"]
    assert held >= 0.3
    assert found["public.students", "AccessExclusiveLock"] < held


def test_a_table_of_ones_own_keeps_nobody_waiting(tree: TestTree, traced: Any) -> None:
    tree.add_sql(
        V1,
        "own",
        "CREATE TABLE own (id int PRIMARY KEY);\nINSERT INTO own VALUES (1);\nCREATE INDEX own_id ON own (id);",
        "DROP TABLE own;",
    )
    found = traced()
    assert not any(table == "public.own" for table, _mode in locks_of(found))


def test_a_concurrent_index_is_no_lock_that_blocks(tree: TestTree, traced: Any) -> None:
    tree.add(
        V1,
        "index",
        [{"indexes": "indexes.yml"}],
        {
            "indexes.yml": [{"name": "students_note", "table": "students", "columns": ["note"], "why": "a test"}],
            "verify.sql.j2": "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n",
        },
    )
    found = traced()
    build = only(found, "CONCURRENTLY")
    assert build["indexes"]["public.students_note"] > 8192
    assert {mode for _table, mode in locks_of(found)} <= {"ShareUpdateExclusiveLock"}


def test_no_value_is_in_a_trace(tree: TestTree, traced: Any) -> None:
    tree.add_sql(
        V1,
        "values",
        f"UPDATE students SET note = 'x' WHERE name = '{PATIENT}1' AND id = 471100;\nALTER TABLE students ALTER COLUMN note SET DEFAULT '{PATIENT}';",
        "ALTER TABLE students ALTER COLUMN note DROP DEFAULT;",
        rollback={"safety": "partial", "stays": "notes"},
    )
    told = str(traced()["steps"])
    assert PATIENT not in told
    assert "471100" not in told


def test_a_session_goes_on_where_the_sampler_is_ended(server: Any, target: Any, tree: TestTree, filled: str) -> None:
    tree.add_sql(
        V1, "slow", "ALTER TABLE visits ADD COLUMN a int;\nSELECT pg_sleep(0.3);", "ALTER TABLE visits DROP COLUMN a;"
    )
    trace = Trace(lambda: connect(target, application_name="trace"))
    with trace:
        with closing(connect(target.as_restore(), application_name="test")) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", (trace._sampler.pid,))
        migrate.apply(target, tree.render(), Selection(), way(watch=trace))
    assert ("public.visits", "AccessExclusiveLock") in locks_of({"steps": trace.entries})
