# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checklist of a run: each line is ticked by its evidence, stays open without it and shows what has failed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import checklist, reporting
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
RUN = "20260101T120000Z-0a1b2c"
AT = "2026-01-01T12:00:00.000Z"
KEY = {"name": "public.a_fkey", "orphans": 0, "validated": True, "indexed": True}
APPROVED = {"by": "ada", "role": "dba", "made": "2026-01-01"}
GATE = {
    "promotion": {"from": "staging", "file": "/e/staging.json", "signed_by": "ops", "lacking": []},
    "approvals": [APPROVED], "missing": [], "break_glass": None, "window": {"open": True, "at": "Thu 12:00"},
    "rehearsal": None,
}  # fmt: skip
FORECAST = {"seconds": 90.0, "blocks_reads": 0.0, "blocks_writes": 0.4}
CHECKS = [
    {"check": "server", "level": "ok"},
    {"check": "application", "level": "ok", "evidence": "https://app answers 200"},
]
FULL: dict[str, Any] = {
    "preflight": {"checks": CHECKS, "level": "ok", "facts": {}},
    "plan": {
        "pending": [{"version": "1", "phi": True, "rollback": {"safety": "complete"}, "expected_seconds": 120}],
        "applied": ["0"], "tables": ["public.a"], "reviewed_by": "grace",
    },
    "backup": {"path": "/b/1", "bytes": 2048},
    "prove": {"level": 4, "proved_at": AT, "ready_seconds": 1.5},
    "rehearse": {"rehearsal": {"id": "R1", "ok": True, "over_budget": [], "forecast": FORECAST}},
    "gate": {"gate": GATE},
    "apply": {"applied": [{"version": "1", "duration_s": 2.0}], "tables": ["public.a"], "audit": {"seq": 7}},
    "analyze": {"analyzed": ["public.a"], "seconds": 0.2},
    "verify": {
        "passed": True, "findings": [], "checks": [{"name": "a", "state": "passed"}], "foreign_keys": [KEY],
        "lines": [{"kind": "index", "object": "public.a_x", "passed": True}],
        "server_log": {"looked": True, "errors": [], "gaps": [], "provoked": {}},
    },
    "preflight_after": {"checks": CHECKS, "level": "ok", "facts": {}, "better": [], "worse": [], "rows": {"fewer": [], "more": [], "same": 3, "not_compared": []}},
}  # fmt: skip
PHASES = ["preflight", "plan", "backup", "prove", "rehearse", "gate", "apply", "analyze", "verify", "report"]


