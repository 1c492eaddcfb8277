# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What was there before a version and is dropped and made again on its way down, where what it speaks of changes on that way too."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import bounded_look, migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, holding, rows, way
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


def test_an_enum_is_made_again_without_its_new_label(target: Any, tree: TestTree) -> None:
    enum = "CREATE TYPE public.state AS ENUM ('a', 'b')"
    column = "ALTER TABLE public.people {} COLUMN s{}"
    apply(
        target,
        tree,
        f"{enum};\n{column.format('ADD', ' public.state')}",
        column.format("DROP", ""),
        "DROP TYPE public.state",
    )
    do(target, "COMMENT ON TYPE state IS 'of a person'")
    apply(
        target,
        tree,
        "ALTER TYPE public.state ADD VALUE 'z'",
        column.format("ALTER", " TYPE text"),
        "DROP TYPE public.state",
        enum,
        column.format("ALTER", " TYPE public.state USING s::public.state"),
        version=V3,
    )
    revert(target)
    assert rows(target, LABELS) == [{"is": "a b"}]
    assert rows(target, "SELECT obj_description('state'::regtype) AS is") == [{"is": "of a person"}]


def test_what_is_in_the_way_of_another_type_goes_for_that_time(target: Any, tree: TestTree) -> None:
    column = "ALTER TABLE public.people ALTER COLUMN s TYPE "
    enum = "CREATE TYPE public.state AS ENUM ('a', 'b')"
    policy = POLICY.format("s = 'a'")
    do(target, enum, "ALTER TABLE people ADD COLUMN s state", policy)
    drop, back = "DROP TYPE public.state", f"{column}public.state USING s::public.state"
    apply(target, tree, "ALTER TYPE public.state ADD VALUE 'z'", NO_POLICY, f"{column}text", drop, enum, back, policy)
    assert f"\n{NO_POLICY};\n{column}text;\n" in printed(target)
    revert(target)
    assert rows(target, LABELS) == [{"is": "a b"}] and rows(target, POLICIES) == [{"is": "(s = 'a'::state)"}]


@pytest.mark.parametrize("changed", [True, False])
def test_a_domain_is_made_again_where_the_version_has_changed_it(target: Any, tree: TestTree, changed: bool) -> None:
    domain = "CREATE DOMAIN public.code AS text CHECK (VALUE <> '')"
    do(target, domain)
    oid = rows(target, "SELECT 'code'::regtype::oid AS oid")
    up = "ALTER DOMAIN public.code SET DEFAULT 'x'" if changed else "UPDATE public.people SET name = 'code'"
    apply(target, tree, up, "DROP DOMAIN public.code", domain)
    assert ("DROP DOMAIN" in printed(target)) is changed
    revert(target)
    assert rows(target, "SELECT typdefault AS is FROM pg_type WHERE typname = 'code'") == [{"is": None}]
    assert (rows(target, "SELECT 'code'::regtype::oid AS oid") == oid) is not changed


def test_a_look_at_a_rollback_does_not_wait_for_ever_behind_a_lock(
    target: Any, tree: TestTree, monkeypatch: Any
) -> None:
    do(target, POLICY.format("id > 0"))
    apply(target, tree, "ALTER POLICY own ON public.people USING (true)", NO_POLICY, POLICY.format("id > 0"))
    monkeypatch.setattr(bounded_look, "LOOK_LOCK_TIMEOUT_S", 1)
    with holding(target, "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"), pytest.raises(PgopsError) as caught:
        way_back.preview_revert(target, Reverts())
    assert caught.value.sqlstate == "55P03" and caught.value.extra["reason"] == "lock_wait"
    assert f"The way back in {target.database} could not be told: a table has been locked" in caught.value.message
    assert NO_POLICY in printed(target)


