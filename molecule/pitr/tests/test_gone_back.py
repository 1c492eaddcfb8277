# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows are those of the restore point, the old cluster is kept and cannot take writes, the backup was proved."""

from __future__ import annotations

import json

from support.hosts import query, value

DATA = "/var/lib/postgresql/15/main"


def test_the_rows_are_those_of_the_restore_point(host):
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'incident_reports'::regclass AND attname = 'status' AND NOT attisdropped"
    assert query(host, columns) == []
    assert value(host, "SELECT count(*) FROM districts WHERE code = 'later'") == 0
    assert value(host, "SELECT count(*) FROM students") > 0
    assert value(host, "SELECT max(version) FROM pgops.migration WHERE state = 'applied'") == "20250103000003"


def test_what_was_done_since_is_still_in_the_history(host):
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'cluster_restored'") == 1
    # The second migration came after the restore point.
    assert value(host, "SELECT count(*) FROM pgops.run WHERE result = 'applied'") == 2


def test_the_cluster_runs_in_its_place_under_systemd_and_archives(host):
    assert host.service("postgresql@15-main").is_running
    assert value(host, "SELECT NOT pg_is_in_recovery()") is True
    assert (
        value(
            host,
            "SELECT count(*) FROM pg_settings WHERE name LIKE 'recovery_target%' AND setting <> boot_val",
            "postgres",
        )
        == 0
    )
    assert host.run("runuser -u postgres -- pgbackrest --config=/etc/pgbackrest/pgops.conf --stanza=main check").rc == 0


def test_the_old_cluster_is_kept_and_takes_no_writes(host):
    (kept,) = host.run(f"ls -d {DATA}.pgops_kept_*").stdout.split()
    assert host.file(f"{kept}/standby.signal").exists
    assert not host.run(f"ls -d {DATA}.pgops_new_* {DATA}.pgops_proof_* {DATA}.pgops_change.json").stdout


def test_the_backup_was_proved_and_the_configuration_is_private(host):
    (path,) = host.run("ls /var/backups/pgops/physical-main/*.proof.json").stdout.split()[-1:]
    proof = json.loads(host.file(path).content_string)
    assert proof["databases"]["white_cross"]["rows"] > 0
    assert host.file(path).mode == 0o600
    config = host.file("/etc/pgbackrest/pgops.conf")
    assert (config.user, config.mode) == ("postgres", 0o600)
    assert "repo1-cipher-type=aes-256-cbc" in config.content_string
