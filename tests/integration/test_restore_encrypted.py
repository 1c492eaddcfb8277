# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An encrypted backup under everything that reads one: restored beside, one table of it, read to its end, drilled."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    encrypted_dump,
    encryption,
    restore,
    restore_database,
    restore_plan,
    restore_table,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from support.backups import PATIENT, RUN, back_up, fill, names, prove, recompute
from support.keys import Key, age_key
from support.server import BACKUP, OWNER, RESTORE

MOMENT = datetime(2026, 11, 22, 20, 15, 0, tzinfo=UTC)


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return age_key(tmp_path)


@pytest.fixture
def filled(server: Any, database: str) -> str:
    fill(server, database, 100)
    return database


@pytest.fixture
def backup(target: Any, filled: str, tmp_path: Path, key: Key) -> backup_store.Backup:
    return back_up(target, tmp_path / "backups", encrypt_to=[key.public])


def beside(target: Any, path: str, key: Key | None) -> dict[str, Any]:
    asked = restore_plan.Asked(path, identity=key and key.identity)
    return restore_database.run(target, asked, Work(RUN), now=lambda: MOMENT)


def one_table(target: Any, path: str, key: Key | None) -> dict[str, Any]:
    asked = restore_table.Asked(path, table="visits", identity=key and key.identity)
    return restore_table.run(target, asked, Work(RUN), now=lambda: MOMENT)


def made(server: Any, database: str) -> list[Any]:
    """What a restore would have made."""
    schemas = server.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored%'", database=database)
    return [name for name in names(server, database) if name != database] + schemas


