# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster that was put aside has its place again, with what was written after the restore point."""

from __future__ import annotations

from support.hosts import value

DATA = "/var/lib/postgresql/15/main"


def test_the_later_rows_are_there_again(host):
    assert value(host, "SELECT count(*) FROM districts WHERE code = 'later'") == 1
    assert value(host, "SELECT count(DISTINCT status::text) FROM incident_reports") == 1
    assert host.service("postgresql@15-main").is_running


def test_it_takes_writes_and_the_other_one_does_not(host):
    assert value(host, "SELECT NOT pg_is_in_recovery()") is True
    assert not host.file(f"{DATA}/standby.signal").exists
    (kept,) = host.run(f"ls -d {DATA}.pgops_kept_*").stdout.split()
    assert host.file(f"{kept}/standby.signal").exists
