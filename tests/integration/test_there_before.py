# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a version found there is not its own: its way down leaves that alone, and DO blocks can ask for it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import Told, do, fingerprint, rows, way
from support.tree import TestTree

V1 = "20260101000001"
UP = """
CREATE TYPE public."Mood" AS ENUM ('GOOD', 'BAD');
ALTER TABLE public.people ADD COLUMN age integer;
ALTER TABLE public.people ADD COLUMN name text;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'public.people'::regclass AND attname = 'kind') THEN
        ALTER TABLE public.people ADD COLUMN kind text;
    END IF;
END $$;
ALTER TYPE public."Colour" ADD VALUE 'RED';
"""
DOWN = """
DO $$ BEGIN
    RAISE NOTICE 'asked: %', coalesce(current_setting('pgops.there_before', true), 'nothing');
END $$;
ALTER TABLE public.people DROP COLUMN IF EXISTS kind;
ALTER TABLE public.people DROP COLUMN IF EXISTS name;
ALTER TABLE public.people DROP COLUMN IF EXISTS age;
DROP TYPE IF EXISTS public."Mood";
"""


@pytest.mark.parametrize("one_transaction", [True, False])
def test_the_way_down_leaves_what_was_there_before(target: Any, tmp_path: Any, one_transaction: bool) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "grow", UP, DOWN, transaction=one_transaction)
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, age integer, kind text)",
        "CREATE TYPE \"Colour\" AS ENUM ('RED')",
        "INSERT INTO people VALUES (1, 7, 'k')",
    )
    conn = connect(target, application_name="test")
    before = catalog.inventory(conn)
    for _ in range(2):
        migrate.apply(target, tree.render(), Selection(), way())
        assert [entry["columns"] for entry in way_back.preview_revert(target, Reverts())["loss"]] == []
        assert "column public.people.kind was there before" in way_back.preview_revert(target, Reverts())["prepared"]
        told = Told()
        migrate.revert(target, Reverts(), way(progress=told))
        assert catalog.compare(before, catalog.inventory(conn), ignore=()) == []
    conn.close()
    assert rows(target, "SELECT * FROM people") == [{"id": 1, "age": 7, "kind": "k"}]
    assert told.said("column public.people.age was there before this version: it stays")
    assert told.said('"enum value public.Colour.RED"')
    assert not told.said("asked: nothing")


def test_what_the_version_made_goes(target: Any, tmp_path: Any) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "grow", UP, DOWN)
    do(target, "CREATE TABLE people (id integer PRIMARY KEY)", "CREATE TYPE \"Colour\" AS ENUM ('BLUE')")
    migrate.apply(target, tree.render(), Selection(), way())
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    columns = "SELECT attname FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped"
    assert rows(target, columns) == [{"attname": "id"}]
    assert told.said("asked: ")


# What a version replaces under its own name, as a pattern's last version does it with the triggers of its first.
REPLACE_UP = """
ALTER TABLE public.people DROP CONSTRAINT grown;
ALTER TABLE public.people ADD CONSTRAINT grown CHECK (age > 21);
ALTER TABLE public.people DROP CONSTRAINT tall;
"""
REPLACE_DOWN = """
ALTER TABLE public.people ADD CONSTRAINT tall CHECK (false) NOT VALID;
ALTER TABLE public.people DROP CONSTRAINT tall;
ALTER TABLE public.people ADD CONSTRAINT tall CHECK (size > 180);
ALTER TABLE public.people DROP CONSTRAINT grown;
ALTER TABLE public.people ADD CONSTRAINT grown CHECK (age > 18);
"""


@pytest.mark.parametrize("one_transaction", [True, False])
def test_what_the_way_up_drops_does_not_stay_on_the_way_down(target: Any, tmp_path: Any, one_transaction: bool) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "replace", REPLACE_UP, REPLACE_DOWN, transaction=one_transaction)
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, age integer, size integer, "
        "CONSTRAINT grown CHECK (age > 18), CONSTRAINT tall CHECK (size > 180))",
    )
    conn = connect(target, application_name="test")
    before = catalog.inventory(conn)
    checks = "SELECT pg_get_constraintdef(oid) AS made FROM pg_constraint WHERE conrelid = 'people'::regclass AND contype = 'c'"
    for _ in range(2):
        migrate.apply(target, tree.render(), Selection(), way())
        assert rows(target, checks) == [{"made": "CHECK ((age > 21))"}]
        assert "stays" not in way_back.preview_revert(target, Reverts())["prepared"]
        migrate.revert(target, Reverts(), way())
        assert catalog.compare(before, catalog.inventory(conn), ignore=()) == []
    conn.close()


