# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an apply and a rollback tell the application's developers: tables, columns, enum values and foreign keys that moved."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, model_changes
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import CHANGES_SHOWN, model_lines
from support.engine import do, way
from support.server import Server
from support.tree import TestTree, shipped_chain

BEFORE = (
    "CREATE TABLE public.students (id integer PRIMARY KEY, name text, age integer, gone text)",
    "CREATE TYPE public.kind AS ENUM ('a', 'b')",
    "CREATE TABLE public.old (id integer PRIMARY KEY)",
)


def told(target: Any, *statements: str) -> list[tuple[str, str, str, str | None, str | None]]:
    with connect(target, application_name="test") as conn:
        before = model_changes.read(conn)
    do(target, *statements)
    with connect(target, application_name="test") as conn:
        found = model_changes.changes(before, model_changes.read(conn))
    return [(item.kind, item.change, item.object, item.before, item.after) for item in found]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "ALTER TABLE public.students ADD COLUMN nick text NOT NULL DEFAULT 'x'",
            ("column", "added", "public.students.nick", None, "text NOT NULL DEFAULT 'x'::text"),
        ),
        ("ALTER TABLE public.students DROP COLUMN gone", ("column", "dropped", "public.students.gone", "text", None)),
        (
            "ALTER TABLE public.students ALTER COLUMN age TYPE bigint",
            ("column", "changed", "public.students.age", "integer", "bigint"),
        ),
        (
            "ALTER TABLE public.students RENAME COLUMN name TO full_name",
            ("column", "renamed", "public.students.full_name", "public.students.name", "public.students.full_name"),
        ),
        ("CREATE TABLE public.rooms (id integer, name text)", ("table", "added", "public.rooms", None, None)),
        ("DROP TABLE public.old", ("table", "dropped", "public.old", None, None)),
        ("ALTER TABLE public.old RENAME TO ancient", ("table", "renamed", "public.ancient", "public.old", "public.ancient")),
        ("ALTER TYPE public.kind ADD VALUE 'c'", ("enum value", "added", "public.kind 'c'", None, None)),
        (
            "ALTER TYPE public.kind RENAME VALUE 'a' TO 'z'",
            ("enum value", "renamed", "public.kind 'z'", "public.kind 'a'", "public.kind 'z'"),
        ),
        (
            "ALTER TABLE public.old ADD CONSTRAINT old_fk FOREIGN KEY (id) REFERENCES public.students (id)",
            ("foreign key", "added", "public.old old_fk", None, "FOREIGN KEY (id) REFERENCES students(id)"),
        ),
        ("CREATE VIEW public.seen AS SELECT id FROM public.students", ("view", "added", "public.seen", None, None)),
    ],
)  # fmt: skip
def test_each_change_is_told_once(target: Any, statement: str, expected: tuple[Any, ...]) -> None:
    do(target, *BEFORE)
    assert told(target, statement) == [expected]


def test_a_column_that_was_copied_beside_and_swapped_is_one_change_or_none(target: Any) -> None:
    do(target, *BEFORE)
    swapped = (
        "ALTER TABLE public.students ADD COLUMN age_new {type}",
        "ALTER TABLE public.students DROP COLUMN age",
        "ALTER TABLE public.students RENAME COLUMN age_new TO age",
    )
    assert told(target, *(line.format(type="integer") for line in swapped)) == []
    changed = told(target, *(line.format(type="bigint") for line in swapped))
    assert changed == [("column", "changed", "public.students.age", "integer", "bigint")]
    names = (("age", "aside"), ("name", "age"), ("aside", "name"))
    assert told(target, *(f"ALTER TABLE public.students RENAME COLUMN {old} TO {new}" for old, new in names)) == [
        ("column", "changed", "public.students.age", "bigint", "text"),
        ("column", "changed", "public.students.name", "text", "bigint"),
    ]
    assert told(target, "CREATE INDEX ON public.students (name)", "ANALYZE public.students") == []


def test_an_apply_and_its_way_back_tell_them(target: Any, tmp_path: Any, server: Server, database: str) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql("20260101000001", "rooms", "CREATE TABLE public.rooms (id integer);", "DROP TABLE public.rooms;")
    up = migrate.apply(target, tree.render(), Selection(), way())
    (change,) = up["model_changes"]
    assert (change["kind"], change["change"], change["object"]) == ("table", "added", "public.rooms")
    assert migrate.apply(target, tree.render(), Selection(), way())["model_changes"] == []
    (change,) = migrate.revert(target, Reverts(), way("20260101T000000Z-000001"))["model_changes"]
    assert (change["change"], change["object"]) == ("dropped", "public.rooms")


def test_nobody_waits_long_for_the_list(target: Any, tmp_path: Any, server: Server, database: str) -> None:
    do(target, *BEFORE, "CREATE TABLE public.held (id integer DEFAULT 1)")
    tree = TestTree(tmp_path / "sql")
    tree.add_sql("20260101000001", "add", "CREATE TABLE public.added (id integer);", "DROP TABLE public.added;")
    with server.session(database, autocommit=False) as held, held.cursor() as cursor:
        cursor.execute("LOCK TABLE public.held IN ACCESS EXCLUSIVE MODE")
        begun = time.monotonic()
        with connect(target, application_name="test") as conn:
            assert model_changes.read(conn) is None
        assert time.monotonic() - begun < 5
        result = migrate.apply(target, tree.render(), Selection(), way())
    assert [item["version"] for item in result["applied"]] == ["20260101000001"]
    assert result["model_changes"] is None
    (line,) = model_lines("clinic", result["model_changes"])
    assert "could not be told" in line


def test_the_screen_has_a_table_of_them_and_is_not_flooded() -> None:
    change = {"kind": "column", "change": "changed", "object": "public.a.b", "before": "integer", "after": "bigint"}
    lines = model_lines("school", [change] * (CHANGES_SHOWN + 2))
    assert lines[0] == f"school: {CHANGES_SHOWN + 2} changes that the application's models are to follow"
    assert "integer -> bigint" in lines[3]
    assert lines[-1] == "    and 2 more in the report"
    assert model_lines("school", []) == []


@pytest.mark.slow
def test_the_associations_of_the_platform_are_announced(target: Any) -> None:
    """Vaccination to student and health record, vital sign to appointment: whoever writes the models is to know."""
    found = migrate.apply(target, shipped_chain(), Selection(), way())["model_changes"]
    definitions = {
        (item["object"].split()[0], item["after"].split(" ON ")[0]) for item in found if item["kind"] == "foreign key"
    }
    for table, column, parent in (
        ("public.vaccinations", "studentId", "students"),
        ("public.vaccinations", "healthRecordId", "health_records"),
        ("public.vital_signs", "appointmentId", "appointments"),
    ):
        assert (table, f'FOREIGN KEY ("{column}") REFERENCES {parent}(id)') in definitions
