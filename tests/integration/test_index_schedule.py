# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""In which order indexes are built, how many at one time, with how much memory; and what becomes of a session that is lost."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import index_schedule, indexes, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.build_progress import Forecast, Seen
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import Told, do, holding, rows, wait_for, way
from support.index_steps import VERSION as V1
from support.index_steps import wanted
from support.server import MIGRATOR
from support.tree import TestTree

TABLES = ("small", "large", "middle")


@pytest.fixture
def tree(tmp_path: Any, target: Any) -> TestTree:
    for table, count in zip(TABLES, (100, 6000, 2000), strict=True):
        do(
            target,
            f'CREATE TABLE "{table}" (id integer PRIMARY KEY, name text, words tsvector)',
            f"""INSERT INTO "{table}" SELECT n, 'n' || n, to_tsvector('simple', 'w' || n) FROM generate_series(1, {count}) n""",
        )
    return TestTree(tmp_path / "sql")


def index(table: str, column: str = "name", **more: Any) -> dict[str, Any]:
    return {"name": f"{table}_{column}", "table": table, "columns": [{"column": column}], "why": "a test", **more}


def gin(table: str) -> dict[str, Any]:
    return index(table, "words", method="gin")


def at_each_build(monkeypatch: pytest.MonkeyPatch, before: Callable[..., None]) -> None:
    original = indexes.build

    def build(context: Any, owner: Any, conn: Any, given: Any, place: str = "") -> None:
        before(conn, given)
        original(context, owner, conn, given, place)

    monkeypatch.setattr(indexes, "build", build)


def setting(conn: Any, name: str) -> str:
    with conn.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return str(cursor.fetchone()[0])


def test_the_largest_table_comes_first_and_gin_last_on_each(target: Any, tree: TestTree) -> None:
    migrations = wanted(
        tree, gin("small"), index("small"), gin("large"), index("middle"), index("large"), gin("middle")
    )
    told = Told()
    migrate.apply(target, migrations, Selection(), way(progress=told, builds=IndexBuilds(workers=1)))
    order = [found[1] for text in told.texts if (found := re.match(r"building index public\.(\w+) \(\d of 6\)$", text))]
    assert order == ["large_name", "large_words", "middle_name", "middle_words", "small_name", "small_words"]


def test_a_table_with_many_indexes_comes_before_a_larger_one_with_few() -> None:
    tables = {("public", name): index_schedule.Table("r", size) for name, size in (("a", 100), ("b", 60))}
    queues = index_schedule.queues([index("a"), index("b"), index("b", "x"), index("gone")], tables)
    assert [[item["name"] for item in queue.indexes] for queue in queues] == [
        ["b_name", "b_x"],
        ["a_name"],
        ["gone_name"],
    ]


def test_of_three_tables_two_sessions_leave_no_two_builds_of_one_for_the_end(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table by table, the third one's builds would come one after the other."""
    both = threading.Barrier(2, timeout=20)
    pairs: list[str] = []

    def before(conn: Any, given: Any) -> None:
        # Whoever builds alone waits here in vain.
        both.wait()
        pairs.append(given["table"])
        both.wait()

    tables = ("first", "second", "third")
    do(target, *(f'CREATE TABLE "{table}" AS TABLE middle' for table in tables))
    at_each_build(monkeypatch, before)
    made = [index(table, column) for table in tables for column in ("name", "id")]
    migrate.apply(target, wanted(tree, *made), Selection(), way(builds=IndexBuilds(workers=2)))
    assert all(len(set(pairs[number : number + 2])) == 2 for number in (0, 2, 4)), pairs


@pytest.mark.parametrize("workers", [1, 3])
def test_so_many_tables_are_built_on_at_one_time(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    sessions: dict[int, set[str]] = {}
    together = threading.Barrier(workers, timeout=20)

    def before(conn: Any, given: Any) -> None:
        sessions.setdefault(conn.info.backend_pid, set()).add(given["table"])
        # With three workers each of them waits here for the two others.
        together.wait()

    at_each_build(monkeypatch, before)
    migrations = wanted(tree, *(index(table) for table in TABLES))
    migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(workers=workers)))
    assert len(sessions) == workers
    assert sorted(table for tables in sessions.values() for table in tables) == sorted(TABLES)


