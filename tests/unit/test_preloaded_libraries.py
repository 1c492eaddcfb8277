# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of preloaded libraries is read as the server reads it."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import preloaded_libraries


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("", []),
        ("pg_stat_statements", ["pg_stat_statements"]),
        ("pg_cron, pg_stat_statements", ["pg_cron", "pg_stat_statements"]),
        ('"$libdir/pg_cron",pgaudit , ', ["$libdir/pg_cron", "pgaudit"]),
        ('"a, b","c ""d"""', ["a, b", 'c "d"']),
        ("/opt/my libraries/one.so,two", ["/opt/my libraries/one.so", "two"]),
    ],
)
def test_each_library_is_read_and_written_back_the_same(setting: str, names: list[str]) -> None:
    assert preloaded_libraries.names(setting) == names
    assert preloaded_libraries.names(preloaded_libraries.as_setting(names)) == names


@pytest.mark.parametrize("name", ["pg_cron", "$libdir/pg_cron", "/usr/lib/postgresql/18/lib/pg_cron.so"])
def test_a_library_is_known_by_its_bare_name(name: str) -> None:
    assert preloaded_libraries.bare(name) == "pg_cron"
