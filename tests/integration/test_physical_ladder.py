# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder that a physical backup climbs while clients write, what stops it, and what a rollback of the cluster makes of the level."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.physical import DEBIAN_12, DEBIAN_13, PROOFS, PhysicalCluster
from support.podman import environment

pytestmark = [pytest.mark.container, pytest.mark.slow]

TABLES = """
CREATE TABLE students (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE visits (id serial PRIMARY KEY, student int REFERENCES students, note text CHECK (note <> ''));
CREATE UNLOGGED TABLE sessions (id int);
INSERT INTO students SELECT g, 'name ' || g FROM generate_series(1, 1000) g;
INSERT INTO visits (student, note) SELECT g, 'note' FROM generate_series(1, 1000) g;
"""
QUERY = {
    "name": "nameless", "title": "Each student has a name", "versions": [], "level": "fail",
    "query": "SELECT id, 'a name', 'none' FROM students WHERE name = ''", "expect": {"no_rows": True},
}  # fmt: skip
# In the restored cluster, between its promotion and the comparison.
MEDDLE = """
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside
promote = Beside.promote
def meddle(beside, *given):
    promote(beside, *given)
    with contextlib.closing(beside.connect("white_cross")) as conn, conn.cursor() as cursor:
        cursor.execute(MEDDLING)
Beside.promote = meddle
"""


def begun(major: int, command: str) -> PhysicalCluster:
    made = PhysicalCluster(major, command)
    made.server.execute(TABLES, database=made.database)
    assert made.back_up()["type"] == "full"
    return made


@pytest.fixture(scope="module")
def cluster() -> Iterator[PhysicalCluster]:
    made = begun(15, DEBIAN_12)
    yield made
    made.remove()


def meddling(statement: str) -> str:
    return f"MEDDLING = {statement!r}\n{MEDDLE}"


def switch_checksums(cluster: PhysicalCluster, how: str) -> None:
    """Where it is down, as it has to be."""
    bindir = f"/usr/lib/postgresql/{cluster.major}/bin"
    cluster.shell(f"pg_ctlcluster {cluster.major} main stop")
    shell(cluster, f"{bindir}/pg_checksums --{how} -D {cluster.data}")
    cluster.shell(f"pg_ctlcluster {cluster.major} main start")
    cluster.server.wait_until_ready()


def proofs(cluster: PhysicalCluster) -> dict[str, int]:
    names = cluster.shell(f"ls {PROOFS}/physical-main/*.proof.json 2>/dev/null || true").split()
    found = [json.loads(cluster.shell(f"cat {name}")) for name in names]
    return {proof["label"]: proof["level"] for proof in found}


def test_its_backups_are_listed_with_their_proofs_also_while_the_server_is_down(cluster: PhysicalCluster) -> None:
    made, proof = cluster.back_up(), cluster.prove(2)
    code = "print(json.dumps(physical_list.listing(tool, values['proofs'])))"
    cluster.shell(f"pg_ctlcluster {cluster.major} main stop")
    try:
        found = cluster.run(code, proofs=PROOFS)
    finally:
        cluster.shell(f"pg_ctlcluster {cluster.major} main start")
        cluster.server.wait_until_ready()
    assert found["total"] == len(found["backups"]) >= 2
    newest = found["backups"][0]
    assert (newest["label"], newest["type"], newest["repository"]) == (made["label"], "full", 1)
    assert (newest["level"], newest["proved_at"]) == (2, proof["proved_at"])
    assert not newest["damaged"]


@pytest.mark.parametrize(("major", "command"), [(15, DEBIAN_12), (18, DEBIAN_13)], ids=["pg15", "pg18"])
def test_it_climbs_to_the_fifth_level_while_clients_write(major: int, command: str) -> None:
    cluster = begun(major, command)
    stop = threading.Event()

    def write() -> None:
        number = 1000
        while not stop.is_set():
            number += 1
            cluster.server.execute(
                f"INSERT INTO students VALUES ({number}, 'later'); UPDATE visits SET note = 'n{number}' WHERE id = {number % 1000 + 1}",
                database=cluster.database,
            )

    writer = threading.Thread(target=write)
    try:
        writer.start()
        proof = cluster.prove(5, queries=[QUERY])
        stop.set()
        writer.join()
        assert proof.get("level") == 5, proof
        assert [
            (entry["level"], entry["ok"]) for entry in sorted(proof["levels"], key=lambda entry: entry["level"])
        ] == [(level, True) for level in range(6)]
        found = proof["databases"][cluster.database]
        assert (found["compared"], found["tables"], found["unlogged"]) == (2, 3, ["public.sessions"])
        assert "2 of 3 tables" in found["detail"]
        assert proofs(cluster) == {proof["label"]: 5}
        assert [name for name in cluster.beside() if "proof" in name] == []
        # A lower climb takes no higher proof away.
        assert cluster.prove(2)["level"] == 2
        assert proofs(cluster) == {proof["label"]: 5}
    finally:
        stop.set()
        writer.join()
        cluster.remove()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE students SET name = 'other' WHERE id = 7", "public.students: hash expected"),
        ("DELETE FROM visits WHERE id = 7", "public.visits: rows expected 1000, found 999"),
        ("ALTER TABLE visits DROP CONSTRAINT visits_pkey", "visits_pkey"),
        ("ALTER TABLE visits DROP CONSTRAINT visits_note_check", "constraint"),
    ],
)
def test_one_row_or_one_object_that_differs_stops_it_and_takes_the_proof_away(
    cluster: PhysicalCluster, statement: str, said: str
) -> None:
    label = cluster.back_up("full")["label"]
    assert cluster.prove()["level"] == 4
    assert proofs(cluster)[label] == 4
    refused = cluster.prove(before=meddling(statement))
    assert "is not what the source held at restore point" in refused["refused"], refused
    assert said in refused["refused"]
    assert label not in proofs(cluster)
    assert [name for name in cluster.beside() if "proof" in name] == []


