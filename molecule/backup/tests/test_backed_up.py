# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newest backup is proved, whole, private, and holds what the database holds."""

from __future__ import annotations

import hashlib
import json

from support.hosts import databases, query

FOLDER = "/var/backups/pgops/white_cross"


def newest(host):
    return max(host.run(f"find {FOLDER} -name manifest.json").stdout.split()).removesuffix("/manifest.json")


def test_the_newest_backup_is_proved_with_this_very_manifest(host):
    manifest = host.run(f"cat {newest(host)}/manifest.json").stdout
    proof = json.loads(host.file(f"{newest(host)}/proof.json").content_string)
    assert proof["manifest_sha256"] == hashlib.sha256(manifest.encode()).hexdigest()


def test_the_manifest_counts_the_rows_of_every_table(host):
    manifest = json.loads(host.file(f"{newest(host)}/manifest.json").content_string)
    tables = query(
        host, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    assert tables
    # One question for all tables: each costs a start of podman.
    counted = query(
        host, " UNION ALL ".join(f"SELECT '{table}', (SELECT count(*) FROM {table})" for (table,) in tables)
    )
    assert {f"public.{table}": rows for table, rows in counted} == {
        name: entry["rows"] for name, entry in manifest["tables"].items() if name.startswith("public.")
    }
    assert manifest["tables"]["public.students"]["rows"] > 0


def test_folders_and_files_are_closed_to_others(host):
    assert host.run("find /var/backups/pgops -mindepth 1 -type d -not -perm 0700").stdout == ""
    assert host.run("find /var/backups/pgops -type f -not -perm 0600").stdout == ""


def test_no_scratch_database_and_no_half_backup_are_left(host):
    assert databases(host) == ["postgres", "white_cross"]
    assert host.run("find /var/backups -name '*.partial*'").stdout == ""
