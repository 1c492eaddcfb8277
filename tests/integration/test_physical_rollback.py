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
from ansible_collections.whitecross.pgops.plugins.plugin_utils.cluster_lines import NOBODY_AWAITED
from support.engine import wait_for
from support.physical import CONFIG, DEBIAN_12, DEBIAN_13, REPOSITORY, STANZA, PhysicalCluster
from support.server import SUPERUSER, Server
from support.standby import standby_in_container

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
    "step", ["stopped", "marked", "fenced", "live renamed", "incoming renamed", "renamed", "started"]
)
def test_killed_in_the_change_and_run_again_it_converges(cluster: PhysicalCluster, step: str) -> None:
    before = count(cluster)
    cluster.mark(f"killed_{step.replace(' ', '_')}")
    insert(cluster, 5)
    assert cluster.roll_back(name=f"killed_{step.replace(' ', '_')}", die_at=step).returncode == 137
    # One folder has the name that the port's server is started in, or none; the other cannot take writes.
    assert "was cut off" in cluster.resume(confirmed=False)["refused"]
    assert "this run asks for restore point known" in cluster.resume(name="known")["refused"]
    if step in ("marked", "live renamed"):
        assert cluster.resume("unfence")["state"] == "lifted"
        assert count(cluster) == before + 5
    else:
        assert cluster.resume()["state"] == "completed"
        assert count(cluster) == before
    assert cluster.resume()["state"] == "nothing"
    insert(cluster, 1)


def test_killed_before_the_stop_nothing_of_it_is_finished_and_it_begins_anew(cluster: PhysicalCluster) -> None:
    """The live server serves on: what its clients write by then is counted again, and another target may be typed."""
    before, there = count(cluster), cluster.beside()
    cluster.mark("killed_before_the_stop")
    insert(cluster, 5)
    cluster.mark("another_one")
    insert(cluster, 2)
    assert cluster.roll_back(name="killed_before_the_stop", die_at="fencing").returncode == 137
    insert(cluster, 7)
    found = cluster.resume(name="another_one")
    assert (found["state"], count(cluster)) == ("nothing", before + 14)
    assert "serves on; the rollback begins anew" in found["why"]
    assert cluster.disclose(name="another_one")["target"] == "restore point another_one"
    done = cluster.roll_back(name="another_one")
    assert done["databases"][cluster.database]["lost"] == {"public.students": {"now": before + 14, "then": before + 5}}
    assert count(cluster) == before + 5
    # A rollback that was undone by another test leaves what it had restored.
    assert not [name for name in cluster.beside() if "kept" not in name and name not in there]


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


def test_with_standbys_that_commits_wait_for_it_is_proved_and_goes_back_and_forth(cluster: PhysicalCluster) -> None:
    """They follow the live cluster: the copy waits for none of them, and the run does not end in waiting."""
    ledger_of(cluster)
    with standby_in_container(cluster.server):
        wait_for(lambda: cluster.server.execute("SELECT 1 FROM pg_stat_replication"), what="the standby")
        cluster.server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        cluster.server.execute("SELECT pg_reload_conf()")
        try:
            cluster.back_up("full")
            assert cluster.prove()["level"] == 4
            before = count(cluster)
            cluster.mark("with_standbys")
            insert(cluster, 5)
            shown = cluster.disclose(name="with_standbys")
            assert (shown["synchronous"], len(shown["standbys"])) == ("*", 1)
            done = cluster.roll_back(name="with_standbys")
            assert (done["synchronous"], count(cluster)) == ("*", before)
            assert cluster.roll_back(kept=done["kept"])["synchronous"] == "*"
            assert events(cluster)[-1] == "cluster_returned"
        finally:
            cluster.server.execute(NOBODY_AWAITED.partition(";")[0])
            cluster.server.execute(NOBODY_AWAITED.partition(";")[2])
    insert(cluster, 1)


