# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page over all hosts: what it takes from the reports of runs, what it thinks of it, and that no file can break it."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import timer_state
from ansible_collections.whitecross.pgops.plugins.plugin_utils import fleet_outcomes, fleet_page
from support.fleet_ops import HOST, NOW, WELL, Ops


@pytest.fixture
def ops(tmp_path: Path) -> Ops:
    return Ops(tmp_path)


def told(fleet: dict[str, Any]) -> list[tuple[str, str]]:
    return [(wrong["level"], wrong["told"]) for wrong in fleet["members"][0]["wrong"]]


def test_a_database_that_is_well_has_everything_in_its_row(ops: Ops) -> None:
    ops.run("nightly", WELL)
    (member,) = ops.fleet()["members"]
    assert (member["level"], member["wrong"], member["version"]) == ("ok", [], "20260102000000")
    assert member["backup"]["bytes"] == 1_000_000
    assert (member["proof"]["level"], member["proof"]["of_newest"]) == (4, True)
    assert (member["drill"]["ok"], member["drill"]["ready_seconds"]) == (True, 6.0)
    assert (member["maintenance"]["done"], member["maintenance"]["given_back"]) == (3, 2_000_000)
    for part in (
        "All of 1 databases are well.",
        "backup 2 h 24 min ago, 977 kB",
        "proof 2 h 24 min ago, level 4",
        "drill passed 2 h 24 min ago, level 5",
        "3 done, 1953 kB given back",
        "No database was asked.",
    ):
        assert part in ops.page, part


