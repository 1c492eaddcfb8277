# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that do not stop, start, stand still or come up as a rollback of a cluster needs them are told, in one sentence."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    cluster_layout,
    connection,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from support.engine import target_of
from support.server import Server
from support.standby import standby_of


def owner(server: Server) -> OsUser:
    return OsUser(pwd.getpwuid(os.geteuid() if server.owner_uid is None else server.owner_uid).pw_name)


def layout_of(server: Server) -> Layout:
    target = target_of(server, "postgres")
    with closing(connection.connect(target.as_restore(), application_name="test")) as conn:
        return cluster_layout.read_layout(conn, target)


@pytest.fixture
def own(own_server: Server) -> Iterator[Server]:
    """A server of the test's own, whoever has started it in the end."""
    yield own_server
    folder = str(own_server.directory / "data")
    if cluster_layout.running(folder) is not None:
        cluster_layout.stop(str(own_server.bindir), folder, owner(own_server), mode="immediate")


def program(folder: Path, name: str, text: str) -> str:
    """The folder with a program of that name in it, for whoever calls it."""
    folder.mkdir()
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(folder)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A folder that the server's user comes into; pytest's own is closed to it."""
    folder = Path("/tmp") / f"pgops-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_only_a_superuser_on_the_host_of_a_primary_is_told_where_it_lies(own: Server, tmp_path: Path) -> None:
    target = target_of(own, "postgres")
    with (
        closing(connection.connect(target, application_name="test")) as conn,
        pytest.raises(PgopsError, match="is no superuser on") as caught,
    ):
        cluster_layout.read_layout(conn, target)
    assert "pgops_restore_user" in str(caught.value.hint)
    with pytest.raises(PgopsError, match=f"does not run on .* in {tmp_path}") as elsewhere:
        cluster_layout._postmaster(str(tmp_path), "4711", target)
    assert "host of the database" in str(elsewhere.value.hint)


def test_a_server_that_does_not_stop_is_told(own: Server, for_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user, folder = owner(own), str(own.directory / "data")
    deaf = program(for_all / "deaf", "pg_ctl", "echo could not send stop signal; exit 1")
    with pytest.raises(PgopsError, match="could not be stopped: could not send stop signal"):
        cluster_layout.stop(deaf, folder, user)
    lying = program(for_all / "lying", "pg_ctl", "exit 0")
    monkeypatch.setattr(cluster_layout, "STOP_SECONDS", 0)
    with pytest.raises(PgopsError, match=f"The server in {folder} did not stop within 0 s"):
        cluster_layout.Server(replace(layout_of(own), bindir=lying), user).stop()
    assert own.execute("SELECT 1") == [(1,)]


def test_a_server_that_does_not_start_is_told_with_the_reason_in_its_log(own: Server) -> None:
    layout, user = layout_of(own), owner(own)
    server = cluster_layout.Server(layout, user)
    server.stop()
    log = Path(layout.data_directory) / "pgops.log"
    user.write(str(log), "FATAL:  of another start\n")
    assert cluster_layout.reason_in(str(log)) == "of another start"
    assert cluster_layout.reason_in(str(log), log.stat().st_size) is None
    config = Path(layout.data_directory) / "postgresql.conf"
    config.write_text(config.read_text() + "no_such_setting_at_all = 1\n")
    with pytest.raises(PgopsError, match='did not start: configuration file ".*" contains errors'):
        server.start()


def change(layout: Layout, step: str) -> cluster_change.Change:
    beside = layout.data_directory
    return cluster_change.Change(
        "run", step, layout, f"{beside}.pgops_new", f"{beside}.pgops_kept", "before", ("postgres",), "2026-11-22"
    )


def test_a_cluster_that_was_not_shut_down_cleanly_is_started_again_and_nothing_is_changed(own: Server) -> None:
    layout, user = layout_of(own), owner(own)
    cut_off = cluster_change.write(change(layout, cluster_change.FENCING), user)
    own.kill()
    with pytest.raises(PgopsError, match="did not shut down cleanly; it was started again and nothing was changed"):
        cluster_change.finish(cut_off, user)
    assert own.execute("SELECT 1") == [(1,)]
    assert cluster_change.read(layout.data_directory) is None
    assert not Path(cut_off.kept).exists()


def test_where_the_successor_does_not_start_the_former_one_runs_again(own: Server) -> None:
    layout, user = layout_of(own), owner(own)
    cut_off = cluster_change.write(change(layout, cluster_change.FENCING), user)
    user.make_folder(cut_off.incoming)
    with pytest.raises(
        PgopsError, match="did not start in the place of the live one, which runs again as it was"
    ) as caught:
        cluster_change.finish(cut_off, user)
    assert caught.value.hint == f"The restored one is kept in {cut_off.incoming}."
    assert own.execute("SELECT 1") == [(1,)]
    assert Path(cut_off.incoming).is_dir()
    assert not Path(cut_off.kept).exists()


class Reached(Beside):
    """The server of a test in the place of one that was restored."""

    def target(self, database: str) -> Target:
        return self._target.as_restore().with_(database=database)


def restored(server: Server, folder: Path | None = None) -> Reached:
    found = Reached(
        layout_of(server) if folder is None else _NOWHERE,
        str(folder or server.directory / "data"),
        owner(server),
        target_of(server, "postgres"),
        application_name="test",
    )
    found.private = str(server.directory)
    return found


_NOWHERE = Layout("", "", "", 0, "", 0, "", "", "", "", 1, 18, None, ())


def test_a_restored_cluster_that_does_not_stand_still_at_its_target_is_told(
    own: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PgopsError, match="went past its target without standing still; it was thrown away"):
        restored(own).wait_until_paused(10)
    monkeypatch.setattr(Reached, "_state", lambda self: None)
    with pytest.raises(PgopsError, match=r"did not reach its target within 0 s\."):
        restored(own).wait_until_paused(0)
    Path(f"{tmp_path}.log").write_text(
        "LOG:  x\nFATAL:  recovery ended before configured recovery target was reached\n"
    )
    with pytest.raises(PgopsError, match="did not reach its target: recovery ended before configured") as caught:
        restored(own, tmp_path).wait_until_paused(10)
    assert caught.value.extra["recovery"].startswith("recovery ended before")


def test_a_restored_cluster_that_is_not_promoted_is_told(own: Server) -> None:
    with pytest.raises(PgopsError, match="The restored cluster could not be promoted: recovery is not in progress"):
        restored(own).promote()
    with standby_of(own) as standby:
        with pytest.raises(PgopsError, match=r"The restored cluster was not promoted within 0 s\."):
            restored(standby, Path(standby.directory)).promote(0)
        with pytest.raises(PgopsError, match="is a standby; a paused or delayed standby is no way back"):
            layout_of(standby)


def test_a_file_system_without_room_is_told_before_anything_is_restored(own: Server, tmp_path: Path) -> None:
    with pytest.raises(
        PgopsError, match=f"{tmp_path} has .* MB free, and the restored cluster needs .*; nothing was touched"
    ):
        restored(own, tmp_path / "new").refuse_full(1 << 60)
    restored(own, tmp_path / "new").refuse_full(1)
