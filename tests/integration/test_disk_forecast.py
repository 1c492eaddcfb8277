# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore that the server has no room for is refused before anything is made, with what it takes, what is free and what to type."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    connection,
    disk_forecast,
    drill,
    restore,
    restore_database,
    restore_plan,
    restore_table,
    restore_times,
    strategies,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from support.backups import RUN, believed, fill, proved
from support.server import OWNER, Server

NOW = datetime(2026, 11, 22, 20, 15, tzinfo=UTC)
HUGE = 10**18


@pytest.fixture
def filled(server: Server, database: str) -> str:
    fill(server, database, 20)
    return database


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def refused(server: Server, work: Any) -> PgopsError:
    """The error; not even an empty database was made."""
    before = server.execute("SELECT datname FROM pg_database ORDER BY 1")
    with pytest.raises(PgopsError) as caught:
        work()
    assert server.execute("SELECT datname FROM pg_database ORDER BY 1") == before
    error = caught.value
    assert (error.sqlstate, error.extra["reason"]) == ("53100", "disk")
    assert error.extra["free_bytes"] < error.extra["needed_bytes"]
    assert "are free in" in error.message and "nothing was made there" in error.message
    return error


def test_what_is_free_is_seen_where_the_server_is_of_this_host(server: Server, target: Any, filled: str) -> None:
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        of_database = disk_forecast.free_bytes(conn, database=filled)
        assert of_database and of_database > 0
        assert disk_forecast.free_bytes(conn, tablespace="pg_default")
        assert disk_forecast.free_bytes(conn, tablespace="no such one") is None
        assert disk_forecast.free_bytes(conn, database="no such one") is None


def test_a_restore_into_a_new_database(server: Server, target: Any, filled: str, backups: Path) -> None:
    backup = believed(target, backups, database_bytes=HUGE)
    asked = restore_plan.Asked(backup.path)
    error = refused(server, lambda: restore_database.run(target, asked, Work(RUN), now=lambda: NOW))
    assert f"The restore of {backup.path} takes 953,674,316,406 MB on {server.host}:{server.port}" in error.message
    assert "the tablespace pg_default" in error.message
    assert "-e pgops_host=HOST" in str(error.hint)
    refused(server, lambda: restore_database.preview(target, asked, Work(RUN), now=lambda: NOW))


def test_a_proof_and_a_drill_and_the_backup_keeps_its_proof(
    server: Server, target: Any, filled: str, backups: Path
) -> None:
    backup = believed(target, backups, database_bytes=HUGE)
    proof = (backup.proof or {}).get("proved_at")
    error = refused(server, lambda: restore.prove(target, backup.path, work=Work(RUN)))
    assert "The scratch copy of" in error.message and "pgops_scratch_host" in str(error.hint)
    evidence = drill.drill(target, backup_store.read_backup(backup.path), work=Work(RUN), least=5)
    assert evidence["verdict"] == "failed" and evidence["sqlstate"] == "53100"
    assert (backup_store.read_backup(backup.path).proof or {}).get("proved_at") == proof


def test_a_table_takes_its_share(server: Server, target: Any, filled: str, backups: Path) -> None:
    backup = believed(target, backups, database_bytes=HUGE)
    asked = restore_table.Asked(backup.path, table="students")
    error = refused(server, lambda: restore_table.run(target, asked, Work(RUN), now=lambda: NOW))
    assert f"The side schema in {filled}" in error.message
    assert disk_forecast.EMPTY_DATABASE < error.extra["needed_bytes"] < HUGE
    assert server.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'restored%'", database=filled) == []


def test_a_dump_without_a_manifest_takes_its_own_size_at_least(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 1000)
    (folder / "b").write_bytes(b"x" * 24)
    assert disk_forecast.of_dump(str(folder)) == 1024
    assert disk_forecast.of_dump(str(folder / "a")) == 1000


@pytest.fixture
def small_tablespace(server: Server, tmp_path: Path) -> Iterator[str]:
    """A tablespace on a file system of 12 MB: a database fits, a second one does not."""
    folder = tmp_path / "small"
    folder.mkdir()
    name = f"small_{time.time_ns()}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "pgops-test", str(folder)], check=True)
    try:
        for parent in [*folder.parents][:-2]:
            os.chmod(parent, 0o755)
        owner = os.stat(server.execute("SHOW data_directory")[0][0])
        os.chown(folder, owner.st_uid, owner.st_gid)
        server.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        yield name
        server.execute(f"DROP TABLESPACE IF EXISTS {name}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_tablespace_of_the_database_is_what_counts(
    server: Server, target: Any, database: str, small_tablespace: str, backups: Path
) -> None:
    name = f"{database}_small"
    server.execute(f"CREATE DATABASE {name} OWNER {OWNER} TABLESPACE {small_tablespace}")
    try:
        server.execute("CREATE TABLE rooms (id int)", database=name)
        own = target.with_(database=name)
        backup = proved(own, backups)
        error = refused(
            server, lambda: restore_database.run(own, restore_plan.Asked(backup.path), Work(RUN), now=lambda: NOW)
        )
        assert f"in the tablespace {small_tablespace}" in error.message
    finally:
        server.execute(f"DROP DATABASE {name}")


def weighed(target: Any, backups: Path, path: str) -> dict[str, Any]:
    asked = strategies.Asked("restore", backup=path)
    return strategies.weigh(target, asked, directory=str(backups), work=Work(RUN))["ways"]["restore"]


def test_measured_restores_forecast_a_restore_better_than_its_own_proof(
    target: Any, filled: str, backups: Path
) -> None:
    backup = proved(target, backups)
    path = Path(restore_times.path_of(backup.path))
    first = json.loads(path.read_text().splitlines()[0])
    there = restore_times.place_of(target)
    lines = [{**first, "host": there, "ready_seconds": seconds} for seconds in (40, 50, 90)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    way = weighed(target, backups, backup.path)
    assert way["seconds"] == 50
    assert (
        f"time: 50.0 s of restore beside the clients, by 3 that were measured on {there} (40.0 to 90.0 s)"
        in way["needs"]
    )
    path.unlink()
    way = weighed(target, backups, backup.path)
    assert any(need.endswith("as its proof took") for need in way["needs"])
