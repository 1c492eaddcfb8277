# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would stop a rollback is named before anything begins, and what comes in between lifts the fence again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    connection,
    ledger,
    restore,
    strategies,
    swap,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL
from support.backups import RUN, back_up, believed, fill, names, proved, stage
from support.engine import target_of
from support.keys import age_key
from support.server import APP, MIGRATOR, OWNER, RESTORE, SUPERUSER
from support.standby import standby_of


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 20)
    return database


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def weigh(target: Any, backups: Path, strategy: str = "restore", **asked: Any) -> dict[str, Any]:
    told = strategies.Asked(strategy, **asked)
    return strategies.weigh(target, told, directory=str(backups), work=restore.Work(RUN))


def blocked(server: Any, target: Any, backups: Path) -> str:
    """The refusal, with clients that work on and nothing that was made."""
    before = names(server, target.database)
    with pytest.raises(PgopsError) as caught:
        weigh(target, backups)
    assert caught.value.extra["reason"] == "blocked"
    assert "nothing was touched and clients work on" in caught.value.message
    assert caught.value.hint and "run the same command again" in caught.value.hint
    assert caught.value.extra["databases"][target.database]["ways"]["restore"]["blockers"]
    assert names(server, target.database) == before
    assert server.execute("SELECT count(*) FROM students", database=target.database) == [(20,)]
    return caught.value.message


