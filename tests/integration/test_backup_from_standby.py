# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup that reads a standby holds what was committed before it began, or says why it read the primary, or is none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    dump,
    lost_writes,
    open_transactions,
    standby_fitness,
    standby_source,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.standby_fitness import Wish
from ansible_collections.whitecross.pgops.plugins.module_utils.standby_source import Unfit
from support import server as servers
from support.backups import RUN, back_up, fill, prove
from support.engine import Told, target_of, wait_for
from support.server import BACKUP, OWNER, Server
from support.site import Playbook
from support.standby import standby_in_container, standby_of
from support.tree import TestTree

V1 = "20260101000001"


@dataclass(frozen=True)
class Pair:
    """A primary and its standby, and a database of it."""

    primary: Server
    standby: Server
    database: str = ""

    @property
    def target(self) -> Target:
        return target_of(self.primary, self.database)

    def wish(self, **changes: Any) -> Wish:
        return Wish(**{"hosts": self.standby.host, "ports": str(self.standby.port), **changes})

    def set(self, **settings: str | None) -> None:
        """Settings of the standby, until it is told otherwise."""
        for name, value in settings.items():
            self.standby.execute(f"ALTER SYSTEM {f'RESET {name}' if value is None else f'SET {name} = {value!r}'}")
        self.standby.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            if value is not None:
                wait_for(
                    lambda name=name, value=value: self.standby.execute(f"SHOW {name}")[0][0] == value,
                    what=f"{name} of the standby",
                )

    def run(self, statement: str) -> list[tuple]:
        return self.primary.execute(statement, database=self.database)

    def replayed(self) -> None:
        """Wait until the standby is where the primary is."""
        ((lsn,),) = self.primary.execute("SELECT pg_current_wal_lsn()")
        wait_for(
            lambda: self.standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")[0][0],
            what="the standby's replay",
        )


@pytest.fixture(scope="module")
def servers_of_a_pair() -> Iterator[Pair]:
    primary = servers.embedded_server(servers.memory_folder())
    try:
        primary.execute(f"GRANT pg_read_all_stats TO {BACKUP}")
        with standby_of(primary) as standby:
            # A standby that stands still is to hold up no commit.
            primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
            # One of the tests counts transactions.
            primary.execute("ALTER SYSTEM SET autovacuum = off")
            primary.execute("SELECT pg_reload_conf()")
            yield Pair(primary, standby)
    finally:
        servers.discard(primary)


@pytest.fixture
def pair(servers_of_a_pair: Pair) -> Iterator[Pair]:
    made = Pair(servers_of_a_pair.primary, servers_of_a_pair.standby, "kept_far_away")
    made.primary.create_database(made.database)
    fill(made.primary, made.database)
    made.set(hot_standby_feedback="on")
    made.replayed()
    yield made
    made.set(hot_standby_feedback=None, max_standby_streaming_delay=None, recovery_min_apply_delay=None)
    made.primary.drop_databases(made.database)


def from_standby(pair: Pair, directory: Path, mode: str = "require", **settings: Any) -> dict[str, Any]:
    """What the module returns of a backup."""
    wish = pair.wish(**settings.pop("wish", {}))
    progress = settings.pop("progress", Told())

    def make(**more: Any) -> dict[str, Any]:
        return dump.create_backup(
            pair.target, directory=str(directory), run_id=RUN, progress=progress, **settings, **more
        )

    return standby_source.made(make, mode, wish, progress)


def manifest_of(made: dict[str, Any]) -> dict[str, Any]:
    return backup_store.read_backup(made["path"]).manifest


# -- the snapshot's truth ------------------------------------------------------------------------------------------------


def test_the_manifest_is_of_the_standbys_snapshot_and_is_proved(pair: Pair, tmp_path: Path) -> None:
    made = from_standby(pair, tmp_path)
    manifest = manifest_of(made)
    assert manifest["from_standby"] is True
    assert (manifest["standby"]["host"], manifest["standby"]["port"]) == (pair.standby.host, str(pair.standby.port))
    assert made["standby"] == manifest["standby"]
    assert manifest["tables"]["public.students"]["rows"] == 500
    ((identifier,),) = pair.primary.execute("SELECT system_identifier::text FROM pg_control_system()")
    assert manifest["system_identifier"] == identifier
    assert prove(pair.target, backup_store.read_backup(made["path"]))["level"] == 4


