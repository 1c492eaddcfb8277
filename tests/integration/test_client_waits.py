# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that wait for a lock of a run are seen while it works, and nobody else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import do, holding, rows, wait_for, way
from support.tree import TestTree

SLOW = "ALTER TABLE public.rooms ADD COLUMN floor integer;\nSELECT pg_sleep(3);\n"
BACK = "ALTER TABLE public.rooms DROP COLUMN floor;\n"


@pytest.fixture
def tree(target: Any, tmp_path: Path) -> TestTree:
    do(target, "CREATE TABLE public.rooms (id integer); CREATE TABLE public.beds (id integer)")
    return TestTree(tmp_path / "sql")


def waiting(target: Any, table: str) -> threading.Thread:
    """A client that asks the table as soon as somebody has it."""

    def ask() -> None:
        held = "SELECT count(*) AS n FROM pg_locks WHERE relation = %s::regclass AND mode = 'AccessExclusiveLock' AND granted"
        wait_for(lambda: rows(target, held, (table,))[0]["n"], what=f"somebody who has {table}")
        rows(target, f"SELECT count(*) AS n FROM {table}")

    client = threading.Thread(target=ask)
    client.start()
    return client


@pytest.mark.parametrize("fails", [False, True])
def test_a_client_that_waits_for_a_lock_of_the_run_is_seen(target: Any, tree: TestTree, fails: bool) -> None:
    tree.add_sql("20260101000000", "floors", SLOW + ("SELECT 1/0;\n" if fails else ""), BACK)
    client = waiting(target, "public.rooms")
    if fails:
        with pytest.raises(PgopsError) as stopped:
            migrate.apply(target, tree.render(), Selection(), way())
        seen = stopped.value.extra["partial"]["client_waits"]
    else:
        seen = migrate.apply(target, tree.render(), Selection(), way())["client_waits"]
    client.join()
    assert seen["waits"] == 1, seen
    assert 0.5 < seen["longest_s"] <= seen["seconds"]
    assert seen["looks"] >= 2


def test_a_client_that_waits_for_another_client_is_not_of_the_run(target: Any, tree: TestTree) -> None:
    tree.add_sql("20260101000000", "floors", SLOW, BACK)
    with holding(target, "LOCK TABLE public.beds IN ACCESS EXCLUSIVE MODE"):
        client = waiting(target, "public.beds")
        seen = migrate.apply(target, tree.render(), Selection(), way())["client_waits"]
    client.join()
    assert (seen["waits"], seen["longest_s"]) == (0, 0.0)
    assert seen["looks"] >= 2