def test_what_a_later_version_has_changed_is_not_compared_before_that_goes(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE public.people ADD COLUMN own integer", POLICY.format("id > 0"))
    column = "ALTER TABLE public.people {} COLUMN own{}"
    drop, add = column.format("DROP", ""), column.format("ADD", " integer")
    own = "CREATE INDEX x ON public.people (own);\nALTER POLICY own ON public.people USING (true)"
    apply(target, tree, own, "DROP INDEX public.x", drop, add, NO_POLICY, POLICY.format("id > 0"))
    wider, back = column.format("ALTER", " TYPE bigint"), column.format("ALTER", " TYPE integer")
    renamed = "ALTER TABLE public.{} RENAME TO {}"
    there, here = renamed.format("people", "persons"), renamed.format("persons", "people")
    apply(target, tree, f"{wider};\n{there}", here, back, version=V3)
    text = printed(target, steps=2)
    open_ = "was there before this version: where it is another one by then"
    assert "-- stops" not in text
    assert f"-- column public.people.own {open_} than this one, the way down stops here\n" in text
    assert f"-- policy public.people.own {open_}, it is dropped and made again\n-- {NO_POLICY};\n" in text
    revert(target, steps=2)
    assert rows(target, POLICIES) == [{"is": "(id > 0)"}]


def test_what_an_earlier_statement_changes_is_not_compared_before_that_runs(target: Any, tree: TestTree) -> None:
    do(target, POLICY.format("id > 0"))
    renamed = "ALTER TABLE public.people RENAME COLUMN {} TO {}"
    apply(
        target,
        tree,
        renamed.format("id", "number"),
        renamed.format("number", "id"),
        NO_POLICY,
        POLICY.format("id > 0"),
    )
    assert f"where it is another one by then, it is dropped and made again\n-- {NO_POLICY};\n" in printed(target)
    oid = rows(target, "SELECT oid FROM pg_policy")
    revert(target)
    assert rows(target, "SELECT oid FROM pg_policy") == oid


@pytest.mark.parametrize(
    ("name", "drop"),
    [
        ("own", "DROP POLICY own -- the new one, not the old one, with CASCADE\n ON public.people"),
        ('"Own, one"', 'DROP POLICY IF EXISTS "Own, one" ON public.people'),
    ],
)
def test_what_a_comment_or_a_name_says_drops_no_more(target: Any, tree: TestTree, name: str, drop: str) -> None:
    policy = POLICY.replace("own", name).format("id > 0")
    do(target, policy)
    apply(target, tree, f"ALTER POLICY {name} ON public.people USING (true)", drop, policy)
    revert(target)
    assert rows(target, POLICIES) == [{"is": "(id > 0)"}]


@pytest.mark.parametrize("changed", [True, False])
def test_a_materialized_view_is_made_again(target: Any, tree: TestTree, changed: bool) -> None:
    view, drop = "CREATE MATERIALIZED VIEW public.own AS SELECT {} AS is", "DROP MATERIALIZED VIEW public.own"
    do(target, view.format(1))
    oid = rows(target, "SELECT 'own'::regclass::oid AS oid")
    up = f"DO $$ BEGIN {drop}; {view.format(2)}; END $$" if changed else "UPDATE public.people SET name = 'own'"
    apply(target, tree, up, drop, view.format(1))
    assert (f"{drop};\n" in printed(target)) is changed
    revert(target)
    assert rows(target, "SELECT * FROM own") == [{"is": 1}]
    assert (rows(target, "SELECT 'own'::regclass::oid AS oid") == oid) is not changed


def test_what_the_version_could_not_reach_stays_whatever_it_is(target: Any, tree: TestTree) -> None:
    check = "ALTER TABLE public.people ADD CONSTRAINT own CHECK (public.ok(people))"
    do(target, "CREATE FUNCTION ok(p people) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'", check)
    do(target, TRIGGER.format(""), "ALTER TABLE people DISABLE TRIGGER own")
    oid = (
        "SELECT oid FROM pg_constraint WHERE conname = 'own' UNION ALL SELECT oid FROM pg_trigger WHERE tgname = 'own'"
    )
    before = rows(target, oid)
    no_check = "ALTER TABLE public.people DROP CONSTRAINT own"
    up = "UPDATE public.people SET name = 'own';\nCREATE TABLE public.pets (id integer)"
    apply(target, tree, up, no_check, check, NO_TRIGGER, TRIGGER.format(""), "DROP TABLE public.pets")
    assert printed(target).count("was there before this version: it stays") == 4
    revert(target)
    assert rows(target, oid) == before and rows(target, FIRES) == [{"is": "D"}]


@pytest.mark.parametrize("state", ["DISABLE", "ENABLE ALWAYS"])
def test_a_trigger_that_is_made_again_fires_as_before(target: Any, tree: TestTree, state: str) -> None:
    do(target, TRIGGER.format(""), f"ALTER TABLE people {state} TRIGGER own")
    before = rows(target, FIRES)
    replaced = TRIGGER.format(" OR REPLACE").replace("UPDATE", "UPDATE OF id")
    apply(target, tree, replaced, NO_TRIGGER, TRIGGER.format(""))
    text = f'{NO_TRIGGER};\n{TRIGGER.format("")};\nALTER TABLE "public"."people" {state} TRIGGER "own";\n'
    assert text in printed(target)
    revert(target)
    assert rows(target, FIRES) == before


def test_what_is_made_again_has_its_comment(target: Any, tree: TestTree) -> None:
    do(target, POLICY.format("id > 0"), "COMMENT ON POLICY own ON people IS 'policy'")
    do(target, TRIGGER.format(""), "COMMENT ON TRIGGER own ON people IS 'trigger'")
    up = "ALTER POLICY own ON public.people USING (true);\nALTER TABLE public.people DISABLE TRIGGER own"
    apply(target, tree, up, NO_POLICY, POLICY.format("id > 0"), NO_TRIGGER, TRIGGER.format(""))
    revert(target)
    told = "SELECT description AS is FROM pg_description WHERE classoid IN ('pg_policy'::regclass, 'pg_trigger'::regclass) ORDER BY 1"
    assert rows(target, told) == [{"is": "policy"}, {"is": "trigger"}]


def test_a_comment_that_came_with_the_version_goes_with_it(target: Any, tree: TestTree) -> None:
    do(target, POLICY.format("id > 0"))
    comment = "COMMENT ON POLICY own ON public.people IS 'new'"
    up = f"DO $$ BEGIN {NO_POLICY}; {POLICY.format('true')}; {comment}; END $$"
    apply(target, tree, up, NO_POLICY, POLICY.format("id > 0"))
    revert(target)
    assert rows(target, "SELECT obj_description(oid, 'pg_policy') AS is FROM pg_policy") == [{"is": None}]


def test_an_index_whose_storage_the_version_has_changed_is_made_again(target: Any, tree: TestTree) -> None:
    index = "CREATE INDEX own ON public.people (id)"
    do(target, index)
    apply(target, tree, "ALTER INDEX public.own SET (fillfactor = 50)", NO_INDEX, index)
    assert f"{NO_INDEX};\n{index};" in printed(target)
    revert(target)
    assert rows(target, "SELECT reloptions AS is FROM pg_class WHERE relname = 'own'") == [{"is": None}]
