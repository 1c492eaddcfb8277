# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that went on with a mended text is reverted to what was there before it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, preview, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.tree import NO_DIFFERENCE, TestTree

V1, V2 = "20260101000001", "20260101000002"
FIRST, FAULTY = "INSERT INTO public.people VALUES (3, 'c')", "INSERT INTO public.people (nom) VALUES (5)"
MENDED = "INSERT INTO public.people VALUES (5, 'e')"
BACK = "DELETE FROM public.people WHERE id IN (3, 5);\n"
NAME_NOT_NULL = "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL"
NAME_NULL = "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;\n"


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    up = "CREATE TABLE public.people (id integer PRIMARY KEY, name text, code text);"
    tree.add_sql(V1, "people", up, "DROP TABLE public.people;")
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO people SELECT n, 'x', 'same' FROM generate_series(1, 2) n")
    return tree


def one_step(tree: TestTree, *statements: str, down: str, **keys: Any) -> None:
    """A step of which each statement is committed for itself."""
    up = "\n".join(f"{one};" for one in statements)
    tree.add_sql(V2, "several", up, down, **{"transaction": False, **keys})


def two_steps(tree: TestTree, first: str, first_down: str, second: str, second_down: str, **keys: Any) -> None:
    steps = [{"sql": {"up": f"up{n}.sql.j2", "down": f"down{n}.sql.j2"}} for n in (1, 2)]
    files = {"up1.sql.j2": first, "down1.sql.j2": first_down, "up2.sql.j2": second, "down2.sql.j2": second_down}
    tree.add(V2, "several", steps, {**files, "verify.sql.j2": NO_DIFFERENCE}, **keys)


def apply(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))


def revert(target: Any) -> None:
    migrate.revert(target, Reverts(), way("20260101T000000Z-0000cc"))


def refused(target: Any, tree: TestTree) -> str:
    with pytest.raises(PgopsError) as caught:
        apply(target, tree)
    return caught.value.message


def columns(target: Any) -> dict[str, str]:
    found = rows(
        target,
        "SELECT column_name::text AS name, data_type || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END AS type "
        "FROM information_schema.columns WHERE table_name = 'people'",
    )
    return {row["name"]: row["type"] for row in found}


