# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each printed ``next:`` is a command that goes on: none is the very one that was refused for good, none lost what it was given."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from support.backups import back_up, fill, proved
from support.server import MIGRATOR, OWNER, Server
from support.site import Playbook
from support.tree import TestTree

LIST = "ansible-playbook backup_list.yml -l local -e backup_list_only=proved"
BACKUP = "ansible-playbook backup.yml -l local"
V1, V2 = "20260101000000", "20260102000000"


def typed(playbook: Playbook, command: str) -> subprocess.CompletedProcess[str]:
    playbook.write_inventory()
    return subprocess.run(
        shlex.split(command), cwd=playbook.folder, env=playbook.environment(), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def filled(server: Server, playbook: Playbook) -> Playbook:
    fill(server, playbook.database, rows=5)
    return playbook


def truncated(folder: Path) -> None:
    next(folder.rglob("*.dat*")).write_bytes(b"")


def missing(folder: Path) -> None:
    next(folder.rglob("*.dat*")).unlink()


def further(folder: Path) -> None:
    (next(folder.rglob("*.dat*")).parent / "more").write_text("x")


def broken(folder: Path) -> None:
    (folder / backup_store.MANIFEST).write_text("{")


def rewritten(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / backup_store.MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


def other_rows(folder: Path) -> None:
    """The files are whole and what is restored differs from what the manifest says."""
    path = folder / backup_store.MANIFEST
    manifest = json.loads(path.read_text())
    next(entry for entry in manifest["tables"].values() if entry["rows"])["rows"] += 1
    path.write_text(json.dumps(manifest))


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (truncated, "is damaged"),
        (missing, "is damaged"),
        (further, "is damaged"),
        (broken, "is no JSON object"),
        (rewritten(format=99), "has format 99"),
        (rewritten(database="another"), "is a backup of another"),
        (rewritten(server_version=[99, 1]), "comes from a newer server"),
        (other_rows, "differs from its manifest"),
    ],
    ids=["truncated", "missing", "further", "broken", "format", "foreign", "newer", "different"],
)
def test_a_proof_of_what_can_never_be_proved_is_not_told_to_be_typed_again(
    filled: Playbook, target: Any, harm: Callable[[Path], None], told: str
) -> None:
    path = back_up(target, filled.backups).path
    harm(Path(path))
    refused = filled("prove.yml", backup_path=path)
    assert refused.rc != 0
    assert told in refused.json["error"]["message"]
    assert refused.json["error"]["next"] == [LIST, BACKUP]
    assert f"    next: {LIST}\n    next: {BACKUP}\n" in refused.stdout


def test_the_commands_after_a_damaged_backup_do_what_they_say(filled: Playbook, target: Any) -> None:
    whole, damaged = proved(target, filled.backups).path, back_up(target, filled.backups, run_id="another").path
    truncated(Path(damaged))
    look, backup = filled("prove.yml", backup_path=damaged).json["error"]["next"]
    listed = typed(filled, look)
    assert listed.returncode == 0, listed.stdout
    assert Path(whole).name in listed.stdout and Path(damaged).name not in listed.stdout
    assert typed(filled, backup).returncode == 0


@pytest.mark.parametrize("name", ["itself", "postgres", "template1"])
def test_a_scratch_database_that_is_there_is_not_named_again(filled: Playbook, target: Any, name: str) -> None:
    path = back_up(target, filled.backups).path
    named = filled.database if name == "itself" else name
    refused = filled("prove.yml", backup_path=path, backup_scratch_database=named)
    assert refused.rc != 0
    (command,) = refused.json["error"]["next"]
    assert command == f"ansible-playbook prove.yml -l local {extra_variables_argument({'backup_path': path})}"
    if name == "itself":
        done = typed(filled, command)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (rewritten(system_identifier="7"), "was altered"),
        (rewritten(database="another"), "was altered"),
        (truncated, "is damaged"),
    ],
    ids=["foreign", "altered", "damaged"],
)
def test_a_rollback_to_what_can_never_be_restored_is_not_told_to_be_typed_again(
    filled: Playbook, target: Any, harm: Callable[[Path], None], told: str
) -> None:
    path = proved(target, filled.backups).path
    harm(Path(path))
    choice = {"rollback_strategy": "restore", "rollback_confirm": filled.database}
    refused = filled("rollback.yml", rollback_backup=path, **choice)
    assert refused.rc != 0
    assert told in refused.json["error"]["message"]
    without = (
        f"ansible-playbook rollback.yml -l local -e rollback_strategy=restore -e rollback_confirm={filled.database}"
    )
    assert refused.json["error"]["next"] == [LIST, without]


