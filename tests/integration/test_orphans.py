# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Rows without a parent stop a foreign key before anything is changed, or wait in quarantine for the way back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, state, way
from support.tree import TestTree

V1 = "20260101000001"
UP = """
ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner)
    REFERENCES public.people (id) ON UPDATE CASCADE ON DELETE RESTRICT NOT VALID;
"""
DOWN = "ALTER TABLE public.pets DROP CONSTRAINT IF EXISTS pets_owner;"
STEPS = [
    {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
    {"validate": [{"table": "pets", "constraint": "pets_owner"}]},
]
ALL = "SELECT id, owner, name FROM pets ORDER BY id"


@pytest.fixture
def migrations(target: Any, tmp_path: Any) -> list[dict[str, Any]]:
    do(
        target,
        "CREATE TABLE people (id uuid PRIMARY KEY DEFAULT gen_random_uuid())",
        "CREATE TABLE pets (id integer PRIMARY KEY, owner uuid, name text, "
        "loud text GENERATED ALWAYS AS (upper(name)) STORED)",
        "INSERT INTO people DEFAULT VALUES",
        "INSERT INTO pets SELECT n, id, 'P' || n FROM people, generate_series(1, 5) AS n",
        "INSERT INTO pets SELECT n, gen_random_uuid(), 'Secret' || n FROM generate_series(101, 113) AS n",
        "INSERT INTO pets VALUES (200, NULL, 'wild')",
    )
    tree = TestTree(tmp_path / "sql")
    tree.add(V1, "own_pets", STEPS, {"up.sql.j2": UP, "down.sql.j2": DOWN})
    return tree.render()


def test_orphans_are_counted_before_and_told_by_ten_ids_and_the_query(target: Any, migrations: Any) -> None:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way())
    error = caught.value
    assert error.sqlstate == "23503"
    assert "13 row(s) of public.pets have no parent in public.people, by id 101, 102," in error.message
    assert "110, ..." in error.message
    assert "111" not in error.message
    assert "Secret" not in error.message + str(error.hint)
    told = error.extra["orphans"]
    assert (told["rows"], len(told["ids"])) == (13, 10)
    assert [row["id"] for row in rows(target, told["query"])] == [str(number) for number in range(101, 114)]
    assert "migrate_orphans=quarantine" in str(error.hint)
    assert rows(target, "SELECT conname FROM pg_constraint WHERE conname = 'pets_owner'") == []
    assert state(target, V1)["steps"] == "1:pending 2:pending"


def test_when_they_are_mended_the_same_run_goes_on(target: Any, migrations: Any) -> None:
    with pytest.raises(PgopsError):
        migrate.apply(target, migrations, Selection(), way())
    do(target, "DELETE FROM pets WHERE id > 100")
    migrate.apply(target, migrations, Selection(), way())
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'pets_owner'") == [
        {"convalidated": True}
    ]


def test_the_quarantine_keeps_them_tells_them_and_gives_them_back(target: Any, migrations: Any) -> None:
    before = rows(target, ALL)
    result = migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    (moved,) = result["applied"][0]["quarantined"]
    assert (moved["table"], moved["constraint"], moved["rows"]) == ("public.pets", "public.pets.pets_owner", 13)
    kept = rows(target, f"SELECT id, owner, name FROM {moved['quarantine']} ORDER BY id")
    assert sorted([*rows(target, ALL), *kept], key=lambda row: row["id"]) == before
    assert len(kept) == 13
    audit = rows(target, "SELECT detail FROM pgops.audit WHERE event = 'applied'")
    assert audit[0]["detail"]["quarantined"][0]["rows"] == 13
    shown = way_back.preview_revert(target, Reverts())
    assert f"13 row(s) are put back from {moved['quarantine']}" in shown["prepared"]
    migrate.revert(target, Reverts(), way())
    assert rows(target, ALL) == before
    assert rows(target, f"SELECT to_regclass('{moved['quarantine']}') AS gone") == [{"gone": None}]


def test_without_orphans_there_is_no_quarantine(target: Any, migrations: Any) -> None:
    do(target, "DELETE FROM pets WHERE id BETWEEN 101 AND 113")
    result = migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    assert result["applied"][0]["quarantined"] == []
    assert rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'quarantine%'") == []


def test_nothing_is_moved_while_other_rows_hang_on_it(target: Any, migrations: Any) -> None:
    do(
        target,
        "CREATE TABLE toys (pet integer REFERENCES pets ON DELETE CASCADE)",
        "INSERT INTO toys VALUES (101), (1)",
    )
    with pytest.raises(PgopsError, match=r"1 row\(s\) of public.toys hang on rows of public.pets"):
        migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    assert rows(target, "SELECT count(*) AS n FROM pets") == [{"n": 19}]
    assert rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'quarantine%'") == []


def test_a_foreign_key_that_waits_for_its_validation_tells_its_orphans_too(target: Any, migrations: Any) -> None:
    do(target, UP)
    with pytest.raises(PgopsError, match=r"13 row\(s\) of public.pets have no parent") as caught:
        migrate.apply(target, migrations, Selection(), way())
    assert caught.value.extra["reason"] == "orphans"
    assert state(target, V1)["steps"] == "1:done 2:pending"