def test_the_subscriptions_of_a_cluster_that_has_gone_back_work_again(
    cluster: PhysicalCluster, server: Server, database: str
) -> None:
    for where, name in ((server, database), (cluster.server, cluster.database)):
        where.execute("CREATE TABLE intake (id int PRIMARY KEY)", database=name)
    server.execute("CREATE PUBLICATION p FOR TABLE intake", database=database)
    lines = server.passfile.read_text(encoding="utf-8").splitlines()
    password = next(line.rsplit(":", 1)[1] for line in lines if f":{SUPERUSER}:" in line)
    cluster.server.execute(
        f"CREATE SUBSCRIPTION {database} CONNECTION 'host=127.0.0.1 port={server.port} user={SUPERUSER} password={password} "
        f"dbname={database}' PUBLICATION p",
        database=cluster.database,
    )

    def arrives(number: int) -> None:
        server.execute(f"INSERT INTO intake VALUES ({number})", database=database)
        seen = f"SELECT 1 FROM intake WHERE id = {number}"
        wait_for(lambda: cluster.server.execute(seen, database=cluster.database), 60, what="the row")

    try:
        arrives(1)
        cluster.back_up("full")
        cluster.mark("with_a_subscription")
        assert cluster.prove()["level"] == 4
        arrives(2)
        shown = cluster.disclose(name="with_a_subscription")["subscriptions"]
        assert shown == [{"name": database, "database": cluster.database, "enabled": True}]
        cluster.roll_back(name="with_a_subscription")
        arrives(3)
        rows = cluster.server.execute("SELECT id FROM intake ORDER BY 1", database=cluster.database)
        # As the plan has said: what came since is not sent again.
        assert rows == [(1,), (3,)]
    finally:
        cluster.server.execute(f"DROP SUBSCRIPTION {database}", database=cluster.database)
        cluster.server.execute("DROP TABLE intake", database=cluster.database)


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


def test_every_repository_is_encrypted_and_none_gets_another_cipher_behind_the_archiver(
    cluster: PhysicalCluster,
) -> None:
    places = [f"{REPOSITORY}_sealed_{number}" for number in (1, 2)]
    for place in places:
        cluster.shell(f"install -d -o postgres -g postgres -m 0750 {place}")
    cluster.shell("umask 077; head -c 24 /dev/urandom | base64 > /etc/pgops/repository.pass")

    def back_up(repository: dict[str, str], passfile: str | None) -> dict[str, object]:
        return cluster.run(
            """
            given = physical_backup.Declared(values["repository"], {}, values["passfile"])
            with physical_backup.session(target, run_id) as (conn, layout):
                physical_backup.prepare(tool, layout, given)
                further = physical_backup.further_repositories(given)
                print(json.dumps(physical_backup.back_up(tool, layout, "full", further)))
            """,
            repository=repository,
            passfile=passfile,
        )

    def begins(path: str) -> str:
        return cluster.shell(f"head -c 8 $(ls {path} | head -1)")

    two = {f"repo{number}-path": place for number, place in enumerate(places, 1)}
    sealed = "/etc/pgops/repository.pass"
    try:
        made = back_up(two, sealed)
        assert made["type"] == "full", made
        for place in places:
            assert begins(f"{place}/archive/{STANZA}/archive.info") == "Salted__"
            assert begins(f"{place}/backup/{STANZA}/*F/backup.manifest") == "Salted__"
            assert begins(f"{place}/archive/{STANZA}/*/*/*") == "Salted__"
        before = cluster.shell(f"sha256sum {CONFIG}")
        refused = back_up(two, None)["refused"]
        assert "Repository 1 of stanza main is encrypted, and is to be used without encryption now" in refused
        assert cluster.shell(f"sha256sum {CONFIG}") == before
    finally:
        cluster.back_up("full")
    before = cluster.shell(f"sha256sum {CONFIG}")
    assert (
        "was made without encryption, and is to be encrypted now"
        in back_up({"repo1-path": REPOSITORY}, sealed)["refused"]
    )
    assert cluster.shell(f"sha256sum {CONFIG}") == before
    # The server archives as before.
    cluster.mark("archived_in_the_clear")
    # A configuration that was made anew meets what is there.
    with away(cluster, CONFIG):
        refused = back_up({"repo1-path": REPOSITORY}, sealed)
        assert "unable to load info file" in refused["refused"]
        assert "declare repoN-cipher-type: none" in refused["hint"]
        cluster.shell(f"rm -f {CONFIG}")
    cluster.back_up("incr")
