# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of pg_basebackup named where a backup of ours was meant; real ones are in test_physical_ladder.py."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, dump_source, physical_folder
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

CLUSTER = 7400000000000000001
# No program of this version is anywhere, so only what the folders tell is gone by.
VERSION = "97"


def label(begin: str, on: str | None) -> str:
    lines = [
        f"START WAL LOCATION: {begin} (file 000000010000000000000003)",
        "BACKUP METHOD: streamed",
        "LABEL: pg_basebackup base backup",
    ]
    return "\n".join([*lines, *([f"INCREMENTAL FROM LSN: {on}", "INCREMENTAL FROM TLI: 1"] if on else []), ""])


def manifest(begin: str, cluster: int) -> str:
    ranges = [{"Timeline": 1, "Start-LSN": begin, "End-LSN": "F/0"}]
    return json.dumps(
        {"PostgreSQL-Backup-Manifest-Version": 2, "System-Identifier": cluster, "Files": [], "WAL-Ranges": ranges}
    )


def plain(path: Path, begin: str, on: str | None = None, cluster: int = CLUSTER) -> Path:
    path.mkdir(parents=True)
    (path / "PG_VERSION").write_text(f"{VERSION}\n")
    (path / "backup_label").write_text(label(begin, on))
    (path / "backup_manifest").write_text(manifest(begin, cluster))
    return path


def packed(path: Path, suffix: str, begin: str = "0/3000028", on: str | None = None) -> Path:
    path.mkdir(parents=True)
    (path / "backup_manifest").write_text(manifest(begin, CLUSTER))
    with tarfile.open(path / "base.tar", "w") as archive:
        data = label(begin, on).encode()
        entry = tarfile.TarInfo("backup_label")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    if suffix == "gz":
        subprocess.run(["gzip", path / "base.tar"], check=True)
    elif suffix == "zst":
        subprocess.run(["zstd", "-q", "--rm", path / "base.tar"], check=True)
    return path


def refused(path: Path) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        physical_folder.refuse(str(path))
    assert "Nothing was done" in caught.value.message
    return caught.value


def test_a_base_backup_is_named_with_what_to_do(tmp_path: Path) -> None:
    error = refused(plain(tmp_path / "full", "0/3000028"))
    assert "is a base backup of a whole cluster (plain), made by pg_basebackup or pg_combinebackup" in error.message
    assert "rollback_strategy=pitr" in str(error.hint)
    assert "pg_dump" in str(error.hint)


@pytest.mark.parametrize(("suffix", "told"), [("", "not compressed"), ("gz", "gzip"), ("zst", "zstd")])
def test_a_tar_is_named_by_folder_and_by_file(tmp_path: Path, suffix: str, told: str) -> None:
    path = packed(tmp_path / "tar", suffix)
    assert f"a base backup of a whole cluster (tar, {told})" in refused(path).message
    assert "unpack base.tar" in str(refused(next(path.glob("base.tar*"))).hint)


def test_a_chain_that_is_whole_is_told_in_its_order(tmp_path: Path) -> None:
    full = plain(tmp_path / "c_full", "0/3000028")
    first = plain(tmp_path / "b_first", "0/5000028", "0/3000028")
    second = plain(tmp_path / "a_second", "0/7000028", "0/5000028")
    error = refused(second)
    assert (
        "an incremental base backup of a whole cluster (plain) that stands on the one begun at 0/5000028"
        in error.message
    )
    assert f"pg_combinebackup {full} {first} {second} -o FOLDER" in str(error.hint)
    assert error.extra["broken"] is None


@pytest.mark.parametrize("suffix", [None, "zst"])
def test_a_missing_middle_is_named(tmp_path: Path, suffix: str | None) -> None:
    def make(name: str, begin: str, on: str | None = None) -> Path:
        return plain(tmp_path / name, begin, on) if suffix is None else packed(tmp_path / name, suffix, begin, on)

    make("full", "0/3000028")
    middle = make("first", "0/5000028", "0/3000028")
    last = make("second", "0/7000028", "0/5000028")
    shutil.rmtree(middle)
    error = refused(last)
    assert (
        f"it cannot be restored: second stands on the backup of cluster {CLUSTER} that began at 0/5000028, which is not beside it"
        in error.message
    )
    assert error.extra["broken"]


def test_one_of_another_cluster_that_began_at_the_same_place_does_not_stand_in(tmp_path: Path) -> None:
    plain(tmp_path / "full", "0/3000028", cluster=CLUSTER + 1)
    error = refused(plain(tmp_path / "first", "0/5000028", "0/3000028"))
    assert "that began at 0/3000028, which is not beside it" in error.message


def test_a_folder_of_them_is_judged_by_the_last(tmp_path: Path) -> None:
    plain(tmp_path / "chain" / "full", "0/3000028")
    plain(tmp_path / "chain" / "second", "1/7000028", "0/5000028")
    error = refused(tmp_path / "chain")
    assert "holds base backups of a whole cluster, the last of them second" in error.message
    assert "began at 0/5000028, which is not beside it" in error.message


def test_one_without_its_manifest_is_told_so(tmp_path: Path) -> None:
    path = plain(tmp_path / "full", "0/3000028")
    (path / "backup_manifest").unlink()
    assert "full has no backup_manifest" in refused(path).message


def test_what_is_none_is_left_to_who_asked(tmp_path: Path) -> None:
    physical_folder.refuse(str(tmp_path))
    physical_folder.refuse(str(tmp_path / "nothing"))
    (tmp_path / "PG_VERSION").write_text("18\n")
    physical_folder.refuse(str(tmp_path))  # a running cluster
    (tmp_path / "base.tar.txt").write_text("x")
    physical_folder.refuse(str(tmp_path / "base.tar.txt"))


@pytest.mark.parametrize("damage", ["backup_manifest", "backup_label", "base.tar"])
def test_one_that_cannot_be_read_is_refused_all_the_same(tmp_path: Path, damage: str) -> None:
    path = packed(tmp_path / "x", "") if damage == "base.tar" else plain(tmp_path / "x", "0/3000028", "0/1")
    (path / damage).write_bytes(b"\xff\x00{[")
    refused(path)


def test_every_way_in_refuses_it(tmp_path: Path) -> None:
    """restore.yml by what a path is; prove.yml, restore_drill.yml and rollback.yml by the backup that they read."""
    path = plain(tmp_path / "full", "0/3000028")
    for way in (dump_source.identify, backup_store.read_backup):
        with pytest.raises(PgopsError, match="is a base backup of a whole cluster"):
            way(str(path))
    with pytest.raises(PgopsError, match=r"is a base backup of a whole cluster \(tar, zstd\)"):
        dump_source.identify(str(next(packed(tmp_path / "tar", "zst").glob("base*"))))
