# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""An autovacuum to prevent wraparound holds its table and, unlike others, gives way to nobody: it is named, and waited for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import maintenance, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support import server as servers
from support.engine import When, do, rows, state, target_of, wait_for, way
from support.maintained import plan, work
from support.recording_client import RecordingClient
from support.server import MIGRATOR, OWNER, Server
from support.tree import TestTree

pytestmark = pytest.mark.slow

V1 = "20260101000001"
DATABASE = "old"
AGAIN = "20260101T000000Z-00000a"


@dataclass
class Vacuum:
    """One that is under way on the table people, and would be for half an hour."""

    server: Server
    target: Any

    @property
    def pids(self) -> list[int]:
        found = self.server.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' "
            "AND query LIKE '%people (to prevent wraparound)'"
        )
        return [pid for (pid,) in found]

    def hurry(self) -> None:
        """It begins anew without its rests, and is over at once."""
        reset = "ALTER TABLE people RESET (autovacuum_vacuum_cost_delay, autovacuum_vacuum_cost_limit)"
        asking = threading.Thread(target=do, args=(self.target, reset))
        asking.start()
        waits = (
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE people RESET%' AND wait_event_type = 'Lock'"
        )
        while asking.is_alive():
            if self.server.execute(waits):
                self.server.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
                )
            asking.join(0.05)


@pytest.fixture
def vacuum() -> Iterator[Vacuum]:
    server = servers.embedded_server()
    try:
        server.create_database(DATABASE, OWNER)
        server.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        server.execute("SELECT pg_reload_conf()")
        target = target_of(server, DATABASE)
        do(
            target,
            "CREATE TABLE people (id integer PRIMARY KEY, name text, age integer)",
            # Nothing but the forced one comes, and so slow that it is still there when it is looked for.
            "ALTER TABLE people SET (autovacuum_enabled = false, autovacuum_freeze_max_age = 100000, "
            "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
            "INSERT INTO people SELECT n, repeat('x', 500), 18 FROM generate_series(1, 20000) n",
            "ALTER TABLE people ADD CONSTRAINT adult CHECK (age > 17) NOT VALID",
            "DO $$ BEGIN FOR i IN 1..110000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
        )
        made = Vacuum(server, target)
        wait_for(lambda: made.pids, 60, "the vacuum")
        with RecordingClient(target, "people") as client:
            yield made
            client.nothing_is_lost()
    finally:
        servers.discard(server)


def migrations(folder: Path, kind: str, lock_budget_s: int) -> list[dict[str, Any]]:
    tree = TestTree(folder / kind)
    budgets = {"lock_budget_s": lock_budget_s}
    if kind == "sql":
        tree.add_sql(
            V1, "add_more", "ALTER TABLE public.people ADD COLUMN more integer;",
            "ALTER TABLE public.people DROP COLUMN more;", budgets=budgets,
        )  # fmt: skip
    elif kind == "validate":
        tree.add(V1, "check_age", [{"validate": [{"table": "people", "constraint": "adult"}]}], budgets=budgets)
    else:
        index = {"name": "people_name", "table": "people", "columns": [{"column": "name"}], "why": "a test"}
        tree.add(V1, "add_index", [{"indexes": "indexes.yml"}], {"indexes.yml": [index]}, budgets=budgets)
    return tree.render()


@pytest.mark.parametrize("sees", ["everything", "no query of others"])
@pytest.mark.parametrize("kind", ["sql", "validate"])
def test_it_is_named_when_the_budget_ends_and_nothing_is_left(
    vacuum: Vacuum, tmp_path: Path, kind: str, sees: str
) -> None:
    if sees == "everything":
        vacuum.server.execute(f"GRANT pg_read_all_stats TO {MIGRATOR}")
    (pid,) = vacuum.pids
    before = rows(vacuum.target, "SELECT xmin::text FROM pg_class WHERE relname = 'people'")
    with pytest.raises(PgopsError) as caught:
        migrate.apply(vacuum.target, migrations(tmp_path, kind, 3), Selection(), way())
    error = caught.value
    assert error.extra["reason"] == "lock_wait"
    assert f"It was blocked by pid {pid} (autovacuum worker" in error.message
    if sees == "everything":
        # It analyzes too, where that is due.
        assert re.search(r"autovacuum: VACUUM (ANALYZE )?public\.people \(to prevent wraparound\)", error.message)
    assert "one to prevent wraparound is better waited for" in error.hint
    assert vacuum.pids == [pid]
    assert rows(vacuum.target, "SELECT xmin::text FROM pg_class WHERE relname = 'people'") == before
    assert (state(vacuum.target, V1)["state"], state(vacuum.target, V1)["reason"]) == ("failed", "lock_wait")
    vacuum.hurry()
    migrate.apply(vacuum.target, migrations(tmp_path / "again", kind, 60), Selection(), way(AGAIN))
    assert state(vacuum.target, V1)["state"] == "applied"


def test_a_step_goes_on_when_it_is_over(vacuum: Vacuum, tmp_path: Path) -> None:
    told = When("waiting for pid", vacuum.hurry)
    migrate.apply(vacuum.target, migrations(tmp_path, "validate", 60), Selection(), way(progress=told))
    assert told.said("(autovacuum worker")
    assert state(vacuum.target, V1)["state"] == "applied"


def test_a_build_names_it_too(vacuum: Vacuum, tmp_path: Path) -> None:
    wanted = migrations(tmp_path, "indexes", 60)
    with pytest.raises(PgopsError, match="hit its time limit of 3 s .* held up by pid") as caught:
        migrate.apply(vacuum.target, wanted, Selection(), way(builds=IndexBuilds(timeout_s=3)))
    assert "autovacuum worker" in caught.value.message
    assert rows(vacuum.target, "SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    vacuum.hurry()
    migrate.apply(vacuum.target, wanted, Selection(), way(AGAIN))
    assert state(vacuum.target, V1)["state"] == "applied"


def test_maintenance_leaves_its_table_to_it(vacuum: Vacuum) -> None:
    made = plan(vacuum.target, Needs(rows_least=1, index_least_mb=1000))
    items = [replace(item, due=[]) for item in made.items if item.name == "people"]
    assert items, "it was never analyzed"
    (pid,) = vacuum.pids
    result = maintenance.maintain(vacuum.target, items, work(), planned=made.at)
    (item,) = result["items"]
    assert item["state"] == "skipped"
    assert f"its table is in use by pid {pid} (autovacuum worker" in item["why"]
    assert result["ended"] == "done", "the server does it"
    due = [replace(items[0], action="freeze", due=["xid_age"])]
    vacuum.server.execute(f"GRANT pg_monitor TO {vacuum.target.user}")
    assert maintenance.maintain(vacuum.target, due, work(), planned=made.at)["ended"] == "done"
    assert vacuum.pids == [pid]
    vacuum.hurry()
