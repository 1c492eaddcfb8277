# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed in the restore and under the fence, the same command has gone on: the database is the one of the backup; the failed one is
kept under another name, and has what the clients wrote meanwhile."""

from __future__ import annotations

from pathlib import Path

from support.hosts import query, value
from support.written_by_clients import assert_kept, inside, log, put_aside

VERSIONS = [folder.name.partition("_")[0] for folder in (Path(__file__).parents[3] / "sql" / "migrations").iterdir()]


def test_the_database_is_as_it_was_before_the_last_migration(host):
    applied = query(host, "SELECT version FROM pgops.migration WHERE state = 'applied'")
    assert len(applied) == len([version for version in VERSIONS if version < "20251103204744"])
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'incident_reports'::regclass AND attname = 'status' AND NOT attisdropped"
    assert query(host, columns) == []
    assert value(host, "SELECT count(*) FROM students") > 0


def test_the_failed_database_is_kept_closed_and_with_the_later_writes(host):
    name = put_aside(host)
    assert name.startswith("white_cross_failed_")
    connect = f"SELECT datallowconn FROM pg_database WHERE datname = '{name}'"
    assert query(host, connect, "postgres") == [[False]]
    # Nobody gets in but by opening it.
    assert inside(host, name, "SELECT DISTINCT status::text FROM incident_reports") == [["CLOSED"]]


def test_the_application_can_connect_again_and_owner_and_rights_are_those_of_before(host):
    row = query(
        host, "SELECT datallowconn, datconnlimit, datdba::regrole::text FROM pg_database WHERE datname = 'white_cross'"
    )
    assert row == [[True, -1, "white_cross_owner"]]


def test_the_clients_write_again_and_nothing_that_they_have_written_is_lost(host):
    assert log(host)[-1]["error"] is None
    assert_kept(host)


def test_what_was_done_before_is_still_in_the_history(host):
    events = [
        row[0] for row in query(host, "SELECT event FROM pgops.audit WHERE version = '20251103204744' ORDER BY seq")
    ]
    # Applied, reverted, applied again after the backup.
    assert [event for event in events if event in ("applied", "reverted")] == ["applied", "reverted", "applied"]
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'database_swapped'") == 1
