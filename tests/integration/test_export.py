# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An export: named by database and time, whole or not there, with its log and its sha256, and never taken for a backup."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, export
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import PATIENT, RUN, fill
from support.engine import When
from support.server import BACKUP
from support.small_disk import close, open_again

MOMENT = datetime(2026, 11, 22, 20, 15, 0, tzinfo=UTC)


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 100)
    server.execute("SELECT lo_from_bytea(0, 'a scan')", database=database)
    server.execute(
        f"DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP "
        f"EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {BACKUP}', o); END LOOP; END $$",
        database=database,
    )
    return database


def made(target: Any, folder: Path, form: str = "custom", moment: datetime = MOMENT, **more: Any) -> dict[str, Any]:
    return export.create_export(target, export.Export(str(folder), RUN, form, **more), now=lambda: moment)


def refused(target: Any, folder: Path, form: str = "custom", **more: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        made(target, folder, form, **more)
    return caught.value


def left(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
@pytest.mark.parametrize(("form", "suffix"), [("custom", ".dump"), ("plain", ".sql"), ("directory", ".dir")])
def test_each_format_is_named_private_whole_and_has_its_sums(
    target: Any, filled: str, tmp_path: Path, form: str, suffix: str
) -> None:
    # Two processes of pg_dump write into each other's lines, and a line that is torn is left out of the log.
    found = made(target, tmp_path, form, jobs=1)
    path = Path(found["path"])
    assert path == tmp_path / filled / f"{filled}_20261122_201500{suffix}"
    assert Path(found["log"]) == tmp_path / filled / f"{filled}_20261122_201500.log"
    assert (
        subprocess.run(
            ["sha256sum", "--check", "--quiet", f"{path.name}.sha256"], cwd=path.parent, check=False
        ).returncode
        == 0
    )
    for entry in tmp_path.rglob("*"):
        assert entry.stat().st_mode & 0o777 == (0o700 if entry.is_dir() else 0o600), entry
    log = Path(found["log"]).read_text(encoding="utf-8")
    assert "public.students" in log
    assert PATIENT not in log
    if form == "plain":
        text = path.read_text(encoding="utf-8")
        assert "lo_from_bytea" in text or "lo_open" in text
        assert PATIENT in text
    assert found["bytes"] > 1000
    assert not [name for name in left(tmp_path) if name.endswith(".partial")]


def test_two_plain_exports_of_the_same_data_differ_in_their_times_alone(
    target: Any, filled: str, tmp_path: Path
) -> None:
    first, second = (made(target, tmp_path, "plain", MOMENT.replace(minute=minute)) for minute in (1, 2))
    without_times = ["diff", "--ignore-matching-lines=^-- Started on", "--ignore-matching-lines=^-- Completed on"]
    done = subprocess.run([*without_times, first["path"], second["path"]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_plain_sql_is_packed_by_gzip_alone(target: Any, filled: str, tmp_path: Path) -> None:
    found = made(target, tmp_path, "plain", compression="1")
    assert found["path"].endswith(".sql.gz")
    assert Path(found["path"]).read_bytes()[:2] == b"\x1f\x8b"
    assert "gzip alone" in refused(target, tmp_path, "plain", compression="zstd").message


def test_a_format_that_there_is_not_is_refused_before_anything(target: Any, filled: str, tmp_path: Path) -> None:
    error = refused(target, tmp_path / "exports", "tar")
    assert error.message == "export_format is tar; it is one of custom, plain, directory."
    assert not (tmp_path / "exports").exists()


def test_an_export_is_no_backup_and_is_not_found_among_them(target: Any, filled: str, tmp_path: Path) -> None:
    made(target, tmp_path, "directory")
    assert backup_store.backups_of(str(tmp_path), filled) == []


def test_looking_writes_nothing(target: Any, filled: str, tmp_path: Path) -> None:
    told = export.preview(target, export.Export(str(tmp_path / "e"), RUN, "plain"))
    assert told["would_write"] == str(tmp_path / "e" / filled)
    assert list(tmp_path.iterdir()) == []


def test_a_role_that_may_not_read_all_is_refused_before_anything_is_written(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute("SELECT lo_from_bytea(0, 'another one')", database=filled)
    error = refused(target, tmp_path)
    assert "large objects" in error.message
    assert [name for name in left(tmp_path) if not name.endswith(".log")] == []


def test_a_full_disk_leaves_nothing_but_the_log_and_earlier_exports(
    target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(target, tmp_path, moment=MOMENT.replace(hour=1))
    before = left(tmp_path)
    write_private = backup_store.write_private

    def full(path: str, data: bytes) -> str:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(backup_store, "write_private", full)
    error = refused(target, tmp_path)
    assert "is full" in error.message
    monkeypatch.setattr(backup_store, "write_private", write_private)
    assert left(tmp_path) == sorted([*before, str(Path(error.extra["log"]).relative_to(tmp_path))])
    assert Path(first["path"]).exists()


@pytest.mark.parametrize("form", ["plain", "directory"])
def test_a_disk_that_takes_no_writes_any_more_is_told(target: Any, filled: str, small_disk: Path, form: str) -> None:
    try:
        error = refused(target, small_disk, form, progress=When("reading the export back", lambda: close(small_disk)))
    finally:
        open_again(small_disk)
    assert error.message.startswith(f"No export of {filled}: {small_disk}/{filled}/")
    assert "Read-only file system; the next export removes what is half-written, earlier" in error.message
    assert backup_store.PARTIAL in " ".join(path.name for path in (small_disk / filled).iterdir())
    made(target, small_disk, form, MOMENT + timedelta(seconds=1))
    assert backup_store.PARTIAL not in " ".join(path.name for path in (small_disk / filled).iterdir())


@pytest.mark.few(1)
@pytest.mark.parametrize("form", ["plain", "custom", "directory"])
def test_a_disk_that_fills_while_pg_dump_writes_leaves_nothing_but_the_log(
    server: Any, target: Any, filled: str, small_disk: Path, form: str
) -> None:
    server.execute(
        # What does not grow smaller by any compression.
        "INSERT INTO students (name) SELECT md5(random()::text) || md5(random()::text) FROM generate_series(1, 120000)",
        database=filled,
    )
    error = refused(target, small_disk, form)
    assert "full" in error.message or "No space left" in error.message
    assert left(small_disk) == [f"{filled}/{filled}_20261122_201500.log"]


def test_what_pg_dump_cannot_finish_gets_no_name_and_its_log_stays(
    server: Any, target: Any, filled: str, tmp_path: Path
) -> None:
    server.execute("ALTER TABLE students ADD poison int GENERATED ALWAYS AS (1) STORED", database=filled)
    ended = threading.Event()

    def end_it() -> None:
        while not ended.wait(0.005):
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%export' "
                f"AND query LIKE 'COPY%' AND usename = '{BACKUP}'"
            )

    server.execute(
        "INSERT INTO students (name) SELECT repeat(md5(g::text), 30) FROM generate_series(1, 30000) g", database=filled
    )
    thread = threading.Thread(target=end_it)
    thread.start()
    try:
        error = refused(target, tmp_path)
    finally:
        ended.set()
        thread.join()
    assert left(tmp_path) == [str(Path(error.extra["log"]).relative_to(tmp_path))]
    assert PATIENT not in Path(error.extra["log"]).read_text(encoding="utf-8")


def test_what_a_killed_run_has_left_is_removed_and_a_second_run_is_refused(
    target: Any, filled: str, tmp_path: Path
) -> None:
    folder = tmp_path / filled
    folder.mkdir(mode=0o700)
    (folder / "x.dump.partial").write_bytes(b"half")
    (folder / "x.dump.sha256").write_text("0" * 64 + "  x.dump\n", encoding="ascii")
    (folder / "x.log").write_text("as far as it came\n", encoding="ascii")
    with backup_store.locked(str(tmp_path), filled, "export elsewhere"):
        assert "locked" in refused(target, tmp_path).message
    found = made(target, tmp_path)
    name = os.path.basename(found["path"])
    assert sorted(os.listdir(folder)) == sorted(
        [".lock", name, f"{name}.sha256", name.replace(".dump", ".log"), "x.log"]
    )


def test_one_second_has_one_export(target: Any, filled: str, tmp_path: Path) -> None:
    found = made(target, tmp_path)
    before = Path(found["path"]).read_bytes()
    assert "already" in refused(target, tmp_path).message
    assert Path(found["path"]).read_bytes() == before
    assert Path(found["log"]).exists()


def test_the_playbook_exports_and_says_that_it_is_no_backup(playbook: Any, filled: str) -> None:
    folder = playbook.folder / "exports"
    shown = playbook("export.yml", "--check", export_directory=str(folder), export_format="plain")
    assert shown.rc == 0, shown.output
    assert not folder.exists()
    done = playbook("export.yml", export_directory=str(folder), export_format="plain")
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][filled]["export"]
    assert re.fullmatch(rf"{filled}_\d{{8}}_\d{{6}}\.sql", os.path.basename(found["path"]))
    assert f"exported to {found['path']}" in done.stdout
    assert "an export is no backup" in done.stdout
    assert PATIENT not in done.output
