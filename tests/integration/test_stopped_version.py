# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A version that stops half-way leaves word of the steps that it had finished: what they moved, and how long they took."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, rows, way
from support.tree import TestTree

V1, V2 = "20260101000001", "20260101000002"
RESUMED = "20260101T000000Z-0000bb"
FOREIGN_KEY = (
    "ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES public.people (id) NOT VALID;"
)
KEY_DOWN = "ALTER TABLE public.pets DROP CONSTRAINT pets_owner;"
QUARANTINE = f"pgops.quarantine_{V2}_1_1"
MOVED = {
    "schema": "public",
    "relation": "pets",
    "table": "public.pets",
    "constraint": "public.pets.pets_owner",
    "quarantine": QUARANTINE,
    "rows": 2,
}
BROKEN, MENDED = "INSERT INTO public.nowhere VALUES (1);", "ALTER TABLE public.pets ADD COLUMN name text;"


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    """Two pets without an owner, and a version that settles them in its first step and fails in its second."""
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1,
        "tables",
        "CREATE TABLE public.people (id integer PRIMARY KEY);\n"
        "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer);\n"
        "CREATE INDEX pets_owner_idx ON public.pets (owner);",
        "DROP TABLE public.pets;\nDROP TABLE public.people;",
    )
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO pets VALUES (1, 7), (2, 8)")
    return tree


def second(tree: TestTree, last: str, *, key_down: str = KEY_DOWN) -> list[dict[str, Any]]:
    steps = [{"sql": {"up": f"{word}.sql.j2", "down": f"{word}_down.sql.j2"}, "name": word} for word in ("key", "last")]
    files = {
        "key.sql.j2": FOREIGN_KEY,
        "key_down.sql.j2": key_down,
        "last.sql.j2": last,
        "last_down.sql.j2": "SELECT 1;",
    }
    tree.add(V2, "own_pets", steps, files)
    return tree.render()


def audited(target: Any, event: str) -> list[dict[str, Any]]:
    found = rows(
        target,
        "SELECT detail::text AS detail FROM pgops.audit WHERE version = %s AND event = %s ORDER BY seq",
        (V2, event),
    )
    return [json.loads(row["detail"]) for row in found]


def stopped(target: Any, migrations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way(**more))
    (version,) = caught.value.extra["partial"]["stopped"]
    assert version["version"] == V2
    return version


def test_what_was_moved_to_quarantine_is_told_audited_and_told_again_when_it_goes_on(
    target: Any, tree: TestTree
) -> None:
    version = stopped(target, second(tree, BROKEN), orphans="quarantine")
    assert version["quarantined"] == [MOVED]
    assert rows(target, f"SELECT count(*) AS n FROM {QUARANTINE}") == [{"n": 2}]
    assert audited(target, "orphans_settled") == [{"step": 1, "quarantined": [MOVED]}]
    (applied,) = migrate.apply(target, second(tree, MENDED), Selection(), way(RESUMED))["applied"]
    assert applied["quarantined"] == [MOVED]
    (end,) = audited(target, "applied")
    assert end["quarantined"] == [MOVED]
    assert len(audited(target, "orphans_settled")) == 1


def test_of_a_step_that_stops_between_its_statements_too(target: Any, tree: TestTree) -> None:
    """Outside one transaction each statement is done for itself."""
    tree.add_sql(
        V2, "own_pets", f"{FOREIGN_KEY}\n{BROKEN}", "ALTER TABLE public.pets DROP CONSTRAINT pets_owner;",
        transaction=False,
    )  # fmt: skip
    version = stopped(target, tree.render(), orphans="quarantine")
    assert version["quarantined"] == [MOVED]
    assert audited(target, "orphans_settled") == [{"step": 1, "quarantined": [MOVED]}]
    do(target, "CREATE TABLE nowhere (id integer)")
    (applied,) = migrate.apply(target, tree.render(), Selection(), way(RESUMED))["applied"]
    assert applied["quarantined"] == [MOVED]


def test_a_step_that_is_taken_back_has_moved_nothing(target: Any, tree: TestTree) -> None:
    tree.add_sql(V2, "own_pets", f"{FOREIGN_KEY}\n{BROKEN}", "SELECT 1;")
    version = stopped(target, tree.render(), orphans="quarantine")
    assert version["quarantined"] == []
    assert audited(target, "orphans_settled") == []
    assert rows(target, "SELECT count(*) AS n FROM pets") == [{"n": 2}]


def steps_of(version: dict[str, Any]) -> list[tuple[int, str, str | None]]:
    assert all(step["duration_s"] >= 0 for step in version["step_durations"])
    began = [datetime.fromisoformat(step["started"]) for step in version["step_durations"]]
    assert began == sorted(began)
    assert all(abs((datetime.now(UTC) - moment).total_seconds()) < 3600 for moment in began)
    return [(step["step"], step["kind"], step["name"]) for step in version["step_durations"]]


def test_the_steps_that_were_done_have_their_seconds(target: Any, tree: TestTree) -> None:
    assert steps_of(stopped(target, second(tree, BROKEN), orphans="quarantine")) == [(1, "sql", "key")]


def test_a_version_on_its_way_down_has_its_steps_in_the_order_in_which_they_went(target: Any, tree: TestTree) -> None:
    migrate.apply(target, second(tree, MENDED), Selection(), way(orphans="quarantine"))
    (reverted,) = migrate.revert(target, Reverts(), way(RESUMED))["reverted"]
    assert steps_of(reverted) == [(2, "sql", "last"), (1, "sql", "key")]


def test_a_way_down_that_stops_has_the_steps_that_went(target: Any, tree: TestTree) -> None:
    failing = second(tree, MENDED, key_down=f"{KEY_DOWN}\nDELETE FROM public.nowhere;")
    migrate.apply(target, failing, Selection(), way(orphans="quarantine"))
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, Reverts(), way(RESUMED))
    (version,) = caught.value.extra["partial"]["stopped"]
    assert steps_of(version) == [(2, "sql", "last")]