def load_page() -> Any:
    spec = importlib.util.spec_from_file_location("checklist_page", ROOT / "tests" / "setup" / "checklist_page.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


checklist_page = load_page()


def hook(kind: str, done: str = "yes") -> list[dict[str, Any]]:
    told = {"kind": kind, "label": f"web {kind}", "stage": "after", "on": "localhost", "number": 1}
    shared = {"phase": "hooks", "host": "db1", "time": AT}
    return [
        {"event": "phase_started", **shared, "hook": told},
        {"event": "phase_finished", **shared, "hook": {**told, "done": done}},
    ]


def looked(after: float = 11.0) -> dict[str, Any]:
    seen = {"clinic": {"before": {"probe_ms": 10.0}}}
    return {"event": "looked", "host": "db1", "time": AT, "seen": seen, "figures": {"clinic": {"probe_ms": after}}}


def journal(playbook: str = "migrate", *databases: dict[str, Any], more: list[dict[str, Any]] | None = None, **began: Any) -> list[dict[str, Any]]:  # fmt: skip
    """:param databases: phase -> result of each; a result that is a text is why the phase has failed"""
    events: list[dict[str, Any]] = [
        {
            "event": "run_started", "time": AT, "run_id": RUN, "environment": "local", "playbook": playbook, "who": "ada",
            "ops_host": "ops1", "hosts": ["db1"], "command": f"ansible-playbook {playbook}.yml", "limit": "local",
            "phases": PHASES, **began,
        }
    ]  # fmt: skip
    for phase in dict.fromkeys(name for phases in databases for name in phases):
        shared = {"phase": phase, "host": "db1", "time": AT}
        events.append({"event": "phase_started", **shared})
        found = {f"clinic{number or ''}": phases.get(phase) for number, phases in enumerate(databases)}
        why = next((one for one in found.values() if isinstance(one, str)), None)
        result = {name: one for name, one in found.items() if isinstance(one, dict)}
        ended = {"event": "phase_failed", "error": {"message": why}} if why else {"event": "phase_finished"}
        events.append({**ended, **shared, "result": result, "duration_s": 1.0})
    return [*events, *(more or [])]


def marks(events: list[dict[str, Any]], **changed: Any) -> dict[str, str]:
    """:return: part and line -> mark and text."""
    report = {**reporting.build(events), **changed}
    return {
        f"{title}: {line.what}": f"[{told.mark}] {told.text}"
        for title, lines in checklist.of(report, events)
        for line, told in lines
    }


AFTER = [*hook("health"), *hook("smoke_test"), *hook("metrics"), looked()]
BY_PEOPLE = {
    "Before: Tested in development", "Before: Automated tests pass", "Before: Stakeholders told", "After: Stakeholders told",
    "Before: Emergency contacts confirmed", "After: Documents updated", "Rollback: Reason", "Rollback: Executed", "Rollback: Verified",
    "Rollback: Incident report", "Rollback: Post-mortem scheduled", "Rollback: Notes",
}  # fmt: skip


def test_a_run_with_all_its_evidence_has_each_line_ticked_but_those_of_people_and_of_a_rollback() -> None:
    found = marks(journal("migrate", FULL, more=AFTER))
    assert {what for what, told in found.items() if not told.startswith("[x]")} == BY_PEOPLE
    for what, told in {
        "Before: Tested in staging": "evidence of staging, signed by ops: `/e/staging.json`",
        "Before: Performance assessed": "rehearsal R1: it takes 90.0 s, readers wait 0.0 s, writers wait 0.4 s",
        "Before: Backup made": "2,048 bytes in `/b/1`",
        "Before: Backup verified": f"proved at level 4 of 6 at {AT}, restored and compared in 1.50 s",
        "Before: Approval given": "approved by ada as dba at 2026-01-01",
        "Details: Tables": "1: public.a",
        "Details: Estimated minutes": "1.5",
        "Details: PHI": "yes: 1",
        "Details: Executor": "ada on ops1",
        "Execution: Migration executed": "1 version in 2.00 s: 1",
        "Execution: Application healthy": "1 hooks of health were answered as they should; https://app answers 200",
        "After: Row counts": "the same in 3 tables, more in 0, fewer in none",
        "After: Audit log": "row 7 of pgops.audit",
        "Deployment to production: Maintenance window": "open at Thu 12:00",
        "Deployment to production: Query metrics": "clinic on db1: the probe took 10.0 ms before and 11.0 ms after; 1 hooks of metrics were answered as they should",
    }.items():  # fmt: skip
        assert found[what] == f"[x] {told}"


def test_without_evidence_nothing_is_ticked_but_who_and_when() -> None:
    found = marks(journal("migrate", {"plan": {"pending": [{"version": "1"}]}}))
    ticked = {what for what, told in found.items() if told.startswith("[x]")}
    assert ticked == {"Details: PHI", "Details: Executor", "Details: Date", "Deployment to production: Order verified"}
    assert "[!] 1 of 1 versions do not say how they go back" in found["Before: Rollback documented"]


# line -> what is changed, and what the line then says.
LINES: list[tuple[str, dict[str, Any], list[dict[str, Any]], str]] = [
    ("Before: Tested in staging", {"gate": {"gate": {**GATE, "promotion": {"from": None, "lacking": []}}}}, [], "[ ] a gate that asks"),
    ("Before: Tested in staging", {"gate": {"gate": {**GATE, "promotion": {"from": "staging", "lacking": [{"why": "1 was not rehearsed"}]}}}}, [], "[!] 1 was not rehearsed"),
    ("Before: Performance assessed", {"rehearse": {}}, [], "[ ] the phase rehearse"),
    ("Before: Performance assessed", {"rehearse": {"rehearsal": {"id": "R1", "ok": True, "over_budget": ["1 blocks for 9 s"]}}}, [], "[!] rehearsal R1: 1 blocks for 9 s"),
    ("Before: Backup made", {"backup": {}}, [], "[ ] the phase backup"),
    ("Before: Backup made", {"backup": "disk full"}, [], "[!] backup: disk full"),
    ("Execution: Backup made", {"backup": {"missed": "no copy in time"}}, [], "[!] no copy in time"),
    ("Before: Backup verified", {"prove": {"level": 4}}, [], "[ ] the phase prove"),
    ("Before: Backup verified", {"prove": "counts differ"}, [], "[!] prove: counts differ"),
    ("Before: Approval given", {"gate": {"gate": {**GATE, "approvals": []}}}, [], "[x] reviewed by grace, as who typed the command says"),
    ("Before: Approval given", {"gate": {"gate": {**GATE, "missing": [{"kind": "approval", "what": "the approval of dba"}]}}}, [], "[!] missing: the approval of dba"),
    ("Before: Approval given", {"gate": {"gate": {**GATE, "break_glass": {"told": "ada broke the glass"}}}}, [], "[!] ada broke the glass"),
    ("Details: Estimated minutes", {"rehearse": {}}, [], "[x] 2.0"),
    ("Details: Estimated minutes", {"rehearse": {}, "plan": {"pending": [{"version": "1", "expected_seconds": None}]}}, [], "[ ] a rehearsal"),
    ("Details: PHI", {"plan": {"pending": [{"version": "1", "phi": False}]}}, [], "[x] no"),
    ("Execution: Migration executed", {"apply": "syntax error"}, [], "[!] apply: syntax error"),
    ("Execution: Migration executed", {"apply": {"applied": [], "stopped": [{"version": "2"}]}}, [], "[!] stopped in 2"),
    ("Execution: Verification queries run", {"verify": {"passed": True, "lines": [], "checks": []}}, [], "[ ] the verification found nothing to look at"),
    ("Execution: Verification queries run", {"verify": {"passed": False, "findings": [{"level": "fail", "check": "schema", "object": "table public.a"}]}}, [], "[!] 1 differences: schema table public.a"),
    ("Execution: Metrics normal", {}, [looked(99.0)], "[!] clinic on db1: the probe took 10.0 ms before and 99.0 ms after"),
    ("Execution: Metrics normal", {"preflight_after": {"checks": [{"check": "replication_lag", "level": "stop"}]}}, [], "[!] stop: replication_lag"),
    ("Execution: Metrics normal", {"preflight_after": {}}, [], "[ ] the health check after"),
    ("Execution: Application healthy", {"preflight_after": {"checks": [{"check": "application", "level": "ok", "evidence": "not asked: no url"}]}}, [], "[ ] hooks_health"),
    ("Execution: Application healthy", {}, hook("health", "no"), "[!] web health: failed, or was cut off"),
    ("Execution: No errors in the logs", {"verify": {"passed": True, "server_log": {"looked": False, "why": "nobody collects it"}}}, [], "[ ] the server's log was not read: nobody collects it"),
    ("Execution: No errors in the logs", {"verify": {"passed": True, "server_log": {"looked": True, "errors": [{"severity": "ERROR", "sqlstate": "23505", "times": 1}]}}}, [], "[!] errors of the run: ERROR 23505"),
    ("After: Data integrity", {"verify": {"passed": False, "checks": [{"name": "orphans", "state": "failed"}]}}, [], "[!] checks that failed: orphans"),
    ("After: Data integrity", {"verify": {"passed": True, "checks": [{"name": "orphans", "state": "left out"}]}}, [], "[ ] the named checks"),
    ("After: Foreign keys", {"verify": {"passed": False, "foreign_keys": [{**KEY, "orphans": 2}]}}, [], "[!] rows without a parent, or not read: public.a_fkey"),
    ("After: Foreign keys", {"verify": {"passed": True, "foreign_keys": [{**KEY, "validated": False}]}}, [], "[x] 1 foreign keys, no row without a parent, 1 not validated yet"),
    ("After: Indexes", {"verify": {"passed": False, "lines": [{"kind": "index", "object": "public.i", "passed": False}]}}, [], "[!] not as declared: public.i"),
    ("After: Indexes", {"verify": {"passed": True, "foreign_keys": [{**KEY, "indexed": False}]}}, [], "[!] not as declared: none for public.a_fkey"),
    ("After: Row counts", {"preflight_after": {"rows": {"fewer": [{"table": "public.a", "before": 9, "after": 7}], "same": 0}}}, [], "[!] fewer than before: public.a 9 to 7"),
    ("After: Row counts", {"preflight_after": {"rows": {"fewer": [], "more": [], "same": 0, "not_compared": ["public.a"]}}}, [], "[ ] the health checks"),
    ("After: Smoke tests", {}, hook("smoke_test", "no"), "[!] web smoke_test: failed, or was cut off"),
    ("After: Audit log", {"apply": {"applied": [{"version": "1"}]}}, [], "[ ] the phases apply and revert"),
    ("Deployment to production: Maintenance window", {"gate": {"gate": {**GATE, "window": {"open": False, "shut": [{"why": "begins at 22:00"}]}}}}, [], "[!] begins at 22:00"),
    ("Deployment to production: ANALYZE of every changed table", {"analyze": "cancelled"}, [], "[!] analyze: cancelled"),
    ("Deployment to production: Performance monitored", {}, [looked()], f"[x] 1 looks from {AT} to {AT}, no finding"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "changed", "more", "told"), LINES, ids=[f"{one[0]} {one[3][:12]}" for one in LINES])
def test_a_line_without_its_evidence_is_open_and_one_that_failed_is_marked(
    line: str, changed: dict[str, Any], more: list[dict[str, Any]], told: str
) -> None:
    assert marks(journal("migrate", {**FULL, **changed}, more=more))[line].startswith(told)


def test_a_line_of_two_databases_is_done_where_both_are_and_else_names_the_one() -> None:
    both = marks(journal("migrate", FULL, FULL))
    assert both["Execution: Migration executed"] == "[x] all 2 databases: 1 version in 2.00 s: 1"
    one = marks(
        journal(
            "migrate", FULL, {**FULL, "prove": {}, "preflight_after": {"checks": [{"check": "x", "level": "stop"}]}}
        )
    )
    assert one["Before: Backup verified"] == "[ ] clinic1 on db1: the phase prove"
    assert one["Execution: Metrics normal"] == "[!] clinic1 on db1: stop: x"
    # Of a host with several databases, the phase that failed has its result for those before.
    failed = marks(journal("migrate", FULL, {**FULL, "backup": "disk full"}))
    assert failed["Before: Backup made"] == "[!] clinic1 on db1: backup: disk full"


def test_what_nobody_came_to_is_open_with_the_reason() -> None:
    plan = {"plan": FULL["plan"]}
    cut = marks(journal("migrate", {**plan, "backup": "disk full"}))
    assert cut["Execution: Migration executed"] == "[ ] the run ended before it (the phase apply)"
    assert cut["After: Row counts"] == "[ ] the run ended before it (the health checks before and after)"
    nothing = marks(journal("migrate", {"plan": {"pending": []}, "verify": FULL["verify"]}))
    assert nothing["Before: Backup made"] == "[ ] nothing was pending"
    assert nothing["After: Foreign keys"].startswith("[x]")
    without = marks(journal("migrate", plan, phases=["plan", "apply"]))
    assert without["Before: Backup made"] == "[ ] left out by pgops_phases (the phase backup)"
    assert marks(journal("migrate"))["Execution: Migration executed"] == "[ ] the run ended before it (the phase apply)"


BACK = {
    "strategies": {"chosen": "down", "why": "asked for by name", "ways": {"down": {"seconds": 60, "outage": "none"}}},
    "backup": FULL["backup"], "prove": FULL["prove"], "verify": FULL["verify"],
    "revert": {"reverted": [{"version": "1", "duration_s": 3.0}], "tables": ["public.a"], "audit": {"seq": 8}},
}  # fmt: skip


def test_a_rollback_fills_in_the_fifth_part_and_leaves_what_is_of_a_migration() -> None:
    found = marks(journal("rollback", BACK, why="a wrong index"), incident="/r/x.incident.md")
    assert found["Rollback: Reason"] == "[x] a wrong index"
    assert found["Rollback: Executed"] == "[x] 1 version in 3.00 s: 1"
    assert found["Rollback: Verified"] == "[x] passed: 1 objects as declared, 1 foreign keys, 1 named checks"
    assert found["Rollback: Incident report"] == "[x] `/r/x.incident.md`"
    assert found["Rollback: Post-mortem scheduled"].startswith("[ ] a person")
    assert found["Before: Rollback documented"] == "[x] down: asked for by name"
    assert found["Details: Downtime in seconds"] == "[x] none, foretold"
    assert found["Execution: Migration executed"] == "[ ] a rollback has none (the phase apply)"
    failed = marks(journal("rollback", {**BACK, "revert": "table is in use"}))
    assert failed["Rollback: Executed"] == "[!] revert: table is in use"
    swapped = {**BACK, "revert": {}, "backup": {}, "swap": {"aside": "clinic_failed", "outage_ms": 12.4}}
    found = marks(journal("rollback", swapped))
    assert found["Rollback: Executed"] == "[x] changed over in 12 ms; the replaced one is kept as clinic_failed"
    assert found["Before: Backup made"] == "[x] kept as clinic_failed, by its rename"


@pytest.mark.parametrize(("ok", "mark"), [(True, "x"), (False, "!")])
def test_a_migration_that_went_back_by_itself_says_so(ok: bool, mark: str) -> None:
    automatic = {
        "ok": ok,
        "told": "rolled back by itself",
        "next": [],
        "runs": [{"reason": "it failed", "run_id": "R2"}],
    }
    found = marks(journal("migrate", {**FULL, "apply": "syntax error"}), automatic=automatic)
    assert found["Rollback: Reason"] == "[x] it failed"
    assert found["Rollback: Executed"] == f"[{mark}] rolled back by itself"
    assert found["Rollback: Verified"] == "[ ] the checklist of the rollback has it: R2"


def test_a_failure_is_told_without_the_key_of_a_row_and_contacts_without_their_numbers() -> None:
    message = "duplicate key (key ada@hospital.org)"
    contacts = {"cto": {"name": "Alan", "phone": "+1 202", "email": "alan@hospital.org"}}
    events = journal("migrate", {**FULL, "apply": message}, contacts=contacts)
    page = checklist.as_markdown(reporting.build(events), events)
    assert "[!] Migration executed: apply: duplicate key" in page
    assert "[!] result: failed, " in page
    assert "pgops_contacts names CTO" in page
    assert not [secret for secret in ("ada@", "+1 202", "alan@") if secret in page]


def test_a_line_is_one_line_whatever_a_database_is_called() -> None:
    events = journal("migrate", FULL, why="two\nlines")
    events = [{**one, "result": {"a\n- [x] b": one["result"]["clinic"]} if one.get("result") else {}} for one in events]
    page = checklist.as_markdown(reporting.build([*events, *journal("migrate", FULL)[1:]]), events)
    assert len([line for line in page.splitlines() if line.startswith("- [")]) == 1 + sum(
        len(lines) for _, lines in checklist.PARTS
    )


def test_it_lies_beside_the_report_private_and_the_result_names_it(tmp_path: Path) -> None:
    own = Journal(tmp_path, "local", RUN)
    for event in journal("migrate", {name: FULL[name] for name in ("plan", "backup", "prove", "apply")}):
        own.append(event)
    report, page = reporting.finish(tmp_path, {"id": RUN, "environment": "local", "playbook": "migrate"})
    file = page.with_suffix(".checklist.md")
    assert reporting.result_document(report, str(page))["checklist"] == report["checklist"] == str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text(encoding="utf-8").startswith(f"# Checklist of run {RUN}\n")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(("playbook", "check_mode", "due"), [("migrate", False, True), ("rollback", False, True), ("migrate", True, False), ("verify", False, False)])  # fmt: skip
def test_only_a_migration_and_a_rollback_leave_one(playbook: str, check_mode: bool, due: bool) -> None:
    assert checklist.is_due({"playbook": playbook, "check_mode": check_mode}) is due


def test_the_empty_form_is_that_of_the_code() -> None:
    text = checklist_page.PAGE.read_text(encoding="utf-8")
    assert checklist_page.page(text) == text, f"docs/checklist.md is another form; type: {checklist_page.COMMAND}"
    assert [title for title, _ in checklist.PARTS] == [
        "Before", "Details", "Execution", "After", "Rollback", "Deployment to production",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="has no place for its form"):
        checklist_page.page("# Checklist\n")


def test_evidence_of_an_unknown_shape_leaves_its_line_open_and_the_others_filled_in() -> None:
    sound = marks(journal("migrate", FULL), finished=AT)
    found = marks(journal("migrate", {**FULL, "analyze": {"analyzed": 7, "seconds": 0.2}}), finished=AT)
    odd = {what for what, told in found.items() if "its evidence could not be read: TypeError" in told}
    assert odd
    assert all(found[what].startswith("[ ] ") and sound[what].startswith("[x] ") for what in odd)
    assert {what: told for what, told in found.items() if what not in odd} == {
        what: told for what, told in sound.items() if what not in odd
    }
