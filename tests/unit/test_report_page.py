# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page of a run draws, says first, and leaves to the JSON beside it."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    page_lists,
    report_timeline,
    report_verdict,
    reporting,
)
from support import long_run


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A rehearsed migration of 500 steps, which ended 950 s after it began."""
    made = reporting.build(long_run.journal())
    return {**made, "finished": long_run.at(1600), "duration_s": 1600.0}


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> str:
    return reporting.as_page(report)


def test_the_page_of_500_steps_has_no_more_than_500_kB(report: dict[str, Any], page: str) -> None:
    assert sum(len(version["step_durations"]) for version in report["versions"]) == 500
    assert len(page.encode()) <= 500_000
    # Each step is drawn, and each is in the table.
    assert len(re.findall(r'<rect class="b (?:sql|indexes|backfill|validate|analyze)"', page)) == 500
    assert len(re.findall(r"<td>step_\d+_of_\d+", page)) >= 500


def test_what_has_no_room_is_counted_and_stays_in_the_json() -> None:
    text = reporting.as_page(reporting.build(long_run.journal(versions=300, steps=20, objects=5000)))
    assert len(text.encode()) <= 500_000
    assert re.search(r"and \d+ more in the JSON report", text)
    assert "The longest of them; 240 shorter ones are in the tables." in text


def test_phases_stand_at_their_time_and_as_long_as_they_took(report: dict[str, Any]) -> None:
    chart = report_timeline.of_run(report)
    assert chart
    bars = {row["label"]: row["bars"][0] for row in chart["rows"]}
    # Backup began 14 s after the run and took 60 of its 1600 s.
    assert bars["backup"]["x"] == pytest.approx(100 * 14 / 1600, abs=0.01)
    assert bars["backup"]["width"] == pytest.approx(100 * 60 / 1600, abs=0.01)
    assert all(0 <= bar["x"] <= 100 - bar["width"] for bar in bars.values())
    assert [tick["at"] for tick in chart["ticks"]] == ["0 s", "10 min", "20 min"]


def test_what_clients_felt_is_drawn_over_the_phases(report: dict[str, Any], page: str) -> None:
    chart = report_timeline.of_run(report)
    assert chart and chart["latency"]
    assert chart["latency"]["top_ms"] == 31.0
    (line,) = chart["latency"]["lines"]
    assert line["of"] == "white_cross on db1.example"
    assert [point["ms"] for point in line["points"]] == [3.0, 4.5, 31.0, 5.0]
    assert min(point["y"] for point in line["points"]) == 0
    assert "clients, the highest 31.0 ms" in page


def test_the_figures_of_the_application_are_drawn_too() -> None:
    hook = {"label": "metrics", "metrics": {"p95_ms": 120.0, "p50_ms": 10.0}}
    event = {"event": "phase_finished", "phase": "hooks", "host": "db1", "time": long_run.at(1), "hook": hook}
    assert report_timeline.latency([event]) == [
        {"time": long_run.at(1), "host": "db1", "of": "metrics p95", "ms": 120.0}
    ]


def test_locks_and_forecast_of_the_rehearsal_stand_by_their_step(report: dict[str, Any], page: str) -> None:
    (chart,) = report_timeline.of_versions(report)
    bars = {bar["told"].split(":")[0]: bar for bar in chart["rows"][0]["bars"]}
    locking = bars["step 5, step_5_of_0"]
    # Held to the COMMIT: both end where the step does.
    assert locking["writes"]["seconds"] == 0.4
    assert locking["writes"]["x"] + locking["writes"]["width"] == pytest.approx(
        locking["x"] + locking["width"], abs=0.3
    )
    assert locking["reads"]["seconds"] == 0.2
    assert "writes" not in bars["step 1, step_1_of_0"]
    assert chart["rows"][0]["foretold_s"] == pytest.approx(9.0)
    assert "readers wait 0.20 s; writers wait 0.40 s" in page
    assert "foretold 7 min 30 s" in page
    assert "100 locks that clients would wait for" in page


def test_a_step_is_placed_by_the_clock_and_without_one_after_the_step_before_it(report: dict[str, Any]) -> None:
    (by_clock,) = report_timeline.of_versions(report)
    without = copy.deepcopy(report)
    for version in without["versions"]:
        for step in version["step_durations"]:
            # The clock of the host is an hour ahead: what it says is outside the phase.
            step["started"] = long_run.at(3600)
    (in_turn,) = report_timeline.of_versions(without)
    assert [row["bars"] for row in in_turn["rows"]] == [row["bars"] for row in by_clock["rows"]]


def test_with_several_hosts_each_has_one_row(report: dict[str, Any]) -> None:
    rows = [{**row, "host": host} for host in ("db1", "db2") for row in report["steps"]]
    chart = report_timeline.of_run({**report, "steps": rows})
    assert chart
    assert [row["label"] for row in chart["rows"]] == ["db1", "db2"]
    assert "backup on db2: 60.00 s, changed" in [bar["told"] for bar in chart["rows"][1]["bars"]]


def test_a_phase_that_never_ended_goes_on_to_the_end_of_the_run() -> None:
    rows = [{"phase": "apply", "host": "db1", "started": long_run.at(0), "ended": None, "duration_s": None, "result": "unfinished"}]  # fmt: skip
    chart = report_timeline.of_run({"steps": rows, "finished": long_run.at(50), "started": long_run.at(0)})
    assert chart and chart["rows"][0]["bars"] == [
        {"x": 0.0, "width": 100.0, "kind": "unfinished", "told": "apply: 50.00 s, unfinished"}
    ]


@pytest.mark.parametrize("time", [None, "", "soon", 7, "2026-13-01T00:00:00Z"])
def test_what_has_no_time_that_can_be_read_is_left_out(time: Any) -> None:
    row = {"phase": "apply", "host": "db1", "started": time, "ended": time, "duration_s": "x", "result": "ok"}
    assert report_timeline.of_run({"steps": [row]}) is None


def test_the_verdict_comes_first(page: str) -> None:
    body = page[page.index("<body>") :]
    order = ["<h1>", "It succeeded, and its state is complete: 50 versions applied, 1 database, in 26 min 40 s.", "At a glance", "Type next", "Way back", "Timeline", "Who and what"]  # fmt: skip
    assert sorted(order, key=body.index) == order


def test_at_a_glance_are_backup_proof_and_the_five_aims(report: dict[str, Any]) -> None:
    points = {
        p["what"]: (p["told"], p["level"]) for p in report_verdict.points(report, reporting.seconds, reporting.size)
    }
    assert points == {
        "backup": ("1177 MB, proved to level 4, restored and compared in 1 min 12 s", "ok"),
        "verification": ("passed", "ok"),
        "health": ("1 warn; nothing is worse than before", "warn"),
        "zero loss": ("no table of 60 has fewer rows than before", "ok"),
        "outage": ("not measured: no hook kept users out; the rehearsal foretold 0.4 s of waiting for locks", ""),
        "HIPAA": (
            "health data were changed without a log of the statements; the backup is not encrypted",
            "warn",
        ),
        "way back": ("the backup is proved at level 4 of 6, the way down left nothing in its rehearsal", "ok"),
        "speed": ("not measured: no probe was asked before and after", ""),
        "clients wait": ("readers up to 0.20 s, writers up to 0.40 s, by the rehearsal", ""),
        "PHI": ("touched by 25 of 50 versions", ""),
        "forecast": ("steps took 12 min 55 s, foretold 7 min 30 s; 50 outside of their band", "warn"),
        "rollback": ("1 command below, ready to copy", ""),
    }


def test_of_several_databases_the_worst_stands_for_all() -> None:
    good, bad = {"verify": {"passed": True}}, {"verify": {"passed": False, "findings": [{"level": "fail"}]}}
    report = {"results": {"db1": {"a": good, "b": bad, "c": good}}}
    (point,) = report_verdict.points(report, reporting.seconds, reporting.size)
    assert point == {
        "what": "verification",
        "told": "failed, 1 difference (b on db1, the worst of 3)",
        "level": "stop",
    }


def test_what_changed_in_the_schema_is_counted_and_listed(page: str) -> None:
    assert "200 column changed, 400 column added" in page
    assert "600 changes of the schema" in page
    assert "<td>~ changed</td><td>column</td><td><code>public.table_0.&#34;column_0&#34;</code></td>" in page


def test_a_list_is_a_table_where_its_items_are_alike() -> None:
    made = page_lists.as_table([{"a": 1, "b": None, "c": [1, 2]}, {"a": True, "c": {"x": "y" * 500}}])
    assert made and made["columns"] == ["a", "c"]
    assert made["rows"][0] == ["1", "1, 2"]
    assert made["rows"][1][0] == "yes"
    assert len(made["rows"][1][1]) == page_lists.CELL
    assert page_lists.as_table([1, {"a": 2}]) is None
    assert page_lists.as_table([]) is None


def test_a_definition_of_several_lines_keeps_its_indentation() -> None:
    assert page_lists.slim("<p>\n   a\n</p>\n<code>x\n   y</code>\n  <b>") == "<p>\na\n</p>\n<code>x\n   y</code>\n<b>"
