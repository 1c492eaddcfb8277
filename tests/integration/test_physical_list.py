# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of an environment that has physical backups has them in it, or says why it has not.

What pgBackRest itself says of a real repository is listed in test_physical_ladder.py; here stands a program in its place.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import pgbackrest, physical_backup, physical_list
from ansible_collections.whitecross.pgops.plugins.module_utils.os_user import OsUser
from support.backups import small
from support.site import Playbook

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
FULL, LATER, COPY, DAMAGED = (
    "20261120-010000F",
    "20261120-010000F_20261121-010000I",
    "20261121-020000F",
    "20261122-010000F",
)


def entry(label: str, kind: str, days: int, repository: int = 1, **more: Any) -> dict[str, Any]:
    stop = int((NOW - timedelta(days=days)).timestamp())
    return {
        "label": label, "type": kind, "timestamp": {"start": stop - 60, "stop": stop}, "info": {"size": 48_000_000},
        "archive": {"start": "000000010000000000000002", "stop": "000000010000000000000003"},
        "lsn": {"start": "0/2000028", "stop": "0/3000100"}, "database": {"id": 1, "repo-key": repository}, "error": False,
        **more,
    }  # fmt: skip


def program(folder: Path, *backups: dict[str, Any]) -> str:
    """In the place of pgBackRest, with what it says of stanza main."""
    databases = [{"id": 1, "repo-key": number, "system-id": 4711} for number in (1, 2)]
    told = [{"name": "main", "db": databases, "backup": list(backups), "archive": []}] if backups else []
    (folder / "says").write_text(json.dumps(told))
    path = folder / "pgbackrest"
    path.write_text(f"#!/bin/sh\ncat '{folder}/says'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def repository(tmp_path: Path) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    return program(
        folder, entry(FULL, "full", 2), entry(LATER, "incr", 1, reference=[FULL]), entry(COPY, "full", 1, 2),
        entry(DAMAGED, "full", 0, error=True),
    )  # fmt: skip


def listed(repository: str, proofs: Path, **settings: Any) -> dict[str, Any]:
    tool = pgbackrest.PgBackRest(repository, "/c", "main", OsUser(getpass.getuser()))
    return physical_list.listing(tool, str(proofs), now=NOW, **settings)


def labels(found: dict[str, Any]) -> list[str]:
    return [backup["label"] for backup in found["backups"]]


def test_each_is_listed_with_its_repository_and_its_proof(repository: str, tmp_path: Path) -> None:
    proved = {"label": FULL, "level": 4, "proved_at": "2026-11-20T02:00:00Z", "system_identifier": "4711"}
    physical_backup.write_proof(str(tmp_path), "main", proved)
    physical_backup.write_proof(str(tmp_path), "main", {**proved, "label": LATER, "level": 2})
    # That of another cluster that shares the folder, and one that is none.
    physical_backup.write_proof(str(tmp_path), "main", {**proved, "label": COPY, "system_identifier": "8"})
    physical_backup.write_proof(str(tmp_path), "main", {**proved, "label": DAMAGED, "level": "high"})
    found = listed(repository, tmp_path)
    assert [(row["label"], row["repository"], row["level"], row["proved"], row["damaged"]) for row in found["backups"]] == [
        (DAMAGED, 1, 0, False, True), (COPY, 2, 0, False, False), (LATER, 1, 2, False, False), (FULL, 1, 4, True, False),
    ]  # fmt: skip
    assert (found["total"], found["proved"], found["damaged"]) == (4, 1, 1)
    assert found["backups"][2]["references"] == [FULL]
    assert found["backups"][3]["age_s"] == 2 * 86400
    assert labels(listed(repository, tmp_path, only="proved")) == [FULL]
    assert labels(listed(repository, tmp_path, only="unproved", newest=1)) == [DAMAGED]
    assert labels(listed(repository, tmp_path, only="damaged")) == [DAMAGED]
    assert labels(listed(repository, tmp_path, only="pinned")) == []
    assert labels(listed(repository, tmp_path, only="expiring")) == []


def test_backup_list_yml_lists_them_beside_those_of_the_database(
    playbook: Playbook, repository: str, tmp_path: Path
) -> None:
    small(playbook.backups, playbook.database, NOW)
    physical = {"backup_engine": "physical", "backup_pgbackrest": repository, "backup_os_user": getpass.getuser()}
    proof = {"label": FULL, "level": 4, "proved_at": "2026-11-20T02:00:00Z"}
    physical_backup.write_proof(str(playbook.backups), "main", proof)
    done = playbook("backup_list.yml", pgops_port="1", **physical)
    assert done.rc == 0, done.output
    assert f"{playbook.database}: 1 backups in" in done.stdout
    assert "whole cluster: 4 physical backups of stanza main, 1 proved, 1 damaged" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if f" {FULL} " in line]
    assert line.split()[1:4] == ["full", "46", "MB"]
    assert "L4 2026-11-20 02:00" in line
    program(Path(repository).parent)
    done = playbook("backup_list.yml", pgops_port="1", **physical)
    assert done.rc == 2
    assert "The physical backups cannot be listed: pgBackRest knows no stanza main" in done.output
    assert f"{playbook.database}: 1 backups in" in done.stdout
