# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server was killed in the third migration's transaction: two are applied, the third left nothing."""

from __future__ import annotations

from support.hosts import query, value


def test_the_first_two_migrations_stayed(host):
    applied = query(host, "SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY version")
    assert applied == [["20250103000000"], ["20250103000001"]]
    assert value(host, "SELECT to_regclass('public.students') IS NOT NULL") is True


def test_the_third_left_no_object(host):
    assert value(host, "SELECT to_regclass('public.incident_reports') IS NULL") is True
