# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Maintenance by the engine: tables that need it, a plan, the work, and what became of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, maintenance, maintenance_plan
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_plan import Needs, Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_watch import Care
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

from support.engine import RUN
from support.engine import do as run_statements

AT_ONCE = Needs(index_least_mb=0, rows_least=100)
QUICK = Care(cost_delay_ms=0)


def do(target: Any, *statements: str) -> None:
    """What the server has counted of them is there for all to see when this returns."""
    run_statements(
        target, *(part for statement in statements for part in (statement, "SELECT pg_stat_force_next_flush()"))
    )


def plan(target: Any, needs: Needs = AT_ONCE, **more: Any) -> Plan:
    given: dict[str, Any] = {"progress": Progress(), "control": Control(), **more}
    return maintenance_plan.make(target, needs, run_id=RUN, **given)


def maintain(target: Any, needs: Needs = AT_ONCE, **more: Any) -> dict[str, Any]:
    made = more.pop("plan", None) or plan(target, needs, user=more.get("user"))
    given = more.pop("given", None) or work(**more)
    return maintenance.maintain(target, made.items, given, planned=made.at)


def tried(target: Any, needs: Needs = AT_ONCE, **more: Any) -> dict[str, Any]:
    """:return: the same of one that is expected to fail, since nothing of what is due is done."""
    with pytest.raises(PgopsError) as caught:
        maintain(target, needs, **more)
    result: dict[str, Any] = caught.value.extra["databases"][target.database]
    assert result["ended"] == "nothing done", caught.value.message
    return result


def work(budget_s: float = 60.0, care: Care = QUICK, **more: Any) -> maintenance.Work:
    given: dict[str, Any] = {"progress": Progress(), "control": Control(), "lock_wait_s": 0, **more}
    run = ledger.Run(RUN, "maintenance", "local", "tester", "ops-1")
    return maintenance.Work(run, care, time.monotonic() + budget_s, "its time was over", **given)


def needed(found: Plan) -> list[tuple[str, str]]:
    return [(item.action, item.object) for item in found.items]


def states(result: dict[str, Any]) -> dict[str, str]:
    return {item["object"]: item["state"] for item in result["items"]}


def filled(target: Any, name: str, count: int = 1000) -> None:
    """A table that autovacuum leaves alone, and whose statistics are fresh."""
    do(
        target,
        f"CREATE TABLE {name} (id integer PRIMARY KEY, kind integer, word text)",
        f"ALTER TABLE {name} SET (autovacuum_enabled = off)",
        f"INSERT INTO {name} SELECT n, n % 10, 'word ' || n FROM generate_series(1, {count}) n",
        f"VACUUM (ANALYZE) {name}",
    )