def test_rows_that_break_a_constraint_leave_it_at_the_fourth_level(cluster: PhysicalCluster) -> None:
    """They are in the source too: the copy equals it."""
    label = cluster.back_up("full")["label"]
    broken = "SET session_replication_role = replica; INSERT INTO visits (student, note) VALUES (999999, 'orphan')"
    cluster.server.execute(broken, database=cluster.database)
    try:
        refused = cluster.prove(5)
        assert "equals its source, and is not sound" in refused["refused"], refused
        assert "visits" in refused["refused"]
        assert proofs(cluster)[label] == 4
    finally:
        cluster.server.execute("DELETE FROM visits WHERE student = 999999", database=cluster.database)


def test_a_cluster_goes_back_by_a_backup_that_is_proved_far_enough_and_else_for_a_typed_reason_only(
    cluster: PhysicalCluster,
) -> None:
    proved = cluster.back_up("full")["label"]
    assert cluster.prove()["level"] == 4
    unproved = cluster.back_up("incr")["label"]
    cluster.mark("with_level")
    asked: dict[str, Any] = {"name": "with_level", "directory": PROOFS}
    # The newer one was never proved, so that before it is taken.
    plan = cluster.disclose(**asked, level=4)
    assert (plan["plan"]["backup"], plan["proof_level"]) == (proved, 4)
    assert cluster.disclose(**asked)["plan"]["backup"] == unproved
    beside = cluster.beside()
    for answer in (cluster.disclose(**asked, level=5), cluster.roll_back(**asked, level=5)):
        assert f"Backup {unproved} was never proved, and level 5" in answer["refused"]
    assert cluster.beside() == beside
    shown = cluster.disclose(**asked, level=5, break_glass="the school is closed")
    assert shown["lets_off"] == f"Backup {unproved} was never proved"
    cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
        with contextlib.closing(connection.connect(target, application_name="test")) as conn:
            ledger.ensure(conn)
        print("{}")
        """
    )
    cluster.mark("with_ledger")
    done = cluster.roll_back(name="with_ledger", directory=PROOFS, level=5, break_glass="the school is closed")
    assert done["break_glass"]["reason"] == "the school is closed"
    (detail,) = cluster.server.execute(
        "SELECT detail FROM pgops.audit WHERE event = 'cluster_restored' ORDER BY seq DESC LIMIT 1",
        database=cluster.database,
    )[0]
    assert detail["break_glass"]["lets_off"] == f"Backup {unproved} was never proved"


def test_data_checksums_switched_since_the_backup_are_refused_before_anything_is_touched(
    cluster: PhysicalCluster,
) -> None:
    cluster.back_up("full")
    cluster.mark("before_the_switch")
    switch_checksums(cluster, "disable")
    try:
        beside = cluster.beside()
        for answer in (cluster.disclose(name="before_the_switch"), cluster.roll_back(name="before_the_switch")):
            assert (
                "was taken with data checksums on, and the cluster has them off; nothing was touched"
                in answer["refused"]
            )
        assert cluster.beside() == beside
        # Nor is a backup begun that would hold pages of both.
        assert (
            "No backup was taken, since it would stand on another state of the cluster"
            in cluster.back_up("incr")["refused"]
        )
        assert cluster.back_up("full")["type"] == "full"
        cluster.mark("behind_the_switch")
        assert cluster.disclose(name="behind_the_switch")["target"] == "restore point behind_the_switch"
    finally:
        switch_checksums(cluster, "enable")
        cluster.back_up("full")


def test_the_state_of_the_checksums_is_read_in_an_encrypted_repository_too(cluster: PhysicalCluster) -> None:
    cluster.shell("install -d -o postgres -g postgres -m 0750 /var/lib/pgbackrest_encrypted")
    cluster.shell("umask 077; head -c 24 /dev/urandom | base64 > /etc/pgops/repository.pass")
    read = cluster.run(
        """
        sealed = physical_backup.Declared({"repo1-path": "/var/lib/pgbackrest_encrypted"}, {}, "/etc/pgops/repository.pass")
        with physical_backup.session(target, run_id) as (conn, layout):
            physical_backup.prepare(tool, layout, sealed)
            label = physical_backup.back_up(tool, layout, "full")["label"]
            below = physical_backup.back_up(tool, layout, "incr")["references"]
            print(json.dumps([tool.manifest_option(label, 1, "option-checksum-page"), layout.data_checksums, below == [label]]))
        """
    )
    cluster.back_up("full")
    assert read == ["true", True, True]


# -- what pgBackRest has not made ---------------------------------------------------------------------------------------


def shell(cluster: PhysicalCluster, command: str) -> str:
    """As the user of the server."""
    done = subprocess.run(
        ["podman", "exec", "--user", "postgres", cluster.name, "sh", "-c", command], env=environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def pg_basebackup(cluster: PhysicalCluster) -> str:
    """The command but for where to."""
    ((socket,),) = cluster.server.execute("SHOW unix_socket_directories")
    return f"/usr/lib/postgresql/{cluster.major}/bin/pg_basebackup -h {socket} -p {cluster.server.port} -c fast"


def refuse(cluster: PhysicalCluster, path: str) -> dict[str, Any]:
    return cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import physical_folder
        print(json.dumps(physical_folder.refuse(values["path"])))
        """,
        path=path,
    )


