# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The server goes away under a build, for good or for want of disk: the next run goes on, and no committed row is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support import server as servers
from support.engine import Told, do, holding, rows, state, target_of, wait_for, way
from support.podman import podman
from support.server import EMBEDDED_MAJOR, OWNER, SUPERUSER, Containers, Server
from support.tree import TestTree

pytestmark = pytest.mark.slow

V1 = "20260101000001"
NAME = {"name": "people_name", "table": "people", "columns": [{"column": "name"}], "why": "a test"}
PETS = {"name": "pets_name", "table": "pets", "columns": [{"column": "name"}], "why": "a test"}
DATABASE = "failing"


def migrations(folder: Path, *given: dict[str, Any]) -> list[dict[str, Any]]:
    tree = TestTree(folder / "sql")
    tree.add(V1, "add_indexes", [{"indexes": "indexes.yml"}], {"indexes.yml": list(given)})
    return tree.render()


def fill(target: Any, count: int) -> None:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text)",
        "CREATE TABLE pets (id integer PRIMARY KEY, name text)",
        f"INSERT INTO people SELECT n, repeat('x', 80) || n FROM generate_series(1, {count}) n",
    )


def valid(target: Any) -> list[tuple[str, bool]]:
    found = rows(
        target,
        "SELECT indexrelid::regclass::text AS name, indisvalid FROM pg_index WHERE NOT indisprimary "
        "AND indrelid IN ('people'::regclass, 'pets'::regclass) ORDER BY 1",
    )
    return [(row["name"], row["indisvalid"]) for row in found]


# --- failover ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def primary(own_server: Server) -> Server:
    own_server.create_database(DATABASE, OWNER)
    return own_server


@pytest.fixture
def standby(primary: Server) -> Iterator[Server]:
    """A streaming standby of the primary, whose commits wait for it."""
    directory = Path(tempfile.mkdtemp(prefix="pgops-test-"))
    if primary.owner_uid is not None:
        os.chown(directory, primary.owner_uid, primary.owner_uid)
    subprocess.run(
        [primary.bindir / "pg_basebackup", "--pgdata", directory / "data", "--write-recovery-conf", "--no-sync",
         "--checkpoint=fast", "-h", primary.host, "-p", str(primary.port), "-U", SUPERUSER],
        env={"PGPASSFILE": str(primary.passfile)}, check=True, cwd="/",
    )  # fmt: skip
    # The standby's own copy: the pass file of the tests is not its user's.
    passfile = directory / "passfile"
    shutil.copy(primary.passfile, passfile)
    passfile.chmod(0o600)
    if primary.owner_uid is not None:
        subprocess.run(["chown", "-R", f"{primary.owner_uid}:{primary.owner_uid}", directory], check=True)
    port = servers.free_port()
    options = {
        **servers.SETTINGS,
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": directory,
        "primary_conninfo": f"host={primary.host} port={primary.port} user={SUPERUSER} passfile={passfile}",
    }
    server = Server(
        major=EMBEDDED_MAJOR, host="127.0.0.1", port=port, passfile=primary.passfile, bindir=primary.bindir,
        directory=directory, owner_uid=primary.owner_uid,
        postgres=[str(primary.bindir / "postgres"), "-D", str(directory / "data")]
        + [word for name, value in options.items() for word in ("-c", f"{name}={value}")],
    )  # fmt: skip
    try:
        server.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        wait_for(
            lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), what="the standby"
        )
        yield server
    finally:
        servers.discard(server)


def test_after_a_failover_in_mid_build_the_next_run_goes_on_with_the_standby(
    primary: Server, standby: Server, tmp_path: Path
) -> None:
    both = target_of(primary, DATABASE).with_(host="127.0.0.1,127.0.0.1", port=f"{primary.port},{standby.port}")
    fill(both, 5000)
    wanted = migrations(tmp_path, NAME, PETS)
    failed: list[PgopsError] = []
    committed: list[int] = []

    def work() -> None:
        try:
            migrate.apply(both, wanted, Selection(), way())
        except PgopsError as error:
            failed.append(error)

    def write() -> None:
        """A client that notes what the server told it is committed."""
        with primary.session(DATABASE) as conn, conn.cursor() as cursor:
            while True:
                try:
                    cursor.execute("INSERT INTO pets VALUES (%s, 'x')", (len(committed),))
                except psycopg2.Error:
                    return
                committed.append(len(committed))

    def begun() -> bool:
        with standby.session(DATABASE) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('people_name')")
            return cursor.fetchone() is not None

    client = threading.Thread(target=write)
    client.start()
    with holding(both, "UPDATE people SET name = 'x' WHERE id = 1"):
        working = threading.Thread(target=work)
        working.start()
        wait_for(begun, what="the invalid index on the standby")
        primary.kill()
        working.join(timeout=60)
        client.join(timeout=20)
    assert failed[0].extra["reason"] == "connection_lost"
    standby.execute("SELECT pg_promote()")
    left = valid(both)
    assert ("people_name", False) in left
    (applied,) = migrate.apply(both, wanted, Selection(), way("20260101T000000Z-000002"))["applied"]
    assert applied["resumed"]
    assert valid(both) == [("people_name", True), ("pets_name", True)]
    assert state(both, V1)["state"] == "applied"
    kept = {row["id"] for row in rows(both, "SELECT id FROM pets")}
    assert committed and set(committed) <= kept


# --- disk full ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Server]:
    """A server with a tablespace of 16 MB, the default one of the database in question."""
    made = Containers("--tmpfs", "/small:size=16m,mode=1777")
    try:
        server = made.server(15)
        podman("exec", "--user", "postgres", made.name, "mkdir", "/small/tablespace")
        server.execute("CREATE TABLESPACE small LOCATION '/small/tablespace'")
        server.execute(f"GRANT CREATE ON TABLESPACE small TO {OWNER}")
        server.create_database(DATABASE, OWNER)
        yield server
    finally:
        made.remove()


@pytest.mark.container
def test_a_disk_that_is_full_in_mid_build_is_told_with_what_it_needs_and_the_next_run_goes_on(
    small_disk: Server, tmp_path: Path
) -> None:
    target = target_of(small_disk, DATABASE)
    fill(target, 300_000)
    do(target, "INSERT INTO pets VALUES (1, 'x')", "ANALYZE people")
    small_disk.execute(f"ALTER DATABASE {DATABASE} SET default_tablespace = small")
    wanted = migrations(tmp_path, PETS, NAME)
    told = Told()
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, wanted, Selection(), way(progress=told))
    error = caught.value
    assert error.sqlstate == "53100"
    assert "failed when it built index public.people_name" in error.message
    assert "Its remains were dropped. It may need" in error.hint
    assert "what is free is not known from here" in error.hint
    assert error.extra["reason"] == "disk"
    assert error.extra["needed_bytes"] > 16 << 20
    assert ("people_name", False) not in valid(target)
    # The server has lived on, and what it took is free again.
    assert small_disk.execute("SELECT pg_tablespace_size('small') < 1000000")[0][0]
    small_disk.execute(f"ALTER DATABASE {DATABASE} RESET default_tablespace")
    assert migrate.apply(target, wanted, Selection(), way())["applied"][0]["resumed"]
    assert valid(target) == [("people_name", True), ("pets_name", True)]
