# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Which setting has every query logged."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.phi_logging import logged_by


@pytest.mark.parametrize(
    ("settings", "by"),
    [
        ({"log_statement": "none", "log_min_duration_statement": "-1"}, None),
        ({"log_statement": "mod"}, None),
        ({"log_statement": "all"}, "log_statement"),
        ({"log_statement": "none", "log_min_duration_statement": "0"}, "log_min_duration_statement"),
        ({"log_statement": "none", "log_min_duration_statement": "250"}, None),
        ({"log_statement": "none", "pgaudit.log": "read, write"}, "pgaudit.log"),
        ({"log_statement": "none", "pgaudit.log": "ALL"}, "pgaudit.log"),
        ({"log_statement": "none", "pgaudit.log": "all, -read"}, None),
        ({"log_statement": "none", "pgaudit.log": "all, -misc"}, "pgaudit.log"),
        ({"log_statement": "none", "pgaudit.log": "write,ddl"}, None),
        ({"log_statement": "all", "pgaudit.log": "none"}, "log_statement"),
        ({}, None),
    ],
)
def test_a_query_is_logged_by_the_setting_that_has_it(settings: dict[str, str], by: str | None) -> None:
    assert logged_by(settings) == by