@pytest.fixture(scope="module")
def newest() -> Iterator[PhysicalCluster]:
    made = PhysicalCluster(18, DEBIAN_13)
    made.server.execute(TABLES, database=made.database)
    made.server.execute("ALTER SYSTEM SET summarize_wal = on")
    made.server.execute("SELECT pg_reload_conf()")
    yield made
    made.remove()


def test_base_backups_of_postgresql_itself_are_named_and_a_missing_middle_one_is_found(newest: PhysicalCluster) -> None:
    bindir = f"/usr/lib/postgresql/{newest.major}/bin"
    basebackup = pg_basebackup(newest)
    place = "/var/lib/postgresql/chain"
    shell(newest, f"mkdir {place} && {basebackup} -D {place}/full")
    for name, on in (("first", "full"), ("second", "first")):
        newest.server.execute(
            "INSERT INTO sessions VALUES (1); UPDATE students SET name = name", database=newest.database
        )
        shell(newest, f"{basebackup} -D {place}/{name} --incremental={place}/{on}/backup_manifest")
    whole = refuse(newest, f"{place}/second")
    assert whole["extra"]["broken"] is None, whole
    assert f"pg_combinebackup {place}/full {place}/first {place}/second -o FOLDER" in whole["hint"]
    shell(newest, f"{bindir}/pg_combinebackup {place}/full {place}/first {place}/second -o {place}_combined")
    assert "is a base backup of a whole cluster (plain)" in refuse(newest, f"{place}_combined")["refused"]
    shell(newest, f"mv {place}/first {place}_away")
    broken = refuse(newest, f"{place}/second")
    assert "it cannot be restored: second stands on the backup of cluster" in broken["refused"]
    assert "which is not beside it" in broken["refused"]
    assert "which is not beside it" in refuse(newest, place)["refused"]
    shell(newest, f"mv {place}_away {place}/first && rm {place}/first/base/1/PG_VERSION")
    assert "pg_verifybackup finds first damaged" in refuse(newest, f"{place}/second")["refused"]


def test_a_tar_of_zstd_and_a_missing_file_in_it_are_named(newest: PhysicalCluster) -> None:
    basebackup = pg_basebackup(newest)
    place = "/var/lib/postgresql/packed"
    shell(newest, f"{basebackup} -Ft --compress=zstd -D {place}")
    for path in (place, f"{place}/base.tar.zst"):
        answer = refuse(newest, path)
        assert "is a base backup of a whole cluster (tar, zstd), made by pg_basebackup" in answer["refused"], answer
        assert answer["extra"]["broken"] is None
    shell(newest, f"rm {place}/backup_manifest")
    assert "packed has no backup_manifest" in refuse(newest, place)["refused"]


def test_a_missing_wal_segment_of_a_base_backup_is_named(newest: PhysicalCluster) -> None:
    place = "/var/lib/postgresql/alone"
    basebackup = pg_basebackup(newest)
    shell(newest, f"{basebackup} -D {place}")
    assert refuse(newest, place)["extra"]["broken"] is None
    segment = shell(newest, f"ls {place}/pg_wal | grep -E '^[0-9A-F]{{24}}$' | head -1").strip()
    # Another one is there: without any, the WAL may be elsewhere by intent.
    shell(newest, f"mv {place}/pg_wal/{segment} {place}/pg_wal/0000000F0000000000000001")
    assert "pg_verifybackup finds alone damaged" in refuse(newest, place)["refused"]


def test_a_chain_that_mixes_data_checksums_is_named(newest: PhysicalCluster) -> None:
    """pg_combinebackup would put it together without a word."""
    place = "/var/lib/postgresql/mixed"
    basebackup = pg_basebackup(newest)
    shell(newest, f"mkdir {place} && {basebackup} -D {place}/full")
    switch_checksums(newest, "disable")
    try:
        shell(newest, f"{basebackup} -D {place}/first --incremental={place}/full/backup_manifest")
        assert (
            "its chain mixes data checksums: full has them on and first off"
            in refuse(newest, f"{place}/first")["refused"]
        )
    finally:
        switch_checksums(newest, "enable")
