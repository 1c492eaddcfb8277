# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version's own verification is asked for as long as it is applied: what a later version takes away or changes is no
difference of it, everything else stays one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import batch_health, migrate, scratch
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, way
from support.tree import TestTree

MAKE, CHANGE = "20260101000001", "20260101000002"

# As the shipped verifications ask: from the catalog by name, and, in the last one, from the table itself.
WANTED = """
SELECT 'column ' || wanted.tab || '.' || wanted.col AS object, 'exists' AS expected, 'missing' AS found
FROM (VALUES ('pupils', 'name'), ('pupils', 'room'), ('pens', 'id')) AS wanted (tab, col)
WHERE NOT EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = to_regclass('public.' || wanted.tab) AND attname = wanted.col AND NOT attisdropped
);

SELECT 'enum mood label ' || label AS object, 'exists' AS expected, 'missing' AS found
FROM (VALUES ('GLAD'), ('SAD')) AS wanted (label)
WHERE label NOT IN (SELECT enumlabel FROM pg_enum JOIN pg_type AS t ON t.oid = enumtypid WHERE typname = 'mood');

SELECT 'pen ' || id AS object, 'even' AS expected, 'odd' AS found FROM public.pens WHERE id % 2 = 1;

SELECT 'setting ' || wanted.name AS object, 'set' AS expected, 'missing' AS found
FROM (VALUES ('limit')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM public.settings AS s WHERE s.name = wanted.name);
"""


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    made = TestTree(tmp_path / "sql")
    made.add(
        MAKE,
        "make",
        [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
        {
            "up.sql.j2": "CREATE TYPE public.mood AS ENUM ('GLAD', 'SAD');"
            "CREATE TABLE public.pupils (id bigint PRIMARY KEY, name text, room text);"
            "CREATE TABLE public.pens (id bigint PRIMARY KEY);"
            "CREATE TABLE public.settings (name text PRIMARY KEY);",
            "down.sql.j2": "DROP TABLE public.settings; DROP TABLE public.pens; DROP TABLE public.pupils; DROP TYPE public.mood;",
            "verify.sql.j2": WANTED,
        },
    )
    made.add_sql(
        CHANGE,
        "change",
        "ALTER TABLE public.pupils DROP COLUMN room;"
        "DO $$ BEGIN EXECUTE 'DROP TABLE public.pens'; END $$;"
        "ALTER TYPE public.mood RENAME VALUE 'SAD' TO 'BLUE';",
        "ALTER TYPE public.mood RENAME VALUE 'BLUE' TO 'SAD';"
        "CREATE TABLE public.pens (id bigint PRIMARY KEY);"
        "ALTER TABLE public.pupils ADD COLUMN room text;",
    )
    return made


@pytest.fixture
def changed(target: Target, tree: TestTree) -> Target:
    """A database with both versions, and the row that only a person brings."""
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO public.settings VALUES ('limit')")
    return target


def failures(target: Target, **options: Any) -> list[tuple[str, str, Any]]:
    try:
        result = verification.verify({target.database: target}, **options)[target.database]
    except PgopsError as error:
        result = error.extra["databases"][target.database]
    return [
        (found["check"], found["object"], found["note"]) for found in result["findings"] if found["level"] == "fail"
    ]


def test_what_a_later_version_takes_away_is_no_difference_of_an_earlier_one(changed: Target) -> None:
    assert failures(changed) == []
    # And as it is remembered.
    assert failures(changed) == []


def test_what_somebody_took_away_stays_one(changed: Target) -> None:
    do(changed, "ALTER TABLE public.pupils DROP COLUMN name")
    assert failures(changed) == [
        ("schema", "column public.pupils.name", None),
        (f"verify of {MAKE}", "column pupils.name", None),
    ]


def test_what_is_taken_away_before_its_version_does_it_is_a_difference(target: Target, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(steps=1), way())
    do(target, "INSERT INTO public.settings VALUES ('limit')", "ALTER TABLE public.pupils DROP COLUMN room")
    assert failures(target) == [
        ("schema", "column public.pupils.room", None),
        (f"verify of {MAKE}", "column pupils.room", None),
    ]


def test_what_came_back_with_the_way_back_is_wanted_again(changed: Target) -> None:
    migrate.revert(changed, Reverts(), way("20260101T000000Z-000002"))
    assert failures(changed) == []
    do(changed, "ALTER TABLE public.pupils DROP COLUMN room")
    assert (f"verify of {MAKE}", "column pupils.room", None) in failures(changed)


def test_what_an_empty_database_never_has_stays_a_difference(changed: Target) -> None:
    do(changed, "DELETE FROM public.settings")
    assert failures(changed) == [(f"verify of {MAKE}", "setting limit", None)]


def test_without_a_comparison_it_is_told_from_what_is_remembered_and_never_passed_over(
    changed: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    create = scratch._create
    monkeypatch.setattr(scratch, "_create", lambda *_: pytest.fail("a database was created"))
    note = "a later version may have taken it away: a comparison of the schema tells"
    gone = [
        (f"verify of {MAKE}", name, note) for name in ("column pupils.room", "column pens.id", "enum mood label SAD")
    ]
    assert [found for found in failures(changed, compare_schema=False) if ":" not in found[1]] == gone
    monkeypatch.setattr(scratch, "_create", create)
    assert failures(changed) == []
    monkeypatch.setattr(scratch, "_create", lambda *_: pytest.fail("a database was created"))
    assert failures(changed, compare_schema=False) == []
    do(changed, "ALTER TABLE public.pupils DROP COLUMN name")
    assert failures(changed, compare_schema=False) == [(f"verify of {MAKE}", "column pupils.name", None)]


def test_of_many_only_those_are_left_out_that_are_meant(target: Target, tree: TestTree) -> None:
    names = ", ".join(f"('c{number}')" for number in range(150))
    columns = ", ".join(f"c{number} text" for number in range(150))
    tree.add(
        "20260101000003",
        "wide",
        [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
        {
            "up.sql.j2": f"CREATE TABLE public.wide (id bigint PRIMARY KEY, {columns}, last text);",
            "down.sql.j2": "DROP TABLE public.wide;",
            "verify.sql.j2": "SELECT 'column wide.' || wanted.col AS object, 'exists' AS expected, 'missing' AS found "
            f"FROM (VALUES {names}, ('last')) AS wanted (col) WHERE NOT EXISTS (SELECT FROM pg_attribute "
            "WHERE attrelid = to_regclass('public.wide') AND attname = wanted.col AND NOT attisdropped);",
        },
    )
    tree.add_sql(
        "20260101000004",
        "narrow",
        "ALTER TABLE public.wide " + ", ".join(f"DROP COLUMN c{number}" for number in range(150)) + ";",
        "ALTER TABLE public.wide " + ", ".join(f"ADD COLUMN c{number} text" for number in range(150)) + ";",
    )
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO public.settings VALUES ('limit')")
    assert failures(target) == []
    do(target, "ALTER TABLE public.wide DROP COLUMN last")
    assert ("verify of 20260101000003", "column wide.last", None) in failures(target)


def test_a_batch_that_brings_both_versions_is_well(target: Target, tree: TestTree) -> None:
    rendered = tree.render()
    migrate.apply(target, rendered, Selection(), way())
    do(target, "INSERT INTO public.settings VALUES ('limit')")

    def found() -> list[str]:
        name = target.database
        told = batch_health.look_after(
            {name: target},
            {name: batch_health.Before(0.0, frozenset())},
            {name: rendered},
            batch_health.Limits(pause=0),
            control=Control(),
        )
        return [finding for finding in told[name]["findings"] if "verification" in finding]

    assert found() == []
    do(target, "ALTER TABLE public.pupils DROP COLUMN name")
    (sentence,) = found()
    assert "pupils.name" in sentence
