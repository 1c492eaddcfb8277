# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups that are there already open with the new key and not with the old one, are as proved as before, and were never plain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_pins,
    backup_store,
    copies,
    copy_places,
    encrypted_dump,
    lost_writes,
    rekey,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.backups import PATIENT, RUN, back_up, fill, prove
from support.keys import Key, age_key
from support.podman import ROOT
from support.small_disk import mounted


@pytest.fixture
def old(tmp_path: Path) -> Key:
    return age_key(tmp_path, "old")


@pytest.fixture
def new(tmp_path: Path) -> Key:
    return age_key(tmp_path, "new")


@pytest.fixture
def both(tmp_path: Path, old: Key, new: Key) -> Key:
    """A file that opens either."""
    file = tmp_path / "both"
    file.touch(mode=0o600)
    file.write_text(old.file.read_text() + new.file.read_text())
    return Key(file, new.public)


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    server.execute(f"ALTER DATABASE {database} SET app.jwt_secret = '{PATIENT}'")
    return database


def encrypted(target: Any, folder: Path, *keys: Key, **settings: Any) -> Backup:
    return back_up(target, folder, encrypt_to=[key.public for key in keys], **settings)


def change_keys(folder: Path, database: str, key: Key, *to: Key, **settings: Any) -> dict[str, Any]:
    """What the engine returns."""
    names = settings.pop("names", (rekey.ALL,))
    environment = settings.pop("environment", "")
    asked = rekey.Asked([one.public for one in to], key.identity, names, environment, RUN)
    return rekey.rekey(str(folder), database, asked, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, byte by byte, but for locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


# -- what it leaves ------------------------------------------------------------------------------------------------------


def test_it_opens_with_the_new_key_alone_and_is_as_proved_as_before(
    server: Any, target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    folder = tmp_path / "b"
    backup = encrypted(target, folder, old)
    proof = prove(target, backup, identity=old.identity)
    done = change_keys(folder, filled, both, new)
    (entry,) = done["rekeyed"]
    assert (entry["id"], entry["level"], entry["recipients_before"]) == (Path(backup.path).name, 4, [old.public])
    found = backup_store.read_backup(backup.path)
    assert found.manifest["encryption"] == {"tool": "age", "recipients": [new.public]}
    assert found.manifest["tables"] == backup.manifest["tables"]
    (before,) = found.manifest["rekeyed"]
    assert (before["manifest_sha256"], before["recipients"]) == (backup.manifest_sha256, [old.public])
    assert found.proved
    assert found.proof is not None
    assert found.proof["proved_at"] == proof["proved_at"]
    assert found.proof["proved_manifest_sha256"] == backup.manifest_sha256
    backup_store.verify_files(found)
    for path in [Path(found.path), *Path(found.path).rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    with pytest.raises(PgopsError, match="is not encrypted to the private key"):
        encrypted_dump.unlock(found, old.identity)
    # With the values of the settings, which are in the catalog.
    opened = encrypted_dump.unlock(found, new.identity)
    assert f"app.jwt_secret={PATIENT}" in opened.manifest["properties"]["settings"]
    assert prove(target, found, identity=new.identity)["level"] == 4
    assert sorted(os.listdir(folder / filled)) == [".lock", ".pins.lock", Path(backup.path).name, "restores.jsonl"]


def test_a_second_time_nothing_is_done(target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key) -> None:
    backup = encrypted(target, tmp_path / "b", old)
    change_keys(tmp_path / "b", filled, both, new)
    before = contents(tmp_path / "b")
    again = change_keys(tmp_path / "b", filled, new, new)
    assert (again["rekeyed"], again["same"]) == ([], [Path(backup.path).name])
    assert contents(tmp_path / "b") == before


def test_one_that_was_never_proved_is_not_proved_afterwards(
    target: Any, filled: str, tmp_path: Path, old: Key, both: Key, new: Key
) -> None:
    backup = encrypted(target, tmp_path / "b", old)
    (entry,) = change_keys(tmp_path / "b", filled, both, new, old)["rekeyed"]
    found = backup_store.read_backup(backup.path)
    assert (entry["level"], found.proof) == (0, None)
    assert found.manifest["encryption"]["recipients"] == [new.public, old.public]
    encrypted_dump.unlock(found, old.identity)


def test_pins_and_where_copies_are_stay_and_a_copy_is_told_to_be_as_it_was(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    folder, second = tmp_path / "b", tmp_path / "second"
    second.mkdir()
    backup = encrypted(target, folder, old)
    name = Path(backup.path).name
    place = copy_places.place_of(1, {"path": str(second), "same_file_system": True})
    (copy,) = copies.copy(backup, [place], timeout=60)["copies"]
    backup_pins.change(str(folder), [filled], name, "case 4711", release=False, who="counsel")

    def pin(step: str) -> None:
        if step == "written":  # in the last moment
            backup_pins.change(str(folder), [filled], name, "case 4712", release=False, who="counsel")

    (entry,) = change_keys(folder, filled, both, new, after=pin)["rekeyed"]
    assert entry["copies"] == [copy["path"]]
    assert [held["reason"] for held in backup_pins.read(backup.path)["pins"]] == ["case 4711", "case 4712"]
    (known,) = copies.read(backup.path)
    assert (known["path"], known["recipients"]) == (copy["path"], [old.public])
    # The copy is the whole backup of before, to the old key.
    encrypted_dump.unlock(backup_store.read_backup(copy["path"]), old.identity)


def test_what_was_lost_since_a_restore_of_it_is_still_told_exactly(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    """The database's record of its restore names the manifest of before."""
    backup = encrypted(target, tmp_path / "b", old)
    change_keys(tmp_path / "b", filled, both, new)
    found = backup_store.read_backup(backup.path)
    assert found.was(backup.manifest_sha256)
    assert found.was(found.manifest_sha256)
    assert not found.was("0" * 64)
    lost = lost_writes.lost_writes(target, found, application_name="test")
    assert lost["tables"] == []


def test_a_proof_that_is_of_the_backup_before_does_not_come_over_the_new_one(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    """Of a proof that has run meanwhile."""
    backup = encrypted(target, tmp_path / "b", old)
    change_keys(tmp_path / "b", filled, both, new)
    with pytest.raises(PgopsError, match="was encrypted anew or altered while it was proved"):
        backup_store.write_proof(backup, {"manifest_sha256": backup.manifest_sha256})
    assert backup_store.read_backup(backup.path).proof is None


# -- which, and which not --------------------------------------------------------------------------------------------------


def test_what_is_no_encrypted_backup_of_ours_is_left_and_told(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    folder = tmp_path / "b"
    plain = back_up(target, folder, purpose="plain")
    other = encrypted(target, folder, old, purpose="other", environment="staging")
    damaged = encrypted(target, folder, old, purpose="damaged", environment="local")
    data = bytearray((Path(damaged.path) / "dump.age").read_bytes())
    data[-9] ^= 1
    (Path(damaged.path) / "dump.age").write_bytes(data)
    (folder / filled / "link").symlink_to(tmp_path)
    before = contents(folder)
    done = change_keys(folder, filled, both, new, environment="local")
    told = {entry["id"]: entry["told"] for entry in done["left"]}
    assert done["rekeyed"] == []
    assert told[Path(plain.path).name].startswith("not encrypted")
    assert told[Path(other.path).name] == "of environment staging"
    assert "dump.age is damaged" in told[Path(damaged.path).name]
    assert told["link"].startswith("foreign: a link")
    assert contents(folder) == before


def test_one_that_is_named_is_done_alone(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    first = encrypted(target, tmp_path / "b", old, purpose="first")
    second = encrypted(target, tmp_path / "b", old, purpose="second")
    done = change_keys(tmp_path / "b", filled, both, new, names=[Path(first.path).name])
    assert [entry["id"] for entry in done["rekeyed"]] == [Path(first.path).name]
    assert backup_store.read_backup(second.path).manifest_sha256 == second.manifest_sha256
    with pytest.raises(PgopsError, match="There is no backup nonsense in"):
        change_keys(tmp_path / "b", filled, both, new, names=["nonsense"])


def test_looking_changes_nothing(target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key) -> None:
    backup = encrypted(target, tmp_path / "b", old)
    before = contents(tmp_path)
    done = change_keys(tmp_path / "b", filled, both, new, check_only=True)
    assert [entry["id"] for entry in done["rekeyed"]] == [Path(backup.path).name]
    assert contents(tmp_path) == before


def test_one_that_is_found_damaged_when_it_is_read_is_left_and_the_others_are_done(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    damaged = encrypted(target, tmp_path / "b", old, purpose="damaged")
    sound = encrypted(target, tmp_path / "b", old, purpose="sound")
    file = Path(damaged.path) / "globals.json.gz.age"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    done = change_keys(tmp_path / "b", filled, both, new)
    assert [entry["id"] for entry in done["rekeyed"]] == [Path(sound.path).name]
    (left,) = done["left"]
    assert left["id"] == Path(damaged.path).name
    assert "globals.json.gz.age has other contents than the manifest says" in left["told"]


@pytest.mark.parametrize("case", ["another", "none", "old only"])
def test_a_key_that_does_not_do_is_refused_before_anything_is_done(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, case: str
) -> None:
    encrypted(target, tmp_path / "b", old)
    before = contents(tmp_path / "b")
    given = {"another": new.identity, "none": None, "old only": old.identity}[case]
    said = {
        "another": "is not encrypted to the private key",
        "none": "is encrypted and no private key was given",
        "old only": "opens none of the public keys that the backups are to be encrypted to",
    }[case]
    with pytest.raises(PgopsError, match=said):
        rekey.rekey(str(tmp_path / "b"), filled, rekey.Asked([new.public], given))
    assert contents(tmp_path / "b") == before


def test_without_public_keys_and_without_backups(tmp_path: Path, old: Key) -> None:
    with pytest.raises(PgopsError, match="backup_encrypt_to names no public key"):
        rekey.rekey(str(tmp_path / "b"), "nothing", rekey.Asked([], old.identity))
    done = change_keys(tmp_path / "b", "nothing", old, old)
    assert (done["rekeyed"], done["same"], done["left"]) == ([], [], [])
    assert not (tmp_path / "b").exists()


# -- failures in the middle ------------------------------------------------------------------------------------------------


KILLED = """
import json, os, signal, sys
from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, rekey
given = json.loads(sys.argv[1])
def after(step):
    if step == given["step"]:
        os.kill(os.getpid(), signal.SIGKILL)
asked = rekey.Asked([given["public"]], encryption.open_identity(given["key"]))
rekey.rekey(given["directory"], given["database"], asked, after=after)
"""


@pytest.mark.parametrize("step", ["catalog.json.gz.age", "dump.age", "written", "exchanged"])
def test_killed_at_any_step_the_backup_is_whole_and_the_next_run_ends_it(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key, step: str
) -> None:
    folder = tmp_path / "b"
    backup = encrypted(target, folder, old)
    given = {
        "step": step, "public": new.public, "key": str(both.file), "directory": str(folder), "database": filled,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)], cwd=ROOT, env={"PYTHONPATH": str(ROOT / "collections"), "PATH": os.environ["PATH"]},
        check=False, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    found = backup_store.read_backup(backup.path)
    backup_store.verify_files(found)
    encrypted_dump.unlock(found, (new if step == "exchanged" else old).identity)
    again = change_keys(folder, filled, both, new)
    assert len(again["rekeyed"]) == (0 if step == "exchanged" else 1)
    assert not list(folder.rglob("*.partial"))
    encrypted_dump.unlock(backup_store.read_backup(backup.path), new.identity)


def test_asked_to_stop_the_backup_is_as_it_was(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    encrypted(target, tmp_path / "b", old)
    before = contents(tmp_path / "b")
    control = Control(None)

    def stop(step: str) -> None:
        if step == "catalog.json.gz.age":
            control.request("somebody pressed Ctrl-C")

    with pytest.raises(Interrupted, match="somebody pressed Ctrl-C"):
        change_keys(tmp_path / "b", filled, both, new, control=control, after=stop)
    assert contents(tmp_path / "b") == before


def test_a_full_disk_leaves_the_backup_as_it_was(
    server: Any, target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    server.execute(
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(md5(random()::text) || md5(random()::text)) FROM generate_series(1, 12000)",
        database=filled,
    )
    with mounted(tmp_path / "small", "2m") as small:
        backup = encrypted(target, small, old, compression="0")
        assert backup.manifest["bytes"] > 1_100_000
        before = contents(small)
        with pytest.raises(PgopsError) as caught:
            change_keys(small, filled, both, new)
        assert caught.value.message.startswith(f"The backup {backup.path} was not encrypted anew, and is as it was: ")
        assert "are free there" in caught.value.message
        assert contents(small) == before


def test_a_disk_that_fills_meanwhile_leaves_it_as_it_was(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    with mounted(tmp_path / "small", "2m") as small:
        encrypted(target, small, old)
        before = contents(small)

        def full(step: str) -> None:
            if step == "catalog.json.gz.age":
                free = os.statvfs(small)
                (small / "in the way").write_bytes(b"x" * (free.f_bavail * free.f_frsize))

        with pytest.raises(PgopsError, match="No space left on device"):
            change_keys(small, filled, both, new, after=full)
        (small / "in the way").unlink()
        assert contents(small) == before


def test_a_file_system_that_cannot_exchange_folders_is_told_before_the_work(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does."""
    encrypted(target, tmp_path / "b", old)
    before = contents(tmp_path / "b")

    def unknown(first: str, second: str) -> None:
        raise OSError(22, "Invalid argument", first)

    monkeypatch.setattr(rekey, "exchange", unknown)
    with pytest.raises(PgopsError, match="cannot exchange two folders in one step"):
        change_keys(tmp_path / "b", filled, both, new)
    assert contents(tmp_path / "b") == before
    assert not list(tmp_path.rglob("*.partial"))


def test_a_backup_that_is_made_or_copied_at_that_moment_is_not_touched(
    target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    backup = encrypted(target, tmp_path / "b", old)
    with (
        backup_store.locked(str(tmp_path / "b"), filled, "backup other"),
        pytest.raises(PgopsError, match="are locked by backup other"),
    ):
        change_keys(tmp_path / "b", filled, both, new)
    with copies.only_one(backup), pytest.raises(PgopsError, match="Another run copies"):
        change_keys(tmp_path / "b", filled, both, new)
    assert backup_store.read_backup(backup.path).manifest_sha256 == backup.manifest_sha256


# -- no plain text ---------------------------------------------------------------------------------------------------------


def test_no_file_ever_holds_a_patient(
    server: Any, target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    """By the kernel's own account of what is opened for writing, and by what is read in the folder all the while."""
    folder = tmp_path / "b"
    # Uncompressed: whatever were plain could be read.
    encrypted(target, folder, old, compression="0")
    seen: list[str] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            # Unlike rglob it goes on where a folder goes away meanwhile.
            for path in [Path(where, name) for where, _, names in os.walk(folder) for name in names]:
                try:
                    if path.is_file() and PATIENT.encode() in path.read_bytes():
                        seen.append(str(path))
                except OSError:
                    continue

    watcher = threading.Thread(target=sample)
    watcher.start()
    trace = tmp_path / "trace"
    given = {"step": "", "public": new.public, "key": str(both.file), "directory": str(folder), "database": filled}
    try:
        subprocess.run(
            ["strace", "-f", "-qq", "-e", "trace=open,openat,creat", "-o", trace, sys.executable, "-B", "-c", KILLED, json.dumps(given)],
            cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "collections")}, check=True, timeout=120,
        )  # fmt: skip
    finally:
        ended.set()
        watcher.join()
    assert seen == []
    written = {
        line.split('"')[1]
        for line in trace.read_text(encoding="utf-8", errors="replace").splitlines()
        if '"' in line and any(word in line for word in ("O_WRONLY", "O_RDWR", "O_CREAT"))
    }
    assert {Path(path).name for path in written if path.startswith(str(tmp_path))} == {
        ".lock", ".pins.lock", "catalog.json.gz.age", "dump.age", "globals.json.gz.age", "manifest.json.new",
    }  # fmt: skip
    assert {path for path in written if not path.startswith(str(tmp_path))} <= {"/dev/null", "/dev/tty"}


# -- the playbook ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_playbook_changes_keys_while_the_server_is_down(
    playbook: Any, target: Any, filled: str, tmp_path: Path, old: Key, new: Key, both: Key
) -> None:
    backup = encrypted(target, playbook.backups, old)
    prove(target, backup, identity=old.identity)
    name = Path(backup.path).name
    given = {"backup_encrypt_to": [new.public], "backup_identity_file": str(both.file), "pgops_port": "1"}
    nothing = playbook("backup_rekey.yml", **{**given, "backup_encrypt_to": []})
    assert "backup_encrypt_to names no public key" in nothing.json["error"]["message"]
    shown = playbook("backup_rekey.yml", "--check", **given)
    assert f"{filled}: 1 would be encrypted anew, 0 are to these keys already" in shown.stdout
    assert backup_store.read_backup(backup.path).manifest_sha256 == backup.manifest_sha256
    done = playbook("backup_rekey.yml", **given)
    assert done.rc == 0, done.output
    assert f"{filled}: 1 encrypted anew, 0 are to these keys already, 0 left" in done.stdout
    assert f"    {name} (" in done.stdout
    assert "proof of level 4 holds" in done.stdout
    (host,) = done.json["hosts"].values()
    assert [entry["id"] for entry in host[filled]["backup_rekey"]["rekeyed"]] == [name]
    assert "changed=1" in done.stdout
    assert "AGE-SECRET-KEY" not in done.output + shown.output
    encrypted_dump.unlock(backup_store.read_backup(backup.path), new.identity)