def test_a_restore_of_a_damaged_backup_or_of_none_lists_those_that_can_be_named(filled: Playbook, target: Any) -> None:
    path = proved(target, filled.backups).path
    truncated(Path(path))
    assert filled("restore.yml", restore_from=path).json["error"]["next"] == [LIST]
    assert filled("restore.yml").json["error"]["next"] == [LIST]


def test_a_database_that_is_there_already_is_not_named_again(filled: Playbook, target: Any) -> None:
    path = proved(target, filled.backups).path
    refused = filled("restore.yml", restore_from=path, restore_into=filled.database)
    assert refused.json["error"]["next"] == [
        f"ansible-playbook restore.yml -l local {extra_variables_argument({'restore_from': path})}"
    ]


def test_the_test_of_a_migration_keeps_its_version_and_names_one_where_none_was_given(playbook: Playbook) -> None:
    tree = TestTree(playbook.folder / "own sql")
    for version, name in ((V1, "people"), (V2, "pets")):
        tree.add_sql(version, name, f"CREATE TABLE public.{name} (id int PRIMARY KEY);", "SELECT 1;")
    playbook.variables["pgops_sql"] = str(tree.folder)
    failed = playbook("test_migration.yml", test_migration_version=V1)
    assert failed.rc != 0
    again = f"ansible-playbook test_migration.yml -l local -e test_migration_version={V1}"
    assert again in failed.json["error"]["next"]
    newest = again.replace(V1, V2)
    unnamed = playbook("test_migration.yml")
    assert unnamed.json["error"]["next"] == [newest]
    assert f"type: {newest}" in unnamed.json["error"]["message"]
    assert playbook("test_migration.yml", limit="production", test_migration_version=V1).json["error"]["next"] == [
        again
    ]


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ({}, "tables"),
        ({"inspect_query": "indexs"}, "indexes"),
        ({"inspect_query": "columns"}, "tables"),
        ({"inspect_query": "enum_values"}, "enums"),
        ({"inspect_query": "enums", "inspect_table": "x"}, "enums"),
    ],
)
def test_a_query_that_cannot_be_asked_offers_one_that_answers(
    playbook: Playbook, given: dict[str, str], query: str
) -> None:
    refused = playbook("inspect.yml", **given)
    assert refused.rc != 0
    (command,) = refused.json["error"]["next"]
    assert command == f"ansible-playbook inspect.yml -l local -e inspect_query={query}"
    done = typed(playbook, command)
    assert done.returncode == 0, done.stdout


def test_a_run_that_is_not_there_is_looked_for_by_status(playbook: Playbook) -> None:
    refused = playbook("inspect.yml", inspect_query="server_log")
    assert refused.json["error"]["next"] == ["ansible-playbook status.yml -l local"]


def test_what_preflight_has_to_be_done_by_hand_is_the_hint(server: Server, playbook: Playbook) -> None:
    """Its two ways are two sentences, and no shell takes either for a command."""
    server.execute(
        f"CREATE SCHEMA pgops; CREATE SCHEMA other; CREATE TABLE other.x (id int PRIMARY KEY); ALTER TABLE other.x OWNER TO {OWNER}",
        database=playbook.database,
    )
    playbook.variables["pgops_restore_user"] = MIGRATOR
    stopped = playbook("preflight.yml")
    assert stopped.rc != 0
    checks = {c["check"]: c for c in stopped.json["hosts"]["local-1"][playbook.database]["preflight"]["checks"]}
    owner = checks["restore_owner"]["fix"]
    assert (owner.count("name a superuser"), owner.count("; name a superuser")) == (2, 1), owner
    error = stopped.json["error"]
    assert error["next"][-1] == "ansible-playbook preflight.yml -l local"
    assert all(command.endswith(";") for command in error["next"][:-1]), error["next"]
    assert "name a superuser" not in str(error["next"])
