# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Maintenance: what needs it gets it in the right order, within its time, and nobody else notices."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_rebuilds,
    ledger,
    locks,
    maintenance,
    maintenance_plan,
    maintenance_work,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs, Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support.engine import RUN, When, holding, rows, wait_for
from support.maintained import do, filled, maintain, needed, plan, states, tried, work
from support.server import APP, OWNER, SUPERUSER, Server


def wait_until_told(path: Path, part: str, seconds: float) -> None:
    wait_for(lambda: path.exists() and part in path.read_text(), seconds, f"progress {part!r}")


def invalid(target: Any) -> list[str]:
    found = rows(target, "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT indisvalid ORDER BY 1")
    return [row["name"] for row in found]


def audited(target: Any, event: str) -> list[dict[str, Any]]:
    return [
        row["detail"] for row in rows(target, "SELECT detail FROM pgops.audit WHERE event = %s ORDER BY seq", (event,))
    ]


# What needs work


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_table_that_was_just_maintained_needs_nothing(target: Any) -> None:
    filled(target, "calm")
    assert plan(target).items == []
    do(target, "UPDATE calm SET kind = 0 WHERE id <= 50")
    assert plan(target).items == [], "half of the hundred rows that it takes"


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_dead_and_modified_rows_are_told_in_words_and_worked_on(target: Any) -> None:
    filled(target, "worn")
    filled(target, "grown")
    do(
        target,
        "DELETE FROM worn WHERE id <= 500",
        "INSERT INTO grown SELECT n, 0, 'w' FROM generate_series(2000, 2150) n",
    )
    found = plan(target)
    assert needed(found) == [("vacuum", "public.worn"), ("analyze", "public.grown")]
    vacuum, analyze = found.items
    assert vacuum.reasons[0] == "500 dead rows beside 500"
    assert vacuum.with_analyze and "500 rows modified since the last ANALYZE" in vacuum.reasons[1]
    assert "151 rows modified" in analyze.reasons[0]
    result = maintain(target, plan=found)
    assert states(result) == {"public.worn": "done", "public.grown": "done"}
    assert result["items"][0]["given_back"] >= 0 and result["items"][0]["bytes_before"] > 0
    assert plan(target).items == []
    (row,) = audited(target, "maintained")
    assert row["actions"] == {"vacuum": 1, "analyze": 1}


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_vacuum_cuts_no_file_short_since_that_locks_everybody_out_but_where_it_is_asked_to(target: Any) -> None:
    filled(target, "emptied", 20000)
    do(target, "DELETE FROM emptied WHERE id > 500")
    (item,) = [item for item in maintain(target)["items"] if item["object"] == "public.emptied"]
    assert (item["state"], item["action"]) == ("done", "vacuum")
    assert item["bytes_after"] >= item["bytes_before"] > 1_000_000
    do(target, "DELETE FROM emptied WHERE id > 250")
    (item,) = [
        item
        for item in maintain(target, care=Care(cost_delay_ms=0, truncate=True))["items"]
        if item["object"] == "public.emptied"
    ]
    assert item["state"] == "done" and item["given_back"] > 0.8 * item["bytes_before"]


def test_old_statistics_of_a_changed_table_are_made_anew_and_of_an_unchanged_one_are_not(target: Any) -> None:
    filled(target, "changed")
    filled(target, "unchanged")
    do(target, "UPDATE changed SET kind = 1 WHERE id = 1")
    assert plan(target).items == []
    found = plan(target, Needs(analyze_after_days=0))
    assert needed(found) == [("analyze", "public.changed")]
    assert "1 rows were modified since" in found.items[0].reasons[0]


def test_a_table_that_is_excluded_is_left_alone(target: Any) -> None:
    filled(target, "worn")
    do(target, "DELETE FROM worn WHERE id <= 500")
    assert plan(target, Needs(rows_least=100, exclude=["public.wo*"])).items == []


