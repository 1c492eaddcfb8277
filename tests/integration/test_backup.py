# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup is whole, of one moment and private, or there is none; and it says why."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, connection, dump
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import first_error, told_line
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql
from support.backups import PATIENT, RUN, back_up, fill, prove, start_python
from support.engine import When
from support.server import BACKUP, OWNER
from support.small_disk import close, open_again


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    return database


def files(directory: Path) -> list[Path]:
    """Every file of every backup, whole or not."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")


def refused(target: Any, directory: Path, **settings: Any) -> PgopsError:
    """The refusal, after a look that nothing was left behind."""
    before = files(directory)
    with pytest.raises(PgopsError) as caught:
        back_up(target, directory, **settings)
    assert files(directory) == before
    assert PATIENT not in json.dumps([caught.value.message, caught.value.as_dict()])
    return caught.value


# -- what a backup holds ----------------------------------------------------------------------------------------------


def test_the_manifest_says_what_the_database_holds(target: Any, filled: str, tmp_path: Path) -> None:
    manifest = back_up(target, tmp_path, purpose="before_migration", environment="local").manifest
    assert manifest["tables"]["public.students"]["rows"] == 500
    assert manifest["tables"]['public."Odd Name; --"']["rows"] == 2
    assert manifest["sequences"]["public.students_id_seq"]["last_value"] == 500
    assert (manifest["database"], manifest["environment"], manifest["run_id"]) == (filled, "local", RUN)
    assert manifest["server_version"][0] == 18
    assert manifest["system_identifier"].isdigit()
    assert manifest["properties"]["owner"] == OWNER
    assert manifest["ledger"] == []
    assert manifest["snapshot"]["xmax"] >= manifest["snapshot"]["xmin"] > 0
    assert set(manifest["files"]) >= {"dump/toc.dat", "catalog.json.gz"}


def test_the_folder_is_named_by_time_purpose_and_run(target: Any, filled: str, tmp_path: Path) -> None:
    path = Path(back_up(target, tmp_path, purpose="before_migration").path)
    assert path.parent == tmp_path / filled
    assert path.name[:15].replace("_", "").isdigit()
    assert path.name[15:] == f"_before_migration_{RUN}"


def test_only_its_user_may_read_it(target: Any, filled: str, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        backup = back_up(target, tmp_path / "backups")
    finally:
        os.umask(previous)
    for path in [tmp_path / "backups", *(tmp_path / "backups").rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert Path(backup.path).is_dir()


def test_under_writes_the_manifest_equals_what_is_restored(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Fact 3: counts taken beside the dump and not in its snapshot differ."""
    ended = threading.Event()

    def write() -> None:
        with closing(server.connect(filled)) as conn, conn.cursor() as cursor:
            while not ended.is_set():
                cursor.execute(
                    "INSERT INTO students (name) VALUES ('new'); UPDATE students SET note = clock_timestamp()::text "
                    "WHERE id = 1 + (random() * 400)::int; DELETE FROM visits WHERE id = (SELECT min(id) FROM visits)"
                )

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.3)
        backup = back_up(target, tmp_path)
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    now = server.execute("SELECT count(*) FROM students", database=filled)[0][0]
    assert backup.manifest["tables"]["public.students"]["rows"] < now
    prove(target, backup)


def test_no_table_can_be_emptied_under_the_snapshot(server: Any, target: Any, filled: str) -> None:
    """TRUNCATE is not MVCC-safe: an older snapshot would see, and dump, an empty table."""
    with closing(connection.connect(target.as_backup(), application_name="test")) as conn:
        snapshot = dump.open_snapshot(target.as_backup(), conn)
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            server.execute("SET lock_timeout = '200ms'; TRUNCATE visits", database=filled)
        connection.execute(conn, "ROLLBACK")
    assert snapshot.name
    server.execute("TRUNCATE visits", database=filled)


def test_nothing_is_left_out_without_a_word(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    server.execute(
        f"SET ROLE {OWNER}; CREATE UNLOGGED TABLE fast AS SELECT 1 AS id; "
        "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM students",
        database=filled,
    )
    if server.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'postgres_fdw'"):
        server.execute(
            "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw; "
            "CREATE FOREIGN TABLE away (id int) SERVER other",
            database=filled,
        )
    manifest = back_up(target, tmp_path).manifest
    told = {entry["object"]: entry["why"] for entry in manifest["not_included"]}
    assert manifest["tables"]["public.fast"]["rows"] == 1
    assert "computes its rows again" in told["public.counted"]
    assert "another server" in told["public.away"]


@pytest.mark.few(3)
@pytest.mark.parametrize("name", ["a b", "we'ird", "x=y", '"quoted"', "../up", ".hidden", "ü" * 20])
def test_any_name_of_a_database_works(server: Any, target: Any, database: str, tmp_path: Path, name: str) -> None:
    odd = f"{database} {name}"
    server.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(database), sql.Identifier(odd)))
    server.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)", database=odd)
    backup = back_up(target.with_(database=odd), tmp_path / "backups")
    assert Path(backup.path).parent.parent == tmp_path / "backups"
    assert prove(target.with_(database=odd), backup)["rows"] == 1


