# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A physical backup in a run: the level of its proof beside the one that is needed, its time, and what follows where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action import backup, physical_backup, physical_prove
from support.actions import action, variables

PHASES = ["plan", "backup", "prove", "apply"]
LABEL = "20260101-120000F"
BACKUP = {"label": LABEL, "path": f"pgbackrest:main/{LABEL}", "seconds": 40.0}
TOO_LOW = r"is proved to level 5 \(.*\), and {0} needs level 6 \(.*, backup_level_required\); nothing was changed"


def of(kind: Any, playbook: str, environment: str = "staging", **args: Any) -> tuple[Any, dict[str, Any]]:
    given = variables(["school", "clinic"], playbook=playbook, environment=environment, phases=PHASES)
    given["pgops_production_environments"] = ["production"]
    given["backup_level_required"] = args.get("level_required", 4)
    given["backup_prove_level"] = args.get("level", 4)
    return action(kind.ActionModule, **args), given


@pytest.mark.parametrize("kind", [physical_backup, physical_prove])
@pytest.mark.parametrize("playbook", ["migrate", "rollback"])
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_what_a_physical_proof_does_not_reach_is_refused_with_what_to_type(
    kind: Any, playbook: str, environment: str
) -> None:
    made, given = of(kind, playbook, environment, level_required=6)
    with pytest.raises(AnsibleActionFail, match=TOO_LOW.format(environment)) as caught:
        made.module_arguments(given)
    said = str(caught.value)
    assert "-e backup_engine=logical" in said
    assert ("-e backup_restore_point=true" in said) == (playbook == "migrate")
    assert ("-e backup_level_required=5" in said) == (environment == "staging")
    assert ("-e rollback_emergency_backup=try" in said) == (playbook == "rollback" and environment == "production")


@pytest.mark.parametrize("kind", [physical_backup, physical_prove])
def test_a_climb_that_ends_below_what_is_needed_is_refused_before_it(kind: Any) -> None:
    made, given = of(kind, "migrate", "production", level_required=5, level=4)
    with pytest.raises(
        AnsibleActionFail, match="backup_prove_level is 4, and production needs a backup that is proved to level 5"
    ) as caught:
        made.module_arguments(given)
    assert "-e backup_prove_level=5" in str(caught.value)


def test_a_climb_beyond_what_a_physical_proof_reaches_is_refused_with_what_to_type() -> None:
    made, given = of(physical_prove, "backup", level=6)
    with pytest.raises(AnsibleActionFail, match="its proof ends at level 5 .*; nothing was restored") as caught:
        made.module_arguments(given)
    assert "-e backup_prove_level=5" in str(caught.value)


def test_the_fifth_level_takes_the_applications_queries_along() -> None:
    made, given = of(physical_prove, "backup", level=5)
    assert made.module_arguments(given)["checks"]
    made, given = of(physical_prove, "backup", level=4)
    assert "checks" not in made.module_arguments(given)


def test_production_is_satisfied_by_a_physical_proof() -> None:
    made, given = of(physical_prove, "migrate", "production", level_required=4)
    assert made.module_arguments(given)["level_required"] == 4


def test_production_cannot_ask_for_less() -> None:
    made, given = of(physical_prove, "migrate", "production", level_required=2)
    with pytest.raises(
        AnsibleActionFail, match="backup_level_required is 2 in production, which holds production data"
    ):
        made.module_arguments(given)


def test_the_level_that_is_needed_reaches_the_module() -> None:
    made, given = of(physical_prove, "migrate", level_required=2)
    assert made.module_arguments(given)["level_required"] == 2
    made, given = of(physical_prove, "backup", level_required=4)
    assert made.module_arguments(given)["level_required"] is None


def test_a_run_that_proves_nothing_needs_no_level() -> None:
    made, given = of(physical_backup, "migrate")
    given["ansible_skip_tags"] = ["prove"]
    made.module_arguments(given)
    given["ansible_skip_tags"] = []
    given["ansible_facts"]["__pgops_run"]["phases"] = ["backup", "apply"]
    made.module_arguments(given)


def test_a_rollback_that_may_go_on_without_a_backup_goes_on_with_a_lower_proof_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of(physical_backup, "rollback", tolerated=True)[0].module_arguments(of(physical_backup, "rollback")[1])
    made, given = of(physical_prove, "rollback", tolerated=True, level_required=4, level=2)
    assert made.module_arguments(given)["level_required"] is None
    said: list[str] = []
    monkeypatch.setattr(made, "say", said.append)
    proof = {
        "proved_at": "x", "label": LABEL, "level": 2, "levels": [], "detail": "restores, pages sound", "tables": 4, "rows": 9,
        "restore_point": "p", "seconds": 2.0, "restore_seconds": 1.0, "moving": ["public.log"], "unlogged": ["public.u"],
    }  # fmt: skip
    made.after({"databases": {"school": proof}}, given)
    assert said[0].startswith(f"school: physical backup {LABEL} proved to level 2 (restores, pages sound): ")
    assert (
        said[1] == "school: level 4 is needed here; the rollback goes on with level 2 (rollback_emergency_backup=try)"
    )
    assert said[2:] == [
        "school: written to in the moment of the restore point, so not compared: public.log",
        "school: unlogged, so empty after every recovery: public.u",
    ]


@pytest.mark.parametrize(("kind", "what"), [(physical_backup, "backup"), (physical_prove, "proof")])
def test_one_that_fails_is_told_and_gone_without_where_that_is_allowed(kind: Any, what: str) -> None:
    failed = {"failed": True, "msg": "Interrupted: its time of 1 s is over."}
    made, given = of(kind, "rollback", tolerated=True)
    told = made.after(dict(failed), given)
    assert not told.get("failed")
    assert {found["missed"] for found in told["databases"].values()} == {f"no {what}: {failed['msg']}"}
    strict, given = of(kind, "rollback")
    assert "rollback_emergency_backup=try" in strict.after(dict(failed), given)["hint"]


def test_without_a_backup_of_this_run_no_older_one_is_proved() -> None:
    made, given = of(physical_prove, "rollback", tolerated=True)
    given["ansible_facts"]["__pgops_run"]["backup"] = {"school": {"missed": "no backup: x"}, "clinic": {"missed": "no"}}
    assert made.run(None, given)["skip_reason"] == "no backup was made"


def test_the_proof_has_what_the_one_backup_of_all_databases_has_left() -> None:
    made, given = of(physical_prove, "rollback", tolerated=True, timeout=100)
    given["ansible_facts"]["__pgops_run"]["backup"] = {"school": BACKUP, "clinic": BACKUP}
    assert made.module_arguments(given)["timeout"] == 60


def test_a_backup_that_its_run_cannot_prove_is_begun_where_the_proof_may_be_missed() -> None:
    key = "age1x9h43wgr2ng28sswzrxwcd2gjyc6ss2qqa770uzeypdpuk2tgp0sk7whp2"
    made, given = of(backup, "rollback", encrypt_to=[key], tolerated=True)
    assert made.module_arguments(given)["encrypt_to"] == [key]
    strict, given = of(backup, "rollback", encrypt_to=[key])
    with pytest.raises(AnsibleActionFail, match="could not be proved, so it was not begun"):
        strict.module_arguments(given)
