# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""After the kill the same command went on to the end: asked of the database, not of Ansible."""

from __future__ import annotations

import json
from pathlib import Path

from support.hosts import databases, query, value

MIGRATIONS = sorted(p.name.split("_")[0] for p in (Path(__file__).parents[3] / "sql" / "migrations").iterdir())


def test_every_version_is_applied_once(host):
    assert query(host, "SELECT version, state FROM pgops.migration ORDER BY version") == [
        [v, "applied"] for v in MIGRATIONS
    ]


def test_the_last_migration_did_all_of_its_steps(host):
    assert value(host, "SELECT 'SAFETY' = ANY (enum_range(NULL::\"IncidentType\")::text[])") is True
    assert query(host, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    assert query(host, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid OR NOT indisready") == []


def test_the_twelve_configuration_rows_are_there_once(host):
    assert value(host, "SELECT count(*) FROM system_configurations") == 12


def test_the_objects_belong_to_the_owner_role(host):
    owners = query(
        host,
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 'pgops'::regnamespace)",
    )
    assert owners == [["white_cross_owner"]]


def test_a_proved_backup_is_there_and_closed_to_others(host):
    proofs = host.run("find /var/backups/pgops/white_cross -name proof.json").stdout.split()
    assert proofs
    for path in proofs:
        assert json.loads(host.file(path).content_string)["manifest_sha256"]
    assert host.run("find /var/backups/pgops -mindepth 1 -type d -not -perm 0700").stdout == ""
    assert host.run("find /var/backups/pgops -type f -not -perm 0600").stdout == ""
    assert host.run("find /var/backups/pgops -name '*.partial'").stdout == ""


def test_no_scratch_database_is_left(host):
    assert databases(host) == ["postgres", "white_cross"]
