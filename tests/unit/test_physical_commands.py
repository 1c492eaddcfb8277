# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollback of a cluster tells: the way forth again, and what it could not find out."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.action.physical_restore import ActionModule
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import RUN_FACT, PgopsAction

KEPT = "/data/main.pgops_kept_20261122_120000"
RUN = {
    "playbook": "rollback",
    "command": "ansible-playbook rollback.yml",
    "given": {
        "variables": {"rollback_strategy": "pitr", "rollback_whole_cluster": True, "rollback_restore_point": "x"}
    },
}


class Told(ActionModule):
    """Keeps what is said."""

    PHASE = "restore"

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)

    def command(self, task_vars: dict[str, Any], playbook: str, variables: Any = None) -> str:
        """As the action has it, for this run."""
        return typed_commands.other(RUN, playbook.removesuffix(".yml"), "local", variables)


def done(**more: Any) -> dict[str, Any]:
    return {"databases": {"white_cross": {"outage_ms": 5.0, "kept": KEPT, "others": [], **more}}}


@pytest.mark.parametrize("others", [["billing"], []])
def test_others_that_went_back_go_forth_with_it(others: list[str]) -> None:
    (command,) = Told().after(done(others=others), {})["next"]
    assert ("rollback_whole_cluster" in command) is bool(others)
    assert f"rollback_kept_cluster={KEPT}" in command
    assert "rollback_confirm=white_cross" in command
    assert "rollback_restore_point" not in command


def test_what_is_not_known_of_the_live_database_is_told() -> None:
    told = Told()
    told.after(done(lost=None, lost_unknown="it is gone", history={"carried": False, "why": "no such database"}), {})
    assert "white_cross: what was lost cannot be told: it is gone" in told.said
    assert "white_cross: the history was not carried across: no such database" in told.said


@pytest.mark.parametrize(("phase", "given"), [("restore", {"reason": "wrong rows"}), ("disclose", {})])
def test_why_it_was_typed_reaches_the_audit(monkeypatch: pytest.MonkeyPatch, phase: str, given: dict[str, str]) -> None:
    monkeypatch.setattr(PgopsAction, "module_arguments", lambda self, task_vars: {})
    told = Told()
    told.PHASE = phase
    assert told.module_arguments({"ansible_facts": {RUN_FACT: {"why": "wrong rows"}}}) == {**given, "level_required": 4}


@pytest.mark.parametrize("phase", ["restore", "disclose"])
def test_the_level_of_the_environment_reaches_the_rollback_and_production_has_none_below_four(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr(PgopsAction, "module_arguments", lambda self, task_vars: {"level_required": 2})
    told = Told()
    told.PHASE = phase
    staging, production = ({"ansible_facts": {RUN_FACT: {"environment": name}}} for name in ("staging", "production"))
    assert told.module_arguments(staging)["level_required"] == 2
    with pytest.raises(
        AnsibleActionFail, match="backup_level_required is 2 in production, which holds production data"
    ):
        told.module_arguments(production)


def test_the_plan_says_what_the_backup_is_proved_to_and_what_becomes_of_the_sequences() -> None:
    plan = {"backup": "20261122F", "backup_size": 1, "wal_bytes": 1, "timeline": 1}
    told = Told()
    told.PHASE = "disclose"
    told.after(
        {"databases": {"white_cross": {"plan": plan, "target": "restore point x", "proof_level": 4, "unreadable": []}}},
        {},
    )
    assert "backup 20261122F (1 bytes, proved to level 4)" in told.said[0]
    assert "its sequences go on behind what they have given out by then" in told.said[1]
    told.said.clear()
    shown = {
        "plan": plan,
        "target": "x",
        "proof_level": None,
        "unreadable": ["white_cross"],
        "lets_off": "Backup 20261122F was never proved",
    }
    told.after({"databases": {"white_cross": shown}}, {})
    assert "never proved" in told.said[0]
    assert "numbers that its sequences have given out since are given out again" in told.said[1]
    assert "Backup 20261122F was never proved; it is taken all the same" in told.said[2]
    told.said.clear()
    told.after({"databases": {"white_cross": {"kept": KEPT, "since": "2026", "target": "x"}}}, {})
    assert "numbers given out since are given out again" in told.said[0]


def test_what_became_of_the_sequences_is_told() -> None:
    told = Told()
    moved = [{"sequence": "public.a", "from": 1, "to": 9}]
    told.after(done(sequences={"moved": moved, "left": []}), {})
    assert "white_cross: sequences moved on, so that no number is given out twice: public.a from 1 to 9" in told.said
    told = Told()
    told.after(done(sequences={"why": "there is no database of that name"}), {})
    assert any("they may give out numbers of the replaced database again" in line for line in told.said)


def test_who_does_not_go_back_with_the_cluster_is_named_with_what_to_do() -> None:
    company = {
        "standbys": ["replica_1"],
        "synchronous": "replica_1",
        "slots": [{"name": "warehouse", "plugin": "pgoutput", "database": "white_cross"}],
        "subscriptions": [{"name": "intake", "database": "clinic", "enabled": True}],
    }
    plan = {"backup": "20261122F", "backup_size": 1, "wal_bytes": 1, "timeline": 1}
    for shown in ({"plan": plan, "target": "x", "proof_level": 4}, {"kept": KEPT, "since": "2026", "target": "x"}):
        told = Told()
        told.PHASE = "disclose"
        told.after({"databases": {"white_cross": {**shown, **company}}}, {})
        text = "\n".join(told.said)
        assert "standby replica_1 has to be made anew afterwards" in text
        assert "commits wait for synchronous_standby_names = 'replica_1'" in text
        assert "ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();" in text
        assert "the logical slot warehouse of white_cross does not go along" in text
        assert "what the publisher of subscription intake in clinic has sent since, it does not send again" in text


def test_behind_the_change_it_is_told_what_commits_wait_for() -> None:
    told = Told()
    told.after(done(synchronous="replica_1"), {})
    assert any("ALTER SYSTEM SET synchronous_standby_names = ''" in line for line in told.said)
    told = Told()
    told.after(done(synchronous=""), {})
    assert not any("synchronous_standby_names" in line for line in told.said)


def test_counts_do_not_claim_to_know_of_updates() -> None:
    told = Told()
    told.after(done(lost={}), {})
    assert (
        "white_cross: no table has another number of rows; what was updated since is lost too and is not told here; the replaced cluster "
        "has it"
    ) in told.said
    told = Told()
    told.after(done(lost={"public.students": {"now": 5, "then": 3}}), {})
    assert "white_cross: public.students had 5 rows and has 3 now" in told.said
    assert any(
        line.startswith("white_cross: these are counts; what was updated since is lost too") for line in told.said
    )


def test_a_rollback_that_begins_anew_says_so() -> None:
    told = Told()
    told.PHASE = "resume"
    told.after(
        {"databases": {"white_cross": {"state": "nothing", "why": "it was cut off; the rollback begins anew"}}}, {}
    )
    assert told.said == ["white_cross: it was cut off; the rollback begins anew"]
