# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said behind a rollback that took the whole cluster back to a point in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action.hook import ActionModule as Hook
from ansible_collections.whitecross.pgops.plugins.action.lost_writes import ActionModule as LostWrites
from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import RUN_FACT
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

KEPT = "/var/lib/postgresql/18/main_before_20260101T130000Z"
BACK = f"ansible-playbook rollback.yml -l staging -e rollback_strategy=pitr -e rollback_kept_cluster={KEPT}"
DONE = {"outage_ms": 812.5, "kept": KEPT, "way_back": BACK}
TYPED = "ansible-playbook rollback.yml -l staging -e rollback_strategy=pitr -e rollback_restore_point=before"
VERIFY = "ansible-playbook verify.yml -l staging"
LOST = {
    "public.rooms": {"now": 5, "then": 3},
    "public.beds": {"now": 7, "then": None},
    "public.wards": {"now": None, "then": 2},
}


def task_vars(**phases: Any) -> dict[str, Any]:
    run = {
        "id": "20260101T130000Z-0a1b2c",
        "environment": "staging",
        "playbook": "rollback",
        "command": "ansible-playbook rollback.yml",
        "limit": "staging",
        "hosts": ["db1"],
        "given": {"variables": {"rollback_strategy": "pitr", "rollback_restore_point": "before"}},
        **phases,
    }
    return {"inventory_hostname": "db1", "ansible_limit": "staging", "ansible_facts": {RUN_FACT: run}}


@pytest.mark.parametrize("phase", ["restore", "resume"])
def test_behind_it_a_run_goes_on_with_a_look_and_never_with_the_same_again(phase: str) -> None:
    found = {"school": DONE, "clinic": DONE}
    assert Hook.__new__(Hook).onward(task_vars(**{phase: found})) == [VERIFY, BACK]


def test_before_it_a_run_goes_on_with_what_was_typed() -> None:
    assert Hook.__new__(Hook).onward(task_vars()) == [TYPED]
    # A restore beside the live database has changed nothing yet.
    assert Hook.__new__(Hook).onward(task_vars(restore={"school": {"staged": "school_new"}})) == [TYPED]


def test_a_hook_that_fails_behind_it_does_not_say_to_type_it_again() -> None:
    told = Hook.__new__(Hook)._failure("smoke_test", "db1", "404", "after", task_vars(restore={"school": DONE}))
    assert told["next"] == [VERIFY, BACK]
    assert TYPED not in told["msg"]
    assert VERIFY in told["msg"]
    assert f"the cluster is changed over by this run, and the replaced one is kept in {KEPT}" in told["msg"]
    assert "no version" not in told["msg"]


def test_a_hook_that_fails_behind_a_swap_says_what_is_swapped() -> None:
    swapped = {"school": {"aside": "school_failed_1", "way_back": BACK}}
    told = Hook.__new__(Hook)._failure("smoke_test", "db1", "404", "after", task_vars(swap=swapped))
    assert "school is swapped by this run, and the replaced one is kept as school_failed_1" in told["msg"]
    assert "no version" not in told["msg"]
    before = Hook.__new__(Hook)._failure("stop", "db1", "404", "before", task_vars())
    assert "this run has reverted no version" in before["msg"]


# -- the record and the six steps -------------------------------------------------------------------------------------


def phase(name: str, result: dict[str, Any], step: str | None = None) -> list[dict[str, Any]]:
    shared = {"time": "2026-01-01T13:00:01.000Z", "phase": name, "host": "db1", "step": step}
    ended = {"event": "phase_finished", "changed": True, "duration_s": 4.0, "result": result}
    return [{"event": "phase_started", **shared}, {**shared, **ended}]


def finished(tmp_path: Path, *events: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The report of a rollback, and the record of it as a machine and as a person reads it."""
    run = task_vars()["ansible_facts"][RUN_FACT]
    own = Journal(tmp_path, run["environment"], run["id"])
    for event in [{"event": "run_started", "time": "2026-01-01T13:00:00.000Z", **run}, *events]:
        own.append(event)
    report, _page = reporting.finish(tmp_path, run)
    file = Path(report["incident"])
    return report, json.loads(file.with_suffix(".json").read_text()), file.read_text()


def test_the_record_says_what_was_lost_where_the_old_cluster_is_and_how_to_go_back(tmp_path: Path) -> None:
    events = phase("restore", {"school": {**DONE, "lost": LOST, "example": "4711"}}, "(4/6) pitr")
    _report, data, page = finished(tmp_path, *events)
    where = {"host": "db1", "database": "school"}
    assert data["lost"] == [
        {**where, "table": "public.rooms", "change": "rows", "rows_now": 5, "rows_then": 3},
        {**where, "table": "public.beds", "change": "new table", "rows_now": 7, "rows_then": 0},
        {**where, "table": "public.wards", "change": "dropped table", "rows_now": 0, "rows_then": 2},
    ]
    assert data["kept"] == [{**where, "kept_as": KEPT, "way_back": BACK}]
    for told in (
        "- school: public.rooms: rows now 5, rows then 3",
        "- school: public.beds: rows now 7, rows then 0",
        f"- school is kept as {KEPT}; to go back: `{BACK}`",
    ):
        assert told in page
    assert "nothing that was counted" not in page


def test_the_record_of_one_that_was_completed_after_it_was_cut_off_has_the_old_cluster_too(tmp_path: Path) -> None:
    _report, data, _page = finished(tmp_path, *phase("resume", {"school": {"state": "completed", **DONE}}))
    assert [one["kept_as"] for one in data["kept"]] == [KEPT]


def test_the_copy_of_the_present_state_is_the_cluster_that_was_replaced(tmp_path: Path) -> None:
    found = {"school": DONE, "clinic": DONE}
    report, _data, _page = finished(tmp_path, *phase("restore", found, "(4/6) pitr"))
    told = f"school is kept in the cluster {KEPT}, by its rename; clinic is kept in the cluster {KEPT}, by its rename"
    assert report["six_steps"][2]["told"] == told


def test_what_was_lost_was_counted_before_the_change_and_that_is_said_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(LostWrites, "say", lambda self, text: said.append(text))
    action = LostWrites.__new__(LostWrites)
    action._task = type("Task", (), {"args": {"of_this_run": True}})()
    again = action.run(task_vars=task_vars(restore={"school": {**DONE, "lost": LOST}}))
    assert again == {"changed": False, "skipped": True}
    assert said == [
        f"school: tables with another number of rows than before: 3; counted before the change, and kept in the cluster {KEPT}"
    ]
    said.clear()
    # The way back to a kept cluster counts nothing.
    assert action.run(task_vars=task_vars(restore={"school": DONE}))["skipped"]
    assert action.run(task_vars=task_vars())["skipped"]
    assert said == []
