# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What the benchmarks measure with: clients on a timetable, a reader that comes at a moment, the same change by each side."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.podman import ROOT
from support.server import APP, OWNER, Server


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder is on the path, as for one that is started there; its modules are loaded anew."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("ROWS", "500")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def work(server: Server, database: str, **more: Any) -> Any:
    from timetable import Work

    server.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g; "
        f"GRANT SELECT, UPDATE ON t TO {APP}",
        database=database,
    )
    connection = {
        "host": server.host,
        "port": server.port,
        "dbname": database,
        "user": APP,
        "passfile": str(server.passfile),
    }
    return Work(connection, [["UPDATE t SET n = n + 1 WHERE id = %(id)s"]], 100, count=2, **more)


def test_what_is_due_while_a_client_is_stuck_counts_from_when_it_was_due(
    benchmarks: None, server: Server, database: str
) -> None:
    from timetable import Timetable, seen

    with Timetable(work(server, database)) as clients:
        time.sleep(0.3)  # the timetable goes on meanwhile
        with server.session(database, autocommit=False) as conn, conn.cursor() as cursor:
            begun = time.monotonic()
            cursor.execute("LOCK TABLE t")
            time.sleep(1.5)  # as long as the table is locked
            held = time.monotonic() - begun
        time.sleep(0.3)  # the clients catch up
    found = seen(clients.transactions, begun, begun + held)
    assert found.failed == 0
    assert 1.3 < found.worst_ms / 1000
    # Two clients, each with a transaction every 40 ms: those that were due in the first half second waited for over one.
    assert found.late > 12
    assert found.transactions > 60
    assert (
        sum(one.fault is None for one in clients.transactions)
        == (server.execute("SELECT sum(n) FROM t", database=database)[0][0])
    )


def test_a_client_that_loses_its_patience_has_failed(benchmarks: None, server: Server, database: str) -> None:
    from timetable import Timetable, seen

    with Timetable(work(server, database, timeout_s=0.3)) as clients:
        begun = time.monotonic()
        with server.session(database, autocommit=False) as conn, conn.cursor() as cursor:
            cursor.execute("LOCK TABLE t")
            time.sleep(1)  # as long as the table is locked
    found = seen(clients.transactions, begun, time.monotonic())
    assert found.failed >= 2
    assert all(fault.startswith("57014") for fault in found.faults)


def test_the_engine_and_an_experts_hand_make_the_same_change_behind_a_reader(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, server: Server, database: str, tmp_path: Path
) -> None:
    import under_load

    another = f"{database}_engine"
    monkeypatch.setattr(under_load, "TEMPLATE", database)
    migrations = under_load.tree(tmp_path / "sql").render()
    under_load.fill(server, migrations)
    server.execute(f"CREATE DATABASE {another} TEMPLATE {database} OWNER {OWNER}")
    for name, run in (
        (database, under_load.ExpertsHand(server).run),
        (another, under_load.engine(server, migrations)),
    ):
        with pytest.raises(SystemExit, match="0 of the 9"):
            under_load.refuse_incomplete(server, name)
        with under_load.Reader(server, name, stays_s=0.3) as reader:
            assert run(name) > 0.3
        assert reader.came
        under_load.refuse_incomplete(server, name)


def test_the_empty_database_gets_what_the_benchmark_says(benchmarks: None, tmp_path: Path) -> None:
    import schema

    versions = schema.the_versions()
    words = [statement.split()[1] for version in versions for statement in version.statements]
    assert (len(versions), words.count("TABLE"), words.count("INDEX"), words.count("TYPE")) == (12, 45, 100, 60)
    migrations = schema.tree(tmp_path / "sql", versions).render()
    assert sum(len(step["up"]) for migration in migrations for step in migration["steps"]) == 205


@pytest.mark.slow
def test_a_server_that_does_not_keep_what_it_commits_is_not_measured_on(benchmarks: None, own_server: Server) -> None:
    from durable import make_durable

    assert own_server.execute("SHOW fsync")[0][0] == "off"
    make_durable(own_server)
    assert own_server.execute("SHOW fsync")[0][0] == "on"
    own_server.stop()
    own_server.postgres += ["-c", "fsync=off"]
    own_server.start()
    with pytest.raises(RuntimeError, match="'fsync': 'off'"):
        make_durable(own_server)