@contextmanager
def at_work(server: Any, target: Any, count: int) -> Iterator[threading.Event]:
    """So many clients with a short statement every few milliseconds, until the event is set."""
    ended = threading.Event()

    def client() -> None:
        with server.session(target.database) as conn, conn.cursor() as cursor:
            cursor.execute("SET application_name = 'the application'")
            while not ended.wait(0.01):
                cursor.execute("SELECT 1")

    clients = [threading.Thread(target=client) for _ in range(count)]
    for thread in clients:
        thread.start()
    try:
        wait_for(
            lambda: rows(target, "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'the application'")[0]["n"] == count,
            what="the clients",
        )  # fmt: skip
        yield ended
    finally:
        ended.set()
        for thread in clients:
            thread.join()


def side_by_side(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None) -> list[int]:
    """:return: filled with how many builds there were, at the beginning of each."""
    seen: list[int] = []
    at_one_time = [0]
    real = indexes.build

    def build(context: Any, conn: Any, *given: Any) -> Any:
        at_one_time[0] += 1
        seen.append(at_one_time[0])
        time.sleep(0.2)  # so that another one would begin meanwhile
        meanwhile()
        try:
            return real(context, conn, *given)
        finally:
            at_one_time[0] -= 1

    monkeypatch.setattr(indexes, "build", build)
    return seen


