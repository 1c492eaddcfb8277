# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What maintenance does not mend is told with its evidence: free space, indexes that nobody needs, invalid ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import maintenance_plan, maintenance_report
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_report import Reported
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support import server as servers
from support.engine import RUN, rows, target_of, wait_for
from support.maintained import do, filled, maintain, plan, states, tried
from support.server import OWNER, Server
from support.standby import standby_of

ALL = Reported(table_least_mb=0)


def report(target: Any, reported: Reported = ALL, needs: Needs = Needs(index_least_mb=0)) -> dict[str, Any]:  # noqa: B008
    return maintenance_report.make(target, needs, reported, run_id=RUN, progress=Progress(), control=Control())


@pytest.mark.majors(15, 18, slow=(15,))
def test_free_space_of_a_table_is_told_with_the_way_out_and_by_what_it_is_known(server: Server, target: Any) -> None:
    filled(target, "airy", 30000)
    filled(target, "tight", 1000)
    do(target, "DELETE FROM airy WHERE id % 10 > 0", "VACUUM (ANALYZE) airy")
    (told,) = report(target)["table_bloat"]
    assert told["table"] == "public.airy" and told["percent"] > 80
    assert told["by"].startswith("an estimate (CREATE EXTENSION pgstattuple")
    assert "maintenance_truncate, under ACCESS EXCLUSIVE" in told["way_out"]
    assert "pg_repack" in told["way_out"] and told["way_out"].endswith("VACUUM (FULL, ANALYZE) public.airy")
    server.execute("CREATE EXTENSION pgstattuple", database=target.database)
    server.execute(f"GRANT pg_stat_scan_tables TO {OWNER}")
    try:
        (told,) = report(target)["table_bloat"]
    finally:
        server.execute(f"REVOKE pg_stat_scan_tables FROM {OWNER}")
    assert told["by"] == "pgstattuple_approx" and told["free_bytes"] > 0.7 * told["bytes"]
    assert report(target, Reported(table_least_mb=0), Needs(exclude=["public.airy"]))["table_bloat"] == []
    assert rows(target, "SELECT count(*) AS n FROM airy") == [{"n": 3000}], "nothing is done about it"


def needless(target: Any) -> None:
    do(
        target,
        "CREATE TABLE parent (id integer PRIMARY KEY)",
        "CREATE TABLE t (id integer PRIMARY KEY, a integer, b text, c integer REFERENCES parent)",
        "CREATE INDEX t_a ON t (a)",
        "CREATE INDEX t_a_again ON t (a)",
        "CREATE INDEX t_a_b ON t (a, b)",
        "CREATE INDEX t_a_desc ON t (a DESC)",
        "CREATE INDEX t_a_some ON t (a) WHERE b IS NOT NULL",
        "CREATE UNIQUE INDEX t_b ON t (b)",
        "CREATE INDEX t_b_again ON t (b)",
        "CREATE INDEX t_c ON t (c)",
        "CREATE INDEX t_lower ON t (lower(b))",
    )


@pytest.mark.majors(15, 18, slow=(15,))
def test_an_index_that_another_one_makes_needless_is_told_once_and_never_the_one_that_is_needed(target: Any) -> None:
    needless(target)
    found = {one["name"]: one for one in report(target)["duplicate_indexes"]}
    assert set(found) == {"t_a", "t_a_again", "t_b_again"}
    assert found["t_b_again"]["why"] == "public.t_b has the same columns in the same way"
    assert {found[name]["other"] for name in ("t_a", "t_a_again")} <= {"public.t_a", "public.t_a_again", "public.t_a_b"}
    assert "public.t_a_b" in {found[name]["other"] for name in ("t_a", "t_a_again")}, "not both for each other's sake"
    assert found["t_a"]["definition"] == "CREATE INDEX t_a ON public.t USING btree (a)"


