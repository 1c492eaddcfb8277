# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a build of indexes refuses before it begins, what it tells when it fails, and that the next run goes on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import index_space, migrate, server_host
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import Told, do, holding, rows, state, wait_for, way
from support.index_steps import PEOPLE_NAME as NAME
from support.index_steps import PETS_NAME as PETS
from support.index_steps import VERSION as V1
from support.index_steps import people_and_pets, wanted
from support.tree import TestTree

LOWER = {**NAME, "name": "people_lower", "columns": [{"expression": "lower(name)"}]}


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    return people_and_pets(target, tmp_path)


def valid(target: Any) -> list[str]:
    """The indexes that serve, without those of keys; fails where one does not."""
    found = rows(
        target,
        "SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index WHERE NOT indisprimary "
        "AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) ORDER BY 1",
    )
    assert all(row["indisvalid"] for row in found), found
    return [row["name"] for row in found]


def caught(target: Any, migrations: list[dict[str, Any]], **given: Any) -> PgopsError:
    with pytest.raises(PgopsError) as found:
        migrate.apply(target, migrations, Selection(), way(**given))
    return found.value


# --- refused before anything is built ----------------------------------------------------------------------------------


def test_a_partitioned_table_is_refused_before_anything_is_built(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE TABLE visits (id integer, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    )
    migrations = wanted(tree, NAME, {**NAME, "name": "visits_day", "table": "visits", "columns": ["day"]})
    error = caught(target, migrations)
    assert "public.visits is a partitioned table" in error.message
    assert "CREATE INDEX visits_day ON ONLY public.visits and ALTER INDEX ... ATTACH PARTITION" in error.hint
    assert (error.sqlstate, error.extra["reason"], error.object_name) == ("0A000", "partitioned", "public.visits_day")
    assert valid(target) == []


def test_a_partition_is_a_table_like_others(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE TABLE visits (id integer, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    )
    migrate.apply(
        target, wanted(tree, {**NAME, "name": "visits_2026_day", "table": "visits_2026", "columns": ["day"]}),
        Selection(), way(),
    )  # fmt: skip
    assert valid(target) == ["visits_2026_day"]


# --- the disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(target: Any, tree: TestTree) -> Iterator[None]:
    """A table of 10 MB, so that the planner is asked."""
    do(
        target,
        "INSERT INTO people SELECT n, repeat('x', 80) || n, n % 100 = 0 FROM generate_series(2001, 80000) n",
        "ANALYZE people",
    )
    yield


def test_a_build_that_the_disk_has_no_room_for_is_not_begun(target: Any, tree: TestTree, large: None) -> None:
    migrations = wanted(tree, PETS, NAME)
    told = Told()
    error = caught(target, migrations, builds=IndexBuilds(workers=1, disk_mb=20), progress=told)
    assert error.sqlstate == "53100"
    assert "stopped before it built index public.people_name: it may need" in error.message
    assert "MB are free of what migrate_index_disk_mb allows" in error.message
    assert error.extra["reason"] == "disk"
    assert error.extra["needed_bytes"] > error.extra["free_bytes"] > 19 << 20
    assert not told.said("building index public.people_name")
    migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(disk_mb=200)))
    assert valid(target) == ["people_name", "pets_name"]


def test_what_earlier_builds_took_is_not_there_for_the_next(target: Any, tree: TestTree, large: None) -> None:
    second = {**NAME, "name": "people_name_too", "columns": [{"column": "name"}, {"column": "id"}]}
    error = caught(target, wanted(tree, NAME, second), builds=IndexBuilds(disk_mb=32))
    assert error.object_name == "public.people_name_too"
    assert valid(target) == ["people_name"]


def test_the_size_that_is_expected_is_near_the_size_that_comes(target: Any, tree: TestTree, large: None) -> None:
    given: list[tuple[dict[str, Any], float, float]] = [
        ({"name": "by_name"}, 0.9, 1.6),
        ({"name": "by_id", "columns": [{"column": "id"}]}, 0.9, 1.6),
        ({"name": "by_few", "where": "gone"}, 0.5, 3.0),
        ({"name": "by_expression", "columns": [{"expression": "name || 'x'"}], "include": ["id"]}, 0.3, 1.6),
    ]
    conn = connect(target, application_name="test")
    heap = rows(target, "SELECT pg_relation_size('people') AS n")[0]["n"]
    expected = {
        item["name"]: index_space.needed(conn, {"schema": "public", **NAME, **item}, heap) / index_space.COPIES
        for item, _, _ in given
    }
    conn.close()
    (applied,) = migrate.apply(target, wanted(tree, *({**NAME, **item} for item, _, _ in given)), Selection(), way())[
        "applied"
    ]
    real = {item["name"]: item["bytes"] for item in applied["indexes"]}
    for item, least, most in given:
        assert least < expected[item["name"]] / real[item["name"]] < most, item