def test_a_partitioned_table_that_nobody_analyzes_is_analyzed_and_proved(target: Any) -> None:
    do(target, "CREATE TABLE parts (id integer) PARTITION BY RANGE (id)",
       "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100000)",
       "INSERT INTO parts SELECT generate_series(1, 100)", "VACUUM ANALYZE part_1")  # fmt: skip
    found = plan(target)
    assert needed(found) == [("analyze", "public.parts")]
    assert states(maintain(target, plan=found)) == {"public.parts": "done"}
    assert plan(target).items == []


def partitioned(target: Any) -> None:
    """Two partitions, one of them partitioned itself, and statistics of all of it by a maintenance."""
    do(
        target,
        "CREATE TABLE parts (id integer, kind integer) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000) WITH (autovacuum_enabled = off)",
        "CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (1000) TO (9000) PARTITION BY LIST (kind)",
        "CREATE TABLE part_2_0 PARTITION OF part_2 DEFAULT WITH (autovacuum_enabled = off)",
        "INSERT INTO parts SELECT n, 0 FROM generate_series(1, 1999) n",
        "VACUUM (ANALYZE) part_1, part_2_0",
    )
    # The first does the others as well.
    assert maintain(target, jobs=1)["counts"] == {"done": 1, "skipped": 1}
    assert plan(target).items == []


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_partitioned_table_is_analyzed_again_by_what_was_written_below_it_since(server: Server, target: Any) -> None:
    partitioned(target)
    do(target, "UPDATE part_2_0 SET kind = 1 WHERE id < 1120")
    # Autovacuum comes by: of the partition nothing is left to do, and of those above it everything is.
    do(target, "VACUUM (ANALYZE) part_2_0")
    found = plan(target)
    assert needed(found) == [("analyze", "public.part_2")]
    assert found.items[0].reasons == ["120 rows modified below it since the last ANALYZE, of 1,000"]
    assert states(maintain(target, plan=found)) == {"public.part_2": "done"}
    assert plan(target).items == []
    do(target, "UPDATE parts SET kind = 2 WHERE id < 100", "VACUUM (ANALYZE) part_1")
    found = plan(target)
    assert needed(found) == [("analyze", "public.parts")]
    assert "219 rows modified below it" in found.items[0].reasons[0]
    # Its proof is the server's word, and not that it was analyzed once.
    with pytest.raises(PgopsError, match="the server does not say that it was done"):
        maintenance.maintain(target, [replace(found.items[0], lacks=None)], work(user=APP), planned=found.at)
    assert states(maintain(target, plan=found)) == {"public.parts": "done"}
    assert plan(target).items == []


def test_of_a_partitioned_table_that_somebody_else_analyzed_its_growth_counts_and_its_age(target: Any) -> None:
    partitioned(target)
    do(target, "DROP SCHEMA pgops CASCADE", "ANALYZE parts", "ANALYZE part_2")
    assert plan(target).items == []
    do(target, "INSERT INTO parts SELECT n, 0 FROM generate_series(2000, 2250) n", "VACUUM (ANALYZE) part_2_0")
    found = plan(target)
    assert needed(found) == [("analyze", "public.parts"), ("analyze", "public.part_2")]
    do(target, "ANALYZE parts", "ANALYZE part_2", "UPDATE parts SET kind = 3 WHERE id = 1")
    assert plan(target).items == []
    found = plan(target, Needs(analyze_after_days=0))
    assert ("analyze", "public.parts") in needed(found)