def tables(target: Any) -> list[str]:
    found = rows(target, "SELECT tablename::text AS n FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    return [row["n"] for row in found]


BEFORE = {"id": "integer NOT NULL", "name": "text", "code": "text"}


def test_what_the_mended_way_up_drops_itself_is_dropped_on_the_way_down(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE people ADD CONSTRAINT positive CHECK (id > 0)")
    new = "ALTER TABLE public.people ADD CONSTRAINT positive CHECK (id > -5)"
    gone = "ALTER TABLE public.people DROP CONSTRAINT positive"
    one_step(tree, FIRST, new, down=f"{gone};\n{BACK}")
    refused(target, tree)
    old = "ALTER TABLE public.people ADD CONSTRAINT positive CHECK (id > 0)"
    one_step(tree, FIRST, gone, new, down=f"{gone};\n{old};\n{BACK}")
    apply(target, tree)
    revert(target)
    assert rows(target, "SELECT pg_get_constraintdef(oid) AS d FROM pg_constraint WHERE conname = 'positive'") == [
        {"d": "CHECK ((id > 0))"}
    ]


def test_what_the_mended_way_up_gives_another_name_is_dropped_on_the_way_down(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE people ADD COLUMN grade text NOT NULL DEFAULT 'x'")
    add = "ALTER TABLE public.people ADD COLUMN grade integer"
    null = "ALTER TABLE public.people ALTER COLUMN grade DROP NOT NULL;\n"
    gone = "ALTER TABLE public.people DROP COLUMN grade;\n"
    one_step(tree, FIRST, add, down=null + gone)
    refused(target, tree)
    aside, again = (f"ALTER TABLE public.people RENAME COLUMN {names}" for names in ("grade TO old", "old TO grade"))
    one_step(tree, FIRST, aside, add, down=f"{null}{gone}{again};\n{BACK}")
    apply(target, tree)
    revert(target)
    assert columns(target) == {**BEFORE, "grade": "text NOT NULL"}


def test_a_table_that_was_skipped_and_is_made_anew_by_the_mended_text_goes(target: Any, tree: TestTree) -> None:
    do(target, "CREATE TABLE made (id integer PRIMARY KEY)")
    made = "CREATE TABLE public.made (id integer PRIMARY KEY)"
    one_step(tree, made, FAULTY, down="DROP TABLE public.made;\n")
    refused(target, tree)
    one_step(tree, made, "DROP TABLE public.made", made, down="DROP TABLE public.made;\n", risk="high")
    apply(target, tree)
    revert(target)
    assert tables(target) == ["people"]


def test_what_the_mended_way_up_has_not_dropped_yet_stays_when_it_fails_before_that(
    target: Any, tree: TestTree
) -> None:
    do(target, "CREATE TABLE made (id integer, old integer NOT NULL)", "INSERT INTO made VALUES (1, 1)")
    made = "CREATE TABLE public.made (id integer PRIMARY KEY)"
    gone = "DROP TABLE public.made"
    down = f"ALTER TABLE public.made ALTER COLUMN old DROP NOT NULL;\n{gone};\n{BACK}"
    one_step(tree, FIRST, made, down=down)
    refused(target, tree)
    one_step(tree, FIRST, FAULTY, gone, made, down=down, risk="high")
    refused(target, tree)
    revert(target)
    assert rows(
        target,
        "SELECT m.old, a.attnotnull AS set FROM made m, pg_attribute a WHERE attrelid = 'made'::regclass AND attname = 'old'",
    ) == [{"old": 1, "set": True}]


@pytest.mark.parametrize("mended", [False, True])
def test_what_a_version_would_drop_itself_stays_where_it_failed_before_that(
    target: Any, tree: TestTree, mended: bool
) -> None:
    do(target, "ALTER TABLE people ADD COLUMN grade text NOT NULL DEFAULT 'x'")
    gone = "ALTER TABLE public.people DROP COLUMN grade"
    null = "ALTER TABLE public.people ALTER COLUMN grade DROP NOT NULL"
    if mended:
        one_step(tree, FIRST, FAULTY, down=BACK)
        refused(target, tree)
    up = (FIRST, FAULTY, gone, "ALTER TABLE public.people ADD COLUMN grade integer")
    one_step(tree, *up, down=f"{null};\n{gone};\n{BACK}", risk="high")
    refused(target, tree)
    revert(target)
    assert columns(target) == {**BEFORE, "grade": "text NOT NULL"}


@pytest.mark.parametrize("shown", [False, True])
def test_what_stays_is_not_made_again_on_the_way_down(target: Any, tree: TestTree, shown: bool) -> None:
    do(target, "ALTER TABLE people ADD CONSTRAINT positive CHECK (id > 0)")
    new, old = (f"ALTER TABLE public.people ADD CONSTRAINT positive CHECK (id > {n})" for n in (-5, 0))
    gone = "ALTER TABLE public.people DROP CONSTRAINT positive"
    one_step(tree, FIRST, new, down=f"{gone};\n{BACK}")
    refused(target, tree)
    one_step(tree, FIRST, FAULTY, gone, new, down=f"{gone};\n{old};\n{BACK}")
    refused(target, tree)
    if shown:
        text = way_back.preview_revert(target, Reverts())["prepared"]
        assert old not in text and text.count("-- constraint public.people.positive was there before this version") == 2
        return
    revert(target)
    assert rows(target, "SELECT pg_get_constraintdef(oid) AS d FROM pg_constraint WHERE conname = 'positive'") == [
        {"d": "CHECK ((id > 0))"}
    ]


def test_what_an_earlier_step_had_found_stays_when_the_way_down_of_a_later_one_is_mended(
    target: Any, tree: TestTree
) -> None:
    do(target, "CREATE TABLE made (id integer PRIMARY KEY)", "INSERT INTO made VALUES (1)")
    made = "CREATE TABLE public.made (id integer PRIMARY KEY);\n"
    two_steps(tree, made, "SELECT 1;\n", f"{FIRST};\n{FAULTY};\n", BACK, transaction=False)
    refused(target, tree)
    two_steps(tree, made, "SELECT 1;\n", f"{FIRST};\n", f"{BACK}DROP TABLE public.made;\n", transaction=False)
    apply(target, tree)
    revert(target)
    assert tables(target) == ["made", "people"]


@pytest.mark.parametrize("one_transaction", [False, True])
def test_what_a_mended_way_down_of_a_done_step_drops_stays_where_it_was_there_before(
    target: Any, tree: TestTree, one_transaction: bool
) -> None:
    do(target, "ALTER TABLE people ADD COLUMN old text", "CREATE TABLE old (id integer)")
    add = "ALTER TABLE public.people ADD COLUMN x integer;\n"
    gone = "ALTER TABLE public.people DROP COLUMN x;\n"
    two_steps(tree, add, gone, f"{FIRST};\n{FAULTY};\n", BACK, transaction=one_transaction)
    refused(target, tree)
    more = f"{gone}ALTER TABLE public.people DROP COLUMN old;\nDROP TABLE public.old;\n"
    two_steps(tree, add, more, f"{FIRST};\n{MENDED};\n", BACK, transaction=one_transaction)
    apply(target, tree)
    revert(target)
    assert (columns(target), tables(target)) == ({**BEFORE, "old": "text"}, ["old", "people"])


def test_what_a_done_step_made_and_its_way_down_had_forgotten_goes(target: Any, tree: TestTree) -> None:
    add = "ALTER TABLE public.people ADD COLUMN x integer;\nALTER TABLE public.people RENAME COLUMN x TO y;\n"
    two_steps(tree, add, "SELECT 1;\n", f"{FAULTY};\n", BACK)
    refused(target, tree)
    two_steps(tree, add, "ALTER TABLE public.people DROP COLUMN y;\n", f"{MENDED};\n", BACK)
    apply(target, tree)
    revert(target)
    assert columns(target) == BEFORE


@pytest.mark.parametrize("one_transaction", [False, True])
def test_what_is_as_it_should_be_stays_where_nothing_of_the_mended_step_was_committed(
    target: Any, tree: TestTree, one_transaction: bool
) -> None:
    do(target, "ALTER TABLE people ALTER COLUMN name SET NOT NULL")
    add, gone = "ALTER TABLE public.people ADD COLUMN x integer;\n", "ALTER TABLE public.people DROP COLUMN x;\n"
    two_steps(tree, add, gone, f"{FAULTY};\n", "SELECT 1;\n", transaction=one_transaction)
    refused(target, tree)
    two_steps(tree, add, gone, f"{NAME_NOT_NULL};\n", NAME_NULL, transaction=one_transaction)
    finished = f"SELECT finished_at FROM pgops.step WHERE version = '{V2}' AND ordinal = 1 AND direction = 'up'"
    before = rows(target, finished)
    apply(target, tree)
    assert rows(target, finished) == before
    revert(target)
    assert columns(target) == {**BEFORE, "name": "text NOT NULL"}


def test_what_the_text_of_before_would_have_dropped_and_the_mended_one_leaves_is_looked_at(
    target: Any, tree: TestTree
) -> None:
    do(target, "ALTER TABLE people ALTER COLUMN name SET NOT NULL")
    gone, again = "ALTER TABLE public.people DROP COLUMN name", "ALTER TABLE public.people ADD COLUMN name text;\n"
    one_step(tree, FIRST, FAULTY, NAME_NOT_NULL, gone, down=again + NAME_NULL, risk="high")
    refused(target, tree)
    one_step(tree, FIRST, NAME_NOT_NULL, down=NAME_NULL + BACK)
    apply(target, tree)
    revert(target)
    assert columns(target) == {**BEFORE, "name": "text NOT NULL"}


TOLD = {
    "columns": "ALTER TABLE public.people ADD COLUMN a integer, ADD COLUMN made integer",
    "like": "CREATE TABLE public.made (LIKE public.people)",
    "as": "CREATE TABLE public.made AS SELECT id FROM public.people",
    "domain": "CREATE DOMAIN public.made AS text",
}
DROPS = {"columns": "ALTER TABLE public.people DROP COLUMN made;\nALTER TABLE public.people DROP COLUMN a;\n"}
DROPS |= {
    "like": "DROP TABLE public.made;\n",
    "as": "DROP TABLE public.made;\n",
    "domain": "DROP DOMAIN public.made;\n",
}


@pytest.mark.parametrize("case", TOLD)
def test_what_a_committed_statement_has_made_for_sure_goes(target: Any, tree: TestTree, case: str) -> None:
    one_step(tree, TOLD[case], FAULTY, down="SELECT 1;\n")
    refused(target, tree)
    one_step(tree, TOLD[case], MENDED, down=DROPS[case] + BACK)
    apply(target, tree)
    revert(target)
    assert (columns(target), tables(target)) == (BEFORE, ["people"])
    assert rows(target, "SELECT to_regtype('public.made') AS n") == [{"n": None}]


UNTOLD = {
    "block": "DO $$ BEGIN ALTER TABLE public.people ADD COLUMN made integer; END $$",
    "hidden": "DO $$ BEGIN EXECUTE 'ALTER TABLE public.people ADD COLUMN ' || 'made integer'; END $$",
    "unless there": "ALTER TABLE public.people ADD COLUMN a integer, ADD COLUMN IF NOT EXISTS made integer",
    "function": "SELECT public.make()",
}


@pytest.mark.parametrize("case", UNTOLD)
def test_a_mended_drop_of_what_nobody_can_tell_to_be_the_versions_own_is_refused(
    target: Any, tree: TestTree, case: str
) -> None:
    do(
        target,
        "CREATE FUNCTION make() RETURNS void LANGUAGE sql AS 'ALTER TABLE public.people ADD COLUMN made integer'",
    )
    one_step(tree, UNTOLD[case], FAULTY, down=BACK)
    refused(target, tree)
    one_step(tree, UNTOLD[case], MENDED, down=f"{BACK}ALTER TABLE public.people DROP COLUMN made;\n")
    told = (
        f"Version {V2} stopped at step 1 in {target.database}, and its mended way down drops column public.people.made "
        f"({V2}_several/down.sql.j2:2), of which nobody can tell whether it was there before: the statement at "
        f"{V2}_several/up.sql.j2:1, which is committed, may have made it; leave that drop out or revert the version first."
    )
    with pytest.raises(PgopsError) as caught:
        preview.preview(target, tree.render(), Selection())
    assert caught.value.message == told
    assert refused(target, tree) == told
    one_step(tree, UNTOLD[case], MENDED, down=BACK)
    apply(target, tree)


def test_a_mended_change_of_what_a_committed_block_may_have_changed_is_refused(target: Any, tree: TestTree) -> None:
    do(target, "UPDATE people SET code = 'x'")
    block = "DO $$ BEGIN ALTER TABLE public.people ALTER COLUMN code SET NOT NULL; END $$"
    one_step(tree, block, FAULTY, down=BACK)
    refused(target, tree)
    one_step(
        tree,
        block,
        NAME_NOT_NULL,
        down=f"{BACK}ALTER TABLE public.people ALTER COLUMN code DROP NOT NULL;\n{NAME_NULL}",
    )
    assert refused(target, tree) == (
        f"Version {V2} stopped at step 1 in {target.database}, and its mended text speaks of NOT NULL of public.people.code "
        f"({V2}_several/down.sql.j2:2), of which nobody can tell how it was before: the statement at "
        f"{V2}_several/up.sql.j2:1, which is committed, may have changed it; leave that out or revert the version first."
    )


def test_a_committed_block_that_names_nothing_of_it_is_no_doubt(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE people ADD COLUMN made integer")
    block = "DO $$ BEGIN UPDATE public.people SET code = 'made' WHERE made IS NULL; END $$"
    one_step(tree, block, FAULTY, down=BACK)
    refused(target, tree)
    one_step(tree, block, MENDED, down=f"{BACK}ALTER TABLE public.people DROP COLUMN made;\n")
    apply(target, tree)
    revert(target)
    assert columns(target) == {**BEFORE, "made": "integer"}


FUNCTION = "CREATE OR REPLACE FUNCTION public.made() RETURNS integer LANGUAGE sql AS 'SELECT 2'"
NO_FUNCTION = "DROP FUNCTION public.made();\n"


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("before", [False, True])
def test_a_function_that_took_the_place_of_another_is_no_new_one(
    target: Any, tree: TestTree, before: bool, half: bool
) -> None:
    if before:
        do(target, "CREATE FUNCTION made() RETURNS integer LANGUAGE sql AS 'SELECT 1'")

    def put(second: str, down: str) -> None:
        if half:
            one_step(tree, FUNCTION, second, down=down + BACK)
        else:
            two_steps(tree, f"{FUNCTION};\n", down, f"{second};\n", BACK)

    put(FAULTY, "SELECT 1;\n")
    refused(target, tree)
    put(MENDED, NO_FUNCTION)
    if before:
        assert "its mended way down drops function public.made" in refused(target, tree)
        put(MENDED, "SELECT 1;\n")
    apply(target, tree)
    revert(target)
    found = rows(target, "SELECT prosrc AS s FROM pg_proc WHERE proname = 'made'")
    assert found == ([{"s": "SELECT 1"}] if before else [])


def test_a_ledger_that_knows_less_of_the_same_text_refuses_nothing(target: Any, tree: TestTree) -> None:
    block = "DO $$ BEGIN ALTER TABLE public.people ALTER COLUMN code SET NOT NULL; END $$"
    do(target, "UPDATE people SET code = 'x'")
    one_step(
        tree, block, NAME_NOT_NULL, down=f"ALTER TABLE public.people ALTER COLUMN code DROP NOT NULL;\n{NAME_NULL}"
    )
    do(target, "UPDATE people SET name = NULL")
    refused(target, tree)
    do(target, "UPDATE people SET name = 'x'")
    do(target, f"UPDATE pgops.migration SET rendered = rendered #- '{{steps,0,down,0,alters}}' WHERE version = '{V2}'")
    apply(target, tree)


HIDES = "DO $$ BEGIN EXECUTE 'ANALYZE ' || 'public.people'; END $$"


def test_what_the_first_text_named_already_is_doubted_by_nobody(target: Any, tree: TestTree) -> None:
    """It was looked at before the first statement, whatever that does; what it dropped itself, too."""
    do(target, "CREATE POLICY p ON people USING (id > 0)", "ALTER TABLE people ALTER COLUMN code SET NOT NULL")
    other = [
        "DROP POLICY p ON public.people",
        "CREATE POLICY p ON public.people USING (id > 1)",
        "ALTER TABLE public.people DROP COLUMN code",
    ]
    down = (
        "ALTER TABLE public.people ADD COLUMN code text;\nUPDATE public.people SET code = '';\n"
        "ALTER TABLE public.people ALTER COLUMN code SET NOT NULL;\n"
        f"DROP POLICY p ON public.people;\nCREATE POLICY p ON public.people USING (id > 0);\n{BACK}"
    )
    one_step(tree, HIDES, FAULTY, *other, down=down, risk="high")
    refused(target, tree)
    one_step(tree, HIDES, f"{MENDED[:-1]}, 'c')", *other, down=down, risk="high")
    apply(target, tree)
    revert(target)
    assert rows(target, "SELECT pg_get_expr(polqual, polrelid) AS d FROM pg_policy") == [{"d": "(id > 0)"}]
    assert columns(target) == {**BEFORE, "code": "text NOT NULL"}


@pytest.mark.parametrize(
    "first",
    ["SELECT setval('public.s', 5)", "DO $$ BEGIN UPDATE public.people SET name = coalesce(name, ''); END $$"],
)
def test_what_defines_nothing_leaves_no_doubt_about_a_state(target: Any, tree: TestTree, first: str) -> None:
    do(target, "CREATE SEQUENCE s")
    one_step(tree, first, FAULTY, down=BACK)
    refused(target, tree)
    one_step(tree, first, MENDED, NAME_NOT_NULL, down=NAME_NULL + BACK)
    apply(target, tree)
    assert columns(target) == {**BEFORE, "name": "text NOT NULL"}
    revert(target)
    assert columns(target) == BEFORE