@pytest.mark.parametrize(
    ("changed", "days", "expected"),
    [
        ({"preflight": {"level": "stop", "checks": [{"check": "wraparound", "level": "stop"}, {"check": "bloat", "level": "warn"}]}}, 0.1, [("stop", "preflight says stop: wraparound"), ("warn", "preflight says warn: bloat")]),
        ({"prove": {"path": "/b/0", "level": 4}}, 0.1, [("warn", "its newest backup is not proved")]),
        ({"prove": None}, 0.1, [("warn", "its newest backup is not proved, nor is any other")]),
        ({"backup": None, "prove": None}, 0.1, [("stop", "no backup of it is in any report")]),
        ({"drill": {"verdict": "failed", "error": "the copy differs"}}, 0.1, [("stop", "its last drill failed at 2026-03-01T09:36: the copy differs")]),
        ({"drill": None}, 0.1, [("warn", "its restore was never drilled")]),
        ({"maintenance": {"counts": {"done": 1, "failed": 2}}}, 0.1, [("warn", "2 of its last maintenance failed")]),
        ({"maintenance": {"counts": {"skipped": 2}, "ended": "nothing done"}}, 0.1,
         [("warn", "nothing of what was due was done by its last maintenance")]),
        ({"maintenance": {"counts": {"done": 2, "not begun": 1}, "ended": "freeze left"}}, 0.1,
         [("warn", "a freeze that was due was not done by its last maintenance")]),
        ({"maintenance": None}, 0.1, [("warn", "it was never maintained")]),
        ({"preflight": None}, 0.1, [("warn", "its health was never looked at")]),
        ({}, 1.5, [("warn", "its newest backup is 36 hours old")]),
        ({}, 20, [("stop", "its newest backup is 20 days old"), ("warn", "its last drill was 20 days ago"), ("warn", "its health was last looked at 20 days ago"), ("warn", "it was last maintained 20 days ago")]),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_a_sentence(
    ops: Ops, changed: dict[str, Any], days: float, expected: list[tuple[str, str]]
) -> None:
    ops.run("nightly", {name: phase for name, phase in {**WELL, **changed}.items() if phase is not None}, days=days)
    fleet = ops.fleet()
    assert told(fleet) == expected
    assert fleet["members"][0]["level"] == expected[0][0]


def test_a_migration_that_failed_and_a_run_that_reached_nothing_are_told(ops: Ops) -> None:
    ops.run("nightly", WELL)
    ops.run("migrate", {"plan": {"pending": [], "applied": []}}, failed="Step 1 failed", days=0.09)
    ops.run("backup", {}, failed="Host db1 cannot be reached", reaches=False, days=0.08)
    assert told(ops.fleet()) == [
        ("stop", "its last migrate failed at 2026-03-01T09:50: Step 1 failed"),
        ("warn", "its last run, backup, failed at 2026-03-01T10:04: Host db1 cannot be reached"),
    ]
    ops.run("migrate", {"verify": {"versions": ["20260103000000"]}}, days=0.01)
    fleet = ops.fleet()
    assert told(fleet) == []
    assert fleet["members"][0]["version"] == "20260103000000"


def test_the_worst_comes_first_and_a_host_without_a_run_is_no_good_news(ops: Ops) -> None:
    ops.run("nightly", WELL)
    ops.run("nightly", {**WELL, "prove": {"path": "/b/0"}}, host="db2")
    ops.run("nightly", {**WELL, "backup": {}, "prove": {}}, host="db3")
    ops.run("nightly", WELL, host="db9", database="left over")
    hosts = [{**HOST, "host": name} for name in ("db1", "db2", "db3", "db4")]
    fleet = ops.fleet(*hosts)
    assert [(one["host"], one["level"]) for one in fleet["members"]] == [
        ("db3", "stop"), ("db4", "unknown"), ("db2", "warn"), ("db1", "ok"), ("db9", "ok"),
    ]  # fmt: skip
    assert [one["known"] for one in fleet["members"]] == [True, True, True, True, False]
    assert "3 of 5 databases need a look; the worst is school on db3: no backup of it is in any report." in ops.page
    assert "not in the inventory" in ops.page


def test_databases_that_a_query_gives_are_those_of_the_reports(ops: Ops) -> None:
    for name in ("tenant_a", "tenant_b"):
        ops.run("nightly", WELL, database=name)
    fleet = ops.fleet({**HOST, "databases": []}, {**HOST, "host": "db2", "databases": []})
    assert [(one["host"], one["database"]) for one in fleet["members"]] == [
        ("db2", ""), ("db1", "tenant_a"), ("db1", "tenant_b"),
    ]  # fmt: skip
    assert "no database known" in ops.page


def test_what_restores_took_is_a_line_with_its_trend(ops: Ops) -> None:
    for day, took in ((4, 4.0), (3, 5.0), (2, 6.0), (1, 10.0)):
        ops.run("restore_drill", {**WELL, "prove": {}, "drill": {"verdict": "passed", "ready_seconds": took}}, days=day)
    (member,) = ops.fleet()["members"]
    trend = member["trends"]["restore"]
    assert (trend["values"], trend["change_percent"]) == ([4.0, 5.0, 6.0, 10.0], 100)
    heights = [point["y"] for point in trend["points"]]
    assert heights == sorted(heights, reverse=True)
    assert 'aria-label="4 times, 4.00 s to 10.00 s, the last 10.00 s"' in ops.page
    assert member["trends"]["migrate"] is None


def test_what_migrations_took_is_a_line_with_its_trend(ops: Ops) -> None:
    for day in (4, 3, 2, 1):
        ops.run("migrate", WELL, days=day)
    (member,) = ops.fleet()["members"]
    assert member["trends"]["migrate"]["values"] == [61.0, 62.0, 63.0, 64.0]
    assert "a migration takes" in ops.page


def test_each_run_stands_in_the_history_with_its_page(ops: Ops) -> None:
    for number in range(25):
        last = ops.run("backup", WELL, days=25 - number)
    fleet = ops.fleet()
    (member,) = fleet["members"]
    assert (len(member["runs"]), member["runs_in_all"]) == (20, 25)
    assert member["runs"][0]["run_id"] == last.stem
    assert f'<a href="staging/{last.stem}.html">{last.stem}</a>' in ops.page
    assert "and 5 older ones" in ops.page


def test_runs_of_long_ago_are_not_read(ops: Ops) -> None:
    ops.run("nightly", WELL, days=40)
    assert ops.fleet(days=50)["reports"] == 1
    assert ops.fleet(days=30)["reports"] == 0


def test_a_run_without_a_report_is_named(ops: Ops) -> None:
    ops.run("nightly", WELL).unlink()
    (run,) = ops.fleet()["unfinished"]
    assert run["environment"] == "staging" and run["run_id"] in ops.page


BROKEN = {
    "empty": b"",
    "cut off": b'{"results": {"db1": {"school": {"backup": {"pa',
    "no object": b"[1, 2]",
    "no text": bytes(range(256)),
    "no results": b'{"playbook": "migrate"}',
    "odd results": b'{"results": {"db1": [1]}}',
    "odd phases": b'{"results": {"db1": {"school": {"backup": "x", "prove": 7}}}}',
    "odd checks": b'{"results": {"db1": {"school": {"preflight": {"level": "ok", "checks": [1]}}}}}',
    "odd error": b'{"results": {}, "error": "x"}',
    "odd hosts": b'{"results": {"db1": {"school": {"maintenance": {"counts": {"done": "many"}}}}}}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_report_is_named_and_the_others_are_read(ops: Ops, content: bytes) -> None:
    good = ops.run("nightly", WELL)
    bad = good.with_name(good.name.replace("000001", "ffffff"))
    bad.write_bytes(content)
    fleet = ops.fleet()
    (named,) = fleet["unreadable"]
    assert named["file"] == str(bad) and named["why"]
    assert str(bad) in ops.page
    assert fleet["reports"] == 1 and fleet["members"][0]["level"] == "ok"
    assert len(fleet["members"]) == 1


def test_a_link_a_pipe_and_a_folder_are_no_reports(ops: Ops) -> None:
    good = ops.run("nightly", WELL)
    for number, make in enumerate((lambda p: p.symlink_to(good), os.mkfifo, Path.mkdir)):
        make(good.with_name(good.name.replace("000001", f"fffff{number}")))
    fleet = ops.fleet()
    assert len(fleet["unreadable"]) == 3
    assert fleet["reports"] == 1


def test_a_value_that_is_markup_stays_text(ops: Ops) -> None:
    ops.run("migrate", WELL, database="<script>alert(1)</script>", failed="<b>no</b>")
    ops.fleet(faults=("<i>x</i>",))
    assert "<script" not in ops.page and "<b>" not in ops.page and "<i>" not in ops.page
    assert "&lt;script&gt;" in ops.page


def timers(ops: Ops, content: str | None = None) -> Path:
    place = timer_state.TimerPlace(str(ops.state), "staging")
    job = {"playbook": "backup.yml", "on_calendar": "daily", "expected_every_s": 86400, "installed_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    timer_state.write(place.record, {"format": 1, "jobs": {"backup": job}, "grace_s": 0})
    if content is not None:
        Path(place.record).write_text(content, encoding="utf-8")
    return Path(place.record)


def test_a_timer_that_stands_still_is_told_of_each_database_of_its_environment(ops: Ops) -> None:
    ops.run("nightly", WELL)
    timers(ops)
    fleet = ops.fleet()
    (row,) = fleet["timers"]
    assert (row["environment"], row["name"], row["state"]) == ("staging", "backup", "missed")
    assert told(fleet) == [("warn", f"timer backup: {row['why']}")]
    place = timer_state.TimerPlace(str(ops.state), "staging")
    timer_state.beat(place, "backup", 86400, ok=True, at=NOW - timedelta(hours=1), exit_code=0)
    fleet = ops.fleet()
    assert (fleet["timers"][0]["state"], fleet["members"][0]["wrong"]) == ("ok", [])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"jobs": 1}', '{"jobs": {"x": {}}}'])
def test_a_broken_record_of_timers_is_named(ops: Ops, content: str) -> None:
    ops.run("nightly", WELL)
    record = timers(ops, content)
    fleet = ops.fleet()
    assert [one["file"] for one in fleet["unreadable"]] == [str(record)]
    assert fleet["members"][0]["level"] == "ok"


def test_a_fleet_of_nobody_has_a_page(ops: Ops) -> None:
    fleet = fleet_page.document([], (), now=NOW, days=1)
    page = fleet_page.page(fleet, ops.state)
    assert "No host is known." in page


def test_the_page_asks_for_nothing_and_its_files_are_private(ops: Ops) -> None:
    ops.run("nightly", WELL)
    path = ops.state / "reports" / "fleet.html"
    twin = fleet_page.write(ops.fleet(), path)
    assert json.loads(twin.read_text(encoding="utf-8"))["members"][0]["host"] == "db1"
    assert {path.stat().st_mode & 0o777, twin.stat().st_mode & 0o777} == {0o600}
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)|url\(|https?:", page)


APPLIED = {"applied": [{"version": "20260102000000", "name": "v"}], "later": []}
NO_ROW_FEWER = {"level": "ok", "checks": [], "rows": {"same": 3, "fewer": [], "more": []}}


def test_how_runs_ended_is_counted_by_month_and_never_claimed(ops: Ops) -> None:
    plan = {"plan": {"pending": [{"version": "20260102000000"}], "applied": []}}
    well = {**plan, "apply": APPLIED, "preflight_after": NO_ROW_FEWER}
    lost = {**well, "preflight_after": {**NO_ROW_FEWER, "rows": {"same": 2, "fewer": [{"table": "public.pupils"}], "more": []}}}  # fmt: skip
    ops.run("migrate", well, days=40)
    ops.run("migrate", lost, days=40)
    ops.run("migrate", plan, days=2, failed="The window is shut")
    ops.run("migrate", {**plan, "apply": APPLIED}, days=2, failed="Verification failed")
    ops.run("migrate", {"plan": {"pending": [], "applied": []}}, days=1)
    ops.run("rollback", {"revert": {"reverted": [{"version": "20260102000000"}]}}, days=1)
    ops.run("rollback", {}, days=1, failed="It is not confirmed", reaches=False)
    ops.run("nightly", WELL)
    older, newer = reversed(ops.fleet()["outcomes"])
    assert {name: number for name, number in older.items() if number} == {
        "month": "2026-01", "migrations": 2, "migrations_complete": 2, "without_loss": 1, "with_loss": 1,
    }  # fmt: skip
    assert {name: number for name, number in newer.items() if number} == {
        "month": "2026-02", "migrations": 2, "migrations_stopped": 1, "migrations_incidents": 1,
        "rollbacks": 2, "rollbacks_complete": 1, "rollbacks_stopped": 1, "loss_not_measured": 2,
    }  # fmt: skip
    assert fleet_outcomes.line([newer, older]) == (
        "migrations 4 (complete 2, stopped before any change 1, incidents 1); "
        "rollbacks 2 (complete 1, stopped before any change 1, incidents 0); rows lost in 1 of 2 that were measured"
    )
    assert "Outcomes by month" in ops.page


def test_without_a_migration_there_are_no_outcomes(ops: Ops) -> None:
    ops.run("nightly", WELL)
    assert ops.fleet()["outcomes"] == []
    assert fleet_outcomes.line([]) is None
    assert "Outcomes by month" not in ops.page