@pytest.mark.majors(15, 18, slow=(15,))
def test_the_table_with_the_oldest_transaction_id_is_frozen_first(server: Server, target: Any) -> None:
    filled(target, "middle")
    do(target, "DELETE FROM middle WHERE id <= 900")
    filled(target, "oldest")
    for name, ids in (("oldest", 3000), ("old", 2000)):
        if name == "old":
            filled(target, "old")
        do(target, f"DO $$ BEGIN FOR i IN 1..{ids} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    most = int(rows(target, "SHOW autovacuum_freeze_max_age")[0]["autovacuum_freeze_max_age"])
    age = rows(target, "SELECT age(relfrozenxid) AS age FROM pg_class WHERE relname = 'old'")[0]["age"]
    needs = Needs(rows_least=100, index_least_mb=1000, freeze_percent=100 * (age - 10) / most)
    found = plan(target, needs)
    mine = [one for one in needed(found) if one[1].startswith("public.")]
    assert mine[:2] == [("freeze", "public.oldest"), ("freeze", "public.old")] or mine[0] == ("freeze", "public.middle")
    assert found.items[0].weight == max(item.weight for item in found.items)
    result = maintain(target, plan=found)
    assert set(result["counts"]) == {"done"}, result["items"]
    assert (
        rows(target, "SELECT max(age(relfrozenxid)) AS age FROM pg_class WHERE relname IN ('oldest', 'old')")[0]["age"]
        < 1000
    )


def test_a_freeze_that_somebody_holds_back_has_failed_and_names_who(server: Server, target: Any) -> None:
    filled(target, "held")
    with server.session(target.database, SUPERUSER, autocommit=False) as old:
        old.cursor().execute("SET application_name = 'an old report'; SELECT pg_current_xact_id()")
        do(target, "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        found = [item for item in plan(target, Needs(freeze_percent=0.001)).items if item.object == "public.held"]
        assert found[0].action == "freeze"
        server.execute(f"GRANT pg_monitor TO {target.user}")
        try:
            with pytest.raises(PgopsError, match="holds it back") as caught:
                maintenance.maintain(target, found, work(), planned="now")
        finally:
            server.execute(f"REVOKE pg_monitor FROM {target.user}")
    assert "an old report" in caught.value.message


# Rebuilds


def deduplicated(target: Any) -> None:
    """Few values many times: each is kept once, with a list of its rows. Then most of the rows go, from all over."""
    do(
        target,
        "CREATE TABLE logs (id integer, kind integer) WITH (autovacuum_enabled = off)",
        "INSERT INTO logs SELECT n, n % 20 FROM generate_series(1, 100000) n",
        "CREATE INDEX logs_kind ON logs (kind)",
        "DELETE FROM logs WHERE id % 10 < 7",
        "VACUUM (ANALYZE) logs",
    )


def common_estimate(target: Any, index: str) -> float:
    """As it is found everywhere: an entry a row, whatever the index keeps in one."""
    (row,) = rows(
        target,
        "SELECT c.reltuples * (8 + 8 + 4) / (8192 - 40) / 0.9 * 8192 AS needed, pg_relation_size(c.oid) AS there "
        "FROM pg_class c WHERE c.relname = %s",
        (index,),
    )
    return 100 * (1 - float(row["needed"]) / float(row["there"]))


@pytest.fixture
def measured(superuser_connection: Any, server: Server) -> Any:
    """pgstattuple is there, and the migrator may use it."""
    with superuser_connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION pgstattuple")
    server.execute(f"GRANT pg_stat_scan_tables TO {OWNER}")
    yield
    server.execute(f"REVOKE pg_stat_scan_tables FROM {OWNER}")


@pytest.mark.usefixtures("measured")
@pytest.mark.majors(15, 18, slow=(15,))
def test_a_deduplicated_index_that_is_mostly_air_is_rebuilt_though_the_common_estimate_denies_it(target: Any) -> None:
    deduplicated(target)
    assert common_estimate(target, "logs_kind") < 10
    found = plan(target)
    (item,) = [item for item in found.items if item.action == "reindex"]
    assert item.object == "public.logs_kind"
    percent = float(item.reasons[0].partition(" ")[0])
    assert percent > 60, item.reasons
    result = maintain(target, plan=found)
    (done,) = [item for item in result["items"] if item["action"] == "reindex"]
    assert done["state"] == "done" and done["given_back"] > 0.5 * done["bytes_before"]
    assert invalid(target) == []


@pytest.mark.usefixtures("measured")
def test_the_same_index_is_not_rebuilt_twice_in_ten_days(target: Any) -> None:
    deduplicated(target)
    assert states(maintain(target))["public.logs_kind"] == "done"
    do(target, "INSERT INTO logs SELECT n, n % 20 FROM generate_series(1, 100000) n",
       "DELETE FROM logs WHERE id % 10 < 9", "VACUUM (ANALYZE) logs")  # fmt: skip
    again = plan(target)
    assert "reindex" not in [item.action for item in again.items]
    (left,) = again.left_out
    assert left["object"] == "public.logs_kind" and "not again within 10 days" in left["why"]
    assert [item.action for item in plan(target, Needs(index_least_mb=0, reindex_after_days=0)).items] == ["reindex"]


@pytest.mark.usefixtures("measured")
def test_a_healthy_index_is_not_rebuilt_because_its_reltuples_are_stale(target: Any, superuser_connection: Any) -> None:
    filled(target, "healthy", 50000)
    with superuser_connection.cursor() as cursor:
        cursor.execute("UPDATE pg_class SET reltuples = 500 WHERE relname IN ('healthy', 'healthy_pkey')")
    found = plan(target)
    assert "reindex" not in [item.action for item in found.items]
    (left,) = [one for one in found.left_out if one["object"] == "public.healthy_pkey"]
    assert "the estimate says 9" in left["why"] and "it is well" in left["why"]


def test_without_the_extension_only_a_clear_estimate_counts_and_the_plan_says_so(target: Any) -> None:
    filled(target, "airy", 50000)
    do(target, "DELETE FROM airy WHERE id % 10 > 0", "VACUUM (ANALYZE) airy")
    (item,) = plan(target).items
    assert item.action == "reindex"
    assert "by the estimate alone (CREATE EXTENSION pgstattuple lets it be measured)" in item.reasons[0]
    do(target, "UPDATE airy SET kind = 0")
    stale = plan(target)
    assert "reindex" not in [item.action for item in stale.items]
    assert any("no fresh statistics" in left["why"] for left in stale.left_out)


def test_a_name_of_63_characters_is_rebuilt_and_its_remains_are_known(target: Any) -> None:
    name = "é" * 31 + "x"
    assert len(name.encode()) == 63
    do(target, "CREATE TABLE t (id integer)", f'CREATE INDEX "{name}" ON t (id)')
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    (found,) = rows(
        target, "SELECT indexrelid::int AS oid, indrelid::int AS t FROM pg_index WHERE indrelid = 't'::regclass"
    )
    item = rebuild("t", name, found)
    result = maintenance.maintain(target, [item], work(), planned="now")
    assert states(result) == {f"public.{name}": "done"}
    started = index_rebuilds.start(conn, "public", name, found["t"], RUN)
    cut_off_rebuild(target, name, "t")
    assert [remain.name for remain in index_rebuilds.remains(conn, started)] == ["é" * 28 + "_ccnew"]
    conn.close()
    assert maintain(target)["remains"]["dropped"] == ["public." + "é" * 28 + "_ccnew"]
    assert invalid(target) == []


def rebuild(table: str, name: str, found: dict[str, Any]) -> maintenance_plan.Item:
    return maintenance_plan.Item(
        "reindex", "public", name, "public", table, found["oid"], found["t"], "i", ["a test"], 8192, 0.1
    )


def cut_off_rebuild(target: Any, name: str, table: str) -> None:
    """REINDEX CONCURRENTLY that waits for a writer, and is ended while it does."""
    with holding(target, f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE"):
        conn = connect(target, application_name="the rebuild")
        cursor = conn.cursor()
        cursor.execute("SET lock_timeout = '300ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            cursor.execute(f'REINDEX INDEX CONCURRENTLY "{name}"')
        conn.close()


def test_remains_of_ours_go_and_an_invalid_index_of_somebody_else_stays_and_is_told(target: Any) -> None:
    filled(target, "t")
    do(target, "CREATE INDEX t_kind ON t (kind)")
    # Somebody's own, with a name as the server gives it, of the same column; and one that was left by hand before ours.
    cut_off_rebuild(target, "t_kind", "t")
    theirs = invalid(target)
    assert theirs == ["t_kind_ccnew"]
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    (found,) = rows(target, "SELECT indrelid::int AS t FROM pg_index WHERE indexrelid = 't_kind'::regclass")
    index_rebuilds.start(conn, "public", "t_kind", found["t"], RUN)
    cut_off_rebuild(target, "t_kind", "t")
    assert invalid(target) == ["t_kind_ccnew", "t_kind_ccnew1"]
    conn.close()
    result = maintain(target)
    assert result["remains"] == {"dropped": ["public.t_kind_ccnew1"], "left": []}
    assert invalid(target) == theirs
    assert [index["name"] for index in result["invalid_indexes"]] == ["public.t_kind_ccnew"]
    assert maintain(target)["remains"] == {"dropped": [], "left": []}


@pytest.mark.slow
def test_a_rebuild_waits_for_no_old_transaction_and_leaves_nothing(target: Any) -> None:
    filled(target, "t", 20000)
    do(target, "CREATE INDEX t_kind ON t (kind)")
    (found,) = rows(
        target, "SELECT indexrelid::int AS oid, indrelid::int AS t FROM pg_index WHERE indexrelid = 't_kind'::regclass"
    )
    with holding(target, "SELECT count(*) FROM t", name="an idle session"):
        time.sleep(2.1)  # older than a client's ordinary transaction
        result = tried(target, plan=Plan("now", [rebuild("t", "t_kind", found)]), budget_s=20)
    (item,) = result["items"]
    assert item["state"] == "skipped" and "an idle session" in item["why"]
    assert invalid(target) == []


# Its time


def test_what_does_not_fit_its_time_is_not_begun_and_what_fits_is(target: Any) -> None:
    filled(target, "small")
    filled(target, "large")
    do(target, "DELETE FROM small WHERE id <= 500", "DELETE FROM large WHERE id <= 600")
    found = plan(target)
    items = [replace(item, forecast_s=999.0 if item.name == "large" else 0.1) for item in found.items]
    result = maintenance.maintain(target, items, work(budget_s=30), planned=found.at)
    assert states(result) == {"public.large": "not begun", "public.small": "done"}
    (large,) = [item for item in result["items"] if item["object"] == "public.large"]
    assert large["why"].startswith("it is expected to take 999.0 s, and ")
    assert [item.object for item in plan(target).items] == ["public.large"], "the next run goes on there"


def test_at_the_end_of_its_time_a_rebuild_is_cancelled_without_remains_and_expected_to_take_longer(target: Any) -> None:
    filled(target, "t", 20000)
    do(target, "CREATE INDEX t_kind ON t (kind)")
    (found,) = rows(
        target, "SELECT indexrelid::int AS oid, indrelid::int AS t FROM pg_index WHERE indexrelid = 't_kind'::regclass"
    )
    writer = connect(target, application_name="a writer")
    jumped = [0.0]

    def waiting() -> None:
        """A writer that begins meanwhile holds the rebuild up; then the time is over."""
        writer.cursor().execute("BEGIN; UPDATE t SET kind = 3 WHERE id = 1")
        threading.Thread(target=end).start()

    def end() -> None:
        wait_for(lambda: rows(target, "SELECT 1 FROM pg_stat_progress_create_index"), 120, "the rebuild")
        jumped[0] = 10000.0
        wait_for(lambda: not rows(target, "SELECT 1 FROM pg_stat_progress_create_index"), 120)
        writer.close()

    given = work(budget_s=5000, progress=When("rebuilding index", waiting), clock=lambda: time.monotonic() + jumped[0])
    result = tried(target, plan=Plan("now", [rebuild("t", "t_kind", found)]), given=given)
    (item,) = result["items"]
    assert (item["state"], item["why"]) == ("cancelled", "its time was over")
    assert result["remains"]["left"] == [] and item["notes"] == []
    assert invalid(target) == []
    (row,) = audited(target, "maintained")
    assert row["stopped"] == {"reindex public.t_kind": item["seconds"]}
    conn = connect(target, application_name="test")
    forecast = maintenance_plan.maintenance_history.read(conn).forecast("reindex", 1, "public.t_kind")
    conn.close()
    assert forecast >= round(1.5 * item["seconds"], 2)


class HeldUp(Progress):
    """Waits for a file before a rebuild begins."""

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        while "rebuilding index" in text and not Path(f"{self._path}.go").exists():
            time.sleep(0.02)


def _maintain_in_process(target: Any, items: list[Any], path: str) -> None:
    maintenance.maintain(target, items, work(budget_s=600, progress=HeldUp(path)), planned="now")


def test_what_a_killed_run_has_left_the_next_one_drops(target: Any, tmp_path: Path) -> None:
    """kill -9 while a rebuild waits for a writer: the server ends its statement by itself, and an invalid index stays."""
    filled(target, "t", 20000)
    do(target, "CREATE INDEX t_kind ON t (kind)")
    (found,) = rows(
        target, "SELECT indexrelid::int AS oid, indrelid::int AS t FROM pg_index WHERE indexrelid = 't_kind'::regclass"
    )
    path = tmp_path / "told"
    process = multiprocessing.get_context("spawn").Process(
        target=_maintain_in_process, args=(target, [rebuild("t", "t_kind", found)], str(path))
    )
    process.start()
    wait_until_told(path, "rebuilding index", 120)
    with holding(target, "UPDATE t SET kind = 3 WHERE id = 1", name="a writer"):
        Path(f"{path}.go").touch()
        wait_for(lambda: rows(target, "SELECT 1 FROM pg_stat_progress_create_index"), 120, "the rebuild")
        process.kill()
        process.join()
        wait_for(
            lambda: not rows(target, "SELECT 1 FROM pg_stat_progress_create_index"), 60, "the end of its statement"
        )
    assert invalid(target) == ["t_kind_ccnew"]
    result = maintain(target)
    assert result["remains"]["dropped"] == ["public.t_kind_ccnew"]
    assert invalid(target) == []


def test_asked_to_end_it_ends_and_says_how_far_it_is(target: Any) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    control = Control()
    control.request("somebody asked it to stop")
    with pytest.raises(Interrupted) as caught:
        maintain(target, control=control)
    assert caught.value.extra["databases"][target.database]["items"][0]["state"] == "not begun"


# Rights


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_a_role_without_the_right_fails_though_the_server_only_warns(server: Server, target: Any) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    found = plan(target, user=APP)
    assert "is not its owner white_cross_owner" in str(found.items[0].lacks)
    with pytest.raises(PgopsError, match="role white_cross_app is not its owner"):
        maintain(target, plan=found, user=APP)
    # As where the right goes between the plan and the work: then the proof sees it.
    items = [replace(item, lacks=None) for item in found.items]
    with pytest.raises(PgopsError, match="the server does not say that it was done: (permission denied|skipping)"):
        maintenance.maintain(target, items, work(user=APP), planned=found.at)
    assert [item.object for item in plan(target).items] == ["public.t"]


@pytest.mark.majors(15, 16, slow=(16,))
def test_before_17_nobody_is_told_to_become_a_member_of_a_superuser_or_of_any_owner(
    server: Server, target: Any
) -> None:
    for name in ("ours", "theirs", "like_theirs"):
        filled(target, name)
        do(target, f"DELETE FROM {name} WHERE id <= 500")
    server.execute("CREATE ROLE admin_by_membership IN ROLE " + SUPERUSER)
    try:
        server.execute(f"ALTER TABLE theirs OWNER TO {SUPERUSER}", database=target.database)
        server.execute("ALTER TABLE like_theirs OWNER TO admin_by_membership", database=target.database)
        server.execute(f"ALTER DATABASE {target.database} OWNER TO {SUPERUSER}")
        lacks = {item.name: item.lacks for item in plan(target).items}
        assert lacks["ours"] is None
        for name in ("theirs", "like_theirs"):
            assert f"before 17 only its owner may: ALTER TABLE public.{name} OWNER TO {OWNER}, or leave it out" in str(
                lacks[name]
            )
            server.execute(f"ALTER TABLE public.{name} OWNER TO {OWNER}", database=target.database)
        assert {item.lacks for item in plan(target).items} == {None}, "what is told is enough"
        needs = Needs(rows_least=100, index_least_mb=1000, freeze_percent=0.00001)
        found = {item.object: str(item.lacks) for item in plan(target, needs, user=APP).items}
        assert f"leave maintenance_user out, and {OWNER} does it" in found["public.ours"]
        assert found["pg_catalog.pg_class"].endswith("a superuser does it: VACUUM (FREEZE) pg_catalog.pg_class")
        assert not any("GRANT" in told for told in found.values())
    finally:
        server.execute("DROP OWNED BY admin_by_membership", database=target.database)
        server.execute("DROP ROLE admin_by_membership")


@pytest.mark.majors(17, 18, slow=(17,))
def test_pg_maintain_is_enough_to_vacuum_and_rebuild(server: Server, target: Any) -> None:
    filled(target, "t", 50000)
    do(target, "DELETE FROM t WHERE id % 10 > 0", "VACUUM (ANALYZE) t", "DELETE FROM t WHERE id < 20000",
       "GRANT SELECT ON t TO white_cross_app")  # fmt: skip
    server.execute(f"GRANT pg_maintain TO {APP}")
    server.execute(f"ALTER ROLE {APP} INHERIT")
    try:
        server.execute("ALTER ROLE white_cross_app INHERIT")
        server.execute(f"GRANT pg_maintain TO {APP} WITH INHERIT TRUE")
        result = maintain(target, user=APP)
    finally:
        server.execute(f"REVOKE pg_maintain FROM {APP}")
        server.execute(f"ALTER ROLE {APP} NOINHERIT")
    assert states(result)["public.t"] == "done"


# Others


def test_a_migration_keeps_it_from_beginning(target: Any) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    made = plan(target)
    with connect(target, application_name="pgops 20260101T000000Z-00000b") as other, locks.RunnerLock(other):
        conn = connect(target, application_name="test")
        ledger.ensure(conn)
        conn.close()
        result = tried(target, plan=made, pause_s=1.0)
    (item,) = result["items"]
    assert item["state"] == "not begun" and "is being migrated by run 20260101T000000Z-00000b" in item["why"]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["pg_dump", "pgops 20260101T000000Z-00000b backup", "pgBackRest [backup]"])
def test_a_running_backup_keeps_it_from_beginning(target: Any, name: str) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    with holding(target, "SELECT 1", name=name):
        result = tried(target, pause_s=0.7)
    (item,) = result["items"]
    assert item["state"] == "not begun" and "a backup runs" in item["why"]
    assert states(maintain(target)) == {"public.t": "done"}


@pytest.fixture
def slow(server: Server, target: Any) -> Any:
    """A table on which a VACUUM with the cost delay of :data:`SLOW` takes minutes."""
    filled(target, "slow", 20000)
    do(target, "DELETE FROM slow WHERE id <= 15000")
    server.execute(f"ALTER ROLE {target.user} SET vacuum_cost_limit = 1")
    yield
    server.execute(f"ALTER ROLE {target.user} RESET vacuum_cost_limit")


SLOW = Care(cost_delay_ms=100)


@pytest.mark.usefixtures("slow")
def test_whoever_waits_for_its_lock_is_let_by(target: Any) -> None:
    client = threading.Thread(target=do, args=(target, "ALTER TABLE slow ADD COLUMN more integer"))
    control = Control()

    class Watched(When):
        def emit(self, text: str, **fields: Any) -> None:
            super().emit(text, **fields)
            if "is left for later: it gave way to pid" in text:
                client.join()
                control.request("a test has seen enough")

    told = Watched("vacuuming public.slow", client.start)
    made = plan(target, Needs(rows_least=100, index_least_mb=1000))
    with pytest.raises(Interrupted):
        maintain(target, plan=made, care=SLOW, progress=told, control=control)
    assert rows(target, "SELECT more FROM slow LIMIT 1") == [{"more": None}]


def test_clients_with_the_same_lock_timeout_never_fail_beside_it(target: Any) -> None:
    """An idle transaction holds the table, as it does at night; whoever reads and writes goes on."""
    filled(target, "t", 20000)
    do(target, "DELETE FROM t WHERE id <= 10000")
    faults: list[str] = []
    ended = threading.Event()

    def client() -> None:
        conn = connect(target, application_name="a client")
        cursor = conn.cursor()
        cursor.execute("SET lock_timeout = '100ms'")
        while not ended.is_set():
            try:
                cursor.execute("UPDATE t SET kind = kind + 1 WHERE id = 15000")
                cursor.execute("SELECT count(*) FROM t WHERE id > 19000")
            except psycopg2.Error as exc:
                faults.append(str(exc.pgcode))
        conn.close()

    with holding(target, "SELECT count(*) FROM t", name="an idle session"):
        clients = [threading.Thread(target=client) for _ in range(2)]
        for one in clients:
            one.start()
        result = maintain(target, Needs(rows_least=100, index_least_mb=1000))
        ended.set()
        for one in clients:
            one.join()
    assert faults == []
    assert states(result) == {"public.t": "done"}
    assert result["canary_worst_ms"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("slow")
def test_a_canary_that_suffers_lets_nothing_begin_and_in_the_end_ends_what_runs(target: Any) -> None:
    filled(target, "next")
    do(target, "DELETE FROM next WHERE id <= 500")
    canary = "SELECT pg_sleep(0.15) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
    suffering = connect(target, application_name="a client")
    told = When("vacuuming public.slow", lambda: suffering.cursor().execute("SELECT pg_advisory_lock(4711)"))
    care = Care(cost_delay_ms=100, canary=canary, canary_limit_ms=50)
    made = plan(target, Needs(rows_least=100, index_least_mb=1000))
    assert [item.name for item in made.items] == ["slow", "next"]
    result = tried(target, plan=made, care=care, progress=told, jobs=1, pause_s=8.0, budget_s=600)
    suffering.close()
    assert states(result) == {"public.slow": "not begun", "public.next": "not begun"}
    assert all("the query of maintenance_canary takes" in item["why"] for item in result["items"])
    assert told.said("public.slow is left for later: the query of maintenance_canary takes")


def test_a_canary_that_is_no_query_is_refused_before_anything_begins(target: Any) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    with pytest.raises(PgopsError, match="the query of maintenance_canary failed"):
        maintain(target, care=Care(canary="SELECT nothing FROM nowhere"))
    assert plan(target).items


def test_two_do_not_maintain_one_database_at_once(target: Any) -> None:
    filled(target, "t")
    do(target, "DELETE FROM t WHERE id <= 500")
    with (
        holding(target, f"SELECT pg_advisory_lock({maintenance.ONE_KEY})"),
        pytest.raises(PgopsError, match="is under way"),
    ):
        maintain(target)


@pytest.mark.slow
def test_side_by_side_but_never_two_on_one_table(target: Any) -> None:
    for number in range(6):
        filled(target, f"t{number}")
        do(target, f"DELETE FROM t{number} WHERE id <= 500")
    result = maintain(target, jobs=4)
    assert set(states(result).values()) == {"done"}
    assert maintenance_work.DONE in result["counts"]


def test_nothing_to_do_writes_nothing(target: Any) -> None:
    filled(target, "t")
    result = maintain(target)
    assert result["items"] == [] and result["changed"] is False
    assert rows(target, "SELECT 1 FROM pg_namespace WHERE nspname = 'pgops'") == []
