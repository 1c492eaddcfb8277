# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rehearsal says of production, from what it measured: by numbers alone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.rehearsal_forecast import Budget, forecast, over
from ansible_collections.whitecross.pgops.plugins.module_utils.speed_probe import BUSY_WRITING, Servers, Speed
from ansible_collections.whitecross.pgops.plugins.module_utils.traced_text import shown

V = "20260101000001"
PAIR = ("scratch:5432", "production:5432")
FAST, SLOW = Speed(0.1, 0.1, 0.1, 0.001), Speed(0.2, 0.4, 0.4, 0.004)
STEP = {"version": V, "ordinal": 1, "step": "up", "kind": "sql", "seconds": 4.0}


def entry(**changes: Any) -> dict[str, Any]:
    lock = {"table": "public.t", "mode": "AccessExclusiveLock", "seconds": 3.0}
    return {"version": V, "ordinal": 1, "statement": "ALTER TABLE t", "wal_bytes": 0, "locks": [lock], **changes}


def of(servers: Servers, entries: list[dict[str, Any]] | None = None, history: Any = (), **step: Any) -> dict[str, Any]:
    return forecast([{**STEP, **step}], entries or [entry()], servers, history, disk_bytes=0)


def test_on_the_same_cluster_nothing_is_multiplied() -> None:
    found = of(Servers(PAIR, True, FAST, SLOW))
    assert (found["seconds"], found["blocks_reads"], found["blocks_writes"]) == (4.0, 3.0, 3.0)


def test_a_slower_server_takes_longer_and_one_that_writes_goes_by_the_disk() -> None:
    servers = Servers(PAIR, False, FAST, SLOW)
    assert of(servers)["seconds"] == 8.0
    writing = of(servers, [entry(wal_bytes=4 * (100 << 20))])["seconds"]
    assert writing == pytest.approx(4.0 * (0.2 * 2 + 0.8 * 4), rel=0.01)


def test_earlier_errors_of_the_same_servers_correct_it_and_make_its_band() -> None:
    def line(actual: float, **changes: Any) -> dict[str, Any]:
        return {"pair": list(PAIR), "kind": "sql", "plain": 2.0, "actual": actual, **changes}

    servers = Servers(PAIR, True)
    known = of(servers, history=[line(2.0), line(3.0), line(4.0)])["steps"][0]
    assert (known["seconds"], known["plain"]) == (6.0, 4.0)
    assert (known["low"], known["high"]) == (pytest.approx(3.7), pytest.approx(8.3))
    # Of other servers, too short, or too few: half and twice.
    for history in ([line(9.0, pair=["a", "b"])] * 3, [line(0.1)] * 3, [line(3.0)] * 2):
        unknown = of(servers, history=history)["steps"][0]
        assert (unknown["seconds"], unknown["low"], unknown["high"]) == (4.0, pytest.approx(1.7), pytest.approx(8.3))


@pytest.mark.parametrize(
    ("budget", "declared", "told"),
    [
        (Budget(), {}, None),
        (Budget(blocked_reads_s=3), {}, None),
        (Budget(blocked_reads_s=2.9), {}, "readers wait that long, and rehearse_blocked_reads allows 2.9 s"),
        (Budget(blocked_writes_s=1), {}, "writers wait that long, and rehearse_blocked_writes allows 1 s"),
        (Budget(blocked_reads_s=1, blocked_writes_s=1), {"blocked_reads_ms": 3500}, None),
        (Budget(), {"blocked_writes_ms": 100}, "budgets.blocked_writes_ms of its migration.yml allows 0.1 s"),
        (Budget(duration_s=3), {}, "rehearse_duration allows 3 s"),
        (Budget(), {"duration_s": 3}, "budgets.duration_s of its migration.yml allows 3 s"),
        (Budget(wal_mb=1), {}, "rehearse_wal_mb allows 1 MB"),
    ],
)
def test_a_budget_is_held_against_the_forecast(budget: Budget, declared: dict[str, Any], told: str | None) -> None:
    servers = Servers(PAIR, True)
    entries = [entry(wal_bytes=2 << 20)]
    found = over(of(servers, entries), entries, budget, {V: declared}, servers)
    assert len(found) == (0 if told is None else 1)
    assert told is None or told in found[0]


def test_what_the_disk_has_not_is_over_and_comes_first() -> None:
    servers = Servers(PAIR, True, free_bytes=1 << 20)
    entries = [entry(wal_bytes=2 << 20)]
    found = over(of(servers, entries), entries, Budget(blocked_reads_s=1), {}, servers)
    assert "1 MB are free on production:5432" in found[0]
    assert "readers" in found[1]


def test_standbys_fall_behind_by_the_largest_step_and_nobody_guesses() -> None:
    entries = [entry(wal_bytes=BUSY_WRITING)]
    assert of(Servers(PAIR, True, FAST, FAST, standbys=1), entries)["replica_lag_seconds"] > 0
    assert of(Servers(PAIR, True, FAST, FAST), entries)["replica_lag_seconds"] == 0.0
    assert of(Servers(PAIR, False, standbys=1), entries)["replica_lag_seconds"] is None


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE t SET a = 'Sentinel' WHERE id = 4711",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT 'Sentinel'",
        "DO $x$ BEGIN UPDATE t SET a = 'Sentinel' WHERE id = 4711; END $x$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT 'Sentinel' $$",
        # Cut in the middle of the constant, and at its beginning.
        *(f"COMMENT ON TABLE {'t' * width} IS 'Sentinel and Sentinel'" for width in (170, 176, 180)),
    ],
)
def test_no_constant_is_in_the_text_that_a_trace_keeps(text: str) -> None:
    assert "Sent" not in shown(text)
    assert "4711" not in shown(text)