def test_free_space_is_known_where_the_server_is_a_process_of_this_host(server: Any, target: Any) -> None:
    conn = connect(target, application_name="test")
    host = server_host.of(conn)
    assert host is not None
    # The tests' server belongs to another user: only root may look where it works.
    seen = host.free_bytes("") or host.free_bytes(str(server.directory / "data"))
    real = shutil.disk_usage(server.directory / "data").free
    assert seen is not None and abs(seen - real) < 1 << 30
    assert (host.available_memory_bytes() or 0) > 1 << 20
    assert host.free_bytes("/no such folder") is None
    conn.close()


def test_a_process_that_is_not_the_session_proves_nothing(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the server is in a container: the number is taken here, by a process of another kind."""
    conn = connect(target, application_name="test")
    monkeypatch.setattr(server_host, "_SESSION", server_host._SESSION.replace("pg_catalog.pg_backend_pid()", "1"))
    assert server_host.of(conn) is None
    conn.close()


def test_where_nobody_knows_what_is_free_that_is_told_and_it_builds(
    target: Any, tree: TestTree, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_host, "_SESSION", server_host._SESSION.replace("pg_catalog.pg_backend_pid()", "1"))
    monkeypatch.setattr(index_space, "WORTH_TELLING", 1 << 20)
    told = Told()
    migrate.apply(target, wanted(tree, NAME), Selection(), way(progress=told))
    assert told.said("for a while; what the server has free is not known from here")
    assert valid(target) == ["people_name"]


# --- told --------------------------------------------------------------------------------------------------------------


def test_the_same_definition_under_another_name_is_told_and_built(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE INDEX by_lower ON people (LOWER((name)))",
        "CREATE INDEX by_name ON people (name)",
        "CREATE INDEX by_name_partly ON people (name) WHERE gone",
        "CREATE INDEX by_name_down ON people (name DESC)",
        "CREATE INDEX by_pet ON pets (name)",
    )
    told = Told()
    result = migrate.apply(target, wanted(tree, NAME, LOWER), Selection(), way(progress=told))
    advice = "it is built all the same, drop the one that nobody needs"
    assert result["applied"][0]["notes"] == [
        f"index public.people_name has the same definition as public.by_name: {advice}",
        f"index public.people_lower has the same definition as public.by_lower: {advice}",
    ]
    assert told.said("the same definition as public.by_name")
    assert {"people_name", "people_lower"} <= set(valid(target))


def test_an_invalid_index_of_somebody_else_is_in_the_result(target: Any, tree: TestTree) -> None:
    do(target, "UPDATE people SET name = 'same' WHERE id < 3")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        do(target, "CREATE UNIQUE INDEX CONCURRENTLY theirs ON people (name)")
    (applied,) = migrate.apply(target, wanted(tree, NAME), Selection(), way())["applied"]
    assert applied["notes"] == [
        "index public.theirs is invalid and not ours: it is left alone, drop or rebuild it yourself"
    ]


def test_the_result_has_the_size_and_the_seconds_of_what_was_built(target: Any, tree: TestTree) -> None:
    (applied,) = migrate.apply(target, wanted(tree, NAME, LOWER), Selection(), way())["applied"]
    assert [(item["schema"], item["name"]) for item in applied["indexes"]] == [
        ("public", "people_name"),
        ("public", "people_lower"),
    ]
    assert applied["indexes"][0]["bytes"] == rows(target, "SELECT pg_relation_size('people_name') AS n")[0]["n"]
    assert all(item["duration_s"] > 0 for item in applied["indexes"])


# --- statistics --------------------------------------------------------------------------------------------------------


def counted(target: Any, index: str) -> bool:
    return bool(rows(target, "SELECT FROM pg_stats WHERE tablename = %s", (index,)))


def test_after_an_index_with_an_expression_its_values_are_counted(target: Any, tree: TestTree) -> None:
    told = Told()
    migrate.apply(target, wanted(tree, LOWER, PETS), Selection(), way(progress=told))
    assert counted(target, "people_lower")
    assert told.said("analyzing public.people")
    assert not told.said("analyzing public.pets")


def test_a_run_that_was_cut_off_before_it_counted_is_made_up_for(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, LOWER)
    migrate.apply(target, migrations, Selection(), way())
    # As it is when the run ends between the build and its ANALYZE.
    do(
        target,
        "DROP INDEX people_lower",
        "CREATE INDEX people_lower ON people (lower(name))",
        "UPDATE pgops.migration SET state = 'applying'",
        "UPDATE pgops.step SET state = 'running'",
    )
    assert not counted(target, "people_lower")
    migrate.apply(target, migrations, Selection(), way())
    assert counted(target, "people_lower")


# --- fails and goes on -------------------------------------------------------------------------------------------------


def test_doubles_are_told_by_id_and_never_by_value(target: Any, tree: TestTree) -> None:
    do(
        target,
        "UPDATE people SET name = 'Secret Name' WHERE id BETWEEN 3 AND 5",
        "UPDATE people SET name = 'secret name' WHERE id = 77",
        "UPDATE people SET name = 'Another' WHERE id BETWEEN 100 AND 120",
        "UPDATE people SET name = NULL WHERE id IN (200, 201)",
        "UPDATE people SET name = 'Past', gone = true WHERE id IN (300, 301)",
    )
    migrations = wanted(tree, {**LOWER, "unique": True, "where": "NOT gone"})
    error = caught(target, migrations)
    assert error.sqlstate == "23505"
    assert "; 25 rows of public.people share 2 key(s), by id 3, 4, 5, 77, 100, 101," in error.message
    told = f"{error.message} {error.hint} {error.extra}"
    assert "ecret" not in told and "Another" not in told
    duplicates = error.extra["duplicates"]
    assert (duplicates["rows"], duplicates["keys"], len(duplicates["ids"])) == (25, 2, 10)
    # The query that is told is one that can be typed.
    assert len(rows(target, duplicates["query"])) == 25
    assert valid(target) == []
    do(target, "UPDATE people SET name = 'p' || id")
    assert migrate.apply(target, migrations, Selection(), way())["applied"][0]["resumed"]
    assert valid(target) == ["people_lower"]


def test_rows_whose_key_may_be_a_name_are_told_by_their_place(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE TABLE accounts (email text PRIMARY KEY, badge integer)",
        "INSERT INTO accounts VALUES ('a@example.org', 1), ('b@example.org', 1)",
    )
    error = caught(target, wanted(tree, {**NAME, "table": "accounts", "columns": ["badge"], "unique": True}))
    assert "by id (0,1), (0,2)" in error.message
    assert "example.org" not in f"{error.message} {error.hint} {error.extra}"


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_deadlock_is_tried_once_more_when_the_other_session_is_done(
    server: Any, target: Any, tree: TestTree, superuser_connection: Any
) -> None:
    """The other one has written to the table and asks for a lock that the build holds: the build waits for it, and is the
    one that the server ends."""
    told = Told()
    migrations = wanted(tree, NAME)
    with superuser_connection.cursor() as cursor:
        cursor.execute("SET deadlock_timeout = '60s'; BEGIN; UPDATE people SET gone = true WHERE id = 1")
        working = threading.Thread(target=migrate.apply, args=(target, migrations, Selection(), way(progress=told)))
        working.start()
        wait_for(lambda: rows(target, "SELECT to_regclass('people_name') AS i")[0]["i"], what="the build")
        cursor.execute("LOCK TABLE people IN SHARE UPDATE EXCLUSIVE MODE")
        cursor.execute("COMMIT")
    working.join(timeout=30)
    assert told.said("the build of index public.people_name deadlocked with another session: once more")
    assert valid(target) == ["people_name"]


def test_a_build_that_a_person_cancels_leaves_nothing_and_goes_on(server: Any, target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, NAME)

    def cancel() -> None:
        wait_for(
            lambda: server.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%people_name%'",
                database=target.database,
            ),
            what="the build",
        )

    with holding(target, "UPDATE people SET gone = true WHERE id = 1") as writer:
        person = threading.Thread(target=cancel)
        person.start()
        # What it leaves can be dropped when the writer is gone.
        threading.Timer(2, writer.close).start()
        error = caught(target, migrations)
        person.join()
    assert error.sqlstate == "57014"
    assert "canceling statement due to user request" in error.message
    assert valid(target) == []
    assert state(target, V1)["state"] == "failed"
    migrate.apply(target, migrations, Selection(), way())
    assert valid(target) == ["people_name"]


def test_a_limit_that_is_hit_names_who_held_the_build_up_and_a_larger_one_is_given(target: Any, tree: TestTree) -> None:
    migrations = wanted(tree, NAME)
    with holding(target, "UPDATE people SET gone = true WHERE id = 1", name="nightly import") as writer:
        threading.Timer(4, writer.close).start()
        error = caught(target, migrations, builds=IndexBuilds(timeout_s=3))
    assert "hit its time limit of 3 s when it built index public.people_name, held up by pid" in error.message
    assert "(nightly import), in a transaction since" in error.message
    assert "-e migrate_index_timeout=SECONDS" in error.hint
    migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(timeout_s=60)))
    assert valid(target) == ["people_name"]
