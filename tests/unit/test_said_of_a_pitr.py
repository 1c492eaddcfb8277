# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said behind a rollback that took the whole cluster back to a point in time."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.action.hook import ActionModule as Hook
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import RUN_FACT

KEPT = "/var/lib/postgresql/18/main_before_20260101T130000Z"
BACK = f"ansible-playbook rollback.yml -l staging -e rollback_strategy=pitr -e rollback_kept_cluster={KEPT}"
DONE = {"outage_ms": 812.5, "kept": KEPT, "way_back": BACK}
TYPED = "ansible-playbook rollback.yml -l staging -e rollback_strategy=pitr -e rollback_restore_point=before"
VERIFY = "ansible-playbook verify.yml -l staging"


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
