# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup with a limit writes and reads no more than that, and leaves no stopped pg_dump behind, however it ends."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.backups import RUN, back_up, prove, start_python
from support.engine import wait_for
from support.keys import age_key
from support.server import OWNER

MB = 1_000_000
PR_SET_CHILD_SUBREAPER = 36


def fill(server: Any, database: str, mb: int) -> None:
    """About so many MB in two tables, the second of them in values that lie beside it."""
    row = "string_agg(md5((g * 1000 + i)::text), '')"
    server.execute(
        f"SET ROLE {OWNER}; CREATE TABLE wide AS SELECT g AS id, (SELECT {row} FROM generate_series(1, 16) i) AS a "
        f"FROM generate_series(1, {mb * 1000}) g; CREATE TABLE apart (id int, a text); ALTER TABLE apart ALTER a SET STORAGE EXTERNAL; "
        f"INSERT INTO apart SELECT g, (SELECT {row} FROM generate_series(1, 300) i) FROM generate_series(1, {mb * 50}) g",
        database=database,
    )


def size_of_tables(server: Any, database: str) -> int:
    query = "SELECT sum(pg_table_size(oid))::bigint FROM pg_class WHERE relname IN ('wide', 'apart')"
    return int(server.execute(query, database=database)[0][0])


@pytest.mark.parametrize("way", ["directory", "encrypted"])
def test_a_dump_with_a_limit_keeps_to_it(server: Any, target: Any, database: str, tmp_path: Path, way: str) -> None:
    fill(server, database, 4)
    keys = [age_key(tmp_path).public] if way == "encrypted" else []
    backup = back_up(target, tmp_path / "b", rate_limit_mb=2, compression="0", encrypt_to=keys)
    manifest = backup.manifest
    assert manifest["rate_limit_mb"] == 2
    # Of bytes and not of seconds: what a machine that is busy takes longer for is no fault.
    assert manifest["bytes"] > 3 * MB
    assert manifest["bytes"] / manifest["seconds"] < 1.5 * 2 * MB
    assert size_of_tables(server, database) / manifest["seconds"] < 1.5 * 2 * MB
    if way == "directory":
        assert prove(target, backup)["level"] == 4


def test_what_is_hashed_is_what_is_hashed_without_a_limit(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    """It reads in smaller parts."""
    fill(server, database, 4)
    limited = back_up(target, tmp_path / "a", rate_limit_mb=8).manifest
    free = back_up(target, tmp_path / "b").manifest
    assert limited["tables"] == free["tables"]
    assert free["rate_limit_mb"] is None


def test_a_limit_of_nothing_is_refused_before_anything_is_written(target: Any, tmp_path: Path) -> None:
    with pytest.raises(PgopsError, match="backup_rate_limit_mb is -1"):
        back_up(target, tmp_path, rate_limit_mb=-1)
    assert list(tmp_path.iterdir()) == []


def state_of(pid: int) -> str:
    """T for one that is stopped; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def sessions(server: Any, database: str) -> list[tuple]:
    return server.execute(
        f"SELECT pid, application_name FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    )


SLOW = """
print(dump.create_backup(target, directory=values["directory"], run_id="slow", rate_limit_mb=0.05, compression="0")["path"])
"""


@pytest.fixture
def as_in_a_container() -> Iterator[None]:
    """Orphans go to a process of their own session, as they do where the first process of a container began it: then the kernel
    does not wake a stopped group whose parent has died."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("as_in_a_container")
def test_killed_while_its_dump_is_stopped_it_leaves_no_process_and_no_session(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    """A stopped process sees no SIGTERM: pg_dump would hold its snapshot and locks for ever."""
    # On a quiet machine pg_dump has written a few MB before anybody looks at it for the first time.
    fill(server, database, 24)
    killed = start_python(SLOW, target, directory=str(tmp_path))
    stopped: list[int] = []

    def look() -> bool:
        assert killed.poll() is None, killed.communicate()
        dumps = [pid for pid in children(killed.pid) if state_of(pid) == "T"]
        # With its workers.
        stopped[:] = [pid for dump in dumps for pid in (dump, *children(dump)) if state_of(pid) == "T"]
        return len(stopped) > 2

    wait_for(look, seconds=60, what="the dump to be stopped")
    killed.kill()
    killed.communicate()
    wait_for(lambda: not any(state_of(pid) not in ("", "Z") for pid in stopped), what="the end of pg_dump")
    wait_for(lambda: not sessions(server, database), what="the end of its sessions")
    backup = back_up(target, tmp_path, run_id=RUN)
    backup_store.verify_files(backup)
    assert not list(tmp_path.rglob("*.partial"))


def test_asked_to_stop_while_its_dump_is_stopped_it_ends(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 4)
    control = Control(None)
    timer = threading.Timer(1.0, control.request, ["somebody pressed Ctrl-C"])
    timer.start()
    began = time.monotonic()
    with pytest.raises(Interrupted, match="somebody pressed Ctrl-C"):
        back_up(target, tmp_path, rate_limit_mb=0.05, compression="0", control=control)
    # The limit alone would take minutes.
    assert time.monotonic() - began < 60
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []
    wait_for(lambda: not sessions(server, database), what="the end of its sessions")
