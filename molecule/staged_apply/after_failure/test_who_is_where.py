# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In the middle of the fleet a host has failed: those before it are migrated, those behind it are as they were."""

from support.hosts import query, value

STATES = {
    "pgops-staged-1": [["20260101000000", "applied"], ["20260101000001", "applied"], ["20260101000002", "applied"]],
    "pgops-staged-2": [["20260101000000", "applied"], ["20260101000001", "applied"], ["20260101000002", "failed"]],
    "pgops-staged-3": [["20260101000000", "applied"]],
}


def name(host):
    return host.run("hostname").stdout.strip()


def test_each_host_is_where_the_run_has_said(host):
    assert query(host, "SELECT version, state FROM pgops.migration ORDER BY version") == STATES[name(host)]


def test_the_host_that_was_not_begun_has_nothing_of_it(host):
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'rooms'::regclass AND attname = 'floor' AND NOT attisdropped"
    assert value(host, columns) == (0 if name(host) == "pgops-staged-3" else 1)
    backups = host.run("find /var/backups/pgops/white_cross -mindepth 1 -maxdepth 1 -type d | wc -l").stdout.strip()
    assert backups == ("1" if name(host) == "pgops-staged-3" else "2")


def test_no_client_has_failed(host):
    lines = host.file("/var/lib/postgresql/clients.log").content_string.splitlines()
    assert len(lines) > 100
    assert [line for line in lines if " ok " not in line] == []
