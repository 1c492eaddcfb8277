# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database that was put aside has its name again, with what was written before the swap; the other one is kept."""

from __future__ import annotations

from support.hosts import query, value
from support.written_by_clients import assert_kept, inside, log, put_aside


def test_the_later_rows_are_there_again_and_the_database_takes_writes(host):
    assert query(host, "SELECT DISTINCT status::text FROM incident_reports") == [["CLOSED"]]
    assert value(host, "SELECT datallowconn FROM pg_database WHERE datname = 'white_cross'") is True
    assert log(host)[-1]["error"] is None


def test_the_restored_one_is_kept_closed(host):
    name = put_aside(host)
    assert name.startswith("white_cross_failed_")
    assert query(host, f"SELECT datallowconn FROM pg_database WHERE datname = '{name}'", "postgres") == [[False]]
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'incident_reports'::regclass AND attname = 'status' AND NOT attisdropped"
    assert inside(host, name, columns) == []


def test_nothing_that_a_client_has_written_is_lost(host):
    assert_kept(host)


def test_both_swaps_are_in_the_history(host):
    assert value(host, "SELECT count(*) FROM pgops.audit WHERE event = 'database_swapped'") == 2
