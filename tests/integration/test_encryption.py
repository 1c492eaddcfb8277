# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An encrypted backup is never plain on a disk, is read with its key alone, and refuses every other one in a sentence."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    dump,
    encrypted_dump,
    encryption,
    lost_writes,
    restore,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import PATIENT, RUN, back_up, fill, names, prove, recompute, stage, start_python
from support.keys import Key, age_key, ssh_key
from support.podman import ROOT
from support.server import APP


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return age_key(tmp_path)


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database)
    # What only the catalog holds.
    server.execute(
        f"ALTER TABLE students ALTER note SET DEFAULT '{PATIENT}', ADD CONSTRAINT known CHECK (note <> '{PATIENT}x')",
        database=database,
    )
    return database


def encrypted(target: Any, directory: Path, *keys: Key, **settings: Any) -> backup_store.Backup:
    return back_up(target, directory, encrypt_to=[key.public for key in keys], **settings)


def holds_sentinel(folder: Path) -> list[str]:
    """The files below a folder in which the sentinel can be read, unpacked where they are gzip's."""
    found = []
    for path in [Path(above) / name for above, _, inside in os.walk(folder) for name in inside]:
        try:
            data = path.read_bytes()
        except OSError:
            continue  # gone, or renamed in between
        if data.startswith(b"\x1f\x8b"):
            try:
                data += gzip.decompress(data)
            except (EOFError, OSError):
                pass
        if PATIENT.encode() in data:
            found.append(str(path))
    return found


# -- no plain text -------------------------------------------------------------------------------------------------------


def test_no_file_ever_holds_a_patient(server: Any, target: Any, filled: str, tmp_path: Path, key: Key) -> None:
    """Sampled as long as the backup and its proof run; uncompressed, so that whatever were plain could be read."""
    for name in ("backups", "tmp", "log"):
        (tmp_path / name).mkdir()
    fill_more = (
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(repeat('{}', 20)) FROM generate_series(1, 20000)"
    )
    server.execute(fill_more.format(PATIENT), database=filled)
    sampled: list[str] = []
    samples = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal samples
        while not done.is_set():
            sampled.extend(holds_sentinel(tmp_path))
            samples += 1

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        process = start_python(
            """
            os.environ["TMPDIR"] = values["tmp"]
            from ansible_collections.whitecross.pgops.plugins.module_utils import encryption
            made = dump.create_backup(
                target, directory=values["directory"], run_id="r", compression="0", encrypt_to=[values["public"]]
            )
            identity = encryption.open_identity(values["key"])
            restore.prove(target, made["path"], work=restore.Work("r"), identity=identity)
            """,
            target,
            directory=str(tmp_path / "backups"),
            tmp=str(tmp_path / "tmp"),
            public=key.public,
            key=str(key.file),
        )
        out, err = process.communicate(timeout=120)
    finally:
        done.set()
        watcher.join()
    (tmp_path / "log" / "output").write_text(out + err, encoding="utf-8")
    assert process.returncode == 0, err
    assert samples > 5
    assert sampled == []
    assert holds_sentinel(tmp_path) == []
    (made,) = backup_store.backups_of(str(tmp_path / "backups"), filled)
    assert sorted(made.manifest["files"]) == ["catalog.json.gz.age", "dump.age", "globals.json.gz.age"]
    assert made.proved


