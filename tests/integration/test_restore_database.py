# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""restore.yml: any dump into a new database, refused before anything is written where it is not whole or not what it seems."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    catalog,
    connection,
    database_marks,
    dump_source,
    export,
    restore_database,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_plan import Asked
from psycopg2 import sql
from support.backups import PATIENT, RUN, back_up, fill, largest_file, names, prove, start_python
from support.engine import Told, When
from support.server import APP, BACKUP, OWNER, RESTORE, SUPERUSER

MOMENT = datetime(2026, 11, 22, 20, 15, 0, tzinfo=UTC)
FORMS = ("backup", "custom", "directory", "plain", "gzip")


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 100)
    server.execute(
        f"SELECT lo_from_bytea(77, 'a scan'); GRANT SELECT ON LARGE OBJECT 77 TO {BACKUP};"
        f"ALTER TABLE visits ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON visits TO {APP} USING (price > 1)",
        database=database,
    )
    return database


def dumped(target: Any, folder: Path, form: str) -> Path:
    """A dump of this kind; its path."""
    if form == "backup":
        return Path(back_up(target, folder / "backups").path)
    asked = export.Export(
        str(folder / "exports"), RUN, "plain" if form == "gzip" else form, "1" if form == "gzip" else ""
    )
    return Path(export.create_export(target, asked, now=lambda: MOMENT)["path"])


def restored(target: Any, path: Path, work: Work | None = None, **asked: Any) -> dict[str, Any]:
    return restore_database.run(target, Asked(str(path), **asked), work or Work(RUN), now=lambda: MOMENT)


def refused(server: Any, target: Any, path: Path, work: Work | None = None, **asked: Any) -> PgopsError:
    """The error; nothing is left on the server but what was there before."""
    before = server.execute("SELECT datname FROM pg_database ORDER BY 1")
    with pytest.raises(PgopsError) as caught:
        restored(target, path, work, **asked)
    assert server.execute("SELECT datname FROM pg_database ORDER BY 1") == before
    assert PATIENT not in json.dumps([caught.value.message, caught.value.extra, caught.value.hint], default=str)
    return caught.value


def forget_sums(path: Path) -> None:
    """As if the dump came from somebody else."""
    Path(f"{path}{dump_source.SHA256}").unlink(missing_ok=True)


