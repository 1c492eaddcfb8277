# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What stands on an object that a way down drops is named and refused before its first write, shown and run alike."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, fingerprint, rows, way
from support.tree import NO_DIFFERENCE, TestTree

V1, V2, V3 = (f"2026010100000{number}" for number in (1, 2, 3))
INDEXED = [{"name": "people_nick_idx", "table": "people", "columns": ["nick"], "why": "x"}]
TRIGGER = "CREATE TRIGGER {0} BEFORE INSERT ON public.people FOR EACH ROW EXECUTE FUNCTION public.{0}();"
ALL_OF_V1 = """
CREATE TYPE public.kind AS ENUM ('A', 'B');
CREATE SEQUENCE public.numbers;
CREATE TABLE public.pets (id integer PRIMARY KEY, name text UNIQUE);
CREATE VIEW public.names AS SELECT mail FROM public.people;
CREATE FUNCTION public.norm(x text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower(x) $$;
CREATE FUNCTION public.lowered() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.mail := lower(NEW.mail); RETURN NEW; END $$;
ALTER TABLE public.people ADD COLUMN nick text;
"""
ALL_OF_V1_DOWN = """
ALTER TABLE public.people DROP COLUMN IF EXISTS nick;
DROP FUNCTION IF EXISTS public.lowered();
DROP FUNCTION IF EXISTS public.norm(text);
DROP VIEW IF EXISTS public.names;
DROP TABLE IF EXISTS public.pets;
DROP SEQUENCE IF EXISTS public.numbers;
DROP TYPE IF EXISTS public.kind;
"""


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, mail text)",
        "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
    )
    tree = TestTree(tmp_path / "sql")
    tree.add(
        V1, "all", [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}, {"indexes": "indexes.yml"}],
        {"up.sql.j2": ALL_OF_V1, "down.sql.j2": ALL_OF_V1_DOWN, "indexes.yml": INDEXED, "verify.sql.j2": NO_DIFFERENCE},
    )  # fmt: skip
    return tree


def apply(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way())


def states(target: Any) -> dict[str, str]:
    return {row["version"]: row["state"] for row in rows(target, "SELECT version, state FROM pgops.migration")}


def refused(target: Any, selection: Reverts, match: str) -> PgopsError:
    """Shown and run it is refused, with nothing gone and no version half reverted."""
    there, before = fingerprint(target), states(target)
    with pytest.raises(PgopsError, match=match):
        way_back.preview_revert(target, selection)
    with pytest.raises(PgopsError, match=match) as caught:
        migrate.revert(target, selection, way())
    assert (fingerprint(target), states(target)) == (there, before)
    return caught.value


PLAIN = "LANGUAGE plpgsql AS $$ BEGIN RETURN ({}); END $$"
# By what is dropped: what somebody made on it, how it is told, and how it goes again.
STANDS = {
    "column public.people.nick": (
        ["CREATE VIEW nicks AS SELECT id, nick FROM people"], "view public.nicks", "DROP VIEW nicks"),
    "column public.people.nick ": (
        ["CREATE POLICY own ON people USING (nick = current_user)"], "policy own on public.people", "DROP POLICY own ON people"),
    "column public.people.nick  ": (
        [f"CREATE FUNCTION filled() RETURNS trigger {PLAIN.format('NULL').replace('RETURN', 'NEW.nick := NEW.mail; RETURN')}",
         "CREATE TRIGGER filled BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION filled()"],
        "function filled(), whose body names it", "DROP FUNCTION filled() CASCADE"),
    "function public.norm": (
        ["CREATE INDEX by_norm ON people (norm(mail))"], "index public.by_norm", "DROP INDEX by_norm"),
    "function public.norm ": (
        ["ALTER TABLE people ALTER COLUMN mail SET DEFAULT norm('X')"], "the default for public.people.mail",
        "ALTER TABLE people ALTER COLUMN mail DROP DEFAULT"),
    "function public.norm  ": (
        [f"CREATE FUNCTION other(x text) RETURNS text {PLAIN.format('public.norm(x)')}"],
        "function other(text), whose body names it", "DROP FUNCTION other"),
    "function public.lowered": ([TRIGGER.format("lowered")], "trigger lowered on public.people", "DROP TRIGGER lowered ON people"),
    "view public.names": (
        [f"CREATE FUNCTION count_names() RETURNS bigint {PLAIN.format('SELECT count(*) FROM public.names')}"],
        "function count_names(), whose body names it", "DROP FUNCTION count_names"),
    "table public.pets": (
        ["CREATE TABLE toys (pet integer CONSTRAINT of_pet REFERENCES pets)"], "constraint of_pet on public.toys", "DROP TABLE toys"),
    "table public.pets ": (
        ["CREATE FUNCTION first_pet() RETURNS pets LANGUAGE sql BEGIN ATOMIC SELECT NULL::pets; END"],
        "function public.first_pet()", "DROP FUNCTION first_pet"),
    "sequence public.numbers": (
        ["ALTER TABLE people ADD COLUMN number bigint DEFAULT nextval('numbers')"], "the default for public.people.number",
        "ALTER TABLE people DROP COLUMN number"),
    "type public.kind": (["ALTER TABLE people ADD COLUMN k kind"], "column public.people.k", "ALTER TABLE people DROP COLUMN k"),
}  # fmt: skip