def test_the_only_files_that_are_opened_for_writing_are_those_of_the_backup(
    target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    """By the kernel's own account of a backup and all of its children."""
    program = (
        "import json, sys\n"
        "from ansible_collections.whitecross.pgops.plugins.module_utils import dump\n"
        "from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target\n"
        "dump.create_backup(Target(**json.loads(sys.argv[1])), directory=sys.argv[2], run_id='r', encrypt_to=[sys.argv[3]])\n"
    )
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=open,openat,creat", "-o", trace, sys.executable, "-B", "-c", program,
         json.dumps(vars(target)), tmp_path / "backups", key.public],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "collections")}, check=True, timeout=120,
    )  # fmt: skip
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    written = [re.search(r'"([^"]*)"', line) for line in lines if re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(", line)]
    paths = {Path(found[1]) for found in written if found}
    assert {path.name for path in paths if path.is_relative_to(tmp_path)} == {
        ".lock",
        "dump.age",
        "catalog.json.gz.age",
        "globals.json.gz.age",
        "manifest.json.new",
    }
    assert {path for path in paths if not path.is_relative_to(tmp_path)} <= {Path("/dev/null"), Path("/dev/tty")}


def test_what_stays_readable_are_names_counts_and_hashes(target: Any, filled: str, tmp_path: Path, key: Key) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    manifest = backup.manifest
    assert manifest["encryption"] == {"tool": "age", "recipients": [key.public]}
    assert manifest["dump_format"] == "custom"
    assert manifest["tables"]["public.students"]["rows"] == 500
    assert PATIENT not in (Path(backup.path) / "manifest.json").read_text(encoding="utf-8")
    for path in [Path(backup.path), *Path(backup.path).rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


# -- with the key ----------------------------------------------------------------------------------------------------------


def test_the_values_of_the_databases_settings_are_behind_the_key(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    """Many an application keeps a secret there, and the manifest is for everybody to read."""
    server.execute(
        f"ALTER DATABASE {filled} SET app.jwt_secret = '{PATIENT}'; ALTER DATABASE {filled} SET work_mem = '7MB';"
        f"ALTER ROLE {APP} IN DATABASE {filled} SET app.token = '{PATIENT}=2'"
    )
    backup = encrypted(target, tmp_path / "backups", key)
    assert holds_sentinel(tmp_path) == []
    told = backup.manifest["properties"]
    assert (told["settings"], told["role_settings"]) == (["app.jwt_secret", "work_mem"], {APP: ["app.token"]})
    assert prove(target, backup, identity=key.identity)["level"] == 4
    assert holds_sentinel(tmp_path) == []
    opened = encrypted_dump.unlock(backup_store.read_backup(backup.path), key.identity)
    staged = stage(target, opened)
    with closing(server.connect(filled)) as live, closing(server.connect(staged)) as copy:
        kept = catalog.database_properties(copy)
        assert f"app.jwt_secret={PATIENT}" in kept["settings"]
        assert {**kept, "comment": None} == {**catalog.database_properties(live), "comment": None}
    # Without the key what is gone and what is new is told, and with it also what has another value.
    changed = f"ALTER DATABASE {filled} SET app.jwt_secret = 'another'; ALTER DATABASE {filled} RESET work_mem"
    server.execute(changed)
    for given, named in ((backup, ["work_mem"]), (opened, ["app.jwt_secret", "work_mem"])):
        lost = lost_writes.lost_writes(target, given, application_name="test")
        assert lost["settings"] == [{"attribute": "settings", "names": named}]
    os.unlink(Path(backup.path) / "catalog.json.gz.age")
    backup_store.write_catalog(backup.path, {}, [key.public])
    with pytest.raises(PgopsError, match="does not hold the settings that its manifest names"):
        encrypted_dump.unlock(backup, key.identity)


@pytest.mark.parametrize("which", [0, 1])
def test_each_recipient_alone_can_restore_it(server: Any, target: Any, filled: str, tmp_path: Path, which: int) -> None:
    keys = [age_key(tmp_path), ssh_key(tmp_path)]
    backup = encrypted(target, tmp_path / "backups", *keys)
    proof = prove(target, backup, identity=keys[which].identity)
    assert (proof["tables"], proof["rows"]) == (3, 1002)
    staged = stage(target, encrypted_dump.unlock(backup_store.read_backup(backup.path), keys[which].identity))
    rows = server.execute(f"SELECT count(*) FROM students WHERE name LIKE '{PATIENT}%'", database=staged)
    assert rows == [(500,)]


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_it_is_taken_and_proved_on_every_major(server: Any, target: Any, filled: str, tmp_path: Path, key: Key) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    assert prove(target, backup, identity=key.identity)["reservations"] == []


def test_a_role_that_leaves_something_out_reads_the_list_of_an_encrypted_dump(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    server.execute(
        "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION noted()",
        database=filled,
    )
    backup = encrypted(target, tmp_path / "backups", key)
    server.execute("ALTER ROLE white_cross_restore NOSUPERUSER CREATEDB")
    try:
        proof = prove(target, backup, identity=key.identity)
    finally:
        server.execute("ALTER ROLE white_cross_restore SUPERUSER")
    assert "event trigger noted was not recreated: only a superuser may" in proof["reservations"]


# -- keys that do not do ---------------------------------------------------------------------------------------------------


def refused(server: Any, target: Any, backup: backup_store.Backup, **settings: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        prove(target, backup, **settings)
    assert names(server, target.database) == [target.database]
    assert PATIENT not in json.dumps(caught.value.as_dict(), default=str)
    return caught.value


def test_without_a_key_or_with_another_one_nothing_is_restored_and_a_proof_stands(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    prove(target, backup, identity=key.identity)
    missing = refused(server, target, backup)
    assert missing.message == f"{backup.path} is encrypted and no private key was given; nothing was restored."
    assert "backup_identity_file" in str(missing.hint)
    other = age_key(tmp_path, "other")
    wrong = refused(server, target, backup, identity=other.identity)
    assert wrong.message == (
        f"{backup.path}/dump.age is not encrypted to the private key {other.file}; nothing was restored."
    )
    assert backup_store.read_backup(backup.path).proved
    with pytest.raises(PgopsError, match="no private key was given"):
        restore.stage(target, backup_store.read_backup(backup.path), work=restore.Work(RUN))
    assert names(server, filled) == [filled]


def test_a_private_key_file_that_would_not_do_is_refused_in_a_sentence(tmp_path: Path) -> None:
    key = age_key(tmp_path)

    def refusal(file: Path) -> str:
        with pytest.raises(PgopsError) as caught:
            encryption.open_identity(str(file))
        assert "AGE-SECRET-KEY" not in json.dumps(caught.value.as_dict(), default=str)
        return caught.value.message

    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    assert "cannot be read" in refusal(tmp_path / "none")
    assert "Is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "no plain file" in refusal(tmp_path / "pipe")
    assert "holds no private key" in refusal(file("public", key.public))
    assert "holds no private key" in refusal(file("empty", ""))
    assert "passphrase" in refusal(file("age", "age-encryption.org/v1\n-> scrypt x 18\n"))
    assert "passphrase" in refusal(file("armour", "-----BEGIN AGE ENCRYPTED FILE-----\n"))
    assert "passphrase" in refusal(ssh_key(tmp_path, "locked", passphrase="secret words").file)
    assert "PIN or a touch" in refusal(file("plugin", "AGE-PLUGIN-YUBIKEY-1QQQ\n"))
    key.file.chmod(0o644)
    assert "may be read by others (mode 0644)" in refusal(key.file)


def test_a_malformed_private_key_is_not_repeated(target: Any, filled: str, tmp_path: Path, key: Key) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    broken = tmp_path / "broken"
    broken.write_text(key.file.read_text(encoding="ascii").replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1B"), "ascii")
    broken.chmod(0o600)
    with pytest.raises(PgopsError) as caught:
        encrypted_dump.unlock(backup, encryption.open_identity(str(broken)))
    assert caught.value.message == f"{backup.path}/dump.age was not decrypted: the private key {broken} is malformed."


def test_a_key_that_was_handed_over_is_gone_once_it_is_read(tmp_path: Path) -> None:
    key = age_key(tmp_path)
    identity = encryption.open_identity(str(key.file), once=True)
    assert identity is not None
    assert not key.file.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("age1abc", "neither a public key of age"),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ", "neither a public key of age"),
        ("age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", "neither a public key of age"),
        ("mallory", "neither a public key of age"),
        ("", "neither a public key of age"),
        ("age1x9h43wgr2ng28sswzrxwcd2gjyc6ss2qqa770uzeypdpuk2tgp0sk7whp3", "is no key: age finds it malformed"),
        ("AGE-SECRET-KEY-1QQPQYWFZ", "is a private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is a private key"),
    ],
)
def test_a_recipient_that_is_no_key_is_refused_before_anything(
    target: Any, filled: str, tmp_path: Path, given: str, told: str
) -> None:
    key = age_key(tmp_path)
    for attempt in (dump.create_backup, dump.preview):
        with pytest.raises(PgopsError) as caught:
            attempt(target, directory=str(tmp_path / "backups"), run_id=RUN, encrypt_to=[key.public, given])
        assert "Recipient 2 of backup_encrypt_to" in caught.value.message
        assert told in caught.value.message
        assert "QQPQYWFZ" not in json.dumps(caught.value.as_dict())
        assert not (tmp_path / "backups").exists()


def test_a_host_without_age_is_told(target: Any, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = age_key(tmp_path)
    backup = encrypted(target, tmp_path / "backups", key)
    monkeypatch.setattr(encryption, "TOOL", "no-such-age")
    with pytest.raises(PgopsError, match=r"There is no no-such-age on .*, with which backups are encrypted\."):
        encrypted(target, tmp_path / "others", key)
    assert not (tmp_path / "others").exists()
    with pytest.raises(PgopsError, match="There is no no-such-age"):
        encrypted_dump.unlock(backup, key.identity)


def test_recipients_that_are_no_list_are_refused() -> None:
    with pytest.raises(PgopsError, match="backup_encrypt_to is no list of public keys") as caught:
        encryption.refuse_recipients({"age": "key"})
    assert "age-keygen" in str(caught.value.hint)


def test_where_a_key_cannot_be_held_in_memory_it_is_not_taken(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(PgopsError, match="A private key cannot be held in memory on .*: that takes Linux"):
        encryption.open_identity(str(key.file))


def test_what_age_does_not_encrypt_is_told(tmp_path: Path) -> None:
    mistyped = ["age1x9h43wgr2ng28sswzrxwcd2gjyc6ss2qqa770uzeypdpuk2tgp0sk7whp3"]
    with pytest.raises(PgopsError, match="age ended with 1; nothing was encrypted"):
        encryption.encrypt(b"plain", mistyped)
    path = tmp_path / "out"
    with (
        pytest.raises(PgopsError, match=f"{path} was not written: .*malformed"),
        path.open("wb") as file,
        encryption.encrypted_file(file, mistyped, str(path)) as stream,
    ):
        stream.write(b"plain")
    assert path.read_bytes() == b""


def test_an_encrypted_file_that_is_gone_or_a_link_is_not_read(tmp_path: Path, key: Key) -> None:
    whole, link = tmp_path / "whole.age", tmp_path / "link.age"
    whole.write_bytes(encryption.encrypt(b"plain", [key.public]))
    assert encryption.decrypt(str(whole), key.identity) == b"plain"
    link.symlink_to(whole)
    for path, why in ((link, "Too many levels of symbolic links"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(PgopsError, match=f"{path} cannot be read: {why}"):
            encryption.decrypt(str(path), key.identity)


def test_what_opens_and_holds_no_dump_is_refused_and_so_is_one_that_went_since(
    target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    opened = encrypted_dump.unlock(backup, key.identity)
    path = Path(backup.path) / "dump.age"
    path.write_bytes(encryption.encrypt(b"a letter", [key.public]))
    with pytest.raises(PgopsError, match=f"{path} holds no dump") as caught:
        encrypted_dump.unlock(backup, key.identity)
    assert "rollback_backup" in str(caught.value.hint)
    path.unlink()
    with pytest.raises(PgopsError, match=f"{path} cannot be read: No such file"):
        encrypted_dump.Decryption(opened)


# -- damage ----------------------------------------------------------------------------------------------------------------


@pytest.mark.few(4)
@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("damage", ["cut", "flipped", "header", "empty"])
def test_damage_is_found_also_where_the_manifest_was_rewritten(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key, damage: str, rewritten: bool
) -> None:
    backup = encrypted(target, tmp_path / "backups", key)
    file = Path(backup.path) / "dump.age"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "header":
        data[30] ^= 1
    else:
        data = data[: len(data) * 9 // 10] if damage == "cut" else bytearray()
    file.write_bytes(data)
    if rewritten:
        backup = recompute(backup, file)
    error = refused(server, target, backup, identity=key.identity)
    assert "dump.age" in error.message
    assert backup_store.read_backup(backup.path).proof is None


def test_another_dump_under_the_same_name_is_found(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    """Whoever has the public key can encrypt; what the proof compares is what was dumped."""
    first = encrypted(target, tmp_path / "backups", key)
    server.execute("UPDATE students SET note = 'forged' WHERE id = 7", database=filled)
    second = encrypted(target, tmp_path / "backups", key, run_id="20261121T120001Z-000000")
    file = Path(first.path) / "dump.age"
    file.write_bytes((Path(second.path) / "dump.age").read_bytes())
    error = refused(server, target, recompute(first, file), identity=key.identity)
    assert "students" in error.message


# -- failures in the middle --------------------------------------------------------------------------------------------------


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_full_disk_leaves_nothing(server: Any, target: Any, filled: str, small_disk: Path, key: Key) -> None:
    server.execute(
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(md5(random()::text)) FROM generate_series(1, 100000)",
        database=filled,
    )
    with pytest.raises(PgopsError, match=r"file system of .* is full"):
        encrypted(target, small_disk, key)
    assert files(small_disk) == []


@pytest.mark.parametrize("victim", ["pg_dump", "age"])
def test_when_either_end_of_the_pipe_dies_nothing_is_published(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key, victim: str
) -> None:
    """age finishes what it was given when pg_dump dies, and that looks whole."""
    server.execute(
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(md5(random()::text)) FROM generate_series(1, 200000)",
        database=filled,
    )
    process = start_python(
        """
        try:
            dump.create_backup(target, directory=values["directory"], run_id="r", compression="9", encrypt_to=[values["public"]])
        except Exception as error:
            print(type(error).__name__, error)
        """,
        target,
        directory=str(tmp_path / "backups"),
        public=key.public,
    )
    end(process, victim)
    out, err = process.communicate(timeout=60)
    assert f"{victim} was killed by signal 9" in out, (out, err)
    assert files(tmp_path / "backups") == []


def test_when_age_dies_under_a_restore_the_scratch_database_goes(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    server.execute(
        "INSERT INTO visits (student_id, data) SELECT 1, to_jsonb(md5(random()::text)) FROM generate_series(1, 300000)",
        database=filled,
    )
    backup = encrypted(target, tmp_path / "backups", key)
    prove(target, backup, identity=key.identity)
    process = start_python(
        """
        from ansible_collections.whitecross.pgops.plugins.module_utils import encryption
        from ansible_collections.whitecross.pgops.plugins.module_utils import encrypted_dump
        try:
            restore.prove(
                target, values["path"], work=restore.Work("r"), identity=encryption.open_identity(values["key"])
            )
        except Exception as error:
            print(type(error).__name__, error)
        """,
        target,
        path=backup.path,
        key=str(key.file),
    )
    end(process, "age", beside="pg_restore")
    out, err = process.communicate(timeout=60)
    assert "dump.age was not decrypted: age was killed by signal 9" in out, (out, err)
    assert names(server, filled) == [filled]
    assert backup_store.read_backup(backup.path).proved


def end(process: subprocess.Popen[str], victim: str, beside: str = "pg_dump") -> None:
    """Kill one of the children as soon as both ends of the pipe are there."""
    deadline = time.monotonic() + 30
    while True:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        found = {}
        for pid in children:
            try:
                found[Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()] = int(pid)
            except OSError:
                continue
        if {"age", beside} <= set(found):
            time.sleep(0.1)
            os.kill(found[victim], signal.SIGKILL)
            return
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
