# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a blue-green run may leave out, what its end in the audit is worth, and the command that leads on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action import audit_record, blue_green, plan
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, run_duties, run_parts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from support.actions import action, variables

CHANGE_OVER = {
    "playbook": "blue_green", "stage": "change_over", "check_mode": False, "phases": list(environments.PHASES), "tags": ["all"],
    "skip_tags": [], "limit": "production",
}  # fmt: skip


def left_out(**run: Any) -> list[str]:
    return run_parts.left_out({**CHANGE_OVER, **run}, production=True, gated=False, assessed=False)


def test_a_change_over_of_production_is_verified() -> None:
    assert left_out() == []
    assert left_out(skip_tags=["verify"]) == left_out(tags=["blue_green"]) == ["verify"]
    assert left_out(skip_tags=["verify"], stage="prepare") == left_out(skip_tags=["verify"], check_mode=True) == []
    # It changes nothing.
    assert left_out(tags=["verify"]) == left_out(skip_tags=["verify", "blue_green"]) == []
    assert (
        run_parts.left_out({**CHANGE_OVER, "skip_tags": ["verify"]}, production=False, gated=True, assessed=True) == []
    )


def test_the_guard_refuses_a_change_over_of_production_that_nobody_verifies() -> None:
    def duties(**run: Any) -> run_duties.Duties:
        return run_duties.Duties(
            variables_of={"production-1": {"blue_green_stage": "change_over"}}, templar=Plain(), typed={}, given={},
            run={**CHANGE_OVER, **run}, environment="production", is_production=True, limit="production", say=print,
        )  # fmt: skip

    run = {**CHANGE_OVER, "skip_tags": ["verify"], "command": "ansible-playbook blue_green.yml"}
    with pytest.raises(environments.Refusal, match="this run has no verify .*and production applies nothing") as caught:
        duties(skip_tags=["verify"]).refuse_left_out(run)
    assert caught.value.next == ["ansible-playbook blue_green.yml -l production"]
    duties().refuse_left_out({**run, "skip_tags": []})


class Plain:
    """Variables without templates."""

    def template(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize(
    ("playbook", "strategy", "found"),
    [("blue_green", "blue_green", True), ("blue_green", "online", False), ("migrate", "blue_green", False)],
)
def test_a_typed_strategy_makes_no_blue_green_change_of_a_migration(playbook: str, strategy: str, found: bool) -> None:
    task = action(plan.ActionModule, strategy=strategy)
    assert task._is_blue_green(variables(["clinic"], playbook=playbook)) is found


def test_a_blue_green_change_whose_end_is_not_in_the_audit_is_not_well(tmp_path: Path) -> None:
    run = {"id": "20260101T000000Z-000001", "environment": "staging", "playbook": "blue_green", "limit": "staging"}
    journal = Journal(tmp_path, "staging", run["id"])
    journal.append({"event": "run_started", "run_id": run["id"], **run})
    for event in ("phase_started", "phase_finished"):
        journal.append(
            {"event": event, "phase": "blue_green", "host": "db1", "changed": True, "result": {"clinic": {}}}
        )
    ending = action(audit_record.ActionModule)
    ending.look_back({**variables(["clinic"], **run), "pgops_state_directory": str(tmp_path)}, run, None)
    assert ending._wrote()


# -- the command that leads on -----------------------------------------------------------------------------------------------


def after(result: dict[str, Any], *, stage: str = "change_over", confirmed: bool = True) -> dict[str, Any]:
    task = action(blue_green.ActionModule, stage=stage)
    task._confirmed = confirmed
    task_vars = variables(["clinic", "school"], playbook="blue_green", command="ansible-playbook blue_green.yml")
    return task.after(result, task_vars)


NAMED = "ansible-playbook blue_green.yml -l staging -e blue_green_stage=change_over -e blue_green_confirm=clinic,school"


@pytest.mark.parametrize(
    ("reason", "stage", "command"),
    [
        ("not_prepared", "begin", "ansible-playbook blue_green.yml -l staging -e blue_green_stage=prepare"),
        ("moved", "change_over", "ansible-playbook blue_green.yml -l staging -e blue_green_stage=give_up"),
        ("over", "prepare", NAMED),
        ("behind", "change_over", NAMED),
    ],
)
def test_a_refusal_leads_on(reason: str, stage: str, command: str) -> None:
    result = after({"failed": True, "reason": reason, "databases": {}}, stage=stage)
    assert [one.replace("'", "") for one in result["next"]] == [command]


def test_who_looks_at_one_that_is_over_is_told_to_finish_it() -> None:
    over = {"state": "changed_over", "green": "clinic_green", "why": None, "told": ["was cut off"]}
    result = after({"databases": {"clinic": over}}, stage="status", confirmed=False)
    assert [one.replace("'", "") for one in result["next"]] == [NAMED]


def test_what_is_over_needs_no_name_and_what_is_ready_does() -> None:
    done = {"state": "none", "green": "clinic_green", "versions": [], "told": ["nothing is prepared"], "changed": False}
    assert "failed" not in after({"databases": {"clinic": dict(done), "school": dict(done)}}, confirmed=False)
    assert "failed" not in after({"databases": {"clinic": dict(done)}})
    ready = {"state": "ready", "green": "school_green", "versions": ["1"], "changed": True}
    unsure = after({"databases": {"clinic": dict(done), "school": ready}}, confirmed=False)
    assert unsure["failed"] and [one.replace("'", "") for one in unsure["next"]] == [NAMED]
