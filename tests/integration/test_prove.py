# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proof is a restore that was compared in everything; whatever is wrong with a backup, it finds it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, database_marks, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql
from support.backups import (
    PATIENT,
    RUN,
    back_up,
    fill,
    largest_file,
    names,
    prove,
    proved,
    recompute,
    start_python,
)
from support.module import call
from support.server import MIGRATOR, OWNER, RESTORE, SUPERUSER


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    return database


def not_proved(server: Any, target: Any, backup: Any, **settings: Any) -> PgopsError:
    """The refusal, after a look that no proof and no scratch database is left."""
    with pytest.raises(PgopsError) as caught:
        prove(target, backup, **settings)
    assert backup_store.read_backup(backup.path).proof is None
    assert names(server, target.database) == [target.database]
    assert PATIENT not in json.dumps([caught.value.message, caught.value.as_dict()], default=str)
    return caught.value


def test_a_proof_says_what_was_compared_and_how_long_the_restore_took(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    proof = prove(target, backup)
    found = backup_store.read_backup(backup.path)
    assert found.proved
    assert found.proof == {name: value for name, value in proof.items() if name != "path"}
    assert (proof["tables"], proof["rows"]) == (3, 1002)
    assert proof["seconds"] >= proof["restore_seconds"] > 0
    assert proof["reservations"] == []
    assert names(server, filled) == [filled]
    assert (Path(backup.path) / "proof.json").stat().st_mode & 0o777 == 0o600


def test_an_invalid_index_is_not_in_a_dump_and_a_proof_says_so(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """A build that was cut off leaves one, and the next run begins with a backup. One of a partitioned table is dumped."""
    with server.session(filled, SUPERUSER) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE doubles (n integer); INSERT INTO doubles VALUES (1), (1)")
        with pytest.raises(psycopg2.errors.UniqueViolation):
            cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY cut_off ON doubles (n)")
        cursor.execute("CREATE TABLE parts (n integer) PARTITION BY LIST (n)")
        cursor.execute(
            "CREATE TABLE part PARTITION OF parts FOR VALUES IN (1); CREATE INDEX unfinished ON ONLY parts (n)"
        )
    proof = prove(target, back_up(target, tmp_path))
    assert proof["reservations"] == [
        "index public.cut_off was not recreated: it is invalid, and pg_dump leaves it out",
    ]


def test_a_name_of_the_limit_is_cut_and_still_unlike_others() -> None:
    long = "d" * 63
    made = {database_marks.name_for(f"{'d' * 62}{end}", "pgops_scratch_0123456789ab") for end in "ab"}
    assert len(made) == 2
    assert all(len(name) <= 63 for name in made)
    assert database_marks.name_for(long, "failed_20260101_120000").endswith("_failed_20260101_120000")


# -- damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.95, 0.6, 0.2])
def test_a_truncated_data_file_is_named(server: Any, target: Any, filled: str, tmp_path: Path, share: float) -> None:
    """Fact 1: pg_restore --list returns 0 on it."""
    backup = back_up(target, tmp_path)
    file = largest_file(backup)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    listed = subprocess.run(
        [f"{server.bindir}/pg_restore", "--list", f"{backup.path}/dump"], capture_output=True, check=False
    )
    assert listed.returncode == 0
    assert file.name in not_proved(server, target, backup).message


def test_a_truncated_data_file_is_found_though_the_manifest_was_rewritten(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    file = largest_file(backup)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.95)])
    not_proved(server, target, recompute(backup, file))


