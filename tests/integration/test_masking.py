# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy for a less trusted server: nothing of a declared column is left in it, and its shape is that of before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import masking, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.backups import PATIENT, RUN, fill
from support.engine import do, rows

SHAPE = """
SELECT count(*) AS rows, count(DISTINCT name) AS names, sum(length(name)) AS length, count(note) AS notes, count(DISTINCT seen) AS moments,
       count(*) FILTER (WHERE name ~ '^[A-Z][a-z]+-[A-Z][a-z]+-[0-9]+$') AS class, max(seen) - min(seen) AS span
  FROM students
"""
DECLARED = {"public.students": {"name": "text", "seen": "moment"}}


@pytest.fixture
def filled(server: Any, target: Any, database: str) -> str:
    fill(server, database)
    do(
        target,
        "UPDATE students SET note = NULL WHERE id % 3 = 0",
        "UPDATE students SET seen = seen + id * interval '1 hour'",
        "CREATE UNIQUE INDEX students_name ON students (name)",
        "CREATE TABLE aliases (name text REFERENCES students (name), note text)",
        "INSERT INTO aliases SELECT name, 'x' FROM students",
        "INSERT INTO students (name) VALUES ('Ødegård Ирина 学生'), ('')",
    )
    return database


def mask(target: Any, declared: dict[str, Any]) -> dict[str, Any]:
    return masking.mask(target.as_restore(), declared, work=restore.Work(RUN))


def test_type_length_class_uniqueness_and_nulls_stay_and_no_value_does(target: Any, filled: str) -> None:
    do(target, "CREATE MATERIALIZED VIEW known AS SELECT name FROM students")
    do(target, "CREATE MATERIALIZED VIEW longest AS SELECT max(name) FROM known")
    before = rows(target, SHAPE)
    keys = rows(target, "SELECT count(*) AS n FROM aliases JOIN students USING (name)")
    with_alias = {**DECLARED, "public.aliases": {"name": "text"}}
    done = mask(target, with_alias)
    assert (done["tables"], done["columns"]) == (2, 3)
    assert rows(target, SHAPE) == before
    assert rows(target, "SELECT count(*) AS n FROM aliases JOIN students USING (name)") == keys
    everything = json.dumps(
        [rows(target, f"SELECT t::text FROM {table} t") for table in ("students", "aliases", "known", "longest")],
        ensure_ascii=False,
    )
    for part in ("Sentinel", "Patient", PATIENT, "Ødegård", "Ирина", "学生"):
        assert part not in everything


def test_a_value_that_survives_elsewhere_is_found_and_not_told(target: Any, filled: str) -> None:
    with pytest.raises(PgopsError) as caught:
        mask(target, DECLARED)
    assert caught.value.message.startswith("public.aliases still holds a value that masking.yml masks elsewhere")
    assert "Sentinel" not in json.dumps([caught.value.message, caught.value.as_dict()])


def test_a_table_may_go_and_what_cannot_be_is_refused(target: Any, filled: str) -> None:
    for declared, why in (
        ({"public.nowhere": {"name": "text"}}, "has no such table"),
        ({"public.students": {"nothing": "text"}}, "no column of it"),
        ({"public.students": {"score": "text"}}, "which is double precision"),
        ({"public.students": {"name": "moment"}}, "which is text"),
    ):
        with pytest.raises(PgopsError, match=why):
            mask(target, declared)
    with pytest.raises(PgopsError, match="cannot mask a copy"):
        masking.mask(target, DECLARED, work=restore.Work(RUN))
    mask(target, {"public.aliases": "empty", "public.students": {"name": "text", "note": "empty"}})
    assert rows(target, "SELECT count(*) AS n FROM aliases") == [{"n": 0}]
    assert rows(target, "SELECT count(note) AS n FROM students") == [{"n": 0}]
