# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What versions say of a function is read from their way up: who made it, who may call it, to whom it belongs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import function_rights
from ansible_collections.whitecross.pgops.plugins.module_utils.function_statements import FunctionStatements

NOTE = "function public.note(a integer)"
MAKES = (
    "CREATE FUNCTION note(a integer) RETURNS integer LANGUAGE sql AS $$ SELECT 1; REVOKE ALL ON FUNCTION note FROM b $$"
)
# What the second version says, that did not make it, and says who may call it.
ABOUT = [
    "GRANT EXECUTE ON FUNCTION other(text, numeric(5, 2)), public . note(integer), more() TO x",
    "REVOKE ALL PRIVILEGES ON ROUTINE note FROM PUBLIC",
    'revoke grant option for execute on function "note"(integer) from x',
    "-- why\nREVOKE ALL ON ALL FUNCTIONS IN SCHEMA s, public FROM PUBLIC",
    "GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO x",
    "DO $$ BEGIN IF true THEN REVOKE ALL ON FUNCTION db.public.note(integer) FROM PUBLIC; END IF; END $$",
    "DO $$ BEGIN EXECUTE 'REVOKE ALL ON FUNCTION note(integer) FROM PUBLIC'; END $$",
    "DO $$ BEGIN EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', 'note(integer)'); END $$",
]
ELSEWHERE = [
    "CREATE OR REPLACE FUNCTION public.note(a integer) RETURNS integer LANGUAGE sql AS 'SELECT 2'",
    "COMMENT ON FUNCTION note(integer) IS 'GRANT EXECUTE ON FUNCTION note TO x'",
    "ALTER FUNCTION note(integer) SET search_path = pg_catalog",
    "GRANT EXECUTE ON FUNCTION s.note(integer) TO x",
    'GRANT EXECUTE ON FUNCTION notes(integer), "Note"() TO x',
    "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA s FROM PUBLIC",
    "REVOKE ALL ON ALL PROCEDURES IN SCHEMA public FROM PUBLIC",
    "CREATE FUNCTION s.note(a integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "-- GRANT EXECUTE ON FUNCTION note(integer) TO x\nCREATE VIEW v AS SELECT 1",
    "DROP FUNCTION s.note(integer)",
]


def read(*ups: str) -> FunctionStatements:
    """Versions 1, 2, ... of a statement each; their way down is no concern."""
    down = [{"sql": "GRANT EXECUTE ON FUNCTION note(integer) TO PUBLIC"}]
    steps: list[dict[str, Any]] = [{"kind": "sql", "up": [{"sql": up}], "down": down} for up in ups]
    return FunctionStatements([{"version": str(number), "steps": [step]} for number, step in enumerate(steps, 1)])


@pytest.mark.parametrize("text", ABOUT)
def test_who_says_who_may_call_it(text: str) -> None:
    said = read(MAKES, text).said(NOTE)
    assert (said.maker, said.rights, said.versions) == ("1", {"2"}, {"1", "2"})


@pytest.mark.parametrize("text", ELSEWHERE)
def test_what_says_nothing_of_it(text: str) -> None:
    said = read(MAKES, text).said(NOTE)
    assert (said.maker, said.rights, said.owner) == ("1", set(), None)


def test_all_procedures_are_those_of_the_kind() -> None:
    statements = read("REVOKE ALL ON ALL PROCEDURES IN SCHEMA public FROM PUBLIC")
    assert statements.said("procedure public.tidy()").rights == {"1"}


def test_the_last_one_that_makes_it_counts() -> None:
    owned = "ALTER FUNCTION note(integer) OWNER TO x"
    replaced = "CREATE OR REPLACE FUNCTION note(integer) RETURNS integer LANGUAGE sql AS 'SELECT 2'"
    said = read(MAKES, ABOUT[0], owned, "DROP FUNCTION IF EXISTS other(), note(integer)", replaced).said(NOTE)
    assert (said.maker, said.rights, said.owner) == ("5", set(), None)
    assert read(MAKES, owned, replaced).said(NOTE).owner == "x"


@pytest.mark.parametrize(
    ("text", "owner", "acts"),
    [
        ('ALTER FUNCTION public.note(a integer) OWNER TO "X"', "X", False),
        ("ALTER ROUTINE note OWNER TO x", "x", False),
        ("ALTER FUNCTION note(integer) OWNER TO CURRENT_ROLE", None, False),
        ("ALTER FUNCTION other(integer) OWNER TO x", None, False),
        ("ALTER FUNCTION s.note(integer) OWNER TO x", None, False),
        ("ALTER TABLE note OWNER TO x", None, False),
        ("CREATE SCHEMA s AUTHORIZATION x", None, False),
        ("REASSIGN OWNED BY y, z TO x", None, True),
        ("DO $$ BEGIN EXECUTE 'SET LOCAL ROLE x'; END $$", None, True),
        ("DO $$ BEGIN EXECUTE format('ALTER FUNCTION %s OWNER TO x', f); END $$", None, True),
    ],
)
def test_an_owner_is_named_for_a_function(text: str, owner: str | None, acts: bool) -> None:
    statements = read(MAKES, text)
    assert statements.said(NOTE).owner == owner
    assert statements.acts_as("x") is acts


def test_the_role_that_ran_them_is_an_owner_only_where_a_version_names_it() -> None:
    text = " SECURITY DEFINER\nAS $$ SELECT 1 $$"
    declared = {
        f"function public.{name}()": {"owner": "maker", "acl": ["=X/maker"], "definition": text}
        for name in ("one", "two")
    }
    found = {key: {**value, "owner": "maker"} for key, value in declared.items()}
    statements = read("ALTER FUNCTION one() OWNER TO maker")

    def told() -> list[tuple[str, str, str]]:
        different = function_rights.differences(declared, found, maker="maker", role="here", statements=statements)
        return [(one.object, one.expected, one.found) for one in different if one.attribute == "owner"]

    assert told() == [("function public.two()", "here", "maker")]
    found = {key: {**value, "owner": "here"} for key, value in declared.items()}
    assert told() == [("function public.one()", "maker", "here")]
