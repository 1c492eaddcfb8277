# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Approved by both, in a window, with staging's evidence, the run that had stopped has gone on to its end, and says who has approved it."""

import json
import os
from pathlib import Path

from support.hosts import databases, query, value


def is_production(host):
    return host.run("hostname").stdout.strip() == "pgops-gate-production"


def test_both_have_the_version(host):
    assert query(host, "SELECT version, state FROM pgops.migration") == [["20260101000001", "applied"]]
    assert value(
        host,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'rooms'::regclass AND attname = 'floor'",
    ) == ("integer")
    assert value(host, "SELECT count(*) FROM rooms") == 2000


def test_it_was_the_run_that_had_stopped_with_the_backup_that_it_had_proved(host):
    if not is_production(host):
        return
    stopped = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "stopped.json").read_text())
    assert value(host, "SELECT run_id FROM pgops.migration") == stopped["run_id"]
    assert host.run("ls -d /var/backups/pgops/white_cross/*/proof.json | wc -l").stdout.strip() == "1"


def test_the_audit_says_who_has_approved_it(host):
    if not is_production(host):
        return
    told = value(host, "SELECT string_agg(detail::text, ' ') FROM pgops.audit")
    for who in ("grace@hospital.org", "dana@hospital.org"):
        assert who in told
    assert "mallory" not in told


def test_no_copy_is_left(host):
    assert databases(host) == ["postgres", "white_cross"]