def test_a_prepared_transaction(server: Any, target: Any, filled: str, backups: Path) -> None:
    believed(target, backups)
    with closing(server.connect(filled, autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO students (name) VALUES ('held'); PREPARE TRANSACTION 'payment'")
    with pytest.raises(PgopsError, match=f"prepared transaction payment in {filled}"):
        weigh(target, backups)
    # A way down is not stopped by it.
    assert weigh(target, backups, "down")["chosen"] == "down"


def test_an_active_logical_slot(server: Any, target: Any, filled: str, backups: Path) -> None:
    believed(target, backups)
    slot = f"{filled}_slot"
    server.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')", database=filled)
    consumer = psycopg2.connect(
        host=server.host, port=server.port, dbname=filled, user=SUPERUSER, passfile=str(server.passfile),
        connection_factory=psycopg2.extras.LogicalReplicationConnection,
    )  # fmt: skip
    try:
        consumer.cursor().start_replication(slot_name=slot, decode=True)
        wait_for(lambda: server.execute("SELECT 1 FROM pg_replication_slots WHERE active"))
        assert f"active logical replication slot {slot}" in blocked(server, target, backups)
    finally:
        consumer.close()
    wait_for(lambda: not server.execute("SELECT 1 FROM pg_replication_slots WHERE active"))
    assert weigh(target, backups)["cannot_move"] == [
        (
            f"logical slot {slot} (test_decoding) stays with the replaced database: its consumer has to make a new one in the new {filled} "
            "and to copy its tables again"
        )
    ]


def wait_for(found: Any) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_subscription(server: Any, target: Any, filled: str, backups: Path) -> None:
    believed(target, backups)
    name = f"{filled}_sub"
    server.execute(
        f"CREATE SUBSCRIPTION {name} CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)", database=filled
    )
    try:
        assert f"subscription {name} in {filled}" in blocked(server, target, backups)
    finally:
        server.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name}", database=filled)


def test_the_maintenance_database_itself(server: Any, target: Any, filled: str, backups: Path) -> None:
    """It is the one from which the others are renamed, so it is said before the restore and not after it."""
    staged = stage(target, proved(target, backups))
    itself = target.with_(maintenance_database=filled)
    assert f"maintenance database {filled} stands in the way" in blocked(server, itself, backups)
    for look in (swap.Swap(itself, staged, run_id=RUN).preview, swap.Swap(itself, staged, run_id=RUN).run):
        with pytest.raises(PgopsError, match="maintenance database .* nothing was touched") as caught:
            look()
        assert "pgops_maintenance_database" in (caught.value.hint or "")
    with pytest.raises(PgopsError, match="maintenance database"):
        stage(itself, proved(target, backups, purpose="again"))
    assert names(server, filled) == [filled, staged]
    # A way down renames nothing.
    assert weigh(itself, backups, "down")["chosen"] == "down"


@pytest.fixture
def managed(server: Any, target: Any) -> Iterator[Any]:
    """Restoring as a role that is no superuser, as on a managed server."""
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    yield target.with_(restore_user=MIGRATOR)
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB CONNECTION LIMIT -1")


def test_a_missing_right_and_a_session_that_may_not_be_ended(
    server: Any, target: Any, managed: Any, filled: str, backups: Path
) -> None:
    believed(target, backups)
    with closing(server.connect(filled, SUPERUSER)):
        assert "session that may not be ended server process" in blocked(server, managed, backups)
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert f"missing right {MIGRATOR} (ALTER ROLE {MIGRATOR} CREATEDB) stands in the way" in blocked(
        server, managed, backups
    )


def test_each_missing_right_is_told_with_the_statement_that_gives_it(
    server: Any, target: Any, managed: Any, filled: str, backups: Path
) -> None:
    believed(target, backups)
    other = f"{filled}_other"
    server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB; CREATE ROLE {other}; ALTER DATABASE {filled} OWNER TO {other}")
    grant = f"GRANT {other} TO {MIGRATOR};"
    try:
        with pytest.raises(PgopsError, match="and 1 more") as caught:
            weigh(managed, backups)
        assert caught.value.extra["statements"] == [f"ALTER ROLE {MIGRATOR} CREATEDB;", grant]
        server.execute(" ".join(caught.value.extra["statements"]))
        assert weigh(managed, backups)["chosen"] == "restore"
        # Nobody is made a member of a superuser to rename a database.
        server.execute(f"ALTER DATABASE {filled} OWNER TO {SUPERUSER}")
        with pytest.raises(PgopsError, match="missing right") as caught:
            weigh(managed, backups)
        assert caught.value.extra["statements"] == []
        assert "GRANT" not in str(caught.value.hint)
        assert f"give {filled} an owner" in str(caught.value.hint)
    finally:
        server.execute(f"ALTER DATABASE {filled} OWNER TO {OWNER}; DROP ROLE {other}")


def test_a_connection_limit(server: Any, target: Any, managed: Any, filled: str, backups: Path) -> None:
    believed(target, backups)
    server.execute(f"ALTER ROLE {MIGRATOR} CONNECTION LIMIT 3")
    assert f"connection limit 3 of role {MIGRATOR}" in blocked(server, managed, backups)
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        found = swap_blockers.blockers(conn, [filled], sessions=100_000)
        assert [(entry["kind"], entry["fix"]) for entry in found] == [
            ("connection limit", "end idle sessions, or stop a part of the application")
        ]
        assert swap_blockers.blockers(conn, [filled]) == []


def test_a_disk_that_has_no_room_for_a_second_copy(server: Any, target: Any, filled: str, backups: Path) -> None:
    believed(target, backups, database_bytes=10**18)
    assert "low disk the restore takes 953,674,316,406 MB beside the database, and" in blocked(server, target, backups)
    assert swap_blockers.low_disk(filled, 10**18, None) == []


@pytest.mark.slow
@pytest.mark.parametrize("paused", [False, True])
def test_a_server_that_takes_no_writes(own_server: Any, backups: Path, paused: bool) -> None:
    """Fact 10: a paused standby replays all that it has received when it is promoted, so it is no means of a rollback."""
    own_server.create_database("school", OWNER)
    with standby_of(own_server) as standby:
        wait_for(lambda: standby.execute("SELECT 1 FROM pg_database WHERE datname = 'school'"))
        if paused:
            standby.execute("SELECT pg_wal_replay_pause()")
        for strategy in ("auto", "down", "restore", "undo_swap"):
            with pytest.raises(PgopsError) as caught:
                weigh(target_of(standby, "school"), backups, strategy)
            assert ("a standby whose replay is paused" if paused else "in recovery") in caught.value.message
            assert "replays all the WAL that it has received" in str(caught.value.hint)
            assert caught.value.sqlstate == "25006"


def test_a_dump_of_another_system_or_a_newer_server(target: Any, filled: str, backups: Path) -> None:
    for changes, said in (
        ({"system_identifier": "1"}, "another cluster"),
        ({"server_version": [99, 0]}, "newer server"),
    ):
        backup = believed(target, backups / said.replace(" ", "-"), **changes)
        way = weigh(target, backups, backup=backup.path)["ways"]["restore"]
        assert not way["possible"]
        assert said in way["why_not"]


def test_a_ledger_that_cannot_be_read_stops_neither_a_named_backup_nor_an_undo(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
    backup = proved(target, backups)
    kept = swap.Swap(target, stage(target, backup), run_id=RUN).run()["aside"]
    server.execute("UPDATE pgops.meta SET schema_version = 99", database=filled)
    found = weigh(target, backups, "undo_swap")
    assert found["to"] == kept
    assert "has schema version 99" in found["unreadable"]
    assert found["ways"]["undo_swap"]["lost"].startswith("not known: ")
    assert weigh(target, backups, backup=backup.path)["ways"]["restore"]["possible"]
    for strategy, said in (("auto", "its last change cannot be told"), ("down", "has schema version 99")):
        try:
            told = weigh(target, backups, strategy)["ways"]["down"]["why_not"]
        except PgopsError as error:
            told = error.message
        assert said in told
    done = swap.Swap(target, kept, run_id=RUN).run()
    assert done["history"]["carried"] is False
    assert "schema version 99" in done["history"]["why"]


def test_a_database_that_is_read_only_by_a_setting_is_swapped_all_the_same(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    believed(target, backups)
    server.execute(f"ALTER DATABASE {filled} SET default_transaction_read_only = on")
    assert weigh(target, backups)["ways"]["restore"]["possible"]
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        server.execute("DELETE FROM visits", database=filled)
    swap.Swap(target, stage(target, newest(backups, filled)), run_id=RUN).run()
    server.execute("DELETE FROM visits", database=filled)


def newest(backups: Path, database: str) -> Any:
    return backup_store.backups_of(str(backups), database)[0]


# -- the gate -------------------------------------------------------------------------------------------------------------


def test_a_backup_that_is_too_old_or_not_proved_needs_a_typed_reason_that_the_audit_keeps(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    with closing(connection.connect(target, application_name="test")) as conn:
        ledger.ensure(conn)
    unproved = back_up(target, backups)
    old = believed(target, backups, snapshot_time="2026-01-01T00:00:00.000000Z")
    gated = restore.Work(RUN, max_age_days=30)
    for backup, said in ((unproved, "never proved"), (old, "days old, and rollback_max_backup_age_days is 30")):
        with pytest.raises(PgopsError, match=said):
            restore.refuse_unfit(target, backup, gated)
        with pytest.raises(PgopsError, match=said):
            restore.break_glass(target, backup, restore.Work(RUN, max_age_days=30, break_glass="  "), EQUAL)
    assert server.execute("SELECT count(*) FROM pgops.audit", database=filled) == [(0,)]
    reason = restore.Work(RUN, max_age_days=30, break_glass="nothing else is left, CTO on the phone")
    told = restore.break_glass(target, unproved, reason, EQUAL)
    assert told == {
        "reason": reason.break_glass, "lets_off": "it was never proved", "backup": unproved.path, "audited": True,
    }  # fmt: skip
    assert server.execute(
        "SELECT event, detail ->> 'reason', detail ->> 'lets_off' FROM pgops.audit", database=filled
    ) == [("break_glass", reason.break_glass, "it was never proved")]
    # It is compared with its manifest before the swap all the same, and the audit goes along.
    swap.Swap(target, restore.stage(target, unproved, work=reason)["staged"], run_id=RUN).run()
    events = server.execute("SELECT event FROM pgops.audit ORDER BY seq", database=filled)
    assert events == [("break_glass",), ("database_swapped",)]


def test_no_reason_lets_an_altered_or_a_foreign_backup_through(target: Any, filled: str, backups: Path) -> None:
    reason = restore.Work(RUN, break_glass="please")
    foreign = believed(target, backups / "foreign", system_identifier="1")
    with pytest.raises(PgopsError, match="another cluster"):
        restore.refuse_unfit(target, foreign, reason)
    altered = believed(target, backups / "altered")
    path = Path(altered.path) / backup_store.MANIFEST
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(PgopsError, match="altered"):
        restore.refuse_unfit(target, backup_store.read_backup(altered.path), reason)


# -- publications -------------------------------------------------------------------------------------------------------


def test_publications_come_along_where_a_superuser_restores(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    server.execute(
        "CREATE PUBLICATION few FOR TABLE students; CREATE PUBLICATION every FOR ALL TABLES", database=filled
    )
    backup = believed(target, backups)
    server.execute('CREATE PUBLICATION "Younger" FOR TABLE visits', database=filled)
    assert weigh(target, backups)["cannot_move"] == [
        (
            'publication "Younger" is younger than the backup and stays with the replaced database: CREATE PUBLICATION it again, its '
            "subscribers then refresh"
        )
    ]
    swap.Swap(target, stage(target, backup), run_id=RUN).run()
    assert server.execute("SELECT pubname FROM pg_publication ORDER BY 1", database=filled) == [("every",), ("few",)]
    assert server.execute("SELECT count(*) FROM pg_publication_tables WHERE pubname = 'few'", database=filled) == [(1,)]


def test_an_encrypted_backup_without_its_key_says_that_publications_were_not_looked_at(
    server: Any, target: Any, filled: str, backups: Path, tmp_path: Path
) -> None:
    backup = back_up(target, backups, encrypt_to=[age_key(tmp_path).public])
    proof = {"manifest_sha256": backup.manifest_sha256, "proved_at": "now", "restore_seconds": 1}
    backup_store.write_proof(backup, proof)
    server.execute("CREATE PUBLICATION younger FOR TABLE visits", database=filled)
    assert weigh(target, backups)["cannot_move"] == ["publications could not be looked at: the backup is encrypted"]


def test_a_publication_that_only_a_superuser_may_make_is_named_beforehand(
    server: Any, target: Any, managed: Any, filled: str, backups: Path
) -> None:
    server.execute("CREATE PUBLICATION every FOR ALL TABLES", database=filled)
    believed(target, backups)
    assert weigh(managed, backups)["cannot_move"] == [
        f"publication every is not recreated: role {MIGRATOR} is no superuser; CREATE it again as one, its subscribers then refresh"
    ]


# -- what comes in between ------------------------------------------------------------------------------------------------


def test_what_comes_while_the_fence_goes_up_lifts_it_again_and_a_client_is_back_within_a_second(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    server.execute(f"GRANT CONNECT ON DATABASE {filled} TO {APP}")
    staged = stage(target, believed(target, backups))

    def hold(step: str) -> None:
        if step == "history carried":
            with closing(server.connect(filled, autocommit=False)) as conn, conn.cursor() as cursor:
                cursor.execute("INSERT INTO students (name) VALUES ('late'); PREPARE TRANSACTION 'late'")

    with pytest.raises(
        PgopsError, match="prepared transaction late .* came while the fence went up; the fence was lifted"
    ):
        swap.Swap(target, staged, run_id=RUN, after=hold).run()
    began = time.monotonic()
    assert server.execute("SELECT 1", database=filled, user=APP) == [(1,)]
    assert time.monotonic() - began < 1
    assert names(server, filled) == [filled, staged]


def test_a_superuser_who_comes_back_again_and_again_is_kept_out_by_the_fence(
    server: Any, target: Any, filled: str, backups: Path
) -> None:
    staged = stage(target, believed(target, backups))
    ended = threading.Event()

    def come_back() -> None:
        while not ended.is_set():
            try:
                with closing(server.connect(filled, RESTORE)) as conn, conn.cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(60)")
            except psycopg2.Error:
                pass

    thread = threading.Thread(target=come_back, daemon=True)
    thread.start()
    try:
        wait_for(
            lambda: server.execute(
                f"SELECT 1 FROM pg_stat_activity WHERE datname = '{filled}' AND query LIKE '%pg_sleep(60)%'"
            )
        )
        assert swap.Swap(target, staged, run_id=RUN).run()["sessions_ended"] >= 1
    finally:
        ended.set()
        server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE '{filled}%'")
        thread.join(30)
