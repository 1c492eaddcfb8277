# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a backfill asks beside its batches: it waits for a table that somebody holds, for so long as its budget says."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.engine import Told, do, holding, rows, state, way
from support.tree import TestTree

V1 = "20260101000001"
FILL = "UPDATE public.people SET upper_name = upper(name) WHERE id BETWEEN $1 AND $2 AND upper_name IS NULL;"
LEFT = "SELECT count(*) FROM public.people WHERE upper_name IS NULL;"
HELD = "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"


def migrations(tmp_path: Any, *, remaining: str | None = None, **budgets: int) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    step = {"table": "people", "key": "id", "batch_size": 100, "adapt": False, "statement": "fill.sql.j2"}
    files = {"fill.sql.j2": FILL}
    if remaining:
        step["remaining"], files["left.sql.j2"] = "left.sql.j2", remaining
    rollback = {"safety": "partial", "stays": "what was filled"}
    tree.add(V1, "fill", [{"backfill": step}], files, rollback=rollback, budgets=budgets)
    return tree.render()


def people(target: Any, *, analyzed: bool = True) -> None:
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, upper_name text)",
        "INSERT INTO people (id, name) SELECT n, 'p' || n FROM generate_series(1, 300) n",
        *(["ANALYZE people"] if analyzed else []),
    )


def test_counting_what_is_left_waits_for_its_table(target: Any, tmp_path: Any) -> None:
    people(target)
    with holding(target, HELD) as other:

        class Goes(Told):
            def emit(self, text: str, **fields: Any) -> None:
                super().emit(text, **fields)
                if "gave way to pid" in text:
                    other.close()

        migrate.apply(target, migrations(tmp_path, remaining=LEFT), Selection(), way(progress=Goes()))
        assert other.closed
    assert rows(target, LEFT) == [{"count": 0}]


def test_a_stop_ends_the_counting_of_what_is_left(target: Any, tmp_path: Any) -> None:
    people(target)
    control = Control()
    slow = "SELECT count(*) FROM public.people, pg_sleep(8) WHERE upper_name IS NULL;"
    stopping = threading.Timer(0.5, control.request, args=("a test asked for it",))
    began = time.monotonic()
    stopping.start()
    with pytest.raises(Interrupted):
        migrate.apply(target, migrations(tmp_path, remaining=slow), Selection(), way(control=control))
    assert time.monotonic() - began < 6


# The table itself


class HoldsAfter(Told):
    """A client who takes the table when the batches have come to a row, and keeps it until the end of the test."""

    def __init__(self, target: Any, keeps: ExitStack, done: int) -> None:
        super().__init__()
        self.target, self.keeps, self.done = target, keeps, done

    def emit(self, text: str, **fields: Any) -> None:
        if fields.get("done") == self.done:
            other = self.keeps.enter_context(holding(self.target, HELD))
            # So that a wait without an end is told apart from a test that hangs.
            late = threading.Timer(8, other.close)
            self.keeps.callback(late.cancel)
            late.start()
        super().emit(text, **fields)


@pytest.mark.parametrize("analyzed", [True, False])
def test_preparing_and_counting_wait_no_longer_than_the_budget(target: Any, tmp_path: Any, analyzed: bool) -> None:
    people(target, analyzed=analyzed)
    with holding(target, HELD) as other:
        late = threading.Timer(8, other.close)
        late.start()
        with pytest.raises(locks.LockWaitExhausted, match="the reporting job"):
            migrate.apply(target, migrations(tmp_path, lock_budget_s=1), Selection(), way())
        late.cancel()
    assert state(target, V1)["reason"] == "lock_wait"


def test_looking_up_the_next_keys_waits_no_longer_than_the_budget(target: Any, tmp_path: Any) -> None:
    people(target)
    with ExitStack() as keeps:
        told = HoldsAfter(target, keeps, 100)
        with pytest.raises(locks.LockWaitExhausted, match="the reporting job"):
            migrate.apply(target, migrations(tmp_path, lock_budget_s=1), Selection(), way(progress=told))
    assert rows(target, LEFT) == [{"count": 200}]


def test_a_stop_ends_the_wait_for_the_next_keys(target: Any, tmp_path: Any) -> None:
    people(target)
    control = Control()
    with ExitStack() as keeps:

        class Stops(HoldsAfter):
            def emit(self, text: str, **fields: Any) -> None:
                super().emit(text, **fields)
                if fields.get("done") == self.done:
                    threading.Timer(0.5, control.request, args=("a test asked for it",)).start()

        began = time.monotonic()
        with pytest.raises(Interrupted):
            given = migrations(tmp_path, lock_timeout_ms=7000)
            migrate.apply(target, given, Selection(), way(progress=Stops(target, keeps, 100), control=control))
        assert time.monotonic() - began < 5