@pytest.mark.majors(15, 18, slow=(15,))
def test_an_index_is_called_unused_by_counts_and_what_speaks_against_it_is_said(server: Server, target: Any) -> None:
    needless(target)
    do(target, "INSERT INTO t SELECT n, n, 'b' || n FROM generate_series(1, 2000) n", "ANALYZE t",
       "SET enable_seqscan = off", "SELECT count(*) FROM t WHERE lower(b) = 'b7'", "SELECT pg_stat_force_next_flush()")  # fmt: skip
    # The settings of a statement count for its own session only.
    conn = psycopg2.connect(**target.parameters())
    conn.autocommit = True
    cursor = conn.cursor()
    cursor.execute(f"SET ROLE {OWNER}; SET enable_seqscan = off; SET enable_bitmapscan = off")
    cursor.execute("SELECT count(*) FROM t WHERE lower(b) = 'b7'")
    cursor.execute("SELECT pg_stat_force_next_flush()")
    conn.close()
    found = {one["name"]: one for one in report(target)["unused_indexes"]}
    assert "t_lower" not in found and "t_pkey" not in found and "t_b" not in found
    assert found["t_a_desc"]["against"] == []
    assert found["t_c"]["against"] == ["it leads with a foreign key, whose parent's DELETE and UPDATE it serves"]
    server.execute("SELECT pg_stat_reset()", database=target.database)
    (against,) = {one["name"]: one for one in report(target)["unused_indexes"]}["t_a_desc"]["against"]
    assert against.startswith("counted for 0 days only, and 30 are asked for")


def test_an_invalid_index_of_somebody_is_told(target: Any) -> None:
    do(target, "CREATE TABLE t (id integer)", "INSERT INTO t VALUES (1), (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        do(target, "CREATE UNIQUE INDEX CONCURRENTLY theirs ON t (id)")
    assert [one["name"] for one in report(target)["invalid_indexes"]] == ["public.theirs"]


@pytest.mark.slow
def test_a_standby_is_waited_for_and_its_counts_are_added() -> None:
    primary = servers.embedded_server()
    try:
        primary.create_database("db", OWNER)
        target = target_of(primary, "db")
        primary.execute(f"GRANT pg_monitor TO {target.user}")
        primary.execute(f"GRANT EXECUTE ON FUNCTION pg_control_system TO {OWNER}", database="db")
        with standby_of(primary) as standby:
            primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
            primary.execute("SELECT pg_reload_conf()")
            needless(target)
            do(target, "INSERT INTO t SELECT n, n, 'b' || n FROM generate_series(1, 2000) n", "ANALYZE t")
            wait_for(lambda: standby.execute("SELECT 1 FROM t WHERE id = 2000", database="db"))
            told = report(target)
            assert any("1 standbys are connected and 0 were asked" in line for line in told["evidence"]["missing"])
            assert told["unused_indexes"][0]["against"]
            with standby.session("db") as reader, reader.cursor() as cursor:
                cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
                cursor.execute("SELECT count(*) FROM t WHERE lower(b) = 'b7'")
                cursor.execute("SELECT pg_stat_force_next_flush()")
            asked = replace(ALL, standbys=[f"127.0.0.1:{standby.port}"])
            told = report(target, asked)
            assert told["evidence"]["missing"] == []
            assert "t_lower" not in [one["name"] for one in told["unused_indexes"]]
            filled(target, "worn")
            do(target, "DELETE FROM worn WHERE id <= 500")
            standby.execute("SELECT pg_wal_replay_pause()")
            do(target, "INSERT INTO worn VALUES (100000)")
            made = plan(target, maintenance_plan.Needs(rows_least=100, index_least_mb=1000))
            care = Care(cost_delay_ms=0, replica_lag_s=1)
            items = [item for item in made.items if item.name == "worn"]
            result = tried(target, plan=replace(made, items=items), care=care, pause_s=3, budget_s=60)
            standby.execute("SELECT pg_wal_replay_resume()")
            (item,) = result["items"]
            assert item["state"] == "not begun"
            assert any("s behind" in line for line in result["held_up_by"]), result
            assert states(maintain(target, plan=made))["public.worn"] in ("done", "skipped")
    finally:
        servers.discard(primary)
