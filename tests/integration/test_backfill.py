# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Backfill: keyset batches, each with the ledger's word in one transaction, so that a killed one goes on where it was."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import locks, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import InterruptAt, Told, When, do, holding, rows, state, way
from support.server import OWNER, Server
from support.tree import TestTree

V1 = "20260101000001"
UP = "UPDATE public.people SET upper_name = upper(name), touched = touched + 1 WHERE id BETWEEN $1 AND $2;"
DOWN = "UPDATE public.people SET upper_name = NULL WHERE id BETWEEN $1 AND $2;"
KEYS = {
    "integer": "n * 3",
    "uuid": "('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid",
    "text": "'k' || n",
    "timestamptz": "timestamptz '2026-01-01' + n * interval '1 minute'",
}


def migrations(tmp_path: Any, *, batch: int = 100, pause: int = 0, up: str = UP, **keys: Any) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    step = {
        "backfill": {
            "table": "people",
            "key": "id",
            "batch_size": batch,
            "adapt": False,
            "pause_ms": pause,
            "statement": "fill.sql.j2",
            "down": "empty.sql.j2",
        }
    }
    tree.add(V1, "fill", [step], {"fill.sql.j2": up, "empty.sql.j2": DOWN}, **keys)
    return tree.render()


def people(target: Any, kind: str = "integer", count: int = 1050) -> None:
    do(
        target,
        f"CREATE TABLE people (id {kind} PRIMARY KEY, name text, upper_name text, touched integer NOT NULL DEFAULT 0)",
        f"INSERT INTO people (id, name) SELECT {KEYS[kind]}, 'p' || n FROM generate_series(1, {count}) n",
    )


def touched(target: Any) -> list[dict[str, Any]]:
    return rows(target, "SELECT touched, count(*) AS n FROM people GROUP BY 1 ORDER BY 1")


@pytest.mark.parametrize("kind", list(KEYS))
@pytest.mark.majors(15, 18)
def test_every_row_is_touched_once_whatever_the_key(target: Any, tmp_path: Any, kind: str) -> None:
    people(target, kind)
    migrate.apply(target, migrations(tmp_path), Selection(), way())
    assert touched(target) == [{"touched": 1, "n": 1050}]
    progress = rows(target, "SELECT progress FROM pgops.step")[0]["progress"]
    assert (progress["rows"], progress["seen"]) == (1050, 1050)


def test_an_empty_table_is_done_at_once(target: Any, tmp_path: Any) -> None:
    people(target, count=0)
    migrate.apply(target, migrations(tmp_path), Selection(), way())
    assert state(target, V1)["state"] == "applied"


def test_an_interrupted_backfill_goes_on_where_it_was(target: Any, tmp_path: Any) -> None:
    people(target)
    control = Control()
    stop = InterruptAt(control, "backfilling", field="done")
    with pytest.raises(Interrupted):
        migrate.apply(target, migrations(tmp_path), Selection(), way(control=control, progress=stop))
    done = {row["touched"]: row["n"] for row in touched(target)}
    assert 0 < done[1] < 1050
    told = Told()
    migrate.apply(target, migrations(tmp_path), Selection(), way(progress=told))
    assert touched(target) == [{"touched": 1, "n": 1050}]
    assert min(event["done"] for event in told.events if event.get("unit") == "rows") == done[1]


def test_the_ledger_moves_with_the_batch_or_not_at_all(target: Any, tmp_path: Any) -> None:
    people(target)
    do(target, "ALTER TABLE people ADD CONSTRAINT no_p500 CHECK (upper_name <> 'P500')")
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations(tmp_path), Selection(), way())
    assert caught.value.sqlstate == "23514"
    assert caught.value.location == f"{V1}_fill/fill.sql.j2:1"
    assert "P500" not in caught.value.message
    assert touched(target) == [{"touched": 0, "n": 650}, {"touched": 1, "n": 400}]
    assert rows(target, "SELECT progress->'rows' AS n FROM pgops.step") == [{"n": 400}]


def test_a_locked_row_is_waited_for_without_holding_others_up(target: Any, tmp_path: Any) -> None:
    people(target)
    with holding(target, "UPDATE people SET name = 'x' WHERE id = 600") as other:
        told = When("gave way to pid", other.close)
        migrate.apply(target, migrations(tmp_path), Selection(), way(progress=told))
    assert touched(target) == [{"touched": 1, "n": 1050}]
    assert told.said("gave way to pid")


