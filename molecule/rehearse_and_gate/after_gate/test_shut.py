# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Staging has the version; production was backed up, rehearsed and asked about, and has nothing of it."""

import json

from support.hosts import databases, query, value

FLOOR = (
    "SELECT count(*) FROM pg_attribute WHERE attrelid = 'rooms'::regclass AND attname = 'floor' AND NOT attisdropped"
)


def is_production(host):
    return host.run("hostname").stdout.strip() == "pgops-gate-production"


def test_only_staging_has_the_version(host):
    assert value(host, FLOOR) == (0 if is_production(host) else 1)
    if is_production(host):
        assert value(host, "SELECT to_regnamespace('pgops')::text") is None
    else:
        assert query(host, "SELECT version, state FROM pgops.migration") == [["20260101000001", "applied"]]


def test_production_has_one_proved_backup_and_one_rehearsal_that_went_well(host):
    if not is_production(host):
        return
    assert host.run("ls -d /var/backups/pgops/white_cross/*/proof.json | wc -l").stdout.strip() == "1"
    record = json.loads(host.run("cat /var/backups/pgops/white_cross/rehearsals/*.json").stdout)
    assert record["ok"] is True and record["down_equal"] is True and record["resumed"] is True
    assert record["environment"] == "production"


def test_no_copy_is_left(host):
    assert databases(host) == ["postgres", "white_cross"]
