# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of clusters that was killed: what may be finished later, what may not, and who lives with a cluster and does not go back with it."""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    audit_entry,
    cluster_change,
    cluster_company,
    cluster_layout,
    cluster_resume,
    connection,
    ledger,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_change import Change
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from psycopg2.extras import LogicalReplicationConnection
from support.engine import target_of, wait_for
from support.module import call
from support.server import MIGRATOR, SUPERUSER, Server
from support.standby import standby_of

NOWHERE = Layout("", "", "", 0, "", 0, "", "", "", "", 1, 18, None, ())
TARGET = "restore point before_the_import"
MOMENT = "2026-11-22T14:05:00+00:00"


class Killed:
    """A cluster with a restored copy beside it, and a change of the two that was killed."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.user = OsUser(pwd.getpwuid(os.geteuid() if server.owner_uid is None else server.owner_uid).pw_name)
        server.execute("CREATE TABLE students AS SELECT 1 AS id")
        target = target_of(server, "postgres")
        with closing(connection.connect(target.as_restore(), application_name="test")) as conn:
            layout = cluster_layout.read_layout(conn, target)
        self.live = cluster_layout.Server(layout, self.user)
        self.live.stop()
        incoming, kept = cluster_change.names(layout.data_directory, "run", cluster_change.now())
        subprocess.run(["cp", "-a", layout.data_directory, incoming], check=True)
        self.live.start()
        self.change = Change("run", cluster_change.FENCING, layout, incoming, kept, TARGET, ("postgres",), "2026-11-22")
        self.config = folder / "pgops.conf"
        self.config.write_text(f"[main]\npg1-path={layout.data_directory}\n", encoding="utf-8")

    def cut_off(self, **more: Any) -> None:
        self.change = cluster_change.write(replace(self.change, **more), self.user)

    def resume(
        self, strategy: str = "pitr", *, pretend: bool = False, confirmed: bool = True, **target: Any
    ) -> dict[str, Any]:
        asked = cluster_resume.Asked(strategy, confirmed, **target)
        return cluster_resume.resume(str(self.config), "main", self.user, ["postgres"], asked, pretend=pretend)

    def rows(self) -> int:
        return int(self.server.execute("SELECT count(*) FROM students")[0][0])

    def pending(self) -> bool:
        return cluster_change.read(self.change.live.data_directory) is not None

    def refuse_cut_off(self) -> None:
        cluster_resume.refuse_cut_off(self.change.live.data_directory)


@pytest.fixture
def killed(own_server: Server, tmp_path: Path) -> Iterator[Killed]:
    yield Killed(own_server, tmp_path)
    folder = str(own_server.directory / "data")
    if cluster_layout.running(folder) is not None:
        cluster_layout.stop(
            str(own_server.bindir),
            folder,
            OsUser(pwd.getpwuid(os.geteuid() if own_server.owner_uid is None else own_server.owner_uid).pw_name),
            mode="immediate",
        )


def test_a_change_that_was_killed_before_the_stop_is_not_finished_behind_the_clients_backs(killed: Killed) -> None:
    killed.cut_off()
    killed.server.execute("INSERT INTO students SELECT generate_series(2, 501)")
    for pretend in (True, False):
        found = killed.resume(pretend=pretend)
        assert found["state"] == "nothing"
        assert "serves on; the rollback begins anew" in found["why"]
        killed.refuse_cut_off()
    assert killed.rows() == 501
    # What the rollback that begins anew throws away, it finds by this.
    assert killed.pending()
    assert killed.resume("unfence")["state"] == "lifted"
    assert (killed.rows(), killed.pending()) == (501, False)


def test_nor_where_the_server_has_served_on_and_was_stopped_later(killed: Killed) -> None:
    killed.cut_off()
    killed.live.stop()
    state = cluster_change.state_path(killed.change.live.data_directory)
    day_before = time.time() - 24 * 3600
    os.utime(state, (day_before, day_before))
    for pretend in (True, False):
        with pytest.raises(PgopsError, match="served on until .*; what it took since is not counted") as caught:
            killed.resume(pretend=pretend)
    assert "rollback_strategy=unfence -e rollback_confirm=postgres" in str(caught.value.hint)
    assert killed.resume("unfence")["state"] == "lifted"
    assert killed.rows() == 1


def test_a_server_that_is_stopping_takes_nobody_any_more_and_the_change_is_finished(killed: Killed) -> None:
    killed.cut_off()
    layout = killed.change.live
    with killed.server.session():
        killed.user.run([f"{layout.bindir}/pg_ctl", "-D", layout.data_directory, "-m", "smart", "-W", "stop"])
        wait_for(lambda: cluster_layout.is_stopping(layout.data_directory), what="the stop")
        with pytest.raises(PgopsError, match=r"was cut off \(fencing\)"):
            killed.refuse_cut_off()
        assert killed.resume()["state"] == "completed"
    assert killed.rows() == 1
    assert Path(killed.change.kept).is_dir()


@pytest.mark.parametrize("step", [cluster_change.FENCING, cluster_change.FENCED])
def test_another_target_than_that_of_the_change_is_refused_with_what_to_type(killed: Killed, step: str) -> None:
    killed.live.stop()
    killed.cut_off(step=step)
    for other, told in (
        ({"name": "another"}, "restore point another"),
        ({"time": MOMENT}, "the moment 2026-11-22 14:05:00.000000\\+00"),
        ({"kept": "/data/main.pgops_kept_1"}, "the cluster kept in /data/main.pgops_kept_1"),
    ):
        with pytest.raises(
            PgopsError, match=f"{TARGET} was cut off .*, and this run asks for {told}; nothing"
        ) as caught:
            killed.resume(**other)
        assert "-e rollback_restore_point=before_the_import, or give it up" in str(caught.value.hint)
    with pytest.raises(PgopsError, match="is no moment"):
        killed.resume(time="yesterday")
    with pytest.raises(PgopsError, match="it is about postgres"):
        killed.resume(name="before_the_import", confirmed=False)
    assert killed.resume(name="before_the_import")["state"] == "completed"
    assert killed.rows() == 1


def test_a_moment_and_a_kept_cluster_are_the_targets_that_they_were_typed_as(killed: Killed) -> None:
    killed.live.stop()
    for target, same, option in (
        ("the moment 2026-11-22 14:05:00.000000+00", {"time": "2026-11-22T15:05:00+01:00"}, "2026-11-22T14:05:00.000000+00:00"),
        (cluster_resume.kept_in("/data/k"), {"kept": "/data/k/"}, "-e rollback_kept_cluster=/data/k,"),
        (cluster_resume.kept_in("/the data/k"), {"kept": "/the data/k"}, """-e '{"rollback_kept_cluster": "/the data/k"}',"""),
    ):  # fmt: skip
        killed.cut_off(target=target)
        with pytest.raises(PgopsError, match="it is about postgres"):
            killed.resume(**same, confirmed=False)
        with pytest.raises(PgopsError, match="this run asks for restore point x") as caught:
            killed.resume(name="x")
        assert option in str(caught.value.hint)
    killed.live.start()


def test_the_module_and_the_playbook_compare_what_was_typed(
    playbook: Any, target: Any, database: str, tmp_path: Path
) -> None:
    user, folder, config = getpass.getuser(), str(tmp_path / "main"), tmp_path / "pgops.conf"
    config.write_text(f"[main]\npg1-path={folder}\n", encoding="utf-8")
    change = Change(
        "run", cluster_change.FENCED, replace(NOWHERE, data_directory=folder), f"{folder}.pgops_new_1", f"{folder}.pgops_kept_1",
        TARGET, (database,), "2026-11-22",
    )  # fmt: skip
    cluster_change.write(change, OsUser(user))
    for typed in ({"restore_point": "another"}, {"time": MOMENT}, {"kept_cluster": "/data/kept"}):
        refused = call(
            "physical_restore",
            target,
            state="resumed",
            confirmed=True,
            stanza="main",
            config=str(config),
            os_user=user,
            **typed,
        )
        assert refused["failed"]
        assert "and this run asks for" in refused["msg"]
    pitr = {"rollback_strategy": "pitr", "rollback_confirm": database}
    physical = {"backup_engine": "physical", "backup_config": str(config), "backup_os_user": user}
    done = playbook("rollback.yml", **pitr, **physical, rollback_restore_point="another")
    assert done.rc == 2, done.output
    assert (
        f"to {TARGET} was cut off (fenced), and this run asks for restore point another"
        in done.json["error"]["message"]
    )
    assert cluster_change.read(folder) == change


def test_who_lives_with_a_cluster_is_found(own_server: Server) -> None:
    def company() -> dict[str, Any]:
        target = target_of(own_server, "postgres")
        with closing(connection.connect(target.as_restore(), application_name="test")) as conn:
            return cluster_company.of(conn)

    assert company() == {"standbys": [], "synchronous": "", "slots": [], "subscriptions": []}
    own_server.execute("CREATE PUBLICATION p FOR ALL TABLES")
    own_server.execute("SELECT pg_create_logical_replication_slot('warehouse', 'pgoutput')")
    own_server.execute(
        "CREATE SUBSCRIPTION intake CONNECTION 'host=127.0.0.1 dbname=postgres password=hidden' PUBLICATION p WITH (connect = false)"
    )
    with standby_of(own_server):
        found = company()
    assert found["synchronous"] == "*"
    assert len(found["standbys"]) == 1
    assert found["slots"] == [{"name": "warehouse", "plugin": "pgoutput", "database": "postgres"}]
    assert found["subscriptions"] == [{"name": "intake", "database": "postgres", "enabled": False}]
    assert "hidden" not in str(found)


@pytest.mark.parametrize("reader", [False, True])
def test_the_runs_last_row_waits_for_no_standby_that_is_not_there(own_server: Server, reader: bool) -> None:
    """Behind a change of clusters none follows; one that reads the changes of rows, and is none of those that are waited for, may."""
    own_server.create_database("clinic")
    target = target_of(own_server, "clinic")
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
        ledger.append_audit(conn, "cluster_restored", run_id="run")
    with reading(own_server) if reader else nullcontext():
        own_server.execute("ALTER SYSTEM SET synchronous_standby_names = 'replica_1'")
        own_server.execute("SELECT pg_reload_conf()")
        wait_for(lambda: cluster_company.awaited(target, "test") == "replica_1", what="the setting")
        done: list[Any] = []

        def settle() -> None:
            with closing(connection.connect(target, application_name="test")) as conn:
                entry = {"migrations": [], "tables_affected": []}
                done.append(audit_entry.settle(conn, "run", entry, audit_entry.Kept()))

        waiting = threading.Thread(target=settle, daemon=True)
        waiting.start()
        waiting.join(30)
        assert done
        assert done[0]["recorded"]


@contextmanager
def reading(server: Server) -> Iterator[None]:
    """A reader of a logical slot, and a migrator that sees what it is."""
    server.execute(f"GRANT pg_monitor TO {MIGRATOR}")
    conn = psycopg2.connect(
        host=server.host, port=server.port, user=SUPERUSER, dbname="clinic", passfile=str(server.passfile),
        connection_factory=LogicalReplicationConnection,
    )  # fmt: skip
    with closing(conn), conn.cursor() as cursor:
        cursor.create_replication_slot("reader", output_plugin="pgoutput")
        cursor.start_replication("reader", options={"proto_version": "1", "publication_names": "p"})
        wait_for(lambda: server.execute("SELECT 1 FROM pg_stat_replication"), what="the reader")
        yield