# -- into a new database -------------------------------------------------------------------------------------------------


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
@pytest.mark.parametrize("form", FORMS)
def test_each_kind_of_dump_comes_back_whole_in_a_new_database(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    with closing(server.connect(filled)) as conn:
        before = catalog.inventory(conn, exclude_schemas=())
    found = restored(target, dumped(target, tmp_path, form))
    name = f"{filled}_restored_20261122_201500"
    assert found["into"] == name
    assert names(server, filled) == [filled, name]
    with closing(server.connect(name)) as conn:
        assert catalog.compare(before, catalog.inventory(conn, exclude_schemas=()), reparse=conn, ignore=()) == []
    assert server.execute("SELECT count(*), lo_get(77) FROM students", database=name)[0][0] == 100
    assert (found["owners"], found["tables"], found["rows"]) == (True, 3, 202)
    assert found["key_tables"] == {"users": None, "public.students": 100}
    assert {entry["table"] for entry in found["sizes"]} == {"public.students", "public.visits", 'public."Odd Name; --"'}
    assert all(entry["bytes"] > 0 and entry["rows"] is not None for entry in found["sizes"])
    assert server.execute(
        "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND reltuples < 0 AND relnamespace = 'public'::regnamespace",
        database=name,
    ) == [(0,)]
    # It is the user's from now on: no run of ours takes it for a leftover.
    with closing(server.connect()) as conn:
        assert database_marks.database(conn, name).mark is None


def test_it_is_closed_to_whom_the_live_one_is_closed(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    server.execute(
        f"REVOKE ALL ON DATABASE {filled} FROM PUBLIC; GRANT CONNECT ON DATABASE {filled} TO {APP}, {BACKUP};"
        f"ALTER DATABASE {filled} SET work_mem = '7MB'"
    )
    for number, form in enumerate(("backup", "plain")):
        name = restored(target, dumped(target, tmp_path, form), into=f"{filled}_{number}")["into"]
        with closing(server.connect(filled)) as live, closing(server.connect(name)) as conn:
            assert catalog.database_properties(conn) == catalog.database_properties(live)


def test_a_database_that_exists_is_not_touched(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    path = dumped(target, tmp_path, "custom")
    error = refused(server, target, path, into=filled)
    assert "already" in error.message
    assert "restore_replace" in str(error.hint)
    assert "bytes" in refused(server, target, path, into="x" * 64).message


def test_two_restores_of_one_second_have_two_databases(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    path = dumped(target, tmp_path, "custom")
    first, second = (restored(target, path)["into"] for _ in range(2))
    assert (first, second) == (f"{filled}_restored_20261122_201500", f"{filled}_restored_20261122_201500_2")
    assert names(server, filled) == [filled, first, second]


def test_a_role_that_may_make_no_database_is_told_and_nothing_is_left(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    for form in ("custom", "backup"):
        error = refused(server, target.with_(restore_user=BACKUP), dumped(target, tmp_path, form))
        assert "may not create databases" in error.message
        assert error.extra["remains"] == "nothing was made"


def test_looking_reads_the_dump_and_writes_nothing(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    path = dumped(target, tmp_path, "custom")
    told = restore_database.preview(target, Asked(str(path)), Work(RUN), now=lambda: MOMENT)
    assert (told["kind"], told["tables"], told["rows"]) == ("custom", 3, 202)
    assert names(server, filled) == [filled]
    forget_sums(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PgopsError, match="cut off"):
        restore_database.preview(target, Asked(str(path)), Work(RUN), now=lambda: MOMENT)


def test_the_latest_entries_of_the_ledger_are_told(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
    from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect

    with closing(connect(target, application_name="pgops tests")) as conn:
        ledger.ensure(conn)
        for number in range(12):
            server.execute(
                sql.SQL(
                    "INSERT INTO pgops.migration (version, name, title, checksum, rendered_checksum, files, rendered, state, started_at, applied_by) "
                    "VALUES ({}, 'n', 't', 'c', 'c', '{{}}', '{{}}', 'applied', timestamptz '2026-01-01' + {} * interval '1 day', 'me')"
                ).format(sql.Literal(f"2026010100{number:04}"), sql.Literal(number)),
                database=filled,
            )
    found = restored(target, dumped(target, tmp_path, "plain"))["ledger"]
    assert [entry["version"] for entry in found] == [f"2026010100{number:04}" for number in range(11, 1, -1)]


# -- whole or not --------------------------------------------------------------------------------------------------------


@pytest.mark.few(4)
@pytest.mark.parametrize("form", ["custom", "plain", "gzip"])
@pytest.mark.parametrize("share", [0.95, 0.6])
def test_a_file_that_is_cut_off_is_refused_by_name(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str, share: float
) -> None:
    path = dumped(target, tmp_path, form)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert path.name in refused(server, target, path).message  # by its sha256
    forget_sums(path)
    error = refused(server, target, path)
    assert str(path) in error.message
    assert "cut off" in error.message
    if form == "custom" and share == 0.95:  # fact 1
        assert (
            subprocess.run([f"{server.bindir}/pg_restore", "--list", path], capture_output=True, check=False).returncode
            == 0
        )


@pytest.mark.few(2)
@pytest.mark.parametrize("form", ["backup", "directory"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_folder_with_a_data_file_cut_off_or_gone_is_refused_by_name(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str, how: str
) -> None:
    path = dumped(target, tmp_path, form)
    file = max(path.rglob("*.dat*"), key=lambda entry: entry.stat().st_size if entry.name != "toc.dat" else 0)
    if how == "cut":
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.95)])
    else:
        file.unlink()
    assert file.name in refused(server, target, path).message
    forget_sums(path)
    assert str(path) in refused(server, target, path).message


def test_what_is_no_dump_is_refused_by_what_it_is(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    for name, data, told in (
        ("empty", b"", "nothing that pg_dump"),
        ("text", b"SELECT 1;\n", "nothing that pg_dump"),
        ("a.tar", b"x" * 257 + b"ustar" + b"y" * 300, "tar archive"),
        ("a.dump.gz", gzip.compress(b"PGDMP..."), "inside of gzip"),
        ("x.dump.partial", b"PGDMP", "never finished"),
        ("all.sql", b"--\n-- PostgreSQL database cluster dump\n--\n", "whole cluster"),
        ("half.gz", gzip.compress(b"-- PostgreSQL database dump\n")[:-4], "cut off"),
    ):
        (tmp_path / name).write_bytes(data)
        assert told in refused(server, target, tmp_path / name).message, name
    os.mkfifo(tmp_path / "pipe")
    assert "no plain file" in refused(server, target, tmp_path / "pipe").message
    (tmp_path / "folder").mkdir()
    assert "no backup and no dump" in refused(server, target, tmp_path / "folder").message
    assert "cannot be read" in refused(server, target, tmp_path / "nowhere").message


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "line",
    [
        r"\! touch {proof}",
        r"\copy students to {proof}",
        "COPY public.students TO PROGRAM 'touch {proof}';",
        r"SELECT 'x' \g {proof}",
    ],
)
def test_a_file_that_tells_psql_more_than_to_restore_is_refused_before_anything_runs(
    server: Any, target: Any, filled: str, tmp_path: Path, line: str
) -> None:
    path = dumped(target, tmp_path, "plain")
    forget_sums(path)
    proof = tmp_path / "proof"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("CREATE TYPE", line.format(proof=proof) + "\nCREATE TYPE", 1), encoding="utf-8")
    error = refused(server, target, path)
    assert "nothing of it was run" in error.message
    assert re.search(r"line \d+", error.message)
    assert not proof.exists()


@pytest.mark.majors(15, 18, slow=(15,))
def test_psql_itself_obeys_no_command_either(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the reader ever be wrong about where a quote ends."""
    path = dumped(target, tmp_path, "plain")
    forget_sums(path)
    proof = tmp_path / "proof"
    text = path.read_text(encoding="utf-8")
    read = dump_source.examine

    def examine(*arguments: Any) -> Any:
        found = read(*arguments)
        path.write_text(text.replace("CREATE TYPE", f"\\! touch {proof}\nCREATE TYPE", 1), encoding="utf-8")
        return found

    monkeypatch.setattr(dump_source, "examine", examine)
    error = refused(server, target, path)
    assert "restricted" in error.message or "restricted" in json.dumps(error.extra)
    assert not proof.exists()


def test_a_dump_of_a_newer_server_or_client_is_refused_by_name(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "plain")
    forget_sums(path)
    text = path.read_text(encoding="utf-8")
    for old in ("-- Dumped from database version 18", "-- Dumped by pg_dump version 18"):
        path.write_text(text.replace(old, old[:-2] + "99"), encoding="utf-8")
        assert "comes from PostgreSQL 99 and this server is 18" in refused(server, target, path).message
    archive = dumped(target, tmp_path / "other", "custom")
    forget_sums(archive)
    data = bytearray(archive.read_bytes())
    data[6] = 99  # the archive's minor version
    archive.write_bytes(data)
    assert "newer pg_dump" in refused(server, target, archive).message
    backup = dumped(target, tmp_path, "backup")
    manifest = json.loads((backup / "manifest.json").read_text(encoding="utf-8"))
    (backup / "manifest.json").write_text(json.dumps({**manifest, "server_version": [99, 0]}), encoding="utf-8")
    assert "comes from PostgreSQL 99" in refused(server, target, backup).message


def test_one_flipped_bit_of_a_backup_is_found_by_its_content(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    """Fact 2, with sha256 recomputed."""
    from support.backups import recompute

    backup = back_up(target, tmp_path, compression="0")
    file = next(file for file in (Path(backup.path) / "dump").glob("*.dat") if PATIENT.encode() in file.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.find(PATIENT.encode()) + 3] ^= 1
    file.write_bytes(data)
    error = refused(server, target, Path(recompute(backup, file).path))
    assert "public.students: hash" in error.message
    assert error.extra["step"] == "comparing"
    assert "was dropped" in error.extra["remains"]


def test_rows_that_are_not_those_of_the_dump_are_found(
    server: Any, target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dumped(target, tmp_path, "custom")
    fill_it = restore_database._Restore._fill

    def fill_and_lose(self: Any) -> float:
        seconds = fill_it(self)
        server.execute("DELETE FROM visits WHERE id = 1", database=self._plan.name)
        return seconds

    monkeypatch.setattr(restore_database._Restore, "_fill", fill_and_lose)
    assert "public.visits: rows expected 100, found 99" in refused(server, target, path).message


# -- what cannot be recreated --------------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("form", ["custom", "plain", "backup"])
def test_roles_that_are_missing_are_named_before_the_start_and_the_rest_comes_back(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    role = f"{filled}_gone"
    server.execute(f"CREATE ROLE {role}; GRANT {role} TO {OWNER}")
    server.execute(f"ALTER TABLE students OWNER TO {role}; GRANT SELECT ON visits TO {role}", database=filled)
    path = dumped(target, tmp_path, form)
    server.execute(f"REASSIGN OWNED BY {role} TO {OWNER}; DROP OWNED BY {role}", database=filled)
    server.execute(f"DROP ROLE {role}")
    progress = Told()
    found = restored(target, path, Work(RUN, progress=progress))
    assert not found["owners"]
    assert any(role in text for text in found["reservations"])
    order = [text for text in progress.texts if role in text or text == "making the new database"]
    assert role in order[0]
    assert server.execute(
        "SELECT count(*), min(tableowner) FROM students, pg_tables WHERE tablename = 'students'", database=found["into"]
    ) == [(100, RESTORE)]
    assert server.execute(f"SELECT has_database_privilege('{APP}', '{found['into']}', 'CONNECT')") == [(False,)]
    assert "cannot take the place" in refused(server, target, path, replace=True, confirm=filled).message


def test_a_policy_for_a_role_that_is_missing_is_refused_before_the_start(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    role = f"{filled}_gone"
    server.execute(f"CREATE ROLE {role}")
    server.execute(f"CREATE POLICY theirs ON visits TO {role} USING (true)", database=filled)
    paths = [dumped(target, tmp_path / form, form) for form in ("plain", "custom", "backup")]
    server.execute(f"DROP OWNED BY {role}", database=filled)
    server.execute(f"DROP ROLE {role}")
    for path in paths:
        error = refused(server, target, path)
        assert role in error.message
        assert "CREATE ROLE" in str(error.hint)


# -- half-way ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["custom", "plain"])
def test_a_restore_that_fails_half_way_names_file_step_and_what_remains(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    server.execute(
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1 / ($1 - 1)'; CREATE TABLE t (a int)",
        database=filled,
    )
    server.execute("CREATE INDEX poison ON t (f(a)); INSERT INTO t VALUES (2)", database=filled)
    server.execute(
        "ALTER TABLE t DISABLE TRIGGER ALL; CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1 / ($1 - 2)'",
        database=filled,
    )
    path = dumped(target, tmp_path, form)
    error = refused(server, target, path)
    assert str(path) in error.message
    assert "at the step 'restoring'" in error.message
    assert f"{filled}_restored_20261122_201500 was dropped" in error.message
    assert f"{filled} was not touched" in error.message
    assert (error.extra["file"], error.extra["step"]) == (str(path), "restoring")


def test_a_row_that_the_server_refuses_is_told_without_its_values(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "plain")
    forget_sums(path)
    text = path.read_text(encoding="utf-8")
    assert f"\n1\t{PATIENT}1\t" in text
    path.write_text(text.replace(f"\n1\t{PATIENT}1\t", f"\n{PATIENT}\t{PATIENT}1\t", 1), encoding="utf-8")
    error = refused(server, target, path)
    assert "invalid input syntax for type bigint" in error.message


def test_a_full_server_is_told_and_nothing_is_left(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    """temp_file_limit stands in for the disk: it fails a sort of an index build in the middle of the restore."""
    server.execute(
        "CREATE INDEX notes ON students (note); INSERT INTO students (name, note) SELECT 'x', (SELECT string_agg(md5(g || ' ' || h), '') FROM generate_series(1, 20) h) FROM generate_series(1, 4000) g",
        database=filled,
    )
    path = dumped(target, tmp_path, "plain")
    server.execute(f"ALTER ROLE {RESTORE} SET temp_file_limit = '64kB'")
    server.execute(f"ALTER ROLE {RESTORE} SET max_parallel_maintenance_workers = 0")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(restore_database.restore, "_RESTORE_OPTIONS", {"maintenance_work_mem": "1MB"})
            error = refused(server, target, path)
    finally:
        server.execute(f"ALTER ROLE {RESTORE} RESET ALL")
    assert error.extra["step"] == "restoring"
    assert "temporary file size exceeds" in error.message


@pytest.mark.few(2)
@pytest.mark.parametrize("form", ["custom", "plain", "backup"])
def test_a_run_that_is_asked_to_end_drops_what_it_made(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    path = dumped(target, tmp_path, form)
    control = Control(None)
    work = Work(RUN, progress=When("restoring", lambda: control.request("somebody asked it to stop")), control=control)
    error = refused(server, target, path, work)
    assert isinstance(error, Interrupted)
    assert "was dropped" in error.message


def test_what_a_killed_run_has_left_goes_with_the_next(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    path = dumped(target, tmp_path, "custom")
    killed = start_python(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import restore_database, restored_state
        from ansible_collections.whitecross.pgops.plugins.module_utils.restore_plan import Asked
        restored_state.analyze = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        restore_database.run(target, Asked(values["path"], into=values["into"]), restore.Work("20260101T000000Z-aaaaaa"))
        """,
        target,
        path=str(path),
        into=f"{filled}_half",
    )
    assert killed.wait(timeout=120) == -9, killed.communicate()
    assert names(server, filled) == [filled, f"{filled}_half"]
    restored(target, path)
    assert names(server, filled) == [filled, f"{filled}_restored_20261122_201500"]


# -- in the place of the live one ----------------------------------------------------------------------------------------


@pytest.mark.few(2)
@pytest.mark.parametrize("form", ["custom", "plain", "backup"])
def test_a_replaced_database_is_kept_and_the_restored_one_has_its_owner_privileges_and_settings(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    server.execute(
        f"REVOKE ALL ON DATABASE {filled} FROM PUBLIC; GRANT CONNECT ON DATABASE {filled} TO {BACKUP}; ALTER DATABASE {filled} SET work_mem = '7MB'; COMMENT ON DATABASE {filled} IS 'mine'"
    )
    path = dumped(target, tmp_path, form)
    server.execute("DELETE FROM visits; DROP VIEW expensive", database=filled)
    with closing(server.connect(filled)) as conn:
        properties = catalog.database_properties(conn)
    assert "not confirmed" in refused(server, target, path, replace=True).message
    assert "not confirmed" in refused(server, target, path, replace=True, confirm="another").message
    assert "two ways" in refused(server, target, path, replace=True, confirm=filled, into="x").message
    found = restored(target, path, replace=True, confirm=filled)
    assert server.execute("SELECT count(*) FROM visits", database=filled) == [(100,)]
    with closing(server.connect(filled)) as conn:
        assert catalog.database_properties(conn) == properties
    aside = found["swap"]["aside"]
    assert sorted(names(server, filled)) == sorted([filled, aside])
    assert server.execute(
        sql.SQL("SELECT datallowconn FROM pg_database WHERE datname = {}").format(sql.Literal(aside))
    ) == [(False,)]


@pytest.mark.parametrize("form", ["plain", "custom"])
def test_rows_in_insert_statements_are_not_told_as_compared_and_take_nobodys_place(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    server.execute(
        "CREATE FUNCTION two(n int) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO visits (student_id) VALUES (n); "
        "INSERT INTO visits (student_id) VALUES (n); END",
        database=filled,
    )
    told = " ".join(
        restore_database.preview(target, Asked(str(dumped(target, tmp_path, form))), Work(RUN))["reservations"]
    )
    assert "their numbers are" in told
    path = tmp_path / "inserts"
    arguments = [f"--format={form}", "--inserts", "--no-large-objects", f"--file={path}"]
    with closing(server.connect(filled)) as conn:
        tool = connection.client_tool(target, conn, "pg_dump")
    client = ClientProcess(tool, arguments, target.with_(user=SUPERUSER), application_name="test")
    while not client.wait(0.1):
        pass
    client.result("The dump failed", hints=lambda _text: None)
    error = refused(server, target, path, replace=True, confirm=filled)
    assert "nothing of its rows could be compared" in error.message
    assert "--inserts" in str(error.hint)
    found = restored(target, path)
    told = " ".join(found["reservations"])
    assert "nothing of its rows could be compared" in told
    assert "their numbers are" not in told
    assert server.execute("SELECT count(*) FROM students", database=found["into"]) == [(100,)]


def test_a_database_that_is_not_there_cannot_be_replaced_but_made_anew(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "custom")
    server.execute(f"DROP DATABASE {filled}")
    assert "no database" in refused(server, target, path, replace=True, confirm=filled).message
    found = restored(target, path, into=filled)
    assert server.execute("SELECT count(*) FROM students", database=filled) == [(100,)]
    assert any("locale" in text for text in found["reservations"])


def test_a_backup_of_another_database_takes_nobodys_place(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "backup")
    other = f"{filled}_other"
    server.create_database(other)
    error = refused(server, target.with_(database=other), path, replace=True, confirm=other)
    assert f"is a backup of {filled}" in error.message


def test_a_name_that_is_too_long_or_another_run_restores_into_is_refused(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "custom")
    error = refused(server, target, path, into="é" * 32)
    assert f"restore_into={'é' * 32} has 64 bytes; a name has at most 63." in error.message
    with closing(connection.connect(target.maintenance(), application_name="test")) as conn:
        assert database_marks.try_lock(conn, f"restore {filled}_copy")
        assert (
            f"Another run restores into {filled}_copy" in refused(server, target, path, into=f"{filled}_copy").message
        )


# -- masked ----------------------------------------------------------------------------------------------------------------------

MASKED = {"public.students": {"name": "text", "note": "empty"}, "public.visits": "empty"}


@pytest.mark.parametrize("form", ["backup", "plain"])
def test_what_is_masked_is_masked_before_anybody_may_connect(
    server: Any, target: Any, filled: str, tmp_path: Path, form: str
) -> None:
    path, copy = dumped(target, tmp_path, form), f"{filled}_2"
    limit = sql.SQL("SELECT datconnlimit FROM pg_database WHERE datname = {}").format(sql.Literal(copy))
    limits: list[int] = []
    told = When("masking public.students", lambda: limits.append(server.execute(limit)[0][0]))
    found = restored(target, path, Work(RUN, progress=told), into=copy, masking=MASKED)
    assert (found["masked"]["columns"], found["masked"]["tables"], limits) == (2, 2, [0])
    assert found["key_tables"]["public.students"] == 100
    assert next(entry for entry in found["sizes"] if entry["table"] == "public.visits")["rows"] == 0
    assert server.execute(limit) == [(-1,)]
    query = f"SELECT count(*) FROM students WHERE name LIKE '%{PATIENT}%' OR note IS NOT NULL"
    assert server.execute(query, database=copy) == [(0,)]
    assert server.execute(query, database=filled) == [(100,)]
    server.execute(f'DROP DATABASE "{copy}"')


def test_a_copy_that_cannot_be_masked_is_not_there_afterwards(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = dumped(target, tmp_path, "backup")
    plain = target.with_(restore_user=BACKUP)
    assert "cannot mask a copy" in refused(server, plain, path, into=f"{filled}_2", masking=MASKED).message
    with pytest.raises(PgopsError, match="cannot mask a copy"):
        restore_database.preview(plain, Asked(str(path), masking=MASKED), Work(RUN))
    left = {"public.students": {"nobody": "text"}}
    assert "no column of it" in refused(server, target, path, into=f"{filled}_2", masking=left).message
    both = refused(server, target, path, replace=True, confirm=filled, masking=MASKED)
    assert "restore_mask goes with a new database" in both.message


# -- as it is typed ------------------------------------------------------------------------------------------------------


def test_the_playbook_restores_beside_and_in_place(
    playbook: Any, server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    path = str(dumped(target, tmp_path, "plain"))
    unnamed = playbook("restore.yml")
    assert unnamed.rc == 2
    assert "restore_from=PATH" in unnamed.output
    shown = playbook("restore.yml", "--check", restore_from=path)
    assert shown.rc == 0, shown.output
    assert "is whole and would be restored into" in shown.stdout
    assert names(server, filled) == [filled]
    unread = playbook("restore.yml", restore_from=path, restore_mask=True, pgops_sql=str(tmp_path))
    assert unread.rc == 2
    assert "masking.yml, which cannot be read" in unread.output
    (tmp_path / "masking.yml").write_text("public.students: {name: text}\n", encoding="utf-8")
    masked = {"restore_mask": True, "pgops_sql": str(tmp_path), "pgops_restore_user": SUPERUSER}
    hidden = playbook("restore.yml", restore_from=path, restore_into=f"{filled}_masked", **masked)
    assert hidden.rc == 0, hidden.output
    assert "masked 1 columns of 1 tables, 100 rows" in hidden.stdout
    done = playbook("restore.yml", restore_from=path, restore_into=f"{filled}_copy")
    assert done.rc == 0, done.output
    assert "public.students: 100 rows" in done.stdout
    assert "users: there is no such table" in done.stdout
    assert done.json["hosts"]["local-1"][filled]["restore_database"]["into"] == f"{filled}_copy"
    placed = playbook("restore.yml", restore_from=path, restore_replace=True, restore_confirm=filled)
    assert placed.rc == 0, placed.output
    assert "to go back: ansible-playbook rollback.yml" in placed.stdout
    assert PATIENT not in done.output + placed.output


def test_an_old_backup_proved_or_not_is_restored(server: Any, target: Any, filled: str, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    prove(target, backup)
    assert restored(target, Path(backup.path))["kind"] == "backup"
    copy = tmp_path / "copy"
    shutil.copytree(backup.path, copy)
    (copy / "manifest.json").write_bytes((copy / "manifest.json").read_bytes().replace(b'"format"', b' "format"'))
    assert "altered" in refused(server, target, copy, into=f"{filled}_2").message
    file = largest_file(backup)
    os.truncate(file, file.stat().st_size - 5)
    assert file.name in refused(server, target, Path(backup.path), into=f"{filled}_2").message
