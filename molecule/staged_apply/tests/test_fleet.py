# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mended, the same command has taken the whole fleet to the end, and no client has seen it."""

from support.hosts import query, value

LATE_MS = 1000


def clients(host):
    """Time, how it ended and milliseconds of each transaction."""
    lines = host.file("/var/lib/postgresql/clients.log").content_string.splitlines()
    return [(float(time), ended, int(took)) for time, ended, took in (line.rsplit(" ", 2) for line in lines)]


def test_every_host_is_at_the_last_version(host):
    assert query(host, "SELECT DISTINCT state, count(*) FROM pgops.migration GROUP BY state") == [["applied", 3]]
    assert value(host, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'rooms_name_idx'::regclass") is True


def test_no_client_has_failed_or_waited_for_long(host):
    done = clients(host)
    assert len(done) > 500
    assert [ended for _time, ended, _took in done if ended != "ok"] == []
    assert max(took for _time, _ended, took in done) < LATE_MS


def test_the_clients_worked_while_the_versions_were_applied(host):
    begun, ended = query(
        host,
        "SELECT extract(epoch FROM min(started_at))::float8, extract(epoch FROM max(finished_at))::float8 "
        "FROM pgops.migration WHERE version > '20260101000000'",
    )[0]
    during = [took for time, _ended, took in clients(host) if begun - 1 <= time <= ended + 1]
    assert len(during) > 20