def test_while_clients_work_one_index_is_built_after_the_other(
    server: Any, target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = side_by_side(monkeypatch)
    told = Told()
    migrations = wanted(tree, *(index(table) for table in TABLES))
    with at_work(server, target, index_schedule.FEWEST_CLIENTS):
        migrate.apply(target, migrations, Selection(), way(progress=told))
    assert seen == [1, 1, 1]
    assert told.texts.count("clients are at work: indexes are built one after the other") == 1


def test_one_client_alone_is_no_reason_and_more_may_be_said_to_be_none(
    server: Any, target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = side_by_side(monkeypatch)
    with at_work(server, target, 1):
        migrate.apply(target, wanted(tree, *(index(table) for table in TABLES)), Selection(), way())
    assert max(seen) == 2
    migrate.revert(target, Reverts(), way())
    seen.clear()
    with at_work(server, target, 3):
        migrate.apply(target, tree.render(), Selection(), way(builds=IndexBuilds(workers_busy=2)))
    assert max(seen) == 2


def test_when_the_clients_are_gone_the_others_join_in(
    server: Any, target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    with at_work(server, target, 3) as ended:

        def meanwhile() -> None:
            if len(seen) == 1:
                ended.set()
                time.sleep(1.2)  # their last statements are older than a second then

        seen = side_by_side(monkeypatch, meanwhile)
        migrations = wanted(tree, index("large"), index("large", "id"), index("middle"), index("small"))
        migrate.apply(target, migrations, Selection(), way(progress=told))
    assert seen[0] == 1 and max(seen) == 2
    assert told.said("no clients are at work: indexes are built 2 at one time")


def test_builds_at_one_time_share_the_memory_and_the_last_one_has_it_all(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    both = threading.Barrier(2, timeout=20)

    def before(conn: Any, given: Any) -> None:
        seen[given["name"]] = setting(conn, "maintenance_work_mem")
        if given["table"] != "small":
            both.wait()
        elif given["name"] == "small_name":
            wait_for(lambda: schedule[0]._building == 1, what="the end of the other session's builds")

    schedule: list[Any] = []
    original = index_schedule._SideBySide._open
    monkeypatch.setattr(
        index_schedule._SideBySide, "_open", lambda self, count: schedule.append(self) or original(self, count)
    )
    at_each_build(monkeypatch, before)
    migrations = wanted(tree, index("large"), index("middle"), index("small"), index("small", "id"))
    migrate.apply(target, migrations, Selection(), way(builds=IndexBuilds(workers=2, memory_mb=64)))
    assert (seen["large_name"], seen["middle_name"]) == ("32MB", "32MB")
    # By then nobody else builds, or is about to.
    assert seen["small_id"] == "64MB"


def test_a_b_tree_has_the_memory_that_it_sorts_best_with_and_gin_the_whole_budget(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    at_each_build(monkeypatch, lambda conn, given: seen.update({given["name"]: setting(conn, "maintenance_work_mem")}))
    migrate.apply(
        target, wanted(tree, index("large"), gin("large")), Selection(), way(builds=IndexBuilds(memory_mb=400))
    )
    workers = int(rows(target, "SHOW max_parallel_maintenance_workers")[0]["max_parallel_maintenance_workers"])
    assert seen == {"large_name": f"{32 * (workers + 1)}MB", "large_words": "400MB"}
    # A table of 100 GB is merged in one pass: 162 MB hold the beginnings of the 630 runs of 162 MB that it gives.
    assert index_schedule.sort_kb(100 << 30, 0) == pytest.approx(162 << 10, rel=0.02)


@pytest.mark.parametrize("tables", [("large",), ("large", "middle")])
def test_while_clients_work_a_build_has_one_parallel_worker(
    server: Any, target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch, tables: tuple[str, ...]
) -> None:
    seen: list[str] = []
    at_each_build(monkeypatch, lambda conn, given: seen.append(setting(conn, "max_parallel_maintenance_workers")))
    with at_work(server, target, index_schedule.FEWEST_CLIENTS):
        migrate.apply(target, wanted(tree, *map(index, tables)), Selection(), way())
    assert seen == ["1"] * len(tables)


def test_the_session_that_goes_on_has_the_servers_memory_again(target: Any, tree: TestTree) -> None:
    own = rows(target, "SHOW maintenance_work_mem")[0]["maintenance_work_mem"]
    tree.add(
        V1, "add_indexes", [{"indexes": "indexes.yml"}, {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
        {
            "indexes.yml": [index("large")],
            "up.sql.j2": "CREATE TABLE public.seen AS SELECT current_setting('maintenance_work_mem') AS memory;",
            "down.sql.j2": "DROP TABLE public.seen;",
        },
    )  # fmt: skip
    migrate.apply(target, tree.render(), Selection(), way(builds=IndexBuilds(memory_mb=7)))
    assert rows(target, "SELECT memory FROM seen") == [{"memory": own}]


def test_without_a_budget_a_build_has_no_less_than_the_server_gives_it(
    server: Any, target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    at_each_build(monkeypatch, lambda conn, given: seen.append(setting(conn, "maintenance_work_mem")))
    server.execute(f"ALTER ROLE {MIGRATOR} SET maintenance_work_mem = '900MB'")
    try:
        migrate.apply(target, wanted(tree, index("large")), Selection(), way())
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} RESET maintenance_work_mem")
    assert seen == ["900MB"]


def test_a_server_with_no_free_connection_is_built_on_by_the_session_that_is_there(
    server: Any, target: Any, tree: TestTree
) -> None:
    migrations = wanted(tree, index("large"), index("middle"))
    told = Told()
    server.execute(f"ALTER ROLE {MIGRATOR} CONNECTION LIMIT 1")
    try:
        migrate.apply(target, migrations, Selection(), way(progress=told))
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} CONNECTION LIMIT -1")
    assert told.said("the server has no free connection slot: 1 instead of 2 builds at one time")
    found = rows(target, "SELECT indexrelid::regclass::text AS i FROM pg_index WHERE NOT indisprimary AND indisvalid "
                 "AND indrelid IN ('large'::regclass, 'middle'::regclass) ORDER BY 1")  # fmt: skip
    assert [row["i"] for row in found] == ["large_name", "middle_name"]


def test_a_build_whose_session_is_cut_off_is_looked_at_by_another(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network drops one session of three; the server still builds for it, until it sees that nobody listens."""
    migrations = wanted(tree, index("large"), index("middle"))
    building: list[Any] = []
    at_each_build(monkeypatch, lambda conn, given: building.append(conn) if given["table"] == "large" else None)
    told = Told()
    with holding(target, "UPDATE large SET name = 'x' WHERE id = 1") as writer:
        working = threading.Thread(
            target=migrate.apply, args=(target, migrations, Selection(), way(progress=told)), daemon=True
        )
        working.start()
        wait_for(lambda: rows(target, "SELECT to_regclass('large_name') AS i")[0]["i"], what="the build")
        time.sleep(0.2)  # the build has begun its scan, or waits for the writer
        cut = socket.socket(fileno=socket.dup(building[0].fileno()))
        cut.shutdown(socket.SHUT_RDWR)
        cut.close()
        wait_for(lambda: told.said("the session that built index public.large_name was lost"), what="another session")
        writer.close()
        working.join(timeout=40)
    assert not working.is_alive()
    valid = rows(target, "SELECT indisvalid AS v FROM pg_index WHERE indexrelid IN "
                 "('large_name'::regclass, 'middle_name'::regclass)")  # fmt: skip
    assert valid == [{"v": True}] * 2


def test_a_session_that_is_lost_twice_ends_the_run_and_the_next_goes_on(
    server: Any, target: Any, tree: TestTree
) -> None:
    """As when somebody ends the build: once is taken for the network, twice for an intention."""
    migrations = wanted(tree, index("large"), index("middle"))
    failed: list[PgopsError] = []
    told = Told()

    def work() -> None:
        try:
            migrate.apply(target, migrations, Selection(), way(progress=told))
        except PgopsError as error:
            failed.append(error)

    def end(statement: str) -> Any:
        return server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '{statement}%large_name%'",
            database=target.database,
        )

    with holding(target, "UPDATE large SET name = 'x' WHERE id = 1") as writer:
        working = threading.Thread(target=work)
        working.start()
        wait_for(lambda: rows(target, "SELECT to_regclass('large_name') AS i")[0]["i"], what="the build")
        end("CREATE INDEX")
        wait_for(lambda: end("DROP INDEX"), what="the second session")
        working.join(timeout=20)
        writer.close()
    assert "the session that built index public.large_name was lost twice" in failed[0].message
    assert failed[0].extra["reason"] == "connection_lost"
    migrate.apply(target, migrations, Selection(), way())
    assert rows(target, "SELECT count(*) AS n FROM pg_index WHERE NOT indisvalid") == [{"n": 0}]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": 0}, "migrate_index_workers is 0, and 1 is the least"),
        ({"disk_mb": -1}, "migrate_index_disk_mb is -1"),
    ],
)
def test_limits_that_mean_nothing_are_refused(given: dict[str, int], sentence: str) -> None:
    with pytest.raises(PgopsError, match=sentence):
        IndexBuilds(**given)


def test_the_forecast_leaves_out_the_time_that_was_waited() -> None:
    forecast = Forecast()
    assert forecast.left_s(Seen("waiting for writers before build"), 30.0) is None
    # A third of the scan, which is 0.15 of the work, took 5 s: 100 s in all.
    assert forecast.left_s(Seen("building index: scanning table", "", 20, 60), 35.0) == 95.0
    assert forecast.left_s(Seen("waiting for writers before validation"), 100.0) is None
    assert forecast.left_s(Seen("index validation: scanning table", "", 100, 100), 139.0) == 0.0
    assert forecast.left_s(Seen("a phase of a later PostgreSQL", "", 1, 2), 140.0) is None


def test_a_sort_that_tells_nothing_is_forecast_by_the_time_that_was_taken_before() -> None:
    forecast = Forecast()
    forecast.left_s(Seen("building index: scanning table", "", 100, 100), 15.0)
    told = [forecast.left_s(Seen("building index: sorting live tuples"), at) for at in (16.0, 35.0, 55.0, 300.0)]
    assert told[:3] == [84.0, 65.0, pytest.approx(45.0, rel=0.1)]
    # It takes longer than its share: it is about to end, and what comes after will take longer too.
    assert told[3] is not None and told[3] > 200


def test_the_size_that_a_build_has_so_far_is_told(target: Any, tree: TestTree) -> None:
    """The build is done but for the wait until nobody reads by an older snapshot."""
    migrations = wanted(tree, index("large"))
    told = Told()
    with holding(target, "SELECT 1", name="a report") as reader:
        with reader.cursor() as cursor:
            cursor.execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM large")
        threading.Timer(2.6, reader.close).start()
        migrate.apply(target, migrations, Selection(), way(progress=told))
    size = rows(target, "SELECT pg_relation_size('large_name') AS n")[0]["n"]
    waited = [event for event in told.events if "waiting for old snapshots" in event["text"]]
    assert waited and all(event["size_bytes"] == size for event in waited)


def test_a_method_that_tells_no_parts_has_a_forecast_too() -> None:
    assert Forecast().left_s(Seen("building index", "", 100, 100), 75.0) == 25.0
