# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed under the fence: nobody gets into either database, one has the name, and the clients knock."""

from __future__ import annotations

from support.hosts import databases, query
from support.written_by_clients import log


def test_the_database_and_one_copy_are_there_and_let_nobody_in(host):
    # What the run before has left, killed in the middle of its restore, is gone.
    names = databases(host)
    assert names[:2] == ["postgres", "white_cross"]
    (copy,) = names[2:]
    assert copy.startswith("white_cross_restore_")
    closed = "SELECT datname::text FROM pg_database WHERE NOT datallowconn AND datname <> 'template0' ORDER BY 1"
    assert query(host, closed, "postgres") == [["white_cross"], [copy]]


def test_no_process_of_the_killed_runs_is_left(host):
    assert host.run("pgrep --list-full 'pg_restore|pg_dump'").stdout == ""
    sessions = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pgops %'"
    assert query(host, sessions, "postgres") == []


def test_the_clients_knock(host):
    assert "not currently accepting connections" in log(host)[-1]["error"]
