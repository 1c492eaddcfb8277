# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The six steps of a rollback: the seconds of each, and what became of the present state."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import emergency_backup, six_steps


def row(phase: str, step: str | None, seconds: float, host: str = "db-1") -> dict[str, Any]:
    return {"phase": phase, "step": step, "duration_s": seconds, "host": host}


def test_the_seconds_of_a_step_are_those_of_its_slowest_host() -> None:
    rows = [
        row("strategies", None, 0.5),
        row("restore", "(4/6) restore", 3.0),
        row("swap", "(4/6) restore", 0.2),
        row("restore", "(4/6) restore", 1.0, "db-2"),
        row("verify", "(5/6) verification", 0.7),
    ]
    steps = six_steps.of(rows, {"db-1": {"school": {"swap": {"aside": "school_failed_x"}}}}, ok=True)
    assert [step["seconds"] for step in steps] == [None, 0.5, None, 3.2, 0.7, None]
    assert [step["told"] for step in steps] == [
        "nothing to do", "", "school is kept as school_failed_x, by its rename", "", "", "nothing to do",
    ]  # fmt: skip
    assert six_steps.lines(steps)[3] == "    (4/6) go back                       3.20 s"


def test_what_a_failed_run_did_not_reach_is_told() -> None:
    steps = six_steps.of([row("status", "(2/6) status", 0.5)], {}, ok=False)
    assert [step["told"] for step in steps] == ["nothing to do", "", *["not reached"] * 4]


def test_no_copy_is_told_where_there_is_none() -> None:
    found = emergency_backup.missed({"failed": True, "msg": "disk full."}, ["a"], "backup")
    assert found == {"changed": False, "databases": {"a": {"missed": "no backup: disk full."}}}
    steps = six_steps.of([], {"db-1": {"a": {"backup": found["databases"]["a"]}}}, ok=True)
    assert steps[2]["told"] == "a: no backup: disk full."


def test_the_time_of_the_copy_is_shared_by_the_backup_and_its_proof() -> None:
    run = {"backup": {"a": {"seconds": 40.0}}}
    assert emergency_backup.left(run, 60) == 20
    assert emergency_backup.left(run, 30) == 1
    assert emergency_backup.left(run, 0) == 0


def test_a_failure_that_is_not_tolerated_says_what_lets_a_rollback_go_on() -> None:
    given = {"failed": True, "msg": "no room", "hint": "Free some."}
    told = emergency_backup.after(dict(given), tolerated=False, databases=["a"], what="backup", playbook="rollback")
    assert told["hint"].startswith("Free some. Nothing was rolled back.")
    assert (
        emergency_backup.after(dict(given), tolerated=False, databases=["a"], what="backup", playbook="migrate")
        == given
    )