def test_what_somebody_made_on_it_is_named_and_nothing_is_begun(target: Any, tree: TestTree) -> None:
    apply(target, tree)
    for dropped, (made, told, away) in STANDS.items():
        do(target, *made)
        error = refused(target, Reverts(), f"drops {dropped.strip()}, and on it stands {re.escape(told)}, which")
        assert error.message.endswith("Nothing of it was reverted.")
        assert (error.extra["reason"], error.extra["not_reverted"]) == ("stands_on", [V1])
        do(target, away)
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "reverted"}


BUILT = "DO $$ BEGIN EXECUTE format('CREATE VIEW public.hidden AS SELECT %I FROM public.people', 'ni' || 'ck'); END $$;"


NAMES = [
    (TRIGGER.format("lowered"), "DROP TRIGGER lowered ON public.people;", "function public.lowered"),
    ("ALTER TABLE public.people ADD COLUMN k public.kind;", "ALTER TABLE public.people DROP COLUMN k;", "type public.kind"),
    (f"CREATE FUNCTION public.other(x text) RETURNS text {PLAIN.format('public.norm(x)')};", "DROP FUNCTION public.other(text);",
     "function public.norm"),
    ("GRANT SELECT ON public.names TO CURRENT_USER;", "SELECT 1;", "view public.names"),
]  # fmt: skip


def test_a_later_version_that_names_it_keeps_it(target: Any, tree: TestTree) -> None:
    for up, down, told in NAMES:
        tree.add_sql(V2, "later", up, down)
        apply(target, tree)
        error = refused(
            target, Reverts(version=V1), f"version {V2} uses its {told}; -e rollback_through={V1} reverts {V2}, {V1}"
        )
        assert (error.extra["reason"], error.extra["needed_by"]) == ("needed", V2)
        migrate.revert(target, Reverts(), way())
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "reverted", V2: "reverted"}


def test_a_later_version_whose_text_does_not_show_it_is_named_by_the_catalog(target: Any, tree: TestTree) -> None:
    tree.add_sql(V2, "hidden", BUILT, "DROP VIEW public.hidden;")
    apply(target, tree)
    error = refused(
        target,
        Reverts(version=V1),
        f"column public.people.nick, and on it stands view public.hidden \\(version {V2} made it",
    )
    assert (error.extra["reason"], error.extra["needed_by"]) == ("needed", V2)
    assert error.hint == f"-e rollback_through={V1} reverts {V2}, {V1}, in this order."
    migrate.revert(target, Reverts(through=V1), way())
    assert states(target) == {V1: "reverted", V2: "reverted"}


def test_an_older_version_is_looked_at_before_a_newer_one_goes(target: Any, tree: TestTree) -> None:
    tree.add_sql(V2, "rooms", "CREATE TABLE public.rooms (id integer);", "DROP TABLE public.rooms;")
    apply(target, tree)
    do(target, "CREATE VIEW nicks AS SELECT nick FROM people")
    error = refused(target, Reverts(through=V1), f"Version {V1} cannot be reverted .* view public.nicks")
    assert error.extra["not_reverted"] == [V2, V1]