def test_nothing_of_it_reads_the_primarys_tables(pair: Pair, tmp_path: Path) -> None:
    pair.primary.execute("SELECT pg_stat_force_next_flush()")
    scans = "SELECT sum(seq_scan) FROM pg_stat_user_tables"
    before = pair.run(scans)
    from_standby(pair, tmp_path)
    time.sleep(1.2)  # sessions tell their counts once a second at most
    assert pair.run(scans) == before


@pytest.mark.parametrize("lazy", [False, True], ids=["committed", "committed lazily"])
def test_what_was_committed_right_before_is_in_it_though_replay_is_late(pair: Pair, tmp_path: Path, lazy: bool) -> None:
    pair.set(recovery_min_apply_delay="1s")
    before = pair.standby.execute("SELECT count(*) FROM students", database=pair.database)
    pair.run(f"SET synchronous_commit = {'off' if lazy else 'on'}; INSERT INTO students (name) VALUES ('the last one')")
    assert pair.standby.execute("SELECT count(*) FROM students", database=pair.database) == before
    manifest = manifest_of(from_standby(pair, tmp_path))
    assert manifest["tables"]["public.students"]["rows"] == 501
    standby = manifest["standby"]
    ((reached,),) = pair.run(f"SELECT '{standby['replayed_lsn']}'::pg_lsn >= '{standby['begin_lsn']}'::pg_lsn")
    assert reached
    assert standby["waited_seconds"] > 0


def test_its_time_is_the_primarys_so_that_a_ledger_can_be_held_against_it(pair: Pair, tmp_path: Path) -> None:
    now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    ((before,),) = pair.run(now)
    manifest = manifest_of(from_standby(pair, tmp_path))
    ((after,),) = pair.run(now)
    assert before < manifest["snapshot_time"] < after