@pytest.mark.majors(15, 16, 17, 18)
def test_it_is_taken_and_proved_on_every_major(server: Any, target: Any, database: str, tmp_path: Path) -> None:
    fill(server, database)
    server.execute("SELECT lo_from_bytea(0, 'x')", database=database)
    superuser = target.with_(backup_user=target.restore_user)
    backup = back_up(superuser, tmp_path)
    assert backup.manifest["large_objects"]["count"] == 1
    assert prove(superuser, backup)["tables"] == 3


# -- refusals before anything is written --------------------------------------------------------------------------------


def test_row_level_security_is_refused_and_never_dumped_as_no_rows(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Fact 5: with --enable-row-security pg_dump exits 0 and dumps 0 rows."""
    server.execute("ALTER TABLE students ENABLE ROW LEVEL SECURITY", database=filled)
    server.execute(f"ALTER ROLE {BACKUP} NOBYPASSRLS")
    try:
        error = refused(target, tmp_path)
    finally:
        server.execute(f"ALTER ROLE {BACKUP} BYPASSRLS")
    assert "public.students" in error.message
    assert f"ALTER ROLE {BACKUP} BYPASSRLS" in error.message
    assert back_up(target, tmp_path).manifest["tables"]["public.students"]["rows"] == 500


def test_forced_row_level_security_is_refused_for_the_owner_too(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "ALTER TABLE students ENABLE ROW LEVEL SECURITY; ALTER TABLE students FORCE ROW LEVEL SECURITY", database=filled
    )
    assert "BYPASSRLS" in refused(target.with_(backup_user=target.user), tmp_path).message


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("SELECT 1", "GRANT SELECT ON TABLE"),
        ("CREATE SCHEMA closed; CREATE TABLE closed.t (id int)", "GRANT USAGE ON SCHEMA closed"),
    ],
)
def test_a_missing_right_is_named_with_its_grant(
    server: Any, target: Any, filled: str, tmp_path: Path, statement: str, said: str
) -> None:
    server.execute(statement, database=filled)
    error = refused(target.with_(backup_user="white_cross_app"), tmp_path)
    assert error.sqlstate == "42501"
    assert any(said in entry["fix"] for entry in error.extra["missing"])


def test_one_grant_does_for_many_objects(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    """USAGE of one schema alone would only bring the next refusal."""
    server.execute(
        "CREATE SCHEMA closed; CREATE TABLE closed.t (id int); CREATE ROLE fix_reader LOGIN BYPASSRLS", database=filled
    )
    try:
        with pytest.raises(PgopsError) as raised, server.connect(database=filled) as conn:
            dump.refuse_missing_rights(conn, UNREADABLE, "fix_reader", filled)
        message = raised.value.message
        assert message.endswith("nothing was written. GRANT pg_read_all_data TO fix_reader;")
        assert "GRANT USAGE" not in message
        assert raised.value.hint.startswith("GRANT pg_read_all_data TO fix_reader;")
        assert raised.value.extra["missing"][0]["fix"] == "GRANT USAGE ON SCHEMA closed TO fix_reader"
    finally:
        server.execute("DROP ROLE fix_reader", database=filled)


UNREADABLE = [
    {"schema": "closed", "name": "t", "schema_usable": False, "readable": False, "kind": "r", "rows_hidden": False},
    {"schema": "public", "name": "s", "schema_usable": True, "readable": False, "kind": "S", "rows_hidden": False},
]


def test_large_objects_that_the_role_cannot_read_are_refused_with_a_statement_that_lets_it(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute("SELECT lo_from_bytea(0, 'x')", database=filled)
    error = refused(target, tmp_path)
    assert "1 large objects" in error.message
    server.execute(error.extra["missing"][0]["fix"], database=filled)
    assert back_up(target, tmp_path).manifest["large_objects"]["count"] == 1


@pytest.mark.parametrize(("version", "fits"), [("18.0", False), ("17.9", False), ("19.1", False)])
def test_another_client_version_is_refused(target: Any, filled: str, tmp_path: Path, version: str, fits: bool) -> None:
    """A pg_dump of another minor writes dumps that do not restore (15.19 against 15.20)."""
    bindir = tmp_path / "bin"
    bindir.mkdir()
    tool = bindir / "pg_dump"
    tool.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n", encoding="ascii")
    tool.chmod(0o755)
    error = refused(target.with_(bindir=str(bindir)), tmp_path / "backups")
    assert version in error.message
    assert not fits


def test_a_missing_client_is_named(target: Any, filled: str, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(target.with_(bindir=str(tmp_path)), tmp_path / "backups").message


def test_check_mode_writes_nothing(target: Any, filled: str, tmp_path: Path) -> None:
    would = dump.preview(target, directory=str(tmp_path / "backups"), run_id=RUN)
    assert would["would_write"].startswith(str(tmp_path))
    assert not (tmp_path / "backups").exists()


# -- failures in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [30000, 150000])
def test_a_full_disk_leaves_earlier_backups_and_nothing_else(
    server: Any, target: Any, database: str, small_disk: Path, rows: int
) -> None:
    fill(server, database, 100)
    first = back_up(target, small_disk)
    server.execute(
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(md5(random()::text) || md5(random()::text) || "
        f"md5(random()::text) || md5(random()::text)) FROM generate_series(1, {rows})",
        database=database,
    )
    error = refused(target, small_disk, run_id="20261121T120001Z-000000")
    assert "full" in error.message or "No space left" in error.message
    assert str(small_disk) in error.message or "backup_directory" in str(error.hint)
    backup_store.verify_files(backup_store.read_backup(first.path))


def test_a_disk_that_takes_no_writes_any_more_is_told(target: Any, filled: str, small_disk: Path) -> None:
    try:
        with pytest.raises(PgopsError) as caught:
            back_up(target, small_disk, progress=When("reading the dump back", lambda: close(small_disk)))
    finally:
        open_again(small_disk)
    assert caught.value.message.startswith(f"No backup of {filled}: {small_disk}/{filled}/")
    assert caught.value.message.endswith("Read-only file system; earlier backups are as they were.")
    assert backup_store.backups_of(str(small_disk), filled) == []


def test_a_disk_that_fills_while_the_manifest_is_written(
    target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, value: Any) -> str:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(backup_store, "write_json", full)
    assert "is full" in refused(target, tmp_path).message


def slow(server: Any, database: str) -> None:
    """Enough that a backup takes a second or two."""
    server.execute(
        f"SET ROLE {OWNER}; CREATE TABLE big AS SELECT g AS id, md5(g::text) || md5((g + 1)::text) AS a "
        "FROM generate_series(1, 400000) g",
        database=database,
    )


BACK_UP = """
print(dump.create_backup(target, directory=values["directory"], run_id=values["run"])["path"])
"""


def wait_for_dump(directory: Path, process: Any) -> None:
    """Until pg_dump has written something."""
    deadline = time.monotonic() + 20
    while not list(directory.rglob("*.dat.gz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_of_two_at_once_says_who_holds_the_lock(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    slow(server, filled)
    first = start_python(BACK_UP, target, directory=str(tmp_path), run="first")
    wait_for_dump(tmp_path, first)
    with pytest.raises(PgopsError) as caught:
        back_up(target, tmp_path)
    out, err = first.communicate(timeout=60)
    assert "locked by backup first (process" in caught.value.message
    assert caught.value.extra["locked"]
    assert first.returncode == 0, err
    backup_store.verify_files(backup_store.read_backup(out.strip()))


@pytest.mark.few(2)
@pytest.mark.parametrize("after", [0.0, 0.05, 0.2, 0.5, 0.8])
def test_killed_at_any_moment_it_publishes_nothing_and_the_next_run_clears_up(
    server: Any, target: Any, filled: str, tmp_path: Path, after: float
) -> None:
    slow(server, filled)
    killed = start_python(BACK_UP, target, directory=str(tmp_path), run="killed")
    if after:
        wait_for_dump(tmp_path, killed)
    time.sleep(after)
    killed.kill()
    killed.communicate()
    published = backup_store.backups_of(str(tmp_path), filled)
    for backup in published:  # it was whole before the signal came
        backup_store.verify_files(backup)
    made = dump.create_backup(target, directory=str(tmp_path), run_id=RUN)
    assert not list(tmp_path.rglob("*.partial"))
    backup_store.verify_files(backup_store.read_backup(made["path"]))
    if not published and after:
        assert any("killed" in name for name in made["removed"])


def test_pg_dump_ends_with_a_killed_parent(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    slow(server, filled)
    killed = start_python(BACK_UP, target, directory=str(tmp_path), run="killed")
    wait_for_dump(tmp_path, killed)
    children = child_processes(killed.pid)
    assert children
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def child_processes(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_pg_dump_is_told_and_leaves_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    slow(server, filled)
    process = start_python(
        """
        try:
            dump.create_backup(target, directory=values["directory"], run_id="r")
        except Exception as error:
            print(type(error).__name__, error)
        """,
        target,
        directory=str(tmp_path),
    )
    wait_for_dump(tmp_path, process)
    for pid in child_processes(process.pid):
        os.kill(pid, signal.SIGKILL)
    out, _err = process.communicate(timeout=60)
    assert "PgopsError" in out
    assert "pg_dump was killed by signal 9 (SIGKILL)" in out
    assert files(tmp_path) == []


def test_sessions_ended_in_the_middle_end_the_backup(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    slow(server, filled)
    process = start_python(
        """
        try:
            dump.create_backup(target, directory=values["directory"], run_id="r")
        except Exception as error:
            print(type(error).__name__, error)
        """,
        target,
        directory=str(tmp_path),
    )
    wait_for_dump(tmp_path, process)
    server.execute(
        sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {} AND pid <> pg_backend_pid()")
        .format(sql.Literal(filled))
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert "PgopsError" in out, err
    assert files(tmp_path) == []


def test_asked_to_stop_it_ends_and_leaves_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    slow(server, filled)
    control = Control(None)
    timer = threading.Timer(0.4, lambda: control.request("somebody pressed Ctrl-C"))
    timer.start()
    with pytest.raises(Interrupted):
        back_up(target, tmp_path, control=control)
    assert files(tmp_path) == []


# What the first look waits for: its query of the catalog, the locks on the tables, a sequence's value.
IN_THE_WAY = {
    "the list of the tables": "LOCK TABLE pg_depend IN ACCESS EXCLUSIVE MODE",
    "the lock of a table": "LOCK TABLE visits IN ACCESS EXCLUSIVE MODE",
    "the value of a sequence": "ALTER SEQUENCE students_id_seq RENAME TO other",
}


@pytest.mark.parametrize("waits_for", IN_THE_WAY)
def test_asked_to_stop_in_its_first_look_it_says_so(
    server: Any, target: Any, filled: str, tmp_path: Path, waits_for: str
) -> None:
    waiting = "SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE NOT granted AND application_name LIKE '%backup'"
    control = Control(None)
    with closing(server.connect(filled)) as conn, ThreadPoolExecutor(1) as pool:
        conn.autocommit = False
        conn.cursor().execute(IN_THE_WAY[waits_for])
        running = pool.submit(back_up, target, tmp_path, control=control)
        for _ in range(300):
            if server.execute(waiting):
                break
            time.sleep(0.1)  # until it stands before the lock
        control.request("somebody pressed Ctrl-C")
        try:
            with pytest.raises(Interrupted, match="somebody pressed Ctrl-C"):
                running.result(timeout=15)
        finally:
            conn.rollback()
    assert files(tmp_path) == []


# -- messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('pg_restore: error: COPY failed for table "t": ERROR:  duplicate key value violates unique constraint "t_pk"',
         'pg_restore: error: COPY failed for table "t": ERROR:  duplicate key value violates unique constraint "t_pk"'),
        (f"DETAIL:  Key (name)=({PATIENT}) already exists.", None),
        (f'CONTEXT:  COPY students, line 5: "{PATIENT}"', None),
        (f'pg_restore: error: ERROR:  invalid input syntax for type integer: "{PATIENT}"',
         'pg_restore: error: ERROR:  invalid input syntax for type integer: "…"'),
        (f'pg_restore: error: COPY failed for table "t": ERROR:  time zone "{PATIENT}" not recognized',
         'pg_restore: error: COPY failed for table "t": ERROR:  time zone "…" not recognized'),
        ('pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "io_method"',
         'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "io_method"'),
        (f"    {PATIENT} on a line of its own", None),
    ],
)  # fmt: skip
def test_messages_of_clients_are_kept_without_row_contents(line: str, told: str | None) -> None:
    assert told_line(line) == told


def test_what_a_function_says_while_rows_are_restored_is_told_by_its_place(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    server.execute(
        f"""SET ROLE {OWNER};
        CREATE TABLE limits (most integer);
        INSERT INTO limits VALUES (1);
        CREATE FUNCTION fits(text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN
            IF EXISTS (SELECT FROM public.limits) THEN RETURN true; END IF;
            RAISE EXCEPTION 'no limit for %', $1;
        END $f$;
        CREATE TABLE people (name text CHECK (fits(name)));
        INSERT INTO people VALUES ('{PATIENT}');
        DELETE FROM limits""",
        database=database,
    )
    backup = back_up(target, tmp_path)
    with pytest.raises(PgopsError) as caught:
        prove(target, backup)
    told = json.dumps([caught.value.message, caught.value.as_dict()])
    assert PATIENT not in told
    assert "ERROR:  PL/pgSQL function public.fits(text) line 3 at RAISE raised an error" in told


def test_the_servers_own_message_is_the_one_that_is_told() -> None:
    assert (
        first_error(
            [
                "pg_dump: error: Dumping the contents of table failed: PQgetResult() failed.",
                "pg_dump: detail: Error message from server: ERROR:  out of shared memory",
            ]
        )
        == "Error message from server: ERROR:  out of shared memory"
    )