def test_it_comes_back_whole_in_a_new_database(
    server: Any, target: Any, filled: str, backup: backup_store.Backup, key: Key
) -> None:
    found = beside(target, backup.path, key)
    assert (found["kind"], found["rows"], found["owners"]) == ("backup", 202, True)
    assert server.execute("SELECT count(*) FROM students", database=found["into"]) == [(100,)]


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_one_table_of_it_comes_back_and_is_never_plain_on_a_disk(
    server: Any,
    target: Any,
    filled: str,
    backup: backup_store.Backup,
    key: Key,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.execute("DELETE FROM visits WHERE id = 7", database=filled)
    written: list[str] = []
    real = tempfile.NamedTemporaryFile

    def seen(*arguments: Any, **named: Any) -> Any:
        written.append(str(named.get("prefix")))
        return real(*arguments, **named)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", seen)
    found = one_table(target, backup.path, key)
    assert found["tables"] == [{"table": "public.visits", "rows": 100}]
    missing = found["statements"]['"public"."visits"']["missing"]
    with server.session(filled, RESTORE) as conn, conn.cursor() as cursor:
        cursor.execute(missing)
        assert cursor.fetchall() == [(7,)]
    # Its table of contents alone, which has names.
    assert written == ["pgops-list-"]
    assert names(server, filled) == [filled]


def test_a_whole_schema_of_it_comes_back_with_its_partitions(
    server: Any, target: Any, filled: str, tmp_path: Path, key: Key
) -> None:
    server.execute(
        "SELECT lo_from_bytea(77, 'a scan'); CREATE TABLE years (at date, n int) PARTITION BY RANGE (at);"
        "CREATE TABLE years_26 PARTITION OF years FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');"
        "INSERT INTO years SELECT '2026-05-01', g FROM generate_series(1, 50) g;"
        f"ALTER TABLE years OWNER TO {OWNER}; ALTER TABLE years_26 OWNER TO {OWNER};"
        f"GRANT SELECT ON LARGE OBJECT 77 TO {BACKUP}",
        database=filled,
    )
    backup = back_up(target, tmp_path / "backups", encrypt_to=[key.public])
    asked = restore_table.Asked(backup.path, schema="public", identity=key.identity)
    found = restore_table.run(target, asked, Work(RUN), now=lambda: MOMENT)
    rows = {entry["table"]: entry["rows"] for entry in found["tables"]}
    assert rows == {"public.students": 100, "public.visits": 100, "public.Odd Name; --": 2, "public.years": 50}


@pytest.mark.parametrize("restored", [beside, one_table])
def test_without_a_key_or_with_another_one_nothing_is_made(
    server: Any,
    target: Any,
    filled: str,
    backup: backup_store.Backup,
    tmp_path: Path,
    restored: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(PgopsError) as missing:
        restored(target, backup.path, None)
    assert missing.value.message == f"{backup.path} is encrypted and no private key was given; nothing was restored."
    assert "backup_identity_file" in str(missing.value.hint)
    other = age_key(tmp_path, "other")
    with pytest.raises(PgopsError) as wrong:
        restored(target, backup.path, other)
    assert wrong.value.message == (
        f"{backup.path}/dump.age is not encrypted to the private key {other.file}; nothing was restored."
    )
    assert made(server, filled) == []


@pytest.mark.parametrize("restored", [beside, one_table])
def test_one_that_was_cut_off_and_had_its_checksums_made_anew_leaves_nothing(
    server: Any,
    target: Any,
    filled: str,
    backup: backup_store.Backup,
    key: Key,
    restored: Callable[..., dict[str, Any]],
) -> None:
    file = Path(backup.path) / encrypted_dump.DUMP
    file.write_bytes(file.read_bytes()[:-40])
    cut = recompute(backup, file)
    with pytest.raises(PgopsError) as caught:
        restored(target, cut.path, key)
    assert "dump.age is damaged: age says" in caught.value.message
    assert made(server, filled) == []
    assert PATIENT not in json.dumps([caught.value.message, caught.value.extra], default=str)


@pytest.mark.slow
def test_the_playbooks_hand_the_key_over(
    playbook: Any, server: Any, filled: str, backup: backup_store.Backup, key: Key
) -> None:
    for name, choice in (
        ("restore.yml", {"restore_into": f"{filled}_copy"}),
        ("restore_table.yml", {"restore_table": "visits"}),
    ):
        refused = playbook(name, restore_from=backup.path, **choice)
        assert refused.rc == 2
        assert f"{backup.path} is encrypted and no private key was given; nothing was restored." in refused.output
        assert made(server, filled) == []
    choice = {"restore_from": backup.path, "backup_identity_file": str(key.file)}
    table = playbook("restore_table.yml", restore_table="visits", **choice)
    assert table.rc == 0, table.output
    assert "100 rows of public.visits" in table.stdout
    shown = playbook("restore.yml", "--check", **choice)
    assert shown.rc == 0, shown.output
    whole = playbook("restore.yml", restore_into=f"{filled}_copy", **choice)
    assert whole.rc == 0, whole.output
    assert server.execute("SELECT count(*) FROM visits", database=f"{filled}_copy") == [(100,)]
    assert "AGE-SECRET-KEY" not in table.output + shown.output + whole.output


# -- read to its end, and drilled ------------------------------------------------------------------------------------------


def test_the_first_level_reads_it_to_its_end_and_restores_nothing(
    target: Any, backup: backup_store.Backup, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "create", None)
    assert prove(target, backup, level=1, identity=key.identity)["level"] == 1
    assert backup_store.read_backup(backup.path).proof_level == 1


@pytest.mark.parametrize("cut", ["the file", "what was encrypted"])
def test_the_first_level_finds_one_that_is_cut_off(
    target: Any, backup: backup_store.Backup, key: Key, cut: str
) -> None:
    file = Path(backup.path) / encrypted_dump.DUMP
    if cut == "the file":
        file.write_bytes(file.read_bytes()[:-40])
        told = "dump.age is damaged: age says"
    else:
        plain = encryption.decrypt(str(file), key.identity)
        file.write_bytes(encryption.encrypt(plain[: len(plain) // 2], [key.public]))
        told = "dump.age cannot be read to its end: "
    recompute(backup, file)
    with pytest.raises(PgopsError) as caught:
        prove(target, backup, level=1, identity=key.identity)
    assert told in caught.value.message
    assert backup_store.read_backup(backup.path).proof_level == 0


@pytest.mark.slow
def test_a_drill_of_it_needs_the_key_and_leaves_nothing(
    playbook: Any, server: Any, target: Any, filled: str, key: Key
) -> None:
    playbook.variables["pgops_sql"] = str(playbook.copy_sql())
    newest = back_up(target, playbook.backups, encrypt_to=[key.public])
    refused = playbook("restore_drill.yml")
    assert refused.rc == 2
    assert f"{newest.path} is encrypted and no private key was given; nothing was restored." in refused.output
    done = playbook("restore_drill.yml", backup_identity_file=str(key.file))
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][filled]["drill"]
    assert (found["backup"], found["verdict"], found["level"]) == (newest.path, "passed", 5)
    assert names(server, filled) == [filled]
    assert PATIENT not in done.output
    assert "AGE-SECRET-KEY" not in done.output
