# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run has reached, in its result and its report: the five aims, and whether anybody uses the indexes that it made."""

from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import index_use, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.plugin_utils import index_watch
from support.engine import do, wait_for, way
from support.site import Playbook
from support.tree import NO_DIFFERENCE, TestTree

V1, V2 = "20260101000000", "20260101000001"
INDEXES = [
    {"name": "rooms_name", "table": "rooms", "columns": ["name"], "why": "a test"},
    {"name": "rooms_floor", "table": "rooms", "columns": ["floor"], "why": "a test"},
]
LOOK_UP = "SELECT floor FROM public.rooms WHERE name = 'a'"


def test_scans_are_those_of_the_server_and_what_is_not_there_is_left_out(server: Any, target: Any) -> None:
    server.execute(
        "CREATE TABLE public.rooms (id integer); CREATE INDEX rooms_id ON public.rooms (id)", database=target.database
    )
    assert index_use.scans(target, ["public.rooms_id", "public.gone"]) == {"public.rooms_id": 0}
    server.execute("SET enable_seqscan = off; SELECT * FROM public.rooms WHERE id = 1", database=target.database)
    wait_for(lambda: index_use.scans(target, ["public.rooms_id"])["public.rooms_id"] == 1, what="a scan counted")
    assert index_use.scans(target, []) == {}


def test_scans_count_from_the_first_look_also_after_the_statistics_were_reset() -> None:
    def look(second: int, **scans: int) -> dict[str, Any]:
        seen = {"clinic": {"before": {"standbys": ["s1"]}}}
        return {
            "event": "looked", "host": "db1", "time": f"2026-01-01T12:00:{second:02}.000Z", "seen": seen,
            "index_scans": {"clinic": scans},
        }  # fmt: skip

    before_the_apply = {"event": "looked", "host": "db1", "seen": {}, "figures": {}}
    (found,) = index_watch.of(
        [before_the_apply, look(0, a=5, b=2, c=9), look(15, a=6, b=3, c=9), look(30, a=8, b=1, c=9)]
    )
    assert found == {
        "host": "db1", "database": "clinic", "seconds": 30.0, "scans": {"a": 3, "b": 1, "c": 0}, "unused": ["c"], "standbys": 1,
    }  # fmt: skip
    (line,) = index_watch.lines([found])
    assert line.startswith("indexes of this run in clinic, 30 s of watch on the primary: a scanned 3 times; b scanned")
    assert line.endswith("remark: not scanned: c (its 1 standbys count on their own)")
    assert index_watch.of([look(0, a=1)]) == []


def test_indexes_that_sql_makes_count_and_those_of_constraints_do_not(target: Any, tmp_path: Path) -> None:
    do(target, "CREATE TABLE public.rooms (id integer PRIMARY KEY, name text, floor integer)",
       "CREATE INDEX rooms_id ON public.rooms (id)")  # fmt: skip
    told = (
        "CREATE INDEX rooms_name ON public.rooms (name);\nCREATE INDEX IF NOT EXISTS rooms_id ON public.rooms (id);\n"
    )
    hidden = "DO $$BEGIN EXECUTE 'CREATE INDEX rooms_floor ON public.rooms (floor)'; END$$;\n"
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1, "rooms", told + hidden + "ALTER TABLE public.rooms ADD UNIQUE (floor);\n", "DROP INDEX public.rooms_name;\n"
    )
    applied = migrate.apply(target, tree.render(), Selection(), way())
    made = index_watch.made({"clinic": applied})["clinic"]
    assert set(index_use.scans(target, made)) == {"public.rooms_name", "public.rooms_floor"}


def test_many_indexes_are_some_and_a_number() -> None:
    scans = {f"public.i{number:02}": number % 2 for number in range(40)}
    found = {"database": "clinic", "seconds": 3, "scans": scans, "standbys": 0}
    (line,) = index_watch.lines([{**found, "unused": sorted(name for name, number in scans.items() if not number)}])
    assert "public.i01 scanned 1 times" in line
    assert "8 more were scanned" in line
    assert line.endswith("public.i22 and 8 more")


def looking_up(site: Playbook, over: threading.Event) -> None:
    with closing(site.server.connect(site.database)) as conn, conn.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        while not over.wait(0.05):
            cursor.execute("SELECT to_regclass('public.rooms_name')")
            if cursor.fetchone() != (None,):
                cursor.execute(LOOK_UP)


@pytest.mark.slow
def test_migrate_yml_tells_its_five_aims_and_the_use_of_its_indexes(playbook: Playbook) -> None:
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    up = "CREATE TABLE public.rooms (id integer PRIMARY KEY, name text, floor integer);\n"
    tree.add_sql(V1, "rooms", up, "DROP TABLE public.rooms;\n")
    tree.add(V2, "faster", [{"indexes": "indexes.yml"}], {"indexes.yml": INDEXES, "verify.sql.j2": NO_DIFFERENCE})
    playbook.variables["pgops_phases"] = ["preflight", "plan", "apply", "verify", "report"]
    playbook.variables["verify_compare_schema"] = False
    playbook.variables["migrate_health"] = {"probe": "SELECT 1"}
    over = threading.Event()
    client = threading.Thread(target=looking_up, args=(playbook, over))
    client.start()
    try:
        done = playbook("migrate.yml", migrate_watch=0.1, hooks_watch_interval=3)
    finally:
        over.set()
        client.join()
    assert done.rc == 0, done.output
    aims = {aim["aim"]: aim for aim in done.json["aims"]}
    assert aims["zero loss"]["met"] is True
    assert aims["outage"]["met"] is True
    assert aims["outage"]["figure"].startswith("no hook kept users out, no client ")
    assert "the run is in the audit" in aims["HIPAA"]["figure"]
    assert aims["way back"]["figure"].startswith("not measured")
    assert aims["speed"]["met"] is True, (aims["speed"], done.output)
    (use,) = done.json["index_use"]
    assert use["unused"] == ["public.rooms_floor"]
    assert use["scans"]["public.rooms_name"] > 0
    page = Path(done.json["report"]).read_text(encoding="utf-8")
    for told in ("remark: not scanned: public.rooms_floor", "no table of"):
        assert told in done.stdout
        assert told in page
    # The server of the tests collects no log, which is said and not passed over.
    assert "not looked at, because logging_collector is off" in done.stdout