def test_patience_ends(target: Any, tmp_path: Any) -> None:
    people(target)
    given = migrations(tmp_path, budgets={"lock_budget_s": 1})
    held = holding(target, "UPDATE people SET name = 'x' WHERE id = 600")
    with held, pytest.raises(locks.LockWaitExhausted, match="the reporting job"):
        migrate.apply(target, given, Selection(), way())
    assert state(target, V1)["reason"] == "lock_wait"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE people DROP CONSTRAINT people_pkey", "no valid btree index begins with it|may be NULL"),
        ("ALTER TABLE people DROP CONSTRAINT people_pkey; ALTER TABLE people ALTER id DROP NOT NULL", "may be NULL"),
        ("ALTER TABLE people RENAME id TO key", "there is no such column"),
    ],
)
def test_a_key_that_is_not_fit_is_refused(target: Any, tmp_path: Any, change: str, told: str) -> None:
    people(target)
    do(target, change)
    with pytest.raises(PgopsError, match=told):
        migrate.apply(target, migrations(tmp_path), Selection(), way())


def test_row_level_security_fails_instead_of_passing_rows_over(server: Server, target: Any, tmp_path: Any) -> None:
    people(target)
    do(target, "ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    server.execute(f"ALTER ROLE {OWNER} NOBYPASSRLS")
    try:
        with pytest.raises(PgopsError) as caught:
            migrate.apply(target, migrations(tmp_path), Selection(), way())
    finally:
        server.execute(f"ALTER ROLE {OWNER} BYPASSRLS")
    assert caught.value.sqlstate == "42501"
    # A role that sees every row goes on where that one stopped.
    migrate.apply(target, migrations(tmp_path), Selection(), way())
    assert touched(target) == [{"touched": 1, "n": 1050}]


def test_between_two_batches_it_rests_as_long_as_the_version_says(target: Any, tmp_path: Any) -> None:
    people(target)
    rests: list[tuple[float, list[dict[str, Any]]]] = []

    def rest(seconds: float) -> None:
        # Nothing is held meanwhile: what is done is there for others.
        rests.append((seconds, rows(target, "SELECT count(*) AS n FROM people WHERE touched = 1")))

    migrate.apply(target, migrations(tmp_path, pause=250), Selection(), way(sleep=rest))
    assert rests == [(0.25, [{"n": number * 100}]) for number in range(1, 11)]
    assert touched(target) == [{"touched": 1, "n": 1050}]


def test_the_status_says_how_many_rows_are_done_and_how_many_are_left(target: Any, tmp_path: Any) -> None:
    people(target)
    do(target, "ALTER TABLE people ADD CONSTRAINT no_p500 CHECK (upper_name <> 'P500')")
    given = migrations(tmp_path)
    with pytest.raises(PgopsError):
        migrate.apply(target, given, Selection(), way())
    (row,) = plan.status(target, given)["versions"]
    assert row["told"] == "failed at step 1 of 1, 400 of 1,050 rows done (38.10 %), 650 to go"
    do(target, "ALTER TABLE people DROP CONSTRAINT no_p500")
    migrate.apply(target, given, Selection(), way())
    assert plan.status(target, given)["versions"][0]["told"] == "applied"


def test_the_way_down_is_batched_too(target: Any, tmp_path: Any) -> None:
    people(target)
    migrate.apply(target, migrations(tmp_path), Selection(), way())
    migrate.revert(target, Reverts(), way())
    assert rows(target, "SELECT count(upper_name) AS n FROM people") == [{"n": 0}]


def test_each_word_on_a_backfill_has_its_rows(target: Any, tmp_path: Any) -> None:
    """The latest word alone is shown, and most of the time that is the one with which a batch begins."""
    people(target)

    heard: list[tuple[str, Any]] = []

    class Heard(Told):
        def emit(self, text: str, **fields: Any) -> None:
            heard.append((text, fields.get("done")))
            super().emit(text, **fields)

    migrate.apply(target, migrations(tmp_path), Selection(), way(progress=Heard()))
    rows_done = [done for text, done in heard if text == "backfilling public.people"]
    assert len(rows_done) > 10 and None not in rows_done
    assert rows_done == sorted(rows_done)
