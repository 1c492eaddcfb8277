# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker was killed in mid-build: the ledger says so, what is left is invalid, and nobody else's index was touched."""

from __future__ import annotations

from support.hosts import query, value


def test_the_ledger_says_that_the_version_is_under_way(host):
    assert query(host, "SELECT version, state FROM pgops.migration ORDER BY version") == [
        ["20260101000001", "applied"],
        ["20260101000002", "applying"],
    ]


def test_what_was_being_built_is_invalid_and_ours(host):
    invalid = {row[0] for row in query(host, "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")}
    built = set(value(host, "SELECT progress -> 'built' FROM pgops.step WHERE version = '20260101000002'"))
    assert len(invalid) > 1
    assert {f"public.{name}" for name in invalid - {"reports_own_index"}} <= built


def test_the_invalid_index_of_somebody_else_is_there(host):
    assert query(
        host, "SELECT 1 FROM pg_index WHERE indexrelid = 'reports_own_index'::regclass AND NOT indisvalid"
    ) == [[1]]


def test_the_clients_work_on(host):
    assert host.run("systemctl is-active molecule-clients").stdout.strip() == "active"
