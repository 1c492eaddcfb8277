# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back to a restore point or a moment, by pgBackRest: beside the live cluster, looked at, changed over; refused before where it could not."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg2
import pytest
from support.physical import CONFIG, DEBIAN_12, DEBIAN_13, REPOSITORY, STANZA, PhysicalCluster

pytestmark = [pytest.mark.container, pytest.mark.slow]

# Debian 12's pgBackRest with its own PostgreSQL, Debian 13's with the others.
CLUSTERS = [(15, DEBIAN_12), (16, DEBIAN_13), (17, DEBIAN_13), (18, DEBIAN_13)]


def begun(major: int, command: str) -> PhysicalCluster:
    made = PhysicalCluster(major, command)
    made.server.execute("CREATE TABLE students (id int PRIMARY KEY, name text)", database=made.database)
    insert(made, 1000)
    assert made.back_up()["type"] == "full"
    return made


@pytest.fixture(scope="module")
def cluster() -> Iterator[PhysicalCluster]:
    made = begun(15, DEBIAN_12)
    yield made
    made.remove()


def count(cluster: PhysicalCluster) -> int:
    return int(cluster.server.execute("SELECT count(*) FROM students", database=cluster.database)[0][0])


def insert(cluster: PhysicalCluster, rows: int) -> None:
    cluster.server.execute(
        f"INSERT INTO students SELECT (SELECT coalesce(max(id), 0) FROM students) + g, 'later' FROM generate_series(1, {rows}) g",
        database=cluster.database,
    )


@contextmanager
def away(cluster: PhysicalCluster, path: str) -> Iterator[None]:
    """A file or folder of the repository is gone for a while."""
    cluster.shell(f"mv {shlex.quote(path)} /tmp/away")
    try:
        yield
    finally:
        cluster.shell(f"mv /tmp/away {shlex.quote(path)}")