def test_a_deleted_data_file_is_named(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    file = largest_file(backup)
    file.unlink()
    error = not_proved(server, target, backup)
    assert file.name in error.message
    assert "missing" in error.message


def test_a_further_file_and_a_link_are_named(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    (Path(backup.path) / "dump" / "0000.dat").write_bytes(b"")
    assert "0000.dat" in not_proved(server, target, backup).message
    (Path(backup.path) / "dump" / "0000.dat").unlink()
    (Path(backup.path) / "dump" / "link").symlink_to("/etc/hostname")
    assert "link" in not_proved(server, target, backup).message


def test_one_flipped_bit_is_found_by_its_sha256(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path, compression="0")
    flip(largest_file(backup))
    assert "sha256" in not_proved(server, target, backup).message


def test_one_flipped_bit_is_found_by_the_content_hash_when_sha256_and_manifest_were_recomputed(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Fact 2: it passes --list, the full read and the restore, with the right row count."""
    backup = back_up(target, tmp_path, compression="0")
    file = Path(backup.path) / "dump" / next(
        name.removeprefix("dump/") for name in backup.manifest["files"]
        if name.endswith(".dat") and PATIENT.encode() in (Path(backup.path) / name).read_bytes()
    )  # fmt: skip
    flip(file)
    error = not_proved(server, target, recompute(backup, file))
    assert {(entry["object"], entry["attribute"]) for entry in error.extra["differences"]} == {
        ("public.students", "hash")
    }


def flip(file: Path) -> None:
    """One bit of one letter of one name."""
    data = bytearray(file.read_bytes())
    place = data.find(PATIENT.encode()) + 3
    data[place] ^= 1
    file.write_bytes(data)


def test_a_manifest_altered_since_the_run_made_it_is_refused(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    altered = recompute(backup, largest_file(backup))
    error = not_proved(server, target, altered, manifest_sha256=backup.manifest_sha256)
    assert "altered" in error.message


def test_the_backup_of_the_run_comes_before_the_one_that_is_named(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    older, own = back_up(target, tmp_path / "older"), back_up(target, tmp_path / "own")
    arguments = {"path": older.path, "run_id": RUN, "level": 1}
    recorded = {"path": own.path, "manifest_sha256": own.manifest_sha256}
    done = call("prove", target, backups={filled: recorded}, **arguments)
    assert done["databases"][filled]["path"] == own.path
    recorded["manifest_sha256"] = "0" * 64
    refused = call("prove", target, backups={filled: recorded}, **arguments)
    assert refused["failed"]
    assert "altered" in refused["msg"]
    assert call("prove", target, **arguments)["databases"][filled]["path"] == older.path


def test_a_damaged_manifest_and_a_newer_format_are_told(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    path = Path(backup.path) / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 99'), encoding="utf-8")
    with pytest.raises(PgopsError, match="format 99"):
        backup_store.read_backup(backup.path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(PgopsError, match="damaged"):
        backup_store.read_backup(backup.path)


def test_a_backup_that_cannot_be_proved_again_loses_its_proof(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    prove(target, backup)
    largest_file(backup).unlink()
    not_proved(server, target, backup)


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DROP INDEX visits_student", "index public.visits_student is missing"),
        (
            "ALTER TABLE students DROP CONSTRAINT students_level_check",
            "constraint public.students.students_level_check",
        ),
        ("ALTER TABLE students ADD extra int", "column public.students.extra is unexpected"),
        ("UPDATE visits SET price = price + 1 WHERE id = 1", "public.visits: hash"),
        ("DELETE FROM visits WHERE id = 1", "public.visits: rows expected 500, found 499"),
        ("SELECT setval('students_id_seq', 3)", "public.students_id_seq: last_value"),
        ("ALTER TABLE students OWNER TO postgres", "table public.students: owner"),
        ("GRANT SELECT ON visits TO PUBLIC", "table public.visits: acl"),
        ("COMMENT ON TABLE students IS NULL", "table public.students: comment"),
        ("SELECT lo_from_bytea(0, 'x')", "large objects: count"),
        ("CREATE TABLE more (id int)", "table public.more is unexpected"),
    ],
)
def test_every_kind_of_difference_is_told(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, said: str
) -> None:
    backup = back_up(target, tmp_path)
    restore_into = restore.restore_into

    def restore_and_change(destination: Any, *arguments: Any) -> float:
        seconds = restore_into(destination, *arguments)
        server.execute(change, database=destination.database)
        return seconds

    monkeypatch.setattr(restore, "restore_into", restore_and_change)
    assert said in not_proved(server, target, backup).message


# -- where it restores ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_source_is_refused_as_target_under_any_host_name(
    server: Any, target: Any, filled: str, tmp_path: Path, host: str
) -> None:
    backup = back_up(target, tmp_path)
    error = not_proved(server, target.with_(scratch_host=host), backup, scratch_name=filled)
    assert "the very database that the backup came from" in error.message
    assert server.execute("SELECT count(*) FROM students", database=filled) == [(500,)]


def test_the_last_look_before_pg_restore_refuses_the_source_too(target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    able = restore.Restorer(RESTORE, True, True, (18, 6))
    with pytest.raises(PgopsError, match="the very database"):
        restore.restore_into(target.as_restore(), backup, able, restore.Work(RUN))


def test_a_database_that_exists_is_not_touched(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    other = f"{filled}_mine"
    server.create_database(other)
    server.execute("CREATE TABLE mine (id int)", database=other)
    with pytest.raises(PgopsError, match="already"):
        prove(target, backup, scratch_name=other)
    assert server.execute("SELECT count(*) FROM mine", database=other) == [(0,)]


def test_two_restores_into_one_scratch_database_are_one(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    name = f"{filled}_scratch"
    with closing(connect(target.maintenance(), application_name="test")) as conn:
        assert database_marks.try_lock(conn, f"restore {name}")
        error = not_proved(server, target, backup, scratch_name=name)
    assert error.message == f"Another run restores into {name} on {target.host}."


def test_a_backup_of_another_database_proves_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    other = f"{filled}_other"
    server.create_database(other)
    error = not_proved(server, target.with_(database=other), backup)
    assert f"is a backup of {filled}, not of {other}." in error.message


def test_the_scratch_database_is_closed_to_public(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    with restore.scratch_database(target, backup, work=restore.Work(RUN)) as scratch:
        assert server.execute(
            sql.SQL("SELECT has_database_privilege('white_cross_app', {}, 'CONNECT')").format(sql.Literal(scratch.database))
        ) == [(False,)]  # fmt: skip
    assert names(server, filled) == [filled]


def test_another_cluster_is_asked_for_where_production_gives_no_reason(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    error = not_proved(server, target, backup, other_cluster_only=True)
    assert "pgops_scratch_host" in str(error.hint)


@pytest.mark.slow
@pytest.mark.container
def test_another_cluster_proves_it_too_and_says_what_it_cannot_compare(
    containers: Any, server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    other = containers.server(18)
    backup = back_up(target, tmp_path)
    passfile = tmp_path / "passfile"
    # Each server has passwords of its own for the same role.
    lines = [line for line in Path(other.passfile).read_text(encoding="ascii").splitlines() if f":{RESTORE}:" in line]
    own = Path(server.passfile).read_text(encoding="ascii").replace("*:*", f"*:{server.port}")
    passfile.write_text(
        own + "".join(line.replace("*:*", f"*:{other.port}") + "\n" for line in lines), encoding="ascii"
    )
    passfile.chmod(0o600)
    elsewhere = target.with_(
        passfile=str(passfile), scratch_host=other.host, scratch_port=str(other.port), bindir=str(other.bindir)
    )
    proof = prove(elsewhere, backup, other_cluster_only=True)
    assert not proof["same_cluster"]
    assert "owners and privileges were not compared" in proof["reservations"][0]


@pytest.mark.slow
@pytest.mark.container
def test_another_major_is_refused(containers: Any, server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    """Fact 4: hashes are promised within one major; and a newer server's dump may not restore."""
    other = containers.server(15)
    backup = back_up(target, tmp_path)
    error = not_proved(
        server,
        target.with_(scratch_host=other.host, scratch_port=str(other.port), passfile=str(other.passfile)),
        backup,
    )
    assert "newer server (PostgreSQL 18" in error.message


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TimeZone", "America/St_Johns"),
        ("DateStyle", "SQL, DMY"),
        ("IntervalStyle", "sql_standard"),
        ("extra_float_digits", "-5"),
        ("bytea_output", "escape"),
        ("default_transaction_read_only", "on"),
        ("search_path", "nowhere"),
    ],
)
def test_settings_of_role_or_server_change_nothing(
    server: Any, target: Any, filled: str, tmp_path: Path, setting: str, value: str
) -> None:
    """Fact 4: text output, and so the hash, depends on these."""
    backup = back_up(target, tmp_path)
    server.execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(*settings_of(setting, value)))
    try:
        prove(target, backup)
    finally:
        server.execute(sql.SQL("ALTER ROLE {} RESET {}").format(sql.Identifier(RESTORE), sql.Identifier(setting)))


