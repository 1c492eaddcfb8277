# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A step drops or renames a table and then touches another one that locks it too: partitions, heirs, tables of a key."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import lock_forecast, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from psycopg2 import Error
from support.engine import do, holding, rows, way
from support.tree import TestTree

V1 = "20260101000001"
TREE = [
    "CREATE TABLE public.ev (id integer, at date) PARTITION BY RANGE (at)",
    "CREATE TABLE public.ev_1 PARTITION OF public.ev FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
]
HEIRS = [
    "CREATE TABLE public.ev (id integer PRIMARY KEY)",
    "CREATE TABLE public.ev_1 (x integer) INHERITS (public.ev)",
]
CASES = {
    "a partition, then its parent": (TREE, "DROP TABLE public.ev_1;\nALTER TABLE public.ev ADD COLUMN k integer;"),
    "an heir, then its parent": (HEIRS, "DROP TABLE public.ev_1;\nALTER TABLE public.ev ADD COLUMN k integer;"),
    "another name for a partition": (
        TREE,
        "ALTER TABLE public.ev_1 RENAME TO ev_old;\nALTER TABLE public.ev ADD COLUMN k integer;",
    ),
    "another schema for an heir": (
        [*HEIRS, "CREATE SCHEMA past"],
        "ALTER TABLE public.ev_1 SET SCHEMA past;\nALTER TABLE public.ev ADD COLUMN k integer;",
    ),
    "in a block": (
        TREE,
        "DO $$ BEGIN DROP TABLE public.ev_1; END $$;\nALTER TABLE public.ev ADD COLUMN k integer;",
    ),
    "made again under its name": (
        TREE,
        """DROP TABLE public.ev_1;
CREATE TABLE public.ev_1 PARTITION OF public.ev FOR VALUES FROM ('2026-01-01') TO ('2026-03-01');
ALTER TABLE public.ev ADD COLUMN k integer;""",
    ),
}


def has_column(target: Any) -> bool:
    return bool(rows(target, "SELECT 1 FROM pg_attribute WHERE attrelid = 'public.ev'::regclass AND attname = 'k'"))


@pytest.mark.parametrize("case", CASES)
def test_on_the_way_up(target: Any, tmp_path: Any, case: str) -> None:
    before, up = CASES[case]
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "grow", up, "ALTER TABLE public.ev DROP COLUMN IF EXISTS k;")
    do(target, *before)
    migrate.apply(target, tree.render(), Selection(), way())
    assert has_column(target)


@pytest.mark.parametrize("made", [TREE, HEIRS], ids=["partition", "heir"])
def test_on_the_way_down(target: Any, tmp_path: Any, made: list[str]) -> None:
    tree = TestTree(tmp_path / "sql")
    down = "DROP TABLE IF EXISTS public.ev_1;\nDROP TABLE IF EXISTS public.ev;"
    tree.add_sql(V1, "events", ";\n".join(made) + ";", down)
    for _ in range(2):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())
    assert rows(target, "SELECT to_regclass('public.ev')::text AS table") == [{"table": None}]


def test_without_the_second_look_it_fails(target: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above see what they are about."""
    monkeypatch.setattr(lock_forecast, "still_there", lambda conn, wanted: list(wanted))
    with pytest.raises(Exception, match="ev_1"):
        test_on_the_way_up(target, tmp_path, "a partition, then its parent")


def test_a_table_with_another_name_is_asked_for_under_that(target: Any, tmp_path: Any) -> None:
    """What is gone is not asked for, which LOCK TABLE would refuse."""
    do(target, *TREE, "CREATE TABLE public.ev_2 PARTITION OF public.ev DEFAULT")
    with holding(target, "SELECT 1") as conn, conn.cursor() as cursor:
        found = lock_forecast.forecast(
            conn, {0: [{"schema": "public", "name": "ev", "mode": "ACCESS EXCLUSIVE", "follow": ["children"]}]}
        )[0]
        cursor.execute("DROP TABLE public.ev_2; ALTER TABLE public.ev_1 RENAME TO ev_old")
        now = lock_forecast.still_there(conn, found)
        assert sorted(lock.name for lock in now) == ["ev", "ev_old"]
        lock_forecast.ask(conn, now)
        with pytest.raises(Error):
            lock_forecast.ask(conn, found)