def test_a_transaction_that_was_open_counts_as_written_since(pair: Pair, tmp_path: Path) -> None:
    """pg_current_snapshot() of a standby lists none of them, so its rows would be lost without a word."""
    with closing(pair.primary.connect(pair.database, autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO students (name) VALUES ('open')")
        cursor.execute("SAVEPOINT s; INSERT INTO students (name) VALUES ('open, below'); RELEASE s")
        pair.run("INSERT INTO students (name) VALUES ('committed')")
        pair.replayed()
        made = from_standby(pair, tmp_path)
        conn.commit()
    manifest = manifest_of(made)
    assert manifest["tables"]["public.students"]["rows"] == 501
    ids = pair.run("SELECT name, xmin::text::bigint FROM students WHERE name LIKE 'open%' ORDER BY name")
    assert {xid for _, xid in ids} <= set(manifest["snapshot"]["xip"])
    lost = lost_writes.lost_writes(pair.target, backup_store.read_backup(made["path"]), application_name="test")
    (entry,) = lost["tables"]
    assert (entry["table"], entry["rows_written"], entry["rows_gone"]) == ("public.students", 2, 0)


def test_more_transactions_than_can_be_looked_at_all_count_as_written_since(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(pair.primary.connect(pair.database, autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()::text::bigint")
        ((oldest,),) = cursor.fetchall()
        for _number in range(3):
            pair.run("INSERT INTO students (name) VALUES ('committed')")
        pair.replayed()
        monkeypatch.setattr(open_transactions, "MOST_LOOKED_AT", 2)
        manifest = back_up(target_of(pair.standby, pair.database), tmp_path).manifest
        assert (manifest["snapshot"]["xmax"], manifest["snapshot"]["xip"]) == (oldest, [])
        monkeypatch.setattr(standby_fitness, "MOST_LOOKED_AT", 2)
        with pytest.raises(Unfit, match="knows of a transaction that is open since"):
            from_standby(pair, tmp_path)


def test_a_backup_of_a_server_that_is_a_standby_itself_is_told_to_name_the_primary(pair: Pair, tmp_path: Path) -> None:
    swapped = Pair(pair.standby, pair.primary, pair.database)
    with pytest.raises(PgopsError, match="is a standby itself") as caught:
        from_standby(swapped, tmp_path, "prefer")
    assert "backup_standby_host" in str(caught.value.hint)
    assert not list(tmp_path.rglob("manifest.json"))


# -- which one is fit ----------------------------------------------------------------------------------------------------


@contextmanager
def paused(pair: Pair) -> Iterator[dict[str, Any]]:
    pair.standby.execute("SELECT pg_wal_replay_pause()")
    wait_for(lambda: pair.standby.execute("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused", what="the pause")
    try:
        yield {}
    finally:
        pair.standby.execute("SELECT pg_wal_replay_resume()")


@contextmanager
def no_standby(pair: Pair) -> Iterator[dict[str, Any]]:
    yield {"ports": str(pair.primary.port)}


@contextmanager
def nobody(pair: Pair) -> Iterator[dict[str, Any]]:
    yield {"ports": str(servers.free_port())}


@contextmanager
def late_on_purpose(pair: Pair) -> Iterator[dict[str, Any]]:
    pair.set(recovery_min_apply_delay="1h")
    yield {}


@contextmanager
def many_bytes_behind(pair: Pair) -> Iterator[dict[str, Any]]:
    with replay_that_waits(pair):
        pair.run("CREATE TABLE much AS SELECT repeat('x', 200) FROM generate_series(1, 20000)")
        yield {"lag_mb": 1}


@contextmanager
def seconds_behind(pair: Pair) -> Iterator[dict[str, Any]]:
    with replay_that_waits(pair):
        yield {"lag_s": 0.5}


@contextmanager
def replay_that_waits(pair: Pair) -> Iterator[None]:
    """Behind a query of the standby that it may not cancel."""
    pair.set(max_standby_streaming_delay="-1")
    pair.run("CREATE TABLE in_the_way ()")
    pair.replayed()
    with closing(pair.standby.connect(pair.database, autocommit=False)) as conn:
        conn.cursor().execute("LOCK TABLE in_the_way IN ACCESS SHARE MODE")
        pair.run("DROP TABLE in_the_way")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event_type = 'Lock'"
        wait_for(lambda: bool(pair.standby.execute(waiting)), what="replay to wait")
        yield


@contextmanager
def impatient(pair: Pair) -> Iterator[dict[str, Any]]:
    pair.set(hot_standby_feedback="off", max_standby_streaming_delay="3s")
    yield {"forecast_s": lambda size: 60.0}


@contextmanager
def without_rights(pair: Pair) -> Iterator[dict[str, Any]]:
    pair.primary.execute(f"REVOKE pg_read_all_stats FROM {BACKUP}")
    pair.replayed()
    yield {}
    pair.primary.execute(f"GRANT pg_read_all_stats TO {BACKUP}")
    pair.replayed()


@contextmanager
def unlogged(pair: Pair) -> Iterator[dict[str, Any]]:
    pair.run(f"SET ROLE {OWNER}; CREATE UNLOGGED TABLE fast AS SELECT 1 AS id")
    pair.replayed()
    yield {}


UNFIT: dict[str, tuple[Callable[[Pair], Any], str]] = {
    "the primary itself": (no_standby, "is no standby"),
    "not there": (nobody, "nothing listens there"),
    "paused": (paused, "does not replay (replay is paused)"),
    "late on purpose": (late_on_purpose, "replays 3600 s late on purpose (recovery_min_apply_delay)"),
    "many bytes behind": (many_bytes_behind, "MB of WAL behind (limit 1 MB)"),
    "seconds behind": (seconds_behind, "has not replayed in 0.5 s what was written before"),
    "cancels queries": (
        impatient,
        "may end a query after 3 s (max_standby_streaming_delay, hot_standby_feedback is off)",
    ),
    "does not show whom it follows": (without_rights, f"GRANT pg_read_all_stats TO {BACKUP}"),
    "lacks rows": (unlogged, "has no rows of fast, which is unlogged"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_standby_that_is_not_fit_is_refused_with_the_reason(pair: Pair, tmp_path: Path, case: str) -> None:
    make, said = UNFIT[case]
    with make(pair) as changes, pytest.raises(Unfit) as caught:
        from_standby(pair, tmp_path, wish=changes)
    assert said in caught.value.message
    assert caught.value.message.startswith(f"No standby is fit to be read for a backup of {pair.database}: 127.0.0.1:")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == []


def test_where_a_standby_is_only_preferred_the_primary_is_read_and_the_reason_told(pair: Pair, tmp_path: Path) -> None:
    told = Told()
    with paused(pair):
        pair.run("INSERT INTO students (name) VALUES ('not replayed')")
        made = from_standby(pair, tmp_path, "prefer", progress=told)
    assert "does not replay (replay is paused)" in made["primary_because"]
    assert told.said("reads the primary: No standby is fit")
    manifest = manifest_of(made)
    assert (manifest["from_standby"], manifest["standby"]) == (False, None)
    assert manifest["tables"]["public.students"]["rows"] == 501


def test_the_first_that_is_fit_of_several_is_read(pair: Pair, tmp_path: Path) -> None:
    ports = f"{pair.primary.port}, {servers.free_port()}, {pair.standby.port}"
    made = from_standby(pair, tmp_path, wish={"hosts": ", ".join(["127.0.0.1"] * 3), "ports": ports})
    assert made["standby"]["port"] == str(pair.standby.port)


def test_of_a_target_with_several_hosts_the_standby_is_found(pair: Pair) -> None:
    several = pair.target.with_(host="db1,db2", port="5432,5433")
    found = Wish().targets(several)
    assert [(target.host, target.port) for target in found] == [("db1", "5432"), ("db2", "5433")]


@pytest.mark.parametrize(
    ("wish", "said"),
    [(Wish(), "no standby is named"), (Wish(hosts="a,b,c", ports="1,2"), "names 2 ports for 3 hosts")],
)
def test_a_standby_that_is_not_named_is_asked_for(pair: Pair, wish: Wish, said: str) -> None:
    with pytest.raises(PgopsError, match=said):
        wish.targets(pair.target)


def test_another_cluster_is_no_standby_of_this_one(pair: Pair, tmp_path: Path) -> None:
    """Also where it has a database of that name."""
    primary = servers.embedded_server(servers.memory_folder())
    try:
        primary.execute(f"GRANT pg_read_all_stats TO {BACKUP}")
        primary.create_database(pair.database)
        with standby_of(primary) as standby:
            target = pair.target.with_(passfile=str(merged(tmp_path, pair.primary, primary)))
            wish = Pair(primary, standby).wish()
            with pytest.raises(Unfit, match="is a standby of another cluster"):
                dump.create_backup(target, directory=str(tmp_path / "b"), run_id=RUN, standby=wish)
    finally:
        servers.discard(primary)


def test_a_standby_that_follows_another_history_is_not_read(tmp_path: Path) -> None:
    """After a failover the old primary is up again, and pgops_host still leads to it."""
    primary = servers.embedded_server(servers.memory_folder())
    try:
        primary.execute(f"GRANT pg_read_all_stats TO {BACKUP}")
        primary.create_database("kept_far_away")
        with standby_of(primary) as promoted:
            primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
            primary.execute("SELECT pg_reload_conf()")
            promoted.execute("SELECT pg_promote()")
            with standby_of(promoted) as other:
                pair = Pair(primary, other, "kept_far_away")
                with pytest.raises(Unfit, match="follows timeline 2, and the primary is on 1"):
                    from_standby(pair, tmp_path)
    finally:
        servers.discard(primary)


@pytest.mark.majors(15, 16, 17, slow=(15,))
def test_a_standby_of_each_major_is_read(server: Server, database: str, tmp_path: Path) -> None:
    fill(server, database)
    with server.member(BACKUP, "pg_read_all_stats"), standby_in_container(server) as standby:
        pair = Pair(server, standby, database)
        pair.set(hot_standby_feedback="on", recovery_min_apply_delay="1s")
        slow(pair)
        with closing(server.connect(database, autocommit=False)) as conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO students (name) VALUES ('open') RETURNING xmin::text::bigint")
            ((open_since,),) = cursor.fetchall()
            pair.run("INSERT INTO students (name) VALUES ('the last one')")
            made = from_standby(pair, tmp_path)
            conn.commit()
        manifest = manifest_of(made)
        assert manifest["tables"]["public.students"]["rows"] == 501
        assert open_since in manifest["snapshot"]["xip"]
        assert prove(pair.target, backup_store.read_backup(made["path"]))["level"] == 4
        pair.set(max_standby_streaming_delay="0", recovery_min_apply_delay=None)
        with conflict(pair), pytest.raises(Unfit, match="recovery conflict, a lock of the primary was replayed"):
            from_standby(pair, tmp_path)


def merged(folder: Path, first: Server, others: Server) -> Path:
    """A password file for one server by its port, and for every other one."""
    own = first.passfile.read_text(encoding="ascii").replace("*:*:", f"{first.host}:{first.port}:")
    path = folder / "passfile"
    path.touch(mode=0o600)
    path.write_text(own + others.passfile.read_text(encoding="ascii"), encoding="ascii")
    return path


# -- recovery ends it ----------------------------------------------------------------------------------------------------


def slow(pair: Pair) -> None:
    pair.run(
        f"SET ROLE {OWNER}; CREATE TABLE doomed (id int); CREATE TABLE big AS SELECT g AS id, md5(g::text) || md5((g + 1)::text) AS a "
        "FROM generate_series(1, 400000) g"
    )
    pair.replayed()


@contextmanager
def conflict(pair: Pair) -> Iterator[threading.Thread]:
    """As soon as pg_dump reads the standby, the primary empties a table that the snapshot still sees."""
    dumping = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%backup' AND query LIKE 'COPY%'"

    def truncate() -> None:
        wait_for(lambda: bool(pair.standby.execute(dumping)), what="pg_dump", seconds=30)
        pair.run("TRUNCATE doomed")

    thread = threading.Thread(target=truncate)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def test_a_recovery_conflict_ends_it_in_a_sentence_and_leaves_nothing(pair: Pair, tmp_path: Path) -> None:
    slow(pair)
    earlier = from_standby(pair, tmp_path)
    pair.set(max_standby_streaming_delay="0")
    with conflict(pair), pytest.raises(Unfit) as caught:
        from_standby(pair, tmp_path, wish={"forecast_s": lambda size: 0.0})
    assert caught.value.message.startswith(
        f"The backup of {pair.database} from the standby 127.0.0.1:{pair.standby.port} was"
    )
    assert "recovery conflict, a lock of the primary was replayed: a schema change, a TRUNCATE" in caught.value.message
    assert "hot_standby_feedback" in str(caught.value.hint)
    assert not list(tmp_path.rglob("*.partial"))
    (kept,) = backup_store.backups_of(str(tmp_path), pair.database)
    assert kept.path == earlier["path"]
    backup_store.verify_files(kept)


def test_after_a_recovery_conflict_the_primary_is_read_where_that_is_allowed(pair: Pair, tmp_path: Path) -> None:
    slow(pair)
    pair.set(max_standby_streaming_delay="0")
    with conflict(pair):
        made = from_standby(pair, tmp_path, "prefer")
    assert "recovery conflict" in made["primary_because"]
    assert manifest_of(made)["from_standby"] is False
    assert len(backup_store.backups_of(str(tmp_path), pair.database)) == 1
    assert prove(pair.target, backup_store.read_backup(made["path"]))["level"] == 4


def test_asked_to_stop_it_does_not_go_on_with_the_primary(pair: Pair, tmp_path: Path) -> None:
    control = Control(None)
    pair.set(recovery_min_apply_delay="20s")
    pair.run("INSERT INTO students (name) VALUES ('not replayed')")
    timer = threading.Timer(0.5, control.request, ["somebody pressed Ctrl-C"])
    timer.start()
    with pytest.raises(Interrupted):
        from_standby(pair, tmp_path, "prefer", control=control)
    assert not list(tmp_path.rglob("manifest.json"))


def test_looking_writes_nothing_and_says_what_would_be_read(pair: Pair, tmp_path: Path) -> None:
    settings = {"directory": str(tmp_path / "b"), "run_id": RUN}
    ((before,),) = pair.primary.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    found = dump.preview(pair.target, **settings, standby=pair.wish())
    assert (found["standby"], found["unfit"]) == (f"127.0.0.1:{pair.standby.port}", [])
    with paused(pair):
        found = dump.preview(pair.target, **settings, standby=pair.wish())
    assert found["standby"] is None
    with pytest.raises(Unfit, match="replay is paused"):
        standby_source.refuse_none(found, pair.database)
    assert pair.primary.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text") == [(before,)]
    assert not (tmp_path / "b").exists()


# -- the playbooks -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_migration_relies_on_the_backup_that_it_took_of_the_standby(pair: Pair, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY, name text);\n", "DROP TABLE people;\n")
    site = Playbook(tmp_path / "ops host", pair.primary, pair.database)
    site.variables |= {
        "pgops_sql": str(tree.folder),
        "pgops_phases": ["plan", "backup", "prove", "apply"],
        "backup_from_standby": "require",
        "backup_standby_host": pair.standby.host,
        "backup_standby_port": str(pair.standby.port),
    }
    checked = site("backup.yml", "--check")
    assert f"{pair.database}: would be read from the standby 127.0.0.1:{pair.standby.port}" in checked.stdout
    done = site("migrate.yml")
    assert done.rc == 0, done.output
    assert f"{pair.database}: read from the standby 127.0.0.1:{pair.standby.port}, which after" in done.stdout
    ((recorded,),) = pair.run("SELECT backup FROM pgops.run WHERE playbook = 'migrate'")
    assert json.loads((Path(recorded["path"]) / "manifest.json").read_text())["from_standby"] is True
    with paused(pair):
        preferred = site("backup.yml", "--skip-tags", "prove", backup_from_standby="prefer")
    assert preferred.rc == 0, preferred.output
    assert f"{pair.database}: read from the primary. No standby is fit" in " ".join(preferred.stdout.split())
