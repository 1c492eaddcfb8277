# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs do not restore beside one cluster at once, and a folder that cannot be renamed is refused."""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import cluster_change, cluster_layout, physical_proof
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    folder = tmp_path / "main"
    (folder / "pg_tblspc").mkdir(parents=True)
    (folder / "pg_wal").mkdir()
    return Layout(
        data_directory=str(folder), config_file="", ident_file="", port=5432, socket_directory="", wal_segment_bytes=16 << 20,
        archive_mode="on", archive_command="", bindir="", system_identifier="1", timeline=1, major=15, unit=None, options=(),
    )  # fmt: skip


def test_a_second_run_is_refused_while_the_first_is_at_it(layout: Layout) -> None:
    first, second = cluster_change.locked(layout.data_directory), cluster_change.locked(layout.data_directory)
    with first, pytest.raises(PgopsError) as caught, second:
        pass
    assert caught.value.extra == {"locked": True}
    with cluster_change.locked(layout.data_directory):
        pass


def test_a_cluster_with_parts_elsewhere_is_refused(layout: Layout, tmp_path: Path) -> None:
    cluster_change.refuse_unmovable(layout)
    (tmp_path / "link").symlink_to(layout.data_directory)
    with pytest.raises(PgopsError, match="is a link, which cannot be renamed"):
        cluster_change.refuse_unmovable(replace(layout, data_directory=str(tmp_path / "link")))
    (Path(layout.data_directory) / "pg_tblspc" / "16384").symlink_to(tmp_path)
    with pytest.raises(PgopsError, match="1 tablespace"):
        cluster_change.refuse_unmovable(layout)
    (Path(layout.data_directory) / "pg_wal").rmdir()
    (Path(layout.data_directory) / "pg_wal").symlink_to(tmp_path)
    with pytest.raises(PgopsError, match="pg_wal of"):
        cluster_change.refuse_unmovable(layout)


def test_a_state_that_cannot_be_read_is_told_and_none_is_none(layout: Layout) -> None:
    assert cluster_change.read(layout.data_directory) is None
    Path(cluster_change.state_path(layout.data_directory)).write_text("{")
    with pytest.raises(PgopsError, match="cannot be read"):
        cluster_change.read(layout.data_directory)


def test_names_are_free_and_a_folder_that_no_rollback_put_aside_is_refused(layout: Layout) -> None:
    moment = datetime(2026, 11, 22, 12, tzinfo=UTC)
    incoming, kept = cluster_change.names(layout.data_directory, "run", moment)
    Path(kept).mkdir()
    other, _ = cluster_change.names(layout.data_directory, "run", moment)
    assert incoming != other
    assert cluster_change.kept_beside(layout.data_directory) == [kept]
    with pytest.raises(PgopsError, match="is no cluster that a rollback has put aside") as caught:
        cluster_change.refuse_unkept(layout, str(Path(layout.data_directory).parent))
    assert kept in str(caught.value.hint)


def test_what_killed_proofs_left_is_found(layout: Layout) -> None:
    left = Path(layout.data_directory + physical_proof.PROOF + "20261122_120000")
    left.mkdir()
    Path(f"{left}.log").touch()
    assert physical_proof.dead_proofs(layout.data_directory) == [str(left)]


def test_a_cluster_that_another_one_has_put_aside_is_refused(layout: Layout) -> None:
    kept = Path(cluster_change.names(layout.data_directory, "run", datetime(2026, 11, 22, tzinfo=UTC))[1])
    kept.mkdir()
    for told in (
        {"was": "/elsewhere", "system_identifier": "1"},
        {"was": layout.data_directory, "system_identifier": "2"},
    ):
        (kept / cluster_change.KEPT).write_text(json.dumps(told))
        with pytest.raises(
            PgopsError, match="was put aside by another cluster than the one in .*; nothing was touched"
        ):
            cluster_change.refuse_unkept(layout, str(kept))


def test_what_systemd_runs_is_stopped_by_root_alone_and_never_behind_patroni(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    user = OsUser(getpass.getuser())
    with pytest.raises(PgopsError, match=r"is run by Patroni \(patroni.service\)") as caught:
        cluster_layout.Server(replace(layout, unit="patroni.service"), user)
    assert "patronictl" in str(caught.value.hint)
    unit = replace(layout, unit="postgresql@15-main.service")
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 4711)
        with pytest.raises(PgopsError, match="only root may stop and start that"):
            cluster_layout.Server(unit, user)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\necho Unit $2 not found.\nexit 5\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(
        PgopsError, match=r"systemctl start \S+ ended with 5: Unit postgresql@15-main.service not found."
    ):
        cluster_layout.Server(unit, user).start()


def test_what_cannot_be_started_is_named() -> None:
    with pytest.raises(PgopsError, match="/nowhere/pg_ctl cannot be started: No such file or directory"):
        OsUser(getpass.getuser()).run(["/nowhere/pg_ctl"])
    with pytest.raises(PgopsError, match="There is no user nobody-of-that-name"):
        OsUser("nobody-of-that-name")


def test_the_program_of_a_server_may_lie_in_a_folder_with_a_blank(tmp_path: Path) -> None:
    """As the server writes it: its arguments are quoted, and the program is not."""
    (tmp_path / "postmaster.opts").write_text(
        '/opt/a b/bin/postgres "-D" "/x y/data" "-p" "5433" "-c" "search_path=a, b"\n'
    )
    kept = ("-p", "5433", "-c", "search_path=a, b")
    assert cluster_layout._started_with(str(tmp_path)) == ("/opt/a b/bin/postgres", kept)
    (tmp_path / "postmaster.opts").write_text("/opt/a b/bin/postgres\n")
    assert cluster_layout._started_with(str(tmp_path)) == ("/opt/a b/bin/postgres", ())
