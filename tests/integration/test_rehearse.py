# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rehearsal: up, verified, down, up again on a restored copy, cut off once; what it saw stops what must not happen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, kept_scratch, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.rehearsal_forecast import Budget
from support.backups import PATIENT, RUN, back_up, fill, names, proved, start_python
from support.engine import InterruptAt, do, fingerprint, rows, wait_for
from support.rehearsals import locks_of, rehearsed
from support.tree import TestTree

V1 = "20260101000001"
HIDDEN = """
DO $$ BEGIN
    ALTER TABLE students ADD COLUMN grade integer;
    PERFORM pg_sleep(0.6);
END $$;
"""


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    return database


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    return TestTree(tmp_path / "sql")


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_rehearsal_goes_up_down_and_up_again_and_leaves_nothing(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1, "add_grade", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    before = fingerprint(target)
    record = rehearsed(target, tmp_path / "backups", tree.render())
    assert record["ok"], record["why"]
    assert (record["versions"], record["down_equal"], record["resumed"]) == ([V1], True, True)
    assert record["over_budget"] == []
    assert set(record["seconds"]) == {"up", "down", "again"}
    # Nothing of it is in the database, and nothing is left on the server.
    assert fingerprint(target) == before
    assert rows(target, "SELECT to_regnamespace('pgops') AS ledger") == [{"ledger": None}]
    assert names(server, filled) == [filled]


def test_a_lock_that_a_do_block_hides_is_seen_and_is_over_budget(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(V1, "add_grade", HIDDEN, "ALTER TABLE students DROP COLUMN grade;")
    record = rehearsed(target, tmp_path / "backups", tree.render(), budget=Budget(blocked_reads_s=0.5))
    assert locks_of(record)["public.students", "AccessExclusiveLock"] >= 0.6
    assert not record["ok"]
    assert f"version {V1}, step 1 (up) would hold AccessExclusiveLock on public.students" in record["over_budget"][0]
    assert "ALTER TABLE students ADD COLUMN grade integer" in record["over_budget"][0]
    assert f"{target} is untouched" in record["why"]
    assert record["forecast"]["blocks_reads"] >= 0.6
    assert names(server, filled) == [filled]


def test_a_step_that_fails_stops_it_and_says_where(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1,
        "broken",
        "ALTER TABLE students ADD CONSTRAINT tall CHECK (score > 3);",
        "ALTER TABLE students DROP CONSTRAINT tall;",
    )
    record = rehearsed(target, tmp_path / "backups", tree.render())
    assert not record["ok"]
    assert record["why"].startswith(
        f"The rehearsal of {filled} failed on its first way up: Step 1 of 1 (sql) of version {V1}"
    )
    assert record["sqlstate"] == "23514"
    assert names(server, filled) == [filled]


def test_a_way_down_that_leaves_something_stops_it(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1,
        "two_columns",
        "ALTER TABLE students ADD COLUMN grade integer;\nALTER TABLE students ADD COLUMN house text;",
        "ALTER TABLE students DROP COLUMN grade;",
    )
    record = rehearsed(target, tmp_path / "backups", tree.render())
    assert (record["ok"], record["down_equal"], record["resumed"]) == (False, False, False)
    assert "failed on its way down: the way down leaves" in record["why"]
    assert "house" in record["why"]


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_version_without_a_way_down_goes_up_twice_on_two_copies(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1,
        "gone",
        "ALTER TABLE students DROP COLUMN photo;",
        "SELECT 1;",
        rollback={"safety": "none", "stays": "photos are gone"},
    )
    record = rehearsed(target, tmp_path / "backups", tree.render())
    assert record["ok"], record["why"]
    assert (record["down_equal"], record["resumed"]) == (False, True)
    assert any(f"the way down was not tried: {V1}" in told for told in record["reservations"])
    assert names(server, filled) == [filled]


def test_what_a_version_breaks_is_told_and_what_was_broken_before_is_not_its_fault(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    # The schema of these tests has a foreign key without an index; see the first test.
    path = tree.add_sql(
        V1, "add_grade", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    (path / "verify.sql.j2").write_text("SELECT 'grade' AS object, 'a trigger' AS expected, 'none' AS found;\n")
    record = rehearsed(target, tmp_path / "backups", tree.render())
    assert not record["ok"]
    assert "failed in its verification: grade" in record["why"]
    assert any("the verification fails without these versions too" in told for told in record["reservations"])


def test_the_copy_of_the_proof_is_used_and_one_that_is_gone_is_restored_again(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1, "add_grade", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    backup = back_up(target, tmp_path)
    work = restore.Work(RUN)
    kept = kept_scratch.prove(target, backup.path, work=work)["scratch"]
    assert names(server, filled) == [filled, kept]
    backup = backup_store.read_backup(backup.path)
    with kept_scratch.opened(target, backup, work=work) as copy:
        assert (copy.kept, copy.target.database, copy.target.user) == (True, kept, target.user)
    assert names(server, filled) == [filled]
    with kept_scratch.opened(target, backup, work=work) as copy:
        assert not copy.kept
    # What a run keeps and does not come to, the next one of that database removes.
    kept_scratch.prove(target, backup.path, work=restore.Work("20261121T120000Z-ffffff"))
    assert rehearsed(target, tmp_path, tree.render(), backup=backup)["ok"]
    assert names(server, filled) == [filled]


def test_a_proof_that_does_not_hold_keeps_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    with pytest.raises(PgopsError, match="level 6"):
        kept_scratch.prove(target, backup.path, work=restore.Work(RUN), level=6)
    assert names(server, filled) == [filled]


def test_an_unproved_backup_is_refused(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    with pytest.raises(PgopsError, match="was never proved"):
        kept_scratch.choose(target, str(tmp_path), backup.path, application_name="test")
    with pytest.raises(PgopsError, match="There is no backup of"):
        kept_scratch.choose(target, str(tmp_path), None, application_name="test")


@pytest.mark.slow
def test_a_rehearsal_that_is_asked_to_end_leaves_nothing(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1,
        "slow",
        "SELECT pg_sleep(30);\nALTER TABLE students ADD COLUMN grade integer;",
        "ALTER TABLE students DROP COLUMN grade;",
    )
    control = Control()
    told = InterruptAt(control, "pg_sleep")
    with pytest.raises(Interrupted):
        rehearsed(target, tmp_path / "backups", tree.render(), control=control, progress=told)
    assert names(server, filled) == [filled]


def test_queries_are_compared_before_and_after_and_no_value_is_told(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    fill_more = "INSERT INTO students (name, note) SELECT 'more' || g, md5(g::text) FROM generate_series(1, 20000) g"
    do(target, fill_more, "CREATE INDEX students_name ON students (name)")
    tree.add_sql(V1, "drop_index", "DROP INDEX students_name;", "CREATE INDEX students_name ON students (name);")
    queries = [
        {
            "name": "by_name",
            "title": "a student by name",
            "query": "SELECT s.id, (SELECT count(*) FROM students) FROM students s WHERE s.name = %(name)s",
            "sample": {"table": "public.students", "rows": 3},
            "parameters": {"name": "name"},
        },
        {"name": "gone", "title": "no such table", "query": "SELECT 1 FROM nowhere", "sample": {}, "parameters": {}},
    ]
    record = rehearsed(target, tmp_path / "backups", tree.render(), queries=queries, query_ratio=0.0)
    by_name, gone = record["queries"]
    assert by_name["plan_changed"]
    assert any("students_name" in line for line in by_name["lost"])
    assert any(line.startswith("Seq Scan") for line in by_name["came"])
    assert gone["regression"] is None, "it failed before as well"
    assert PATIENT not in json.dumps(record)
    assert record["ok"], "a regression is told, and stops only who asks for that"
    slow = {**queries[0], "query": "SELECT s.id, (SELECT pg_sleep(0.006)) FROM students s WHERE s.name = %(name)s"}
    stopped = rehearsed(target, tmp_path / "stopped", tree.render(), queries=[slow], query_ratio=0.0, query_stops=True)
    assert not stopped["ok"]
    assert "failed by the application's queries: query by_name (a student by name) takes" in stopped["why"]


def test_the_copy_of_another_backup_is_not_taken_and_only_ones_own_is_dropped(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Two hosts of one run may have databases of one name, and share a scratch server."""
    backup, other = back_up(target, tmp_path / "a"), proved(target, tmp_path / "b", purpose="other")
    work = restore.Work(RUN)
    kept = kept_scratch.prove(target, backup.path, work=work)["scratch"]
    with kept_scratch.opened(target, other, work=work) as copy:
        assert not copy.kept
    assert names(server, filled) == [filled]
    assert kept_scratch.prove(target, backup.path, work=work)["scratch"] == kept
    # Of another run, or nobody's, nothing is dropped.
    assert not kept_scratch.drop(target, kept, restore.Work("20261121T120000Z-ffffff"))
    assert not kept_scratch.drop(target, filled, work)
    assert kept_scratch.drop(target, kept, work)
    assert names(server, filled) == [filled]


def test_what_a_killed_rehearsal_left_is_removed_by_the_next(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1,
        "slow",
        "SELECT pg_sleep(60);\nALTER TABLE students ADD COLUMN grade integer;",
        "ALTER TABLE students DROP COLUMN grade;",
    )
    backup = proved(target, tmp_path / "backups")
    body = """
        from ansible_collections.whitecross.pgops.plugins.module_utils import kept_scratch, ledger, migrate, rehearse
        from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
        work, backup = restore.Work(values["run_id"]), backup_store.read_backup(values["path"])
        settings = rehearse.Settings(lambda: migrate.Way(ledger.Run(work.run_id)))
        with kept_scratch.opened(target, backup, work=work) as copy:
            rehearse.rehearse(target, copy, backup, values["migrations"], Selection(), work=work, settings=settings)
    """
    process = start_python(body, target, run_id=RUN, path=backup.path, migrations=tree.render())
    try:
        wait_for(
            lambda: server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
            ),
            120,
        )
    finally:
        process.kill()
        process.wait()
    assert len(names(server, filled)) == 2
    tree.add_sql(
        V1, "quick", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    wait_for(
        lambda: (
            not server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
            )
        ),
        60,
    )
    record = rehearsed(target, tmp_path, tree.render(), backup=backup, run_id="20261121T120000Z-ffffff")
    assert record["ok"], record["why"]
    assert names(server, filled) == [filled]


def test_a_role_that_may_only_create_databases_rehearses_and_says_as_whom(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1, "add_grade", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    server.execute("ALTER ROLE white_cross_migrator CREATEDB")
    try:
        plain = target.with_(restore_user=target.user)
        record = rehearsed(plain, tmp_path / "backups", tree.render())
    finally:
        server.execute("ALTER ROLE white_cross_migrator NOCREATEDB")
    assert record["ok"], record["why"]
    assert any(
        "a right that white_cross_owner lacks would not have been seen" in told for told in record["reservations"]
    )


def test_without_the_right_to_a_temporary_table_the_servers_count_as_equally_fast(
    server: Any, target: Any, filled: str, tree: TestTree, tmp_path: Path
) -> None:
    tree.add_sql(
        V1, "add_grade", "ALTER TABLE students ADD COLUMN grade integer;", "ALTER TABLE students DROP COLUMN grade;"
    )
    backup = proved(target, tmp_path / "backups")
    server.execute(f"REVOKE TEMPORARY ON DATABASE {filled} FROM PUBLIC, white_cross_owner")
    record = rehearsed(target, tmp_path, tree.render(), backup=backup)
    assert record["ok"], record["why"]
    assert record["servers"]["production"] is None
    assert any("could not be measured" in told for told in record["reservations"])
