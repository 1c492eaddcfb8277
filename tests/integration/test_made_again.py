# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What was there before a version, and what its way down drops and makes again, is as before when it is reverted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
POLICY = "CREATE POLICY own ON public.people USING ({})"
TRIGGER = (
    "CREATE TRIGGER own BEFORE UPDATE{} ON public.people FOR EACH ROW EXECUTE FUNCTION "
    "suppress_redundant_updates_trigger()"
)
CHECK = "ALTER TABLE public.people ADD CONSTRAINT own CHECK (id > {})"
INDEX = "CREATE INDEX own ON public.people ({})"
NO_POLICY, NO_CHECK = "DROP POLICY own ON public.people", "ALTER TABLE public.people DROP CONSTRAINT own"
NO_TRIGGER, NO_INDEX = "DROP TRIGGER own ON public.people", "DROP INDEX public.own"
SHOWN = """
SELECT pg_get_expr(polqual, polrelid) || coalesce(obj_description(oid, 'pg_policy'), '') AS is FROM pg_policy
UNION ALL SELECT pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE tgname = 'own'
UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'own'
UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid = to_regclass('own')
"""
# What was there before, what the version does to it, and how its way down drops it.
CHANGED = {
    "a policy altered": (POLICY.format("id > 0"), "ALTER POLICY own ON public.people USING (true)", NO_POLICY),
    "a trigger replaced": (TRIGGER.format(""), TRIGGER.format(" OF id").replace("E T", "E OR REPLACE T"), NO_TRIGGER),
    "a trigger disabled": (TRIGGER.format(""), "ALTER TABLE public.people DISABLE TRIGGER own", NO_TRIGGER),
    "a check made anew": (CHECK.format(0), f"DO $$ BEGIN {NO_CHECK}; {CHECK.format(-5)}; END $$", NO_CHECK),
    "a check validated": (
        f"{CHECK.format(0)} NOT VALID",
        "DO $$ BEGIN ALTER TABLE public.people VALIDATE CONSTRAINT own; END $$",
        NO_CHECK,
    ),
    "an index made anew": (INDEX.format("id"), f"DO $$ BEGIN {NO_INDEX}; {INDEX.format('name')}; END $$", NO_INDEX),
}


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer, name text);", "DROP TABLE public.people;")
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO people VALUES (1, 'a')")
    return tree


def apply(target: Any, tree: TestTree, up: str, down: str, **keys: Any) -> None:
    tree.add_sql(V2, "own", f"{up};\n", down, **keys)
    migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-0000bb"))


def revert(target: Any) -> None:
    migrate.revert(target, Reverts(), way("20260101T000000Z-0000cc"))


def printed(target: Any) -> str:
    return str(way_back.preview_revert(target, Reverts())["prepared"])


@pytest.mark.parametrize("one_transaction", [True, False])
@pytest.mark.parametrize("case", CHANGED)
def test_what_the_version_has_changed_is_dropped_and_made_again(
    target: Any, tree: TestTree, case: str, one_transaction: bool
) -> None:
    old, change, gone = CHANGED[case]
    do(target, old)
    before = rows(target, SHOWN)
    apply(target, tree, change, f"{gone};\n{old};\n", transaction=one_transaction)
    assert f"{gone};\n{old};" in printed(target)
    revert(target)
    assert rows(target, SHOWN) == before


@pytest.mark.parametrize("case", ["a policy altered", "a check made anew"])
def test_what_is_as_it_would_be_made_again_stays(target: Any, tree: TestTree, case: str) -> None:
    old, _, gone = CHANGED[case]
    do(target, old)
    oid = "SELECT oid FROM pg_policy UNION ALL SELECT oid FROM pg_constraint WHERE conname = 'own'"
    before = rows(target, oid)
    apply(target, tree, "UPDATE public.people SET name = 'own'", f"{gone};\n{old};\n")
    text = printed(target)
    assert gone not in text and old not in text and text.count("was there before this version: it stays") == 2
    revert(target)
    assert rows(target, oid) == before


STOPS = {
    "a column, which holds values": (
        "ALTER TABLE public.people ADD COLUMN own integer",
        "DO $$ BEGIN ALTER TABLE public.people ALTER COLUMN own TYPE bigint; END $$",
        "ALTER TABLE public.people DROP COLUMN own",
        "column own: wanted integer, found bigint",
    ),
    "a drop that takes along what stands on it": (
        CHECK.format(0),
        CHANGED["a check made anew"][1],
        f"{NO_CHECK} CASCADE",
        "constraint own: wanted CHECK ((id > 0)), found CHECK ((id > '-5'::integer))",
    ),
}


@pytest.mark.parametrize("case", STOPS)
def test_what_may_not_be_dropped_and_is_another_one_stops_the_way_down(target: Any, tree: TestTree, case: str) -> None:
    old, change, gone, differs = STOPS[case]
    do(target, old)
    apply(target, tree, change, f"{gone};\n{old};\n")
    word = f"{case.split()[1].strip(',') if 'column' in case else 'constraint'} public.people.own"
    assert f"-- stops: {word} was there before this version" in printed(target)
    with pytest.raises(PgopsError) as caught:
        revert(target)
    assert (
        f"failed at {V2}_own/down.sql.j2:2: {word} was there before this version and is not dropped, and it is not as it "
        f"would be made again: {differs}" in caught.value.message
    )
    do(target, gone)
    revert(target)
    assert rows(target, "SELECT version FROM pgops.migration WHERE state = 'reverted'") == [{"version": V2}]