def test_what_a_block_of_a_newer_way_down_takes_away_is_looked_at_in_its_turn(target: Any, tree: TestTree) -> None:
    hidden_down = "DO $$ BEGIN EXECUTE format('DROP VIEW public.%I', 'hid' || 'den'); END $$;"
    tree.add_sql(V2, "hidden", BUILT, hidden_down)
    apply(target, tree)
    way_back.preview_revert(target, Reverts(through=V1))
    migrate.revert(target, Reverts(through=V1), way())
    assert states(target) == {V1: "reverted", V2: "reverted"}


def test_a_block_that_drops_is_looked_into(target: Any, tree: TestTree) -> None:
    block = "DO $$ BEGIN IF true THEN ALTER TABLE public.people DROP COLUMN age; END IF; END $$;"
    tree.add_sql(V2, "age", "ALTER TABLE public.people ADD COLUMN age integer;", block)
    apply(target, tree)
    do(target, "CREATE VIEW ages AS SELECT age FROM people")
    refused(target, Reverts(), "drops column public.people.age, and on it stands view public.ages")


def test_a_function_that_was_there_before_the_object_means_another_one(target: Any, tree: TestTree) -> None:
    do(target, f"CREATE FUNCTION other() RETURNS text {PLAIN.format('SELECT max(nick) FROM elsewhere.people')}")
    apply(target, tree)
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "reverted"}


def test_a_function_that_the_version_replaced_itself_is_no_obstacle(target: Any, tree: TestTree) -> None:
    do(target, f"CREATE FUNCTION greeting() RETURNS text {PLAIN.format(chr(39) + chr(39))}")
    using = PLAIN.format("SELECT max(age) FROM people")
    # In two transactions: the function is younger than the column.
    tree.add(
        V2, "age", [{"sql": {"up": "a.sql.j2", "down": "a_down.sql.j2"}}, {"sql": {"up": "b.sql.j2", "down": "b_down.sql.j2"}}],
        {
            "a.sql.j2": "ALTER TABLE public.people ADD COLUMN age text;",
            "a_down.sql.j2": "ALTER TABLE public.people DROP COLUMN age;",
            "b.sql.j2": f"CREATE OR REPLACE FUNCTION public.greeting() RETURNS text {using};",
            "b_down.sql.j2": "SELECT 1;", "verify.sql.j2": NO_DIFFERENCE,
        },
    )  # fmt: skip
    apply(target, tree)
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "applied", V2: "reverted"}


def test_a_default_that_the_way_down_takes_away_is_no_obstacle(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V2, "counted",
        "CREATE SEQUENCE public.counted; ALTER TABLE public.people ALTER COLUMN id SET DEFAULT nextval('public.counted');",
        "ALTER TABLE public.people ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE public.counted;",
    )  # fmt: skip
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "applied", V2: "reverted"}


def test_a_drop_with_cascade_takes_nobody_elses_along(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V2, "rooms", "CREATE TABLE public.rooms (id integer); CREATE VIEW public.free AS SELECT id FROM public.rooms;",
        "DROP TABLE public.rooms CASCADE;",
    )  # fmt: skip
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    do(target, "CREATE VIEW report AS SELECT id FROM rooms")
    refused(target, Reverts(), "drops table public.rooms, and on it stands view public.report, which")
    do(target, "DROP VIEW report")
    migrate.revert(target, Reverts(), way())
    assert states(target) == {V1: "applied", V2: "reverted"}


def test_a_foreign_key_on_a_unique_index_of_the_version_is_named(target: Any, tree: TestTree) -> None:
    index = [{"name": "people_mail_key", "table": "people", "columns": ["mail"], "unique": True, "why": "x"}]
    tree.add(V2, "unique", [{"indexes": "indexes.yml"}], {"indexes.yml": index, "verify.sql.j2": NO_DIFFERENCE})
    apply(target, tree)
    do(target, "CREATE TABLE mails (mail text CONSTRAINT of_people REFERENCES people (mail))")
    refused(target, Reverts(), "index public.people_mail_key, and on it stands constraint of_people on public.mails")
