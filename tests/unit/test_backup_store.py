# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder that is no whole backup of ours is refused in one sentence, and none is ever written over another."""

from __future__ import annotations

import gzip
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import small

MOMENT = datetime(2026, 1, 14, 12, 0, tzinfo=UTC)


@pytest.fixture
def backup(tmp_path: Path) -> backup_store.Backup:
    return backup_store.read_backup(str(small(tmp_path, "white_cross", MOMENT)))


def test_a_folder_that_cannot_be_made_or_written_is_refused(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PgopsError, match=f"The backup folder {tmp_path}/file/a/b cannot be made: File exists") as made:
        backup_store.make_private_folder(str(tmp_path / "file" / "a" / "b"))
    assert "backup_directory" in str(made.value.hint)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PgopsError, match=f"The backup folder {small_disk} cannot be written by this user") as written:
        backup_store.make_private_folder(str(small_disk))
    assert "backup_directory" in str(written.value.hint)


def test_what_is_no_published_backup_is_refused(tmp_path: Path, backup: backup_store.Backup) -> None:
    for path, said in (
        (tmp_path / "none", "There is no backup .*/none on this host"),
        (tmp_path / "half.partial", "half.partial is a backup that was never finished"),
        (tmp_path / "empty", "The manifest .*/empty/manifest.json cannot be read: No such file"),
    ):
        if path.name != "none":
            path.mkdir()
        with pytest.raises(PgopsError, match=said):
            backup_store.read_backup(str(path))


WHOLE = gzip.compress(b'{"table public.a": {}}')


@pytest.mark.parametrize(
    "contents",
    [None, b"", b"no gzip", WHOLE[:-9], WHOLE[:10] + b"\xff" + WHOLE[11:], gzip.compress(b"{"), gzip.compress(b"[1]")],
    ids=["gone", "empty", "no gzip", "cut off", "flipped", "no JSON", "no object"],
)
def test_a_catalog_that_cannot_be_read_is_named(backup: backup_store.Backup, contents: bytes | None) -> None:
    path = Path(backup.path) / backup_store.CATALOG
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(PgopsError, match=f"The backup's catalog {path} cannot be read: ") as caught:
        backup_store.read_catalog(backup)
    assert "rollback_backup" in str(caught.value.hint)


def test_a_dump_with_something_that_is_no_file_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "toc.dat").symlink_to("/etc/passwd")
    with pytest.raises(PgopsError, match=f"The dump in {tmp_path} holds something that is no plain file: dump/toc.dat"):
        backup_store.seal(str(tmp_path))


def test_a_backup_is_never_published_over_another(backup: backup_store.Backup) -> None:
    partial = Path(backup.path + backup_store.PARTIAL)
    partial.mkdir()
    with pytest.raises(PgopsError, match=f"There is a backup of that name already: {backup.path}; it is left as it is"):
        backup_store.publish(str(partial), backup.path)
    assert partial.is_dir()
    backup_store.verify_files(backup)


def test_a_proof_of_nonsense_is_none(backup: backup_store.Backup) -> None:
    assert backup.proved
    for level in ("6", 7, -1, None):
        assert replace(backup, proof={"manifest_sha256": backup.manifest_sha256, "level": level}).proof_level == 0
    (Path(backup.path) / backup_store.PROOF).write_text("[]")
    assert not backup_store.read_backup(backup.path).proved
