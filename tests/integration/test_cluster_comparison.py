# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollback of a cluster compares and carries across, also where the live database is gone or cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_comparison,
    connection,
    ledger,
    locks,
    migrate,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_comparison import Live, Record
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from support import engine
from support.backups import RUN
from support.tree import TestTree

V1 = "20260101000001"
RECORD = Record(RUN, "before", "wrong rows")


@pytest.fixture
def both(server: Any, target: Any, database: str, tmp_path: Any) -> str:
    """A live database with one version and two rows, and one beside it as it was before the second row."""
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY);\n", "DROP TABLE people;\n")
    migrate.apply(target, tree.render(), Selection(), engine.way())
    server.execute("INSERT INTO people VALUES (1)", database=database)
    server.execute(f"CREATE DATABASE {database}_restored TEMPLATE {database}")
    server.execute("INSERT INTO people VALUES (2)", database=database)
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.append_audit(conn, "noted", run_id="later")
    return database


@pytest.fixture
def live(target: Any, both: str) -> Iterator[Live]:
    made = Live(target, application_name="test", progress=Progress(None), control=Control(None))
    yield made
    made.close()


def compare(live: Live) -> dict[str, Any]:
    beside = live.target.as_restore().with_(database=f"{live.target.database}_restored")
    return cluster_comparison.compare(live, lambda: connection.connect(beside, application_name="test"), RECORD)


def audit(server: Any, database: str) -> list[tuple[str, Any]]:
    query = "SELECT event, run_id FROM pgops.audit ORDER BY seq DESC LIMIT 2"
    return list(reversed(server.execute(query, database=f"{database}_restored")))


def test_what_is_lost_is_told_and_the_history_goes_across(server: Any, live: Live, both: str) -> None:
    live.lock_if_it_can_be()
    found = compare(live)
    assert found["lost"] == {"public.people": {"now": 2, "then": 1}}
    assert (found["versions"], found["history"]["carried"], found["lost_unknown"]) == ([V1], True, None)
    assert audit(server, both) == [("noted", "later"), ("cluster_restored", RUN)]
    query = "SELECT detail FROM pgops.audit WHERE event = 'cluster_restored'"
    assert server.execute(query, database=f"{both}_restored") == [({"target": "before", "reason": "wrong rows"},)]


def test_a_live_database_that_is_gone_stops_nothing(server: Any, live: Live, both: str) -> None:
    server.execute(f"DROP DATABASE {both}")
    live.lock_if_it_can_be()
    found = compare(live)
    assert (found["lost"], found["history"]["carried"], found["rows"]) == (None, False, 1)
    for why in (found["history"]["why"], found["lost_unknown"]):
        assert "there is no database of that name" in why
    assert audit(server, both)[-1] == ("cluster_restored", RUN)


def test_a_table_that_cannot_be_read_leaves_the_loss_unknown_and_the_history_goes_across(
    server: Any, live: Live, both: str
) -> None:
    path = server.execute("SELECT pg_relation_filepath('people')", database=both)[0][0]
    server.execute("CHECKPOINT")
    live.lock_if_it_can_be()
    where = server.execute("SHOW data_directory")[0][0]
    damage(server, both, f"{where}/{path}")
    found = compare(live)
    assert found["lost"] is None
    assert "invalid page" in found["lost_unknown"]
    assert found["history"]["carried"]
    assert audit(server, both) == [("noted", "later"), ("cluster_restored", RUN)]


def damage(server: Any, database: str, path: str) -> None:
    """The first page is nonsense, and no copy of it is in memory."""
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
    with open(path, "r+b") as file:
        file.write(b"\xff" * 8192)
    server.execute("CREATE EXTENSION IF NOT EXISTS pg_buffercache", database=database)
    server.execute(
        "SELECT pg_buffercache_evict(bufferid) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode('people')",
        database=database,
    )


@pytest.mark.parametrize("spoil", ["UPDATE pgops.meta SET schema_version = 9999", "DROP TABLE pgops.audit CASCADE"])
def test_a_ledger_that_cannot_be_read_stops_nothing(server: Any, live: Live, both: str, spoil: str) -> None:
    server.execute(spoil, database=both)
    found = compare(live)
    assert found["lost"] == {"public.people": {"now": 2, "then": 1}}
    assert found["history"]["carried"] is False and found["history"]["why"]
    assert audit(server, both)[-1] == ("cluster_restored", RUN)


def test_that_a_kept_cluster_is_live_again_stands_in_its_audit(server: Any, target: Any, both: str) -> None:
    kept = Record(RUN, "the cluster kept in /var/lib/kept", "wrong moment")
    told = cluster_comparison.record_return([target, target.with_(database="not_there")], kept)
    query = "SELECT event, run_id, detail FROM pgops.audit ORDER BY seq DESC LIMIT 1"
    detail = {"target": kept.target, "reason": kept.reason}
    assert server.execute(query, database=both) == [("cluster_returned", RUN, detail)]
    assert told["not_there"]["history"]["carried"] is False
    assert set(told) == {"not_there"}


def test_the_restored_ledger_of_a_newer_tool_stops_nothing(server: Any, live: Live, both: str) -> None:
    server.execute("UPDATE pgops.meta SET schema_version = 9999", database=f"{both}_restored")
    found = compare(live)
    assert (found["versions"], found["history"]["carried"]) == ([], False)
    assert "install the release that wrote it" in found["history"]["why"]


def test_another_run_is_told_of_before_anything_is_restored(
    live: Live, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(locks.RunnerLock.__init__.__kwdefaults__, "wait_s", 0.0)
    with (
        closing(connection.connect(target, application_name="pgops other")) as other,
        locks.RunnerLock(other),
    ):
        with pytest.raises(locks.RunnerBusy, match="is being migrated by"):
            live.lock_if_it_can_be()
        with pytest.raises(locks.RunnerBusy):
            compare(live)


def test_a_wait_that_is_stopped_stops(live: Live, target: Any) -> None:
    control = Control(None)
    control.request("stop.yml")
    stopped = Live(target, application_name="test", progress=Progress(None), control=control)
    with (
        closing(connection.connect(target, application_name="pgops other")) as other,
        locks.RunnerLock(other),
        pytest.raises(Interrupted),
    ):
        stopped.lock_if_it_can_be()
    stopped.close()


def test_a_session_that_was_ended_while_the_cluster_was_restored_takes_the_lock_anew(
    server: Any, live: Live, both: str
) -> None:
    live.lock_if_it_can_be()
    pid = live.lock().info.backend_pid
    server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
    found = compare(live)
    assert found["history"]["carried"] and found["lost_unknown"] is None
    with closing(server.connect(both)) as conn:
        assert locks.holder(conn) is not None