def ledger_of(cluster: PhysicalCluster) -> None:
    cluster.run(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
        with contextlib.closing(connection.connect(target, application_name="test")) as conn:
            ledger.ensure(conn)
            ledger.append_audit(conn, "noted", run_id=run_id)
        print("{}")
        """
    )


def events(cluster: PhysicalCluster) -> list[str]:
    rows = cluster.server.execute("SELECT event FROM pgops.audit ORDER BY seq", database=cluster.database)
    return [event for (event,) in rows]


def wal(cluster: PhysicalCluster) -> list[str]:
    return cluster.shell(f"ls {REPOSITORY}/archive/{STANZA}/*/*/* | grep -v partial | sort").split()


def segment_of(cluster: PhysicalCluster, name: str) -> str:
    """:return: the file in the archive in which a new restore point stands."""
    segment = cluster.mark(name)["segment"]
    (path,) = [path for path in wal(cluster) if segment in path]
    return path


def refuses(cluster: PhysicalCluster, said: str, **asked: object) -> dict[str, object]:
    """It is refused with these words, and the live cluster has its rows and nothing beside it."""
    rows, beside = count(cluster), cluster.beside()
    for answer in (cluster.disclose(**asked), cluster.roll_back(**asked)):
        assert said in answer["refused"], answer
    assert (count(cluster), cluster.beside()) == (rows, beside)
    return answer


@pytest.mark.parametrize(("major", "command"), CLUSTERS, ids=[f"pg{major}" for major, _ in CLUSTERS])
def test_the_exact_rows_of_the_restore_point_come_back_and_the_old_cluster_is_kept(major: int, command: str) -> None:
    cluster = begun(major, command)
    try:
        ledger_of(cluster)
        cluster.mark("exact")
        insert(cluster, 500)
        assert cluster.disclose(name="exact")["target"] == "restore point exact"
        done = cluster.roll_back(name="exact")
        assert count(cluster) == 1000
        assert done["databases"][cluster.database]["lost"] == {"public.students": {"now": 1500, "then": 1000}}
        # Whoever starts the kept one gets a server that takes no writes.
        assert "standby.signal" in cluster.shell(f"ls {done['kept']}")
        back = cluster.roll_back(kept=done["kept"])
        assert count(cluster) == 1500
        assert events(cluster) == ["noted", "cluster_returned"]
        assert "standby.signal" not in cluster.shell(f"ls {cluster.data}")
        assert cluster.beside() == [back["kept"].rpartition("/")[2]]
    finally:
        cluster.remove()


def test_a_moment_is_gone_back_to_and_a_second_rollback_goes_along_the_new_timeline(cluster: PhysicalCluster) -> None:
    before = count(cluster)
    moment = datetime.now(UTC).isoformat()
    time.sleep(1)
    insert(cluster, 10)
    cluster.roll_back(time=moment)
    assert count(cluster) == before
    insert(cluster, 3)
    cluster.mark("on_the_new_timeline")
    insert(cluster, 10)
    cluster.roll_back(name="on_the_new_timeline")
    assert count(cluster) == before + 3


def test_targets_that_are_none_are_refused(cluster: PhysicalCluster) -> None:
    cluster.mark("known")
    answer = refuses(cluster, "There is no restore point never_made", name="never_made")
    assert "known" in str(answer["hint"])
    refuses(cluster, "is in the future", time="2999-01-01T00:00:00+00:00")
    refuses(cluster, "is before the end of the oldest backup", time="2020-01-01T00:00:00+00:00")
    refuses(cluster, "has no offset", time="2026-01-01T00:00:00")
    refuses(cluster, "is no moment", time="yesterday")
    refuses(cluster, "needs one target")
    refuses(cluster, "is no name of a restore point", name="x'; DROP")


def test_other_databases_of_the_cluster_are_named_and_refused(cluster: PhysicalCluster) -> None:
    cluster.mark("with_others")
    cluster.server.create_database("billing")
    try:
        refuses(cluster, "billing would go with white_cross", name="with_others")
        shown = cluster.disclose(name="with_others", whole_cluster=True)
        assert shown["others"] == ["billing"]
        # It was made behind the restore point, and is there again when the old cluster is.
        done = cluster.roll_back(name="with_others", whole_cluster=True, reason="wrong rows")
        assert done["others"] == ["billing"]
        back = cluster.roll_back(kept=done["kept"])
        refuses(cluster, "billing would go with white_cross", kept=back["kept"])
    finally:
        cluster.server.execute("DROP DATABASE IF EXISTS billing")


def test_a_missing_wal_segment_is_named_before_anything_is_touched(cluster: PhysicalCluster) -> None:
    """pgbackrest info tells the first and the last only, and pgbackrest verify ends with 0."""
    cluster.back_up("full")
    insert(cluster, 1)
    # The newest segment right behind a point is that of the point: the server may begin further ones whenever it likes.
    path = segment_of(cluster, "in_the_gap")
    insert(cluster, 1)
    cluster.mark("behind_the_gap")
    with away(cluster, path):
        name = path.rpartition("/")[2][:24]
        answer = refuses(cluster, f"WAL segment {name} is missing", name="behind_the_gap")
        assert answer["extra"] == {"missing": name}
        answer = refuses(
            cluster, f"and WAL segment {name} is missing there, in which it may have been", name="in_the_gap"
        )
        assert answer["extra"]["missing"] == name


@pytest.mark.parametrize("kind", ["diff", "incr"])
def test_a_missing_middle_of_the_chain_is_named_before_anything_is_touched(cluster: PhysicalCluster, kind: str) -> None:
    cluster.back_up("full")
    insert(cluster, 100)
    middle = cluster.back_up(kind)["label"]
    # In other files than those that come later: the last one has to need the middle one.
    cluster.server.execute("CREATE TABLE IF NOT EXISTS other AS SELECT 1 AS one", database=cluster.database)
    last = cluster.back_up("incr")
    assert middle in last["references"]
    name = f"behind_the_chain_{kind}"
    cluster.mark(name)
    with away(cluster, f"{REPOSITORY}/backup/{STANZA}/{middle}"):
        answer = refuses(cluster, f"stands on {middle}, which is not in the repository", name=name)
        assert answer["extra"] == {"missing": middle}


def test_an_altered_byte_is_named_and_the_live_cluster_works_on(cluster: PhysicalCluster) -> None:
    label = cluster.back_up("full")["label"]
    cluster.mark("behind_the_damage")
    path = cluster.shell(f"find {REPOSITORY}/backup/{STANZA}/{label}/pg_data/base -size +20k | sort | head -1")
    flip = (
        f"import sys; p = {path!r}; b = bytearray(open(p, 'rb').read()); b[len(b) // 2] ^= 1; open(p, 'r+b').write(b)"
    )
    cluster.shell(f"cp -p {path} /tmp/whole && python3 -c {shlex.quote(flip)}")
    try:
        rows = count(cluster)
        answer = cluster.roll_back(name="behind_the_damage")
        assert path.partition(f"{STANZA}/")[2] in answer["refused"]
        assert (count(cluster), [name for name in cluster.beside() if "kept" not in name]) == (rows, [])
        proof = cluster.prove()
        assert "is damaged" in proof["refused"]
    finally:
        cluster.shell(f"cp -p /tmp/whole {path}")


def test_a_backup_is_proved_beside_the_live_cluster_and_nothing_stays(cluster: PhysicalCluster) -> None:
    cluster.back_up("full")
    beside = cluster.beside()
    proof = cluster.prove()
    found = proof["databases"][cluster.database]
    assert (found["compared"], found["moving"]) == (found["tables"], [])
    assert (proof["level"], found["level"]) == (4, 4)
    assert cluster.beside() == beside


@pytest.mark.parametrize(
    "step", ["fencing", "stopped", "marked", "fenced", "live renamed", "incoming renamed", "renamed", "started"]
)
def test_killed_in_the_change_and_run_again_it_converges(cluster: PhysicalCluster, step: str) -> None:
    before = count(cluster)
    cluster.mark(f"killed_{step.replace(' ', '_')}")
    insert(cluster, 5)
    assert cluster.roll_back(name=f"killed_{step.replace(' ', '_')}", die_at=step).returncode == 137
    # One folder has the name that the port's server is started in, or none; the other cannot take writes.
    assert "was cut off" in cluster.resume(confirmed=False)["refused"]
    if step in ("marked", "live renamed"):
        assert cluster.resume("unfence")["state"] == "lifted"
        assert count(cluster) == before + 5
    else:
        assert cluster.resume()["state"] == "completed"
        assert count(cluster) == before
    assert cluster.resume()["state"] == "nothing"
    insert(cluster, 1)


def test_killed_while_it_restores_leaves_nothing_once_it_is_run_again(cluster: PhysicalCluster) -> None:
    before = count(cluster)
    cluster.mark("killed_early")
    insert(cluster, 5)
    assert cluster.roll_back(name="killed_early", die_at="restored").returncode == 137
    assert count(cluster) == before + 5
    assert cluster.resume()["state"] == "nothing"
    cluster.roll_back(name="killed_early")
    assert count(cluster) == before
    # Those that were undone leave what they had restored; this one does not.
    assert not [name for name in cluster.beside() if name.endswith((".json", ".log"))]


def test_a_database_that_was_dropped_comes_back(cluster: PhysicalCluster) -> None:
    before = count(cluster)
    cluster.mark("before_the_drop")
    cluster.server.execute(f"DROP DATABASE {cluster.database} WITH (FORCE)")
    assert cluster.disclose(name="before_the_drop")["unreadable"] == [cluster.database]
    done = cluster.roll_back(name="before_the_drop")
    assert count(cluster) == before
    found = done["databases"][cluster.database]
    assert (found["lost"], found["history"]["carried"]) == (None, False)
    assert "there is no database of that name" in found["history"]["why"]
    assert "there is no database of that name" in found["sequences"]["why"]


def test_no_number_that_was_given_out_since_is_given_out_again(cluster: PhysicalCluster) -> None:
    """Clients take numbers until the live server stops; the last they got is below the first of the restored one."""
    cluster.server.execute(
        "DROP SEQUENCE IF EXISTS up, down; CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -5 MINVALUE -1000000 MAXVALUE -1; "
        "SELECT nextval('up'), nextval('down')",
        database=cluster.database,
    )
    cluster.mark("before_the_numbers")
    cluster.server.execute("SELECT nextval('up') FROM generate_series(1, 5000)", database=cluster.database)
    last = {"up": 0, "down": 0}

    def take() -> None:
        while True:
            try:
                row = cluster.server.execute("SELECT nextval('up'), nextval('down')", database=cluster.database)[0]
            except psycopg2.Error:
                return
            last.update(up=int(row[0]), down=int(row[1]))

    assert cluster.disclose(name="before_the_numbers")["unreadable"] == []
    client = threading.Thread(target=take)
    client.start()
    try:
        done = cluster.roll_back(name="before_the_numbers")
    finally:
        client.join(60)
    assert last["up"] > 5000
    moved = {entry["sequence"]: entry for entry in done["databases"][cluster.database]["sequences"]["moved"]}
    assert moved["public.up"]["from"] < 5000 < moved["public.up"]["to"]
    up, down = cluster.server.execute("SELECT nextval('up'), nextval('down')", database=cluster.database)[0]
    assert (up > last["up"], down < last["down"]) == (True, True), (up, down, last)


def test_a_version_of_postgresql_that_pgbackrest_does_not_know_is_refused_by_name() -> None:
    made = PhysicalCluster(18, DEBIAN_12)
    try:
        refused = made.back_up()
        assert "pgBackRest 2.45 (/usr/bin/pgbackrest) does not know this version of PostgreSQL" in refused["refused"]
        assert "backup_pgbackrest" in refused["hint"]
    finally:
        made.remove()


def test_a_configuration_that_is_not_ours_and_a_foreign_archive_are_refused(cluster: PhysicalCluster) -> None:
    with away(cluster, CONFIG):
        cluster.shell(f"echo '[global]' > {CONFIG}")
        assert "was not written by whitecross.pgops" in cluster.back_up()["refused"]
        cluster.shell(f"rm {CONFIG}")
    mode = cluster.shell(f"stat -c '%a %U' {CONFIG}")
    assert mode == "600 postgres"
    cluster.server.execute("ALTER SYSTEM SET archive_command = 'cp %p /elsewhere/%f'")
    cluster.server.execute("SELECT pg_reload_conf()")
    try:
        time.sleep(1)
        assert "does not archive through pgBackRest's stanza main" in cluster.back_up()["refused"]
    finally:
        cluster.server.execute("ALTER SYSTEM RESET archive_command")
        cluster.server.execute("SELECT pg_reload_conf()")


def test_a_second_repository_has_a_backup_of_its_own_where_copies_are_required(cluster: PhysicalCluster) -> None:
    second = f"{REPOSITORY}_2"
    cluster.shell(f"install -d -o postgres -g postgres -m 0750 {second}")
    found = cluster.run(
        """
        two = declared(**{"repo2-path": values["second"]})
        with physical_backup.session(target, run_id) as (conn, layout):
            physical_backup.prepare(tool, layout, two)
            print(json.dumps(physical_backup.back_up(tool, layout, "full", physical_backup.further_repositories(two))))
        """,
        second=second,
    )
    assert found["label"] in cluster.shell(f"ls {REPOSITORY}/backup/{STANZA}")
    assert found["copies"]["2"] in cluster.shell(f"ls {second}/backup/{STANZA}").split()
    cluster.mark("with_two")
    # pgBackRest's own order: the first repository as long as it leads there.
    assert cluster.disclose(name="with_two")["plan"]["repository"] == 1
    with away(cluster, f"{REPOSITORY}/backup/{STANZA}/{found['label']}"):
        plan = cluster.disclose(name="with_two")["plan"]
        assert (plan["repository"], plan["backup"]) == (2, found["copies"]["2"])
    path = cluster.shell(
        f"find {second}/backup/{STANZA}/{found['copies']['2']}/pg_data/base -size +20k | sort | head -1"
    )
    flip = f"p = {path!r}; b = bytearray(open(p, 'rb').read()); b[len(b) // 2] ^= 1; open(p, 'r+b').write(b)"
    cluster.shell(f"python3 -c {shlex.quote(flip)}")
    assert "Repository 2 of stanza main is damaged" in cluster.prove()["refused"]
    # With one repository again nothing is asked of a second one.
    assert cluster.back_up("incr")["copies"] == {}
