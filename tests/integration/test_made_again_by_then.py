# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What was there before a version and is dropped and made again on its way down, where what it speaks of changes on that way too."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"
POLICY = "CREATE POLICY own ON public.people USING ({})"
NO_POLICY = "DROP POLICY own ON public.people"
INDEX, NO_INDEX = "CREATE INDEX own ON public.people (id) WHERE {}", "DROP INDEX public.own"
TRIGGER = (
    "CREATE{} TRIGGER own BEFORE UPDATE ON public.people FOR EACH ROW EXECUTE FUNCTION "
    "suppress_redundant_updates_trigger()"
)
NO_TRIGGER = "DROP TRIGGER own ON public.people"
POLICIES = "SELECT pg_get_expr(polqual, polrelid) AS is FROM pg_policy"
FIRES = "SELECT tgenabled::text AS is FROM pg_trigger WHERE tgname = 'own'"
LABELS = "SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) AS is FROM pg_enum"


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer, name text);", "DROP TABLE public.people;")
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO people VALUES (1, 'a')")
    return tree


def apply(target: Any, tree: TestTree, up: str, *down: str, version: str = V2) -> None:
    tree.add_sql(version, f"own_{version[-1]}", f"{up};\n", "".join(f"{statement};\n" for statement in down))
    migrate.apply(target, tree.render(), Selection(), way(f"20260101T000000Z-0000b{version[-1]}"))


def revert(target: Any, steps: int = 1) -> None:
    migrate.revert(target, Reverts(steps=steps), way("20260101T000000Z-0000cc"))


def printed(target: Any, steps: int = 1) -> str:
    return str(way_back.preview_revert(target, Reverts(steps=steps))["prepared"])


def test_a_label_that_is_still_renamed_makes_it_another_one(target: Any, tree: TestTree) -> None:
    do(target, "CREATE TYPE state AS ENUM ('old', 'x')")
    do(target, "ALTER TABLE people ADD COLUMN s state", POLICY.format("s = 'old'"))
    before = rows(target, POLICIES)
    apply(
        target,
        tree,
        "ALTER TYPE public.state RENAME VALUE 'old' TO 'new';\nALTER POLICY own ON public.people USING (s = 'new' OR s = 'x')",
        NO_POLICY,
        "ALTER TYPE public.state RENAME VALUE 'new' TO 'old'",
        POLICY.format("s = 'old'"),
    )
    assert f"\n{NO_POLICY};\nALTER TYPE" in printed(target)
    revert(target)
    assert rows(target, POLICIES) == before


def test_a_type_that_the_column_does_not_have_yet_makes_it_another_one(target: Any, tree: TestTree) -> None:
    old, new = INDEX.format("name <> 'none'"), INDEX.format("name > 0")
    do(target, old)
    shown = "SELECT pg_get_indexdef('own'::regclass) AS is"
    before = rows(target, shown)
    to_integer = "ALTER TABLE public.people ALTER COLUMN name TYPE integer USING length(name)"
    apply(
        target,
        tree,
        f"DO $$ BEGIN {NO_INDEX}; {to_integer}; {new}; END $$",
        NO_INDEX,
        "ALTER TABLE public.people ALTER COLUMN name TYPE text",
        old,
    )
    assert f"\n{NO_INDEX};\nALTER TABLE" in printed(target)
    revert(target)
    assert rows(target, shown) == before


def test_a_comparison_that_fails_does_not_end_the_look(target: Any, tree: TestTree) -> None:
    limit = (
        "CREATE OR REPLACE FUNCTION public.least() RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN {}; END $$"
    )
    do(target, limit.format("RETURN 1"), INDEX.format("id > public.least()"))
    refuses = "DO $do$ BEGIN DROP INDEX public.own; CREATE INDEX own ON public.people (name); {}; END $do$"
    refuses = refuses.format(limit.format("RAISE insufficient_privilege"))
    apply(target, tree, refuses, NO_INDEX, limit.format("RETURN 1"), INDEX.format("id > public.least()"))
    text = printed(target)
    assert "\n-- what becomes of it cannot be told now: index public.own exists already, and the wanted one" in text
    assert f"\n-- {NO_INDEX};\n" in text