ASIDE_UP = """
ALTER INDEX public.aged RENAME TO aged_old;
CREATE INDEX aged ON public.people (age, id);
ALTER TABLE public.people RENAME CONSTRAINT grown TO grown_old;
ALTER TABLE public.people ADD CONSTRAINT grown CHECK (age > 17);
ALTER TYPE public.mood RENAME TO mood_old;
CREATE TYPE public.mood AS ENUM ('GOOD', 'BAD');
ALTER FUNCTION public.one() RENAME TO one_old;
CREATE FUNCTION public.one() RETURNS integer LANGUAGE sql AS 'SELECT 2';
ALTER POLICY own ON public.people RENAME TO own_old;
CREATE POLICY own ON public.people USING (id > 7);
ALTER MATERIALIZED VIEW public.totals RENAME TO totals_old;
CREATE MATERIALIZED VIEW public.totals AS SELECT 7 AS n;
"""
ASIDE_DOWN = """
DROP MATERIALIZED VIEW public.totals;
ALTER MATERIALIZED VIEW public.totals_old RENAME TO totals;
DROP POLICY own ON public.people;
ALTER POLICY own_old ON public.people RENAME TO own;
DROP FUNCTION public.one();
ALTER FUNCTION public.one_old() RENAME TO one;
DROP TYPE public.mood;
ALTER TYPE public.mood_old RENAME TO mood;
ALTER TABLE public.people DROP CONSTRAINT grown;
ALTER TABLE public.people RENAME CONSTRAINT grown_old TO grown;
DROP INDEX public.aged;
ALTER INDEX public.aged_old RENAME TO aged;
"""


@pytest.mark.parametrize("one_transaction", [True, False])
def test_what_the_way_up_names_aside_gets_its_name_back(target: Any, tmp_path: Any, one_transaction: bool) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "aside", ASIDE_UP, ASIDE_DOWN, transaction=one_transaction)
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, age integer, CONSTRAINT grown CHECK (age > 18))",
        "CREATE INDEX aged ON people (age)",
        "CREATE TYPE mood AS ENUM ('CALM')",
        "CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE POLICY own ON people USING (id > 0)",
        "CREATE MATERIALIZED VIEW totals AS SELECT 1 AS n",
    )
    before = fingerprint(target)
    for _ in range(2):
        migrate.apply(target, tree.render(), Selection(), way())
        assert rows(target, "SELECT one(), n FROM totals") == [{"one": 2, "n": 7}]
        assert "stays" not in way_back.preview_revert(target, Reverts())["prepared"]
        migrate.revert(target, Reverts(), way())
        assert fingerprint(target) == before


MADE_UP = """
ALTER TABLE public.people ADD COLUMN name text;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'grown') THEN
        ALTER TABLE public.people ADD CONSTRAINT grown CHECK (age > 18);
    END IF;
END $$;
"""
MADE_DOWN = """
DO $$ BEGIN
    RAISE NOTICE 'made: %', coalesce(current_setting('pgops.made', true), 'nothing');
END $$;
ALTER TABLE public.people DROP COLUMN IF EXISTS name;
"""


@pytest.mark.parametrize("one_transaction", [True, False])
def test_a_block_of_the_way_down_is_told_what_the_way_up_made(
    target: Any, tmp_path: Any, one_transaction: bool
) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "grow", MADE_UP, MADE_DOWN, transaction=one_transaction)
    do(target, "CREATE TABLE people (id integer PRIMARY KEY, age integer)")
    # The second time the constraint is there: the block makes none.
    for answer in ('made: ["public.people.grown"]', "made: nothing"):
        migrate.apply(target, tree.render(), Selection(), way())
        told = Told()
        migrate.revert(target, Reverts(), way(progress=told))
        assert told.said(answer)


KINDS_UP = """
CREATE MATERIALIZED VIEW IF NOT EXISTS public.totals AS SELECT count(*) AS n FROM public.people;
CREATE MATERIALIZED VIEW public.ages AS SELECT age FROM public.people;
CREATE VIEW public.names AS SELECT id FROM public.people;
CREATE SEQUENCE public.numbers;
"""
KINDS_DOWN = """
DROP SEQUENCE public.numbers;
DROP VIEW public.names;
/* its rows are computed */ DROP MATERIALIZED VIEW public.ages;
DROP MATERIALIZED VIEW IF EXISTS public.totals;
"""


def test_what_is_no_plain_table_goes_too_and_stays_where_it_was_before(target: Any, tmp_path: Any) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "kinds", KINDS_UP, KINDS_DOWN)
    do(target, "CREATE TABLE people (id integer PRIMARY KEY, age integer)")
    found = (
        "SELECT relname::text FROM pg_class WHERE relkind IN ('m', 'v', 'S') AND relnamespace = 'public'::regnamespace"
    )
    migrate.apply(target, tree.render(), Selection(), way())
    assert len(rows(target, found)) == 4
    migrate.revert(target, Reverts(), way())
    assert rows(target, found) == []
    do(target, "CREATE MATERIALIZED VIEW totals AS SELECT 7 AS n")
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "DROP MATERIALIZED VIEW ages")
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    assert rows(target, found) == [{"relname": "totals"}]
    assert told.said("table public.totals was there before this version: it stays")
    assert told.said("table public.ages is gone already: skipped")
