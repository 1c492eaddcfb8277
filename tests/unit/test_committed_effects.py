# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What is committed is the version's own for sure, or for sure not, or a doubt that is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.committed_effects import CommittedEffects
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import split
from ansible_collections.whitecross.pgops.plugins.plugin_utils.statement_states import renames_of

TABLE: dict[str, Any] = {"kind": "table", "schema": "public", "name": "made"}
COLUMN: dict[str, Any] = {"kind": "column", "schema": "public", "table": "people", "name": "made"}
TRIGGER: dict[str, Any] = {"kind": "trigger", "schema": "public", "table": "people", "name": "made"}
CONSTRAINT: dict[str, Any] = {**TRIGGER, "kind": "constraint"}
NONE: frozenset[str] = frozenset()
OWN = [
    (TABLE, "CREATE TABLE made (id int)"),
    (TABLE, "CREATE UNLOGGED TABLE public.made AS SELECT 1"),
    (TABLE, 'CREATE TABLE "made" (LIKE people)'),
    (TABLE, "CREATE MATERIALIZED VIEW made AS SELECT 1"),
    (TABLE, "CREATE TABLE new (id int); ALTER TABLE new RENAME TO made"),
    (COLUMN, "ALTER TABLE people ADD made int, ADD COLUMN b numeric(3, 2) DEFAULT 1"),
    (COLUMN, "ALTER TABLE people ADD COLUMN a int DEFAULT length('a, b'), ADD COLUMN made int"),
    (COLUMN, "ALTER TABLE people ADD COLUMN new int; ALTER TABLE people RENAME COLUMN new TO made"),
    (COLUMN, "CREATE TABLE people (made int)"),
    (COLUMN, "CREATE TABLE crowd AS SELECT 1 AS made; ALTER TABLE crowd RENAME TO people"),
]
OLD = [
    (TABLE, "CREATE TABLE other (LIKE made)"),
    (TABLE, "CREATE TABLE private.made (id int)"),
    (TABLE, "CREATE TABLE x (id int); ALTER TABLE made RENAME TO gone; ALTER TABLE gone RENAME TO made"),
    (TABLE, "INSERT INTO made SELECT 1; COMMENT ON TABLE made IS 'x'; CREATE VIEW v AS SELECT * FROM made"),
    (COLUMN, "ALTER TABLE people ALTER COLUMN made TYPE bigint, ADD CHECK (made > 0)"),
    (COLUMN, "DO $$ BEGIN UPDATE people SET made = 1; END $$"),
    (COLUMN, "SELECT count(made) FROM people"),
    (COLUMN, "WITH gone AS (DELETE FROM people RETURNING made) INSERT INTO old SELECT made FROM gone"),
    (TRIGGER, "DO $$ BEGIN CREATE TRIGGER other BEFORE INSERT ON people EXECUTE FUNCTION f(); END $$"),
]
DOUBT = [
    (TABLE, "CREATE TABLE IF NOT EXISTS made (LIKE people)"),
    (TABLE, "DO $$ BEGIN IF true THEN CREATE TABLE made (id int); END IF; END $$"),
    (TABLE, "SELECT bring_it()"),
    (TABLE, "CALL bring_it()"),
    (COLUMN, "ALTER TABLE people ADD COLUMN a int, ADD COLUMN IF NOT EXISTS made int"),
    (COLUMN, "DO $$ BEGIN EXECUTE 'ALTER TABLE people ' || what; END $$"),
    (TRIGGER, "DO $$ BEGIN CREATE TRIGGER made BEFORE INSERT ON people EXECUTE FUNCTION f(); END $$"),
]


def effects(text: str, appeared: list[list[str]] | None = None) -> CommittedEffects:
    statements, _ = split(text, "up.sql.j2")
    return CommittedEffects([{**one.as_dict(), "renames": renames_of(one.node)} for one in statements], appeared)


@pytest.mark.parametrize(("item", "text"), OWN)
def test_what_a_statement_makes_for_sure_is_its_own(item: dict[str, Any], text: str) -> None:
    assert effects(text).has_made(item)


@pytest.mark.parametrize(("item", "text"), OLD)
def test_what_no_statement_makes_was_there_before(item: dict[str, Any], text: str) -> None:
    found = effects(text)
    assert not found.has_made(item) and found.doubt(item, NONE) is None


@pytest.mark.parametrize(("item", "text"), DOUBT)
def test_what_a_statement_may_have_made_is_a_doubt(item: dict[str, Any], text: str) -> None:
    found = effects(text)
    told = found.doubt(item, NONE)
    assert not found.has_made(item) and told is not None and told["file"] == "up.sql.j2"


def test_of_constraints_the_catalog_was_asked() -> None:
    block = "DO $$ BEGIN EXECUTE 'ALTER TABLE people ADD CONSTRAINT ' || what; END $$"
    assert effects(block, [["public", "people", "made"]]).has_made(CONSTRAINT)
    assert effects(block, []).doubt(CONSTRAINT, NONE) is None
    assert effects(block).doubt(CONSTRAINT, NONE) is not None


@pytest.mark.parametrize(
    ("text", "doubtful"),
    [
        ("ALTER TABLE people ADD PRIMARY KEY (made)", True),
        ("DO $$ BEGIN ALTER TABLE people ALTER COLUMN made SET NOT NULL; END $$", True),
        ("DO $$ BEGIN ALTER TABLE people ALTER COLUMN other SET NOT NULL; END $$", False),
        ("ALTER TABLE people ADD CHECK (made > 0)", False),
        ("DO $$ BEGIN UPDATE people SET made = 1; END $$", False),
        ("DO $$ BEGIN EXECUTE 'UPDATE people SET ' || 'made = 1'; END $$", True),
        ("SELECT bring_it()", True),
    ],
)
def test_a_state_may_have_been_changed_by_a_block_a_function_or_a_primary_key(text: str, doubtful: bool) -> None:
    state = {"kind": "not_null", "schema": "public", "table": "people", "name": "made", "there": True}
    assert (effects(text).doubt_of_state(state, NONE) is not None) == doubtful
