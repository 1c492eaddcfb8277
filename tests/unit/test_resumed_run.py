# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that stopped at its gate and goes on: what its journal then says, and what it takes up again."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    environments,
    reporting,
    resumed_run,
    typed_commands,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, finished

RUN = "20260101T120000Z-0a1b2c"
BACKUP = {
    "a": {"path": "/b/1", "finished": "2026-01-01T12:00:00+00:00", "ledger_head": "h", "catalog_fingerprint": "f"}
}
STATE = {"ledger_head": "h", "catalog_fingerprint": "f", "rendered_checksum": "r"}


def phase(name: str, result: Any = None, failed: str | None = None) -> list[dict[str, Any]]:
    begun = {"event": "phase_started", "phase": name, "host": "db1"}
    if failed:
        return [begun, {"event": "phase_failed", "phase": name, "host": "db1", "error": {"message": failed}}]
    return [begun, {"event": "phase_finished", "phase": name, "host": "db1", "result": result or {}}]


def stopped(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path, "production", RUN)
    began = {"event": "run_started", "id": RUN, "playbook": "migrate", "environment": "production", "hosts": ["db1"], "pid": 1,
             "phases": ["plan", "backup", "prove", "gate", "apply", "report"], "who": "ada"}  # fmt: skip
    plan = {"a": {"pending": [{"version": "1"}], "state": STATE}}
    for event in [
        began,
        *phase("plan", plan),
        *phase("backup", BACKUP),
        *phase("prove", {"a": {"level": 4}}),
        *phase("gate", failed="no"),
    ]:
        journal.append(event)
    journal.append({"event": "run_failed", "error": {"message": "no"}})
    return journal


def test_a_stop_is_no_end_and_no_failure_once_the_run_has_gone_on(tmp_path: Path) -> None:
    journal = stopped(tmp_path)
    assert finished(journal.events())
    journal.append({"event": "run_resumed", "pid": os.getpid(), "who": "grace"})
    events = journal.events()
    assert not finished(events) and events[0]["pid"] == os.getpid()
    assert [event["event"] for event in events if event.get("phase") == "gate"] == []
    assert len(journal.read(journal.path)) == 11, "the file itself keeps all of it"
    for event in [*phase("gate", {"a": {"gate": {"allowed": True}}}), *phase("apply", {"a": {"applied": []}})]:
        journal.append(event)
    report = reporting.build(journal.events())
    assert report["ok"], report["error"]
    assert [row["phase"] for row in report["steps"]] == ["plan", "backup", "prove", "gate", "apply"]
    journal.append({"event": "run_failed", "error": {"message": "later"}})
    assert finished(journal.events()), "what ends it after that is its end"


GIVEN = {
    "variables": {"pgops_run_id": RUN, "pgops_host": "db9"},
    "inventory": ["other.yml"],
    "files": [],
    "options": [],
}
TYPED = {
    "playbook": "migrate",
    "environment": "production",
    "hosts": ["db1"],
    "command": "ansible-playbook migrate.yml",
    "limit": "db1",
}


def test_what_is_typed_instead_of_a_run_that_does_not_go_on_reaches_the_same_place(tmp_path: Path) -> None:
    with pytest.raises(environments.Refusal, match="There is no run") as refused:
        resumed_run.take_up(dict(TYPED), RUN, str(tmp_path), GIVEN)
    assert refused.value.next == ["ansible-playbook migrate.yml -i other.yml -l db1 -e pgops_host=db9"]


@pytest.mark.parametrize("check", [True, False])
def test_a_run_that_somebody_ended_is_asked_no_more_to_end(tmp_path: Path, check: bool) -> None:
    journal = stopped(tmp_path)
    journal.ask_to_stop("root on ops1")
    assert resumed_run.take_up({**TYPED, "check_mode": check}, RUN, str(tmp_path), GIVEN)
    assert journal.stop_asked_by() == ("root on ops1" if check else None), "a check writes nothing"


def test_behind_its_apply_what_goes_on_is_a_run_of_its_own(tmp_path: Path) -> None:
    journal = stopped(tmp_path)
    journal.append({"event": "run_resumed", "pid": os.getpid(), "who": "grace"})

    def on() -> list[str]:
        run = {**TYPED, typed_commands.GIVEN: GIVEN}
        return [command for command in reporting.build(journal.events(), run=run)["next"] if "migrate.yml" in command]

    for event in phase("gate", failed="no"):
        journal.append(event)
    assert on() == [f"ansible-playbook migrate.yml -i other.yml -l db1 -e pgops_run_id={RUN} -e pgops_host=db9"]
    for event in phase("apply", failed="no"):
        journal.append(event)
    assert on() == ["ansible-playbook migrate.yml -i other.yml -l db1 -e pgops_host=db9"]


def test_only_a_migration_that_stopped_before_its_apply_goes_on(tmp_path: Path) -> None:
    events = stopped(tmp_path).events()

    def why(events: list[dict[str, Any]], playbook: str = "migrate", hosts: tuple[str, ...] = ("db1",)) -> str | None:
        return resumed_run.refusal(RUN, events, playbook, hosts)

    assert why(events) is None
    assert "is for a migration that stopped at its gate, and this is gate.yml" in str(why(events, "gate"))
    assert "There is no run" in str(why([]))
    assert "is a run of backup.yml" in str(why([{**events[0], "playbook": "backup"}]))
    assert "has ended well" in str(why([*events, {"event": "run_finished"}]))
    assert "has begun to apply" in str(why([*events, *phase("apply")]))
    assert "was for db1, and not for db2" in str(why(events, hosts=("db1", "db2")))


def test_what_the_run_has_made_is_read_from_its_journal(tmp_path: Path) -> None:
    found = resumed_run.kept(stopped(tmp_path).events(), "db1")
    assert found == {
        "plan": {"a": {"pending": [{"version": "1"}], "state": STATE}},
        "backup": BACKUP,
        "prove": {"a": {"level": 4}},
    }
    assert resumed_run.kept(stopped(tmp_path).events(), "db2") == {}


MADE = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "looked", "oldest", "why"),
    [
        ({}, {"why": None}, MADE, None),
        ({"ledger_head": "x"}, {"why": None}, MADE, "the ledger is another than when its backup was made"),
        ({"catalog_fingerprint": "x"}, {"why": None}, MADE, "the schema is another"),
        ({"rendered_checksum": "x"}, {"why": None}, MADE, "the SQL is another than what it has planned"),
        ({}, {"why": "has no proof any more"}, MADE, "its backup /b/1 has no proof any more"),
        ({}, None, MADE, "its backup /b/1 was not looked at"),
        ({}, {"why": None}, MADE + timedelta(seconds=2), "its backup /b/1 is too old"),
    ],
)
def test_what_is_of_another_state_is_made_anew(
    tmp_path: Path, state: Any, looked: Any, oldest: datetime, why: str | None
) -> None:
    before = resumed_run.kept(stopped(tmp_path).events(), "db1")
    found = resumed_run.outdated("a", before, {**STATE, **state}, looked, phases=[], oldest=oldest)
    assert found is None if why is None else why in str(found)


def test_a_run_without_a_proof_or_a_rehearsal_of_that_database_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    before = resumed_run.kept(stopped(tmp_path).events(), "db1")
    asked = {"phases": ["rehearse"], "oldest": MADE}
    assert resumed_run.outdated("b", before, STATE, {"why": None}, **asked) == "it has no proved backup"
    assert resumed_run.outdated("a", before, STATE, {"why": None}, **asked) == "it has no rehearsal"
