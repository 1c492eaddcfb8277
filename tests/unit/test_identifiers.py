# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in the statements that a message tells people to type."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, _connection_error
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import OperationalError


@pytest.mark.parametrize(
    ("name", "typed"), [("school_1", "school_1"), ("White-Cross", '"White-Cross"'), ('a"b', '"a""b"'), ("1st", '"1st"')]
)
def test_a_name_has_quotes_where_sql_needs_them(name: str, typed: str) -> None:
    assert quoted(name) == typed


def test_the_grant_of_a_refused_connection_can_be_typed() -> None:
    error = _connection_error(
        OperationalError('FATAL: permission denied for database "x"'),
        Target(host="db1", database="White-Cross", user="app-migrator"),
    )
    assert 'role app-migrator may not connect; GRANT CONNECT ON DATABASE "White-Cross" TO "app-migrator"' in str(error)
