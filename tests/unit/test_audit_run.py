# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The last row of a run in the audit, made from its journal: every field that an auditor asks for, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_run, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

V1 = "20260101000001"
RUN = "20260101T000000Z-000001"
PLANNED = {
    "version": V1,
    "checksum": "c" * 64,
    "rendered_checksum": "r" * 64,
    "risk": "high",
    "phi": True,
    "why": "because",
}
APPLIED = {
    "version": V1, "name": "add_x", "duration_s": 2.5, "notes": ["a note"], 
    "step_durations": [{"step": 1, "kind": "sql", "name": "column"}, {"step": 2, "kind": "backfill", "name": "fill", "walked": 900, "rows": 750}],
    "indexes": [{"schema": "public", "name": "i", "state": "built"}],
}  # fmt: skip
PHASES: dict[str, Any] = {
    "plan": {"pending": [PLANNED], "tables": ["public.people"], "risk": "high", "reviewed_by": "Ada"},
    "backup": {"path": "/backups/b"},
    "prove": {"proved_at": "2026-01-01T00:00:00Z", "level": 4},
    "rehearse": {"rehearsal": {"id": "R1", "down_equal": True}},
    "gate": {"gate": {"risk": "CRITICAL", "approvals": [{"role": "dba", "by": "Ada"}], "break_glass": None}},
    "apply": {"applied": [APPLIED], "tables": ["public.pets"]},
    "verify": {"passed": True},
}


def report(phases: dict[str, Any], **more: Any) -> dict[str, Any]:
    """As the run's journal makes it."""
    events = [
        {
            "event": "run_started",
            "time": "2026-01-01T00:00:00.000Z",
            "run_id": RUN,
            "playbook": "migrate",
            "environment": "staging",
            "who": "ada",
        }
    ]
    for phase, result in phases.items():
        events.append({"event": "phase_started", "phase": phase, "host": "db1", "time": "2026-01-01T00:00:00.000Z"})
        events.append(
            {"event": "phase_finished", "phase": phase, "host": "db1", "changed": True, "result": {"clinic": result}}
        )
    return reporting.build(events, **more)


def test_every_field_is_filled_in_from_the_phases() -> None:
    told = audit_run.entry(
        report(PHASES), "db1", "clinic", {"justification": "why", "ticket": "WC-1", "reviewer": "Grace"}
    )
    wanted = {
        "executor": "ada", "environment": "staging", "host": "db1", "database": "clinic", "playbook": "migrate", "phi_impact": True,
        "risk": "CRITICAL", "justification": "why", "ticket": "WC-1", "backup_location": "/backups/b",
        "backup_proved_at": "2026-01-01T00:00:00Z", "status": "complete", "verification_status": "passed", "rollback_tested": True,
        "rehearsal": "R1", "approvals": [{"role": "dba", "by": "Ada"}], "tables_affected": ["public.people", "public.pets"],
    }  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted
    assert told["tool_version"] not in ("", audit_run.NOT_KNOWN)
    assert told["migrations"] == [
        {
            "version": V1, "name": "add_x", "status": "applied", "duration_seconds": 2.5, "checksum": "c" * 64,
            "rendered_checksum": "r" * 64, "risk": "high", "phi": True, "why": "because", "records_affected": 750,
            "indexes": {"public.i": "built"}, "notes": ["a note"],
            "transformations": [
                {"step": 1, "kind": "sql", "name": "column", "rows": None}, {"step": 2, "kind": "backfill", "name": "fill", "rows": 750},
            ],
        }
    ]  # fmt: skip
    log = told["execution_log"]
    assert log["before"] == {
        "backup_created": "/backups/b",
        "schema_verified": "yes",
        "application_stopped": "not applicable",
    }
    assert log["after"]["schema_verification"] == "passed"
    assert (log["final_status"], log["sign_off"]["executor"]["name"], log["sign_off"]["reviewer"]["name"]) == (
        "complete",
        "ada",
        "Grace",
    )


def test_a_run_on_phi_says_what_it_did_and_whether_rows_are_gone() -> None:
    assert audit_run.entry(report(PHASES), "db1", "clinic", {})["retention"] == {"compared": False, "fewer": []}
    fewer = {"table": "public.people", "before": 9, "after": 7, "estimate": False}
    compared = {**PHASES, "preflight_after": {"rows": {"fewer": [fewer], "more": [], "same": 3}}}
    assert audit_run.entry(report(compared), "db1", "clinic", {})["retention"] == {
        "compared": True, "fewer": [{"table": "public.people", "before": 9, "after": 7}],
    }  # fmt: skip
    plain = {**PHASES, "plan": {"pending": [{**PLANNED, "phi": False}]}}
    told = audit_run.entry(report(plain), "db1", "clinic", {})
    assert (told["retention"], told["migrations"][0]["transformations"]) == (None, [])


def test_what_was_refused_before_it_began_explains_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "staging", RUN)
    about = {"phase": "swap", "host": "db1", "databases": ["clinic"]}
    journal.append({"event": "phase_started", **about})
    journal.append({"event": "phase_failed", **about, "error": {"message": "no", "refused": True}})
    assert audit_run.explained(str(tmp_path), "staging", "db1", "clinic", None) is None
    journal.append({"event": "phase_started", **about})
    assert audit_run.explained(str(tmp_path), "staging", "db1", "clinic", None) is not None


def test_a_run_that_did_nothing_says_so_and_claims_nothing() -> None:
    told = audit_run.entry(report({}), "db1", "clinic", {})
    assert (told["migrations"], told["verification_status"], told["backup_location"], told["rollback_tested"]) == (
        [],
        "not run",
        None,
        None,
    )
    assert told["execution_log"]["before"]["backup_created"] == "no"
    assert told["execution_log"]["sign_off"]["reviewer"] is None


def test_an_error_is_an_issue_and_a_reviewer_an_approval() -> None:
    phases = {"plan": PHASES["plan"]}
    told = audit_run.entry(report(phases, error={"msg": "disk full"}), "db1", "clinic", {"resolutions": "made room"})
    assert (told["execution_log"]["issues"], told["execution_log"]["resolutions"]) == (["disk full"], ["made room"])
    assert told["approvals"] == [{"reviewed_by": "Ada"}]


def test_what_names_a_secret_loses_its_value() -> None:
    spoiled = {**PHASES, "gate": {"gate": {"approvals": [{"token": "sesame", "by": "Ada"}]}}}
    assert "sesame" not in json.dumps(audit_run.entry(report(spoiled), "db1", "clinic", {}))


def test_only_a_run_since_the_last_anchor_explains_that_rows_are_gone(tmp_path: Path) -> None:
    for number, (phase, database) in enumerate((("restore", "clinic"), ("verify", "clinic"), ("swap", "other")), 1):
        journal = Journal(tmp_path, "staging", f"2026010{number}T000000Z-00000{number}")
        journal.append({"event": "run_started", "playbook": "rollback"})
        journal.append({"event": "phase_started", "phase": phase, "host": "db1", "databases": [database]})
    told = audit_run.explained(str(tmp_path), "staging", "db1", "clinic", None)
    assert told == ("rollback.yml (restore)", "20260101T000000Z-000001")
    assert audit_run.explained(str(tmp_path), "staging", "db2", "clinic", None) is None
    assert audit_run.explained(str(tmp_path), "staging", "db1", "clinic", "20260102T000000Z-000002") is None
    assert audit_run.explained(str(tmp_path), "production", "db1", "clinic", None) is None
