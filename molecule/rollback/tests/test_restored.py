# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database is the one of the backup; the failed one is kept under another name."""

from __future__ import annotations

from pathlib import Path

from support.hosts import databases, execute, query, value

VERSIONS = [folder.name.partition("_")[0] for folder in (Path(__file__).parents[3] / "sql" / "migrations").iterdir()]


def failed(host):
    (name,) = [name for name in databases(host) if name not in ("postgres", "white_cross")]
    return name


def test_the_database_is_as_it_was_before_the_last_migration(host):
    applied = query(host, "SELECT version FROM pgops.migration WHERE state = 'applied'")
    assert len(applied) == len([version for version in VERSIONS if version < "20251103204744"])
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'incident_reports'::regclass AND attname = 'status' AND NOT attisdropped"
    assert query(host, columns) == []
    assert value(host, "SELECT count(*) FROM students") > 0


def test_the_failed_database_is_kept_closed_and_with_the_later_writes(host):
    name = failed(host)
    assert name.startswith("white_cross")
    connect = f"SELECT datallowconn FROM pg_database WHERE datname = '{name}'"
    assert query(host, connect, "postgres") == [[False]]
    # Nobody gets in but by opening it.
    execute(host, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true', "postgres")
    try:
        assert query(host, "SELECT DISTINCT status::text FROM incident_reports", name) == [["CLOSED"]]
    finally:
        execute(host, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false', "postgres")


def test_the_application_can_connect_again_and_owner_and_rights_are_those_of_before(host):
    row = query(
        host, "SELECT datallowconn, datconnlimit, datdba::regrole::text FROM pg_database WHERE datname = 'white_cross'"
    )
    assert row == [[True, -1, "white_cross_owner"]]
