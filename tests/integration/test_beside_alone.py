# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of a cluster that runs beside it for a proof or a rollback keeps to itself: it takes nothing from the live one and waits for nobody."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import cluster_layout, connection
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from support.engine import target_of, wait_for
from support.server import SUPERUSER, Server

# What runs a subscription, as pg_stat_activity names it; the launcher is there whether a subscription is or not.
APPLYING = "SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'"


@pytest.fixture
def own(own_server: Server) -> Iterator[Server]:
    """A server of the test's own, whoever has started it in the end."""
    yield own_server
    folder = str(own_server.directory / "data")
    if cluster_layout.running(folder) is not None:
        cluster_layout.stop(str(own_server.bindir), folder, owner(own_server), mode="immediate")


def owner(server: Server) -> OsUser:
    return OsUser(pwd.getpwuid(os.geteuid() if server.owner_uid is None else server.owner_uid).pw_name)


@contextmanager
def copy_of(server: Server, *, recovering: bool = False) -> Iterator[Beside]:
    """Its data directory as pgBackRest would restore it, started beside it; with recovering, through the end of a recovery."""
    target, user = target_of(server, "postgres"), owner(server)
    with closing(connection.connect(target.as_restore(), application_name="test")) as conn:
        layout = cluster_layout.read_layout(conn, target)
    live = cluster_layout.Server(layout, user)
    live.stop()
    folder = f"{layout.data_directory}.pgops_proof_x"
    subprocess.run(["cp", "-a", layout.data_directory, folder], check=True)
    live.start()
    if recovering:
        user.write(f"{folder}/recovery.signal", "")
        with Path(f"{folder}/postgresql.auto.conf").open("a", encoding="utf-8") as stream:
            stream.write("restore_command = 'false'\n")
    beside = Beside(layout, folder, user, target, application_name="test")
    try:
        beside.start(archiving=False)
        wait_for(lambda: answers(beside), what="the copy")
        yield beside
    finally:
        beside.remove()


def answers(beside: Beside) -> bool:
    try:
        return in_copy(beside, "SELECT pg_is_in_recovery() AS still") == [False]
    except PgopsError:
        return False


def in_copy(beside: Beside, statement: str, database: str = "postgres") -> list[object]:
    with closing(beside.connect(database)) as conn:
        return [next(iter(row.values())) for row in connection.fetch_all(conn, statement)]


def works(folder: str, worker: str) -> bool:
    """:return: whether the server of a data directory has a worker of this name. One that connects to no database stands in no view."""
    pid = cluster_layout.running(folder)
    children = subprocess.run(["ps", "--ppid", str(pid), "-o", "args="], capture_output=True, text=True, check=False)
    return worker in children.stdout


def test_a_copy_leaves_the_subscriptions_of_the_live_cluster_alone(own: Server) -> None:
    """It has their slots' names and passwords: what it confirmed to the publisher, the live cluster would never be sent again."""
    own.create_database("central")
    own.create_database("clinic")
    for database in ("central", "clinic"):
        own.execute("CREATE TABLE intake (id int PRIMARY KEY)", database=database)
    own.execute("CREATE PUBLICATION p FOR TABLE intake", database="central")
    own.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", database="central")
    lines = own.passfile.read_text(encoding="utf-8").splitlines()
    password = next(line.rsplit(":", 1)[1] for line in lines if f":{SUPERUSER}:" in line)
    own.execute(
        f"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={own.port} user={SUPERUSER} password={password} dbname=central' "
        "PUBLICATION p WITH (create_slot = false)",
        database="clinic",
    )

    def arrives(number: int) -> None:
        own.execute(f"INSERT INTO intake VALUES ({number})", database="central")
        seen = f"SELECT 1 FROM intake WHERE id = {number}"
        wait_for(lambda: own.execute(seen, database="clinic"), what="the row in the live database")

    arrives(1)
    with copy_of(own) as beside:
        assert in_copy(beside, APPLYING) == []
        assert in_copy(beside, "SELECT subenabled FROM pg_subscription") == [True]
        wait_for(lambda: own.execute("SELECT 1 FROM pg_replication_slots WHERE active"), what="the live subscription")
        # As where the network fails for a moment: the slot is free for whoever comes first.
        own.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        arrives(2)
        assert in_copy(beside, "SELECT id FROM intake ORDER BY 1", "clinic") == [1]


def test_a_commit_in_a_copy_waits_for_no_standby_of_the_live_cluster(own: Server) -> None:
    own.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    with copy_of(own) as beside:
        assert in_copy(beside, "SHOW synchronous_standby_names") == [""]
        assert in_copy(beside, "CREATE TABLE noted (id int); SELECT 1") == [1]


def test_the_workers_of_libraries_that_act_are_not_started_in_a_copy(own: Server) -> None:
    """One that runs jobs, by its name; what it does is another's, whose worker is told by its name."""
    ((folder,),) = own.execute("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")
    acting = own.directory / "pg_cron.so"
    acting.symlink_to(f"{folder}/pg_prewarm.so")
    own.execute(f"ALTER SYSTEM SET shared_preload_libraries = '{acting}', 'pg_stat_statements'")
    with copy_of(own) as beside:
        wait_for(lambda: works(beside.layout.data_directory, "autoprewarm"), what="the worker in the live cluster")
        assert works(beside.folder, "checkpointer")
        assert not works(beside.folder, "autoprewarm")
        assert in_copy(beside, "SHOW shared_preload_libraries") == ['"pg_stat_statements"']


def test_the_live_clusters_commands_for_a_recovery_are_not_run_for_a_copy(own: Server) -> None:
    """They remove WAL from an archive, or tell the world who the primary is."""
    done = own.directory / "data" / "it_was_run"
    own.execute(f"ALTER SYSTEM SET recovery_end_command = 'touch {done}'")
    own.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1'")
    with copy_of(own, recovering=True) as beside:
        assert in_copy(beside, "SHOW primary_conninfo") == [""]
        assert not done.exists()
