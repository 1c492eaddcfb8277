# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a failing statement is shown: one line, short, and no value that may be somebody's."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import one_line, without_values


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("INSERT INTO a.b\n  VALUES ('Maria', 17, 1.5)", "INSERT INTO a.b VALUES (?, ?, ?)"),
        ("-- don't\nINSERT INTO b VALUES ('Maria')", "INSERT INTO b VALUES (?)"),
        ("/* it's */ UPDATE b SET c2 = 'O''Hara' WHERE d = $1", "UPDATE b SET c2 = ? WHERE d = $1"),
        ("UPDATE b SET c = E'Mar\\'ia' || 'x'", "UPDATE b SET c = ? || ?"),
        ("DELETE FROM \"it's\" WHERE n = 'Maria'", 'DELETE FROM "it\'s" WHERE n = ?'),
        ("DO $x$ BEGIN PERFORM 'Maria'; END $x$", "DO ?"),
        ("SELECT '-- Maria', 1", "SELECT ?, ?"),
        (
            "-- why\nALTER TABLE a ADD CHECK (b IN ('x', 'y') AND c > 1)",
            "ALTER TABLE a ADD CHECK (b IN ('x', 'y') AND c > 1)",
        ),
    ],
)
def test_constants_of_statements_on_rows_are_left_out(statement: str, shown: str) -> None:
    assert without_values(statement) == shown


def test_a_long_statement_is_cut() -> None:
    assert len(without_values("CREATE TABLE " + "a" * 500)) == 120


def test_progress_shows_a_statement_without_its_comments_and_nothing_else_cut() -> None:
    statement = "-- why\nCREATE TYPE \"a -- b\" /* its\nlabels */ AS ENUM ('a; -- b', 'it''s')"
    assert one_line(statement) == "CREATE TYPE \"a -- b\" AS ENUM ('a; -- b', 'it''s')"
    assert one_line(statement, 20) == 'CREATE TYPE "a -- b…'
