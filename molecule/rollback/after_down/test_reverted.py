# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last version is reverted, its objects are gone, the rows are still there."""

from __future__ import annotations

from pathlib import Path

from support.hosts import query, value

VERSIONS = [folder.name.partition("_")[0] for folder in (Path(__file__).parents[3] / "sql" / "migrations").iterdir()]


def test_the_last_version_is_reverted_and_the_others_stay(host):
    states = [state for _, state in query(host, "SELECT version, state FROM pgops.migration ORDER BY version")]
    assert states == ["applied"] * (len(states) - 1) + ["reverted"]
    assert len(states) == len([version for version in VERSIONS if version <= "20251103204744"])


def test_its_column_and_its_enum_value_are_gone(host):
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'incident_reports'::regclass AND attname = 'status' AND NOT attisdropped"
    assert query(host, columns) == []
    assert value(host, "SELECT 'SAFETY' = ANY (enum_range(NULL::\"IncidentType\")::text[])") is False


def test_the_rows_are_still_there(host):
    assert value(host, "SELECT count(*) FROM students") > 0