def settings_of(setting: str, value: str) -> tuple[Any, Any, Any]:
    return sql.Identifier(RESTORE), sql.Identifier(setting), sql.Literal(value)


def test_without_superuser_it_proves_what_it_can_and_says_the_rest(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed()",
        database=filled,
    )
    server.execute(f"CREATE ROLE {filled}_admin LOGIN CREATEDB; GRANT {OWNER} TO {filled}_admin")
    passfile = tmp_path / "passfile"
    passfile.write_text(
        Path(server.passfile).read_text(encoding="ascii") + f"*:*:*:{filled}_admin:x\n", encoding="ascii"
    )
    passfile.chmod(0o600)
    server.execute(f"ALTER ROLE {filled}_admin PASSWORD 'x'")
    try:
        backup = back_up(target, tmp_path / "backups")
        proof = prove(target.with_(restore_user=f"{filled}_admin", passfile=str(passfile)), backup)
    finally:
        server.execute(f"DROP OWNED BY {filled}_admin; DROP ROLE {filled}_admin")
    assert "event trigger watch was not recreated: only a superuser may" in proof["reservations"]
    assert any("owners and privileges were not compared" in text for text in proof["reservations"])


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_of_all_publications_only_those_are_left_out_that_a_superuser_makes(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    fill(server, database, 20)
    server.execute(
        f"""
        CREATE PUBLICATION every FOR ALL TABLES;
        COMMENT ON PUBLICATION every IS 'to the warehouse';
        CREATE SCHEMA "a b" AUTHORIZATION {OWNER};
        CREATE PUBLICATION "of a b" FOR TABLES IN SCHEMA "a b", TABLE students;
        COMMENT ON PUBLICATION "of a b" IS 'PUBLICATION - few';
        GRANT CREATE ON DATABASE {database} TO {OWNER};
        SET ROLE {OWNER};
        CREATE TABLE "the EVENT TRIGGER of PUBLICATION few" (n integer);
        CREATE PUBLICATION few FOR TABLE students, visits WHERE (price > 1);
        COMMENT ON PUBLICATION few IS 'to the PUBLICATION every';
        CREATE PUBLICATION "every few" FOR TABLE students;
        RESET ROLE;
        CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed();
        COMMENT ON EVENT TRIGGER watch IS 'of superusers'
        """,
        database=database,
    )
    backup = back_up(target, tmp_path)
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        proof = prove(target.with_(restore_user=MIGRATOR), backup)
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert proof["level"] == 4
    assert [text for text in proof["reservations"] if "only a superuser may" in text] == [
        "event trigger watch was not recreated: only a superuser may",
        'publication "of a b" was not recreated: only a superuser may',
        "publication every was not recreated: only a superuser may",
    ]


def test_a_role_that_leaves_something_out_says_where_the_list_cannot_be_read(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed()",
        database=filled,
    )
    backup = back_up(target, tmp_path)
    contents = Path(backup.path) / "dump" / "toc.dat"
    contents.write_bytes(contents.read_bytes()[:20])
    server.execute(f"ALTER ROLE {MIGRATOR} CREATEDB")
    try:
        error = not_proved(server, target.with_(restore_user=MIGRATOR), recompute(backup, contents))
    finally:
        server.execute(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    assert error.message == f"The table of contents of {backup.path} cannot be read."


def test_a_role_that_may_not_create_databases_is_told_the_right(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = back_up(target, tmp_path)
    assert "CREATEDB" in not_proved(server, target.with_(restore_user=target.user), backup).message


# -- ends -----------------------------------------------------------------------------------------------------------------


def test_asked_to_stop_it_drops_the_scratch_database(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    control = Control(None)

    class Asking:
        def emit(self, text: str, **_more: Any) -> None:
            if text == "comparing the catalog":
                control.request("somebody pressed Ctrl-C")

    with pytest.raises(Interrupted):
        restore.prove(target, backup.path, work=restore.Work(RUN, progress=Asking(), control=control))  # type: ignore[arg-type]
    assert names(server, filled) == [filled]
    assert backup_store.read_backup(backup.path).proof is None


PROVE = """
class Slow:
    def emit(self, text, **more):
        if text == values["at"]:
            print("there", flush=True)
            signal.pause()
restore.prove(target, values["path"], work=restore.Work(values["run"], progress=Slow()))
"""


@pytest.mark.parametrize("at", ["comparing the catalog", "restoring"])
def test_what_a_killed_run_left_is_removed_by_the_next(
    server: Any, target: Any, filled: str, tmp_path: Path, at: str
) -> None:
    server.execute("INSERT INTO visits (student_id) SELECT 1 FROM generate_series(1, 200000)", database=filled)
    backup = back_up(target, tmp_path)
    killed = start_python(PROVE, target, path=backup.path, at=at, run="killed")
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert len(names(server, filled)) == 2
    wait_until_alone(server, filled)
    prove(target, backup)
    assert names(server, filled) == [filled]


def wait_until_alone(server: Any, database: str) -> None:
    """The server notices the end of a killed client's sessions in a moment."""
    deadline = time.monotonic() + 10
    while server.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_unmarked_empty_leftover_goes_and_one_with_data_stays(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """A run may die between CREATE DATABASE and the comment that marks it."""
    server.create_database(f"{filled}_pgops_scratch_000000000001")
    server.create_database(f"{filled}_pgops_scratch_000000000002")
    server.execute(
        "CREATE TABLE data AS SELECT repeat(g::text, 50) AS t FROM generate_series(1, 200000) g",
        database=f"{filled}_pgops_scratch_000000000002",
    )
    prove(target, back_up(target, tmp_path))
    assert names(server, filled) == [filled, f"{filled}_pgops_scratch_000000000002"]


def test_a_running_proof_is_not_disturbed_by_another(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    with restore.scratch_database(target, backup, work=restore.Work("other")) as scratch:
        prove(target, backup)
        assert scratch.database in names(server, filled)


# -- a proof that was there -------------------------------------------------------------------------------------------------


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_what_is_wrong_with_the_scratch_server_takes_no_proof_away(target: Any, filled: str, tmp_path: Path) -> None:
    backup = proved(target, tmp_path)
    elsewhere = target.with_(scratch_host="127.0.0.1", scratch_port=closed_port())
    with pytest.raises(PgopsError) as caught:
        prove(elsewhere, backup)
    assert str(caught.value.hint).endswith(f"The proof of {(backup.proof or {})['proved_at']} stands.")
    assert backup_store.read_backup(backup.path).proof == backup.proof


def test_a_restore_that_somebody_ended_takes_no_proof_away(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = proved(target, tmp_path)
    original = restore._follow

    def follow(client: Any, *given: Any) -> None:
        client._process.send_signal(signal.SIGKILL)
        original(client, *given)

    monkeypatch.setattr(restore, "_follow", follow)
    with pytest.raises(PgopsError, match="was killed by signal 9"):
        prove(target, backup)
    assert backup_store.read_backup(backup.path).proved
    assert names(server, filled) == [filled]


def test_a_backup_that_is_damaged_since_is_not_proved_any_longer(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    backup = proved(target, tmp_path)
    with largest_file(backup).open("ab") as stream:
        stream.write(b"x")
    assert "is damaged" in not_proved(server, target, backup).message


def test_a_proof_that_cannot_be_written_leaves_a_backup_that_can_be_proved(
    target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full while it is written; and killed before the rename, which leaves the new file behind."""
    backup = back_up(target, tmp_path)
    proof = Path(backup.path, "proof.json")

    def full(path: str, data: bytes) -> str:
        Path(path).write_bytes(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(backup_store, "write_private", full)
        with pytest.raises(
            PgopsError,
            match=f"{backup.path} was restored and is whole, and its proof cannot be written there: No space",
        ):
            prove(target, backup)
    assert [path.name for path in proof.parent.glob("proof*")] == []
    proof.with_name("proof.json.new").write_text("{")
    prove(target, backup)
    assert [path.name for path in proof.parent.glob("proof*")] == ["proof.json"]
    assert backup_store.read_backup(backup.path).proved


def test_a_virtual_column_that_fails_for_a_row_stops_no_backup(
    server: Any, target: Any, database: str, tmp_path: Path
) -> None:
    server.execute(
        "CREATE TABLE v (id int PRIMARY KEY, x int, g int GENERATED ALWAYS AS (1 / x) VIRTUAL); INSERT INTO v VALUES (1, 0)",
        database=database,
    )
    assert prove(target, back_up(target, tmp_path))["level"] == 4
