# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""An ALTER TABLE taken apart: each part as it was written, and what of it turns a state on or off."""

from __future__ import annotations

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.renames import Renames
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import split
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_states import (
    named_aside_of,
    parts_of,
    renames_of,
)


def parts(text: str) -> tuple[str, list[tuple[str, str | None]]] | None:
    (statement,), _ = split(text, "f")
    told = parts_of(statement.node, statement.sql)
    if told is None:
        return None
    return told["table"], [(part["sql"], part["state"] and part["state"]["kind"]) for part in told["parts"]]


@pytest.mark.parametrize(
    ("text", "table", "wanted"),
    [
        (
            "ALTER TABLE t NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;",
            "ALTER TABLE t",
            [("NO FORCE ROW LEVEL SECURITY", "forced_row_security"), ("DISABLE ROW LEVEL SECURITY", "row_security")],
        ),
        (
            """alter table /* é, */ if exists "S,".t * -- here, too
                ALTER COLUMN "a,b" SET DEFAULT ARRAY['(', 'é,'], -- because
                ADD CHECK (a IN (1, 2)),
                ADD COLUMN n numeric(3, 1) DEFAULT 0, /* end */
                ALTER c DROP NOT NULL -- that is all""",
            'alter table /* é, */ if exists "S,".t *',
            [
                ("ALTER COLUMN \"a,b\" SET DEFAULT ARRAY['(', 'é,']", "default"),
                ("ADD CHECK (a IN (1, 2))", None),
                ("ADD COLUMN n numeric(3, 1) DEFAULT 0", None),
                ("ALTER c DROP NOT NULL", "not_null"),
            ],
        ),
        (
            "ALTER TABLE ONLY (public.t) ALTER a DROP DEFAULT",
            "ALTER TABLE ONLY (public.t)",
            [("ALTER a DROP DEFAULT", "default")],
        ),
    ],
)
def test_each_part_is_as_it_was_written(text: str, table: str, wanted: list[tuple[str, str | None]]) -> None:
    assert parts(text) == (table, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE t ADD COLUMN a integer, DROP COLUMN IF EXISTS b",
        "ALTER VIEW v ALTER COLUMN a SET DEFAULT 1",
        "ALTER TABLE t RENAME TO u",
        "DROP POLICY IF EXISTS p ON t",
    ],
)
def test_of_other_statements_nothing_is_told(text: str) -> None:
    assert parts(text) is None


def followed(*texts: str) -> Renames:
    names = Renames()
    for text in texts:
        (statement,), _ = split(text, "f")
        names.add({"renames": renames_of(statement.node)})
    return names


def test_a_name_is_followed_back_to_the_one_before() -> None:
    names = followed(
        "ALTER TABLE people RENAME name TO full_name",
        "ALTER TABLE people RENAME TO persons",
        "ALTER TABLE persons SET SCHEMA past",
        "ALTER TABLE past.persons RENAME COLUMN full_name TO whole",
    )
    assert names.then("past", "persons", "whole") == ("public", "people", "name")
    assert names.then("past", "persons", None) == ("public", "people", None)
    assert names.now("public", "people", "name") == ("past", "persons", "whole")
    # Something else has these names by now.
    assert names.then("past", "persons", "name") is None
    assert names.then("public", "people", "kind") is None


def test_two_columns_that_trade_their_names() -> None:
    names = followed("ALTER TABLE t RENAME a TO c", "ALTER TABLE t RENAME b TO a", "ALTER TABLE t RENAME c TO b")
    assert names.then("public", "t", "a") == ("public", "t", "b")
    assert names.then("public", "t", "b") == ("public", "t", "a")
    names.add({"renames": [{"schema": "public", "table": "t", "column": "a", "to": "x"}]})
    assert names.then("public", "t", "x") == ("public", "t", "b")


def test_a_materialized_view_is_followed_as_a_table_is() -> None:
    names = followed("ALTER MATERIALIZED VIEW m RENAME TO n", "ALTER MATERIALIZED VIEW n SET SCHEMA s")
    assert names.then("s", "n", None) == ("public", "m", None)


# By a statement what has another name after it, as what was dropped is told.
ASIDE: dict[str, list[dict[str, str | None]]] = {
    "ALTER INDEX s.i RENAME TO j": [{"kind": "index", "schema": "s", "name": "i"}],
    "ALTER TABLE s.t RENAME CONSTRAINT k TO l": [
        {"kind": "constraint", "schema": "s", "table": "t", "name": "k"},
        {"kind": "index", "schema": "s", "name": "k"},
    ],
    "ALTER TRIGGER g ON s.t RENAME TO h": [{"kind": "trigger", "schema": "s", "table": "t", "name": "g"}],
    "ALTER POLICY p ON t RENAME TO q": [{"kind": "policy", "schema": "public", "table": "t", "name": "p"}],
    "ALTER TYPE e RENAME TO f": [{"kind": "type", "schema": "public", "name": "e"}],
    "ALTER DOMAIN s.d SET SCHEMA r": [{"kind": "type", "schema": "s", "name": "d"}],
    "ALTER TYPE e RENAME VALUE 'A' TO 'B'": [{"kind": "enum_value", "schema": "public", "type": "e", "name": "A"}],
    "ALTER FUNCTION s.f(int) RENAME TO g": [{"kind": "function", "schema": "s", "name": "f"}],
    "ALTER PROCEDURE f SET SCHEMA s": [{"kind": "function", "schema": "public", "name": "f"}],
    "ALTER SCHEMA s RENAME TO r": [{"kind": "schema", "schema": None, "name": "s"}],
    "ALTER VIEW v RENAME TO w": [],
    "ALTER TYPE e ADD VALUE 'A'": [],
    "ALTER TYPE t RENAME ATTRIBUTE a TO b": [],
    "ALTER TABLE t RENAME TO u": [],
}


@pytest.mark.parametrize("text", ASIDE)
def test_what_else_is_named_aside(text: str) -> None:
    (statement,), _ = split(text, "f")
    assert named_aside_of(statement.node) == ASIDE[text]
    assert bool(renames_of(statement.node)) == text.startswith("ALTER TABLE t RENAME TO")
