# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a migration is rolled back, how urgently and how: decided on what a run has recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    application_hooks,
    application_metrics,
    contacts,
    incident,
    notification,
    reporting,
    rollback_advice,
    rollback_targets,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.severity import CRITERIA, SEVERITIES
from support.site import CONTACTS

V1, V2 = "20260101000000", "20260101000001"
RUN = {
    "id": "20260101T120000Z-0a1b2c",
    "environment": "staging",
    "playbook": "migrate",
    "command": "ansible-playbook migrate.yml",
    "limit": "staging",
    "who": "ada",
    "ops_host": "ops1",
    "hosts": ["db1"],
    "phases": ["plan", "backup", "prove", "apply", "verify", "report"],
    "tags": ["all"],
}
PUPIL = "4711"


def journal(*more: dict[str, Any], safety: str = "complete", run: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """A run that has applied one version to one database, and what comes then."""
    pending = [{"version": V1, "rollback": {"safety": safety}}]
    found: list[dict[str, Any]] = [{"event": "run_started", "time": "2026-01-01T12:00:00.000Z", **(run or RUN)}]
    done = {
        "plan": {"pending": pending},
        "backup": {"path": "/var/backups/school/1"},
        "prove": {"proved_at": "2026-01-01T12:00:02Z"},
        "apply": {"applied": [{"version": V1, "name": "rooms", "duration_s": 1.5}]},
    }
    for number, (phase, result) in enumerate(done.items()):
        found += phase_of(phase, {"school": result}, number + 1)
    return [*found, *more]


def phase_of(
    phase: str, result: dict[str, Any], second: int = 10, error: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    shared = {"time": f"2026-01-01T12:00:{second:02}.000Z", "phase": phase, "host": "db1"}
    ended = {"event": "phase_failed", "error": error} if error else {"event": "phase_finished", "changed": True}
    return [{"event": "phase_started", **shared}, {**shared, **ended, "duration_s": 0.5, "result": result}]


def look(second: int, *signals: dict[str, Any], kind: str = "health", done: str = "no") -> list[dict[str, Any]]:
    hook = {"stage": "after", "kind": kind, "label": kind, "number": 0, "on": "x", "at": 15.0, "signals": list(signals)}
    shared = {"time": f"2026-01-01T12:00:{second:02}.000Z", "phase": "hooks", "host": "db1"}
    failed = {"error": {"message": "The hook failed"}} if done == "no" else {}
    kind_of_event = "phase_failed" if done == "no" else "phase_finished"
    return [
        {"event": "watch_started", "host": "db1", "time": "2026-01-01T12:00:20.000Z"},
        {"event": "phase_started", **shared, "hook": hook},
        {"event": kind_of_event, **shared, "duration_s": 0.1, "hook": {**hook, "done": done}, **failed},
    ]


def advice_of(events: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    found = reporting.build(events, **options)["advice"]
    assert found is not None
    return found


def errors(percent: float) -> dict[str, Any]:
    return {"kind": "errors", "told": f"{percent} % rolled back", "value": percent, "limit": 5.0, "database": "school"}


# -- the six criteria -------------------------------------------------------------------------------------------------


def verified(*checks: str) -> list[dict[str, Any]]:
    shared = {"level": "fail", "object": "constraint x", "attribute": "", "expected": "0", "found": f"1 (key {PUPIL})"}
    findings = [{"check": check, **shared} for check in checks]
    return phase_of("verify", {"school": {"findings": findings}}, error={"message": f"found 1 (key {PUPIL})"})


@pytest.mark.parametrize(
    ("more", "requirement", "level"),
    [
        (
            phase_of(
                "apply", {"school": {"stopped": [{"version": V1}]}}, error={"message": "Step 2", "database": "school"}
            ),
            "R9.1",
            "P1",
        ),
        (verified("schema"), "R9.2", "P1"),
        (phase_of("preflight_after", {}, error={"message": "worse"}), "R9.2", "P1"),
        (look(30, errors(12.0)), "R9.3", "P1"),
        (look(30, kind="health"), "R9.3", "P1"),
        (look(30, {"kind": "performance", "told": "slow", "value": 60, "limit": 50}), "R9.4", "P2"),
        (verified("orphans"), "R9.5", "P0"),
        (verified("check phi_marks"), "R9.6", "P0"),
        (verified("PHI"), "R9.6", "P0"),
    ],
)
def test_each_criterion_says_to_roll_back(more: list[dict[str, Any]], requirement: str, level: str) -> None:
    advice = advice_of(journal(*more))
    assert advice["roll_back"] is True
    assert [finding["requirement"] for finding in advice["findings"]] == [requirement]
    assert advice["severity"]["level"] == level
    assert advice["commands"] == [f"ansible-playbook rollback.yml -l staging -e rollback_through={V1}"]
    assert PUPIL not in json.dumps(advice), "the key of a row may be a pupil's"


def test_what_no_version_makes_is_told_and_nothing_goes_back_for_it() -> None:
    found = verified("foreign key index")
    found[-1]["result"]["school"]["findings"][0]["declared"] = False
    advice = advice_of(journal(*found))
    assert (advice["roll_back"], advice["commands"]) == (False, [])
    (finding,) = advice["findings"]
    assert (finding["criterion"], finding["level"]) == (None, "P2")
    assert "no version makes it" in finding["told"]
    both = verified("foreign key index", "schema")
    both[-1]["result"]["school"]["findings"][0]["declared"] = False
    assert advice_of(journal(*both))["roll_back"] is True


@pytest.mark.parametrize(
    ("sqlstate", "roll_back"), [(None, False), ("08006", False), ("42P01", False), ("XX001", True), ("22021", True)]
)
def test_a_verification_that_breaks_off_has_found_nothing_unless_the_data_broke_it_off(
    sqlstate: str | None, roll_back: bool
) -> None:
    error = {"message": "it broke off", "database": "school", **({"sqlstate": sqlstate} if sqlstate else {})}
    advice = advice_of(journal(*phase_of("verify", {}, error=error)))
    assert advice["roll_back"] is roll_back
    assert ("verify.yml looks again" in advice["findings"][0]["told"]) is not roll_back


def test_of_several_findings_the_worst_says_how_urgent_it_is() -> None:
    advice = advice_of(journal(*verified("schema", "orphans"), *look(30, errors(7.0))))
    assert advice["severity"]["level"] == "P0"
    assert advice["severity"]["respond_min"] == 0
    assert [finding["level"] for finding in advice["findings"]] == ["P0", "P1", "P1"]


def test_errors_between_five_and_ten_percent_are_as_urgent_as_those_above() -> None:
    assert advice_of(journal(*look(30, errors(7.0))))["severity"]["level"] == "P1"
    assert advice_of(journal(*look(30, errors(30.0))))["severity"]["level"] == "P1"


def test_a_loss_of_performance_is_rolled_back_while_it_is_watched_and_watched_afterwards() -> None:
    slow = {"kind": "performance", "told": "slow", "value": 60, "limit": 50}
    advice = advice_of(journal(*look(30, slow)))
    assert advice["roll_back"] is True
    said = "\n".join(rollback_advice.lines(advice))
    assert "severity P2 medium, at once: roll back and investigate" in said
    assert "(afterwards within 30 minutes: watch and prepare the rollback)" in said


def test_few_errors_are_documented_and_nothing_goes_back() -> None:
    figures = {"school": {"error_rate": 3.0, "transactions": 100}}
    looked = {
        "event": "looked", "host": "db1", "time": "2026-01-01T12:00:30.000Z", "figures": figures,
        "seen": {"school": {"before": {"error_rate": 0.5}}},
    }  # fmt: skip
    advice = advice_of(journal(looked))
    assert (advice["roll_back"], advice["severity"]["level"], advice["commands"]) == (False, "P3", [])
    looked["seen"] = {"school": {"before": {"error_rate": 4.0}}}
    assert advice_of(journal(looked))["severity"] is None, "it has always been so"


def test_a_standby_that_falls_behind_is_no_criterion() -> None:
    advice = advice_of(journal(*look(30, {"kind": "standby", "told": "a standby is 60 s behind"})))
    assert (advice["roll_back"], advice["severity"]["level"]) == (False, "P2")


def test_nothing_is_advised_where_nothing_was_begun_or_nobody_watched() -> None:
    assert reporting.build(journal()[:3], error={"msg": "no"})["advice"] is None
    assert reporting.build(journal())["advice"] is None
    assert reporting.build(journal(run={**RUN, "check_mode": True}), error={"msg": "no"})["advice"] is None
    assert reporting.build(journal(run={**RUN, "playbook": "rollback"}), error={"msg": "no"})["advice"] is None


def test_an_apply_that_was_refused_speaks_for_no_rollback() -> None:
    begun = journal()
    cut = next(number for number, event in enumerate(begun) if event.get("phase") == "apply")
    report = reporting.build(
        [*begun[:cut], *phase_of("apply", {}, error={"message": "No proof.", "refused": True, "database": "school"})]
    )
    assert (report["advice"] or {}).get("findings") in (None, [])
    assert not any("rollback.yml" in command for command in report["next"])
    said = "\n".join(reporting.screen(report, None))
    assert "severity P1" not in said and "roll back and investigate" not in said


def test_who_interrupts_a_migration_decides() -> None:
    stopped = {"applied": [], "stopped": [{"version": V1, "state": "interrupted at step 1 of 2"}]}
    events = [*journal()[:7], *phase_of("apply", {"school": stopped}, error={"message": "was interrupted"})]
    advice = reporting.build(events)["advice"]
    assert advice is None or not advice["roll_back"]
    cut = [
        *journal()[:7],
        {"event": "phase_started", "phase": "apply", "host": "db1", "time": "2026-01-01T12:00:09.000Z"},
    ]
    assert advice_of(cut, interrupted=True)["roll_back"] is False


# -- the way ----------------------------------------------------------------------------------------------------------


def failed(safety: str = "complete", **run: Any) -> list[dict[str, Any]]:
    return journal(*verified("schema"), safety=safety, run={**RUN, **run})


def test_a_version_without_a_way_down_goes_back_to_the_proved_backup_of_this_run() -> None:
    (target,) = advice_of(failed("none"))["targets"]
    assert (target["strategy"], target["backup"]) == ("restore", "/var/backups/school/1")
    (command,) = advice_of(failed("none"))["commands"]
    assert "-e rollback_strategy=restore -e rollback_backup=/var/backups/school/1" in command


def test_without_a_proved_backup_there_is_no_command() -> None:
    events = [event for event in failed("none") if event.get("phase") != "prove"]
    advice = advice_of(events)
    assert advice["commands"] == []
    assert "this run has no proved backup" in advice["targets"][0]["why"]


POINT = "pgops_20260101T120000Z-0a1b2c"


def physical(
    safety: str = "none", path: str | None = "pgbackrest:main/20260101-120001F", **run: Any
) -> list[dict[str, Any]]:
    """A run that has backed its cluster up by pgBackRest, proved that, and made a restore point; then the verification failed."""
    events = failed(safety, **run)
    for event in events:
        if event.get("phase") == "backup" and event.get("result"):
            event["result"] = {"school": {"path": path} if path else {}}
        if event.get("phase") == "prove" and event.get("result"):
            label = {} if path and path.startswith("/") else {"label": "20260101-120001F"}
            event["result"] = {"school": {"proved_at": "2026-01-01T12:00:02Z", **label}}
    point = phase_of("restore_point", {"school": {"name": POINT, "lsn": "0/3000060", "archived_s": 0.4}}, 3)
    return [*events[:7], *point, *events[7:]]


@pytest.mark.parametrize("path", ["pgbackrest:main/20260101-120001F", None])
def test_with_a_physical_backup_the_way_is_the_restore_point_of_this_run(path: str | None) -> None:
    advice = advice_of(physical(path=path))
    (target,) = advice["targets"]
    assert (target["strategy"], target["backup"], target["restore_point"]) == ("pitr", None, POINT)
    assert "the whole cluster" in target["why"]
    assert advice["commands"] == [
        f"ansible-playbook rollback.yml -l staging -e rollback_strategy=pitr -e rollback_restore_point={POINT}"
    ]
    said = "\n".join(rollback_advice.lines(advice))
    assert "no proved backup" not in said
    assert f"back to restore point {POINT} of this run, by its proved backup" in said


def test_the_whole_cluster_never_goes_back_by_itself() -> None:
    (target,) = advice_of(physical())["targets"]
    known = rollback_targets.Target(**{**target, "versions": tuple(target["versions"])})
    assert rollback_targets.rollbacks([known]) == []
    assert not rollback_targets.goes_by_itself(known)


def test_the_databases_of_a_cluster_have_one_command_that_leaves_none_of_them_out() -> None:
    events = physical(production=True)
    for event in events:
        if event.get("result"):
            event["result"] = {name: event["result"]["school"] for name in ("school", "clinic")}
            if event["phase"] == "verify":
                del event["result"]["clinic"]
    (command,) = advice_of(events)["commands"]
    assert "pgops_databases" not in command
    assert "rollback_reason" in command


def test_a_physical_backup_without_a_proof_or_a_restore_point_is_no_way_back() -> None:
    for gone in ("prove", "restore_point"):
        advice = advice_of([event for event in physical() if event.get("phase") != gone])
        assert advice["commands"] == []
        assert [target["strategy"] for target in advice["targets"]] == [None]
        assert gone.replace("prove", "proved backup").replace("_", " ") in advice["targets"][0]["why"]


def test_a_restore_point_changes_nothing_where_there_is_another_way() -> None:
    assert f"rollback_through={V1}" in advice_of(physical("complete"))["commands"][0]
    dump = advice_of(physical(path="/var/backups/school/1"))
    assert "-e rollback_strategy=restore -e rollback_backup=/var/backups/school/1" in dump["commands"][0]


def test_in_production_the_command_has_the_reason() -> None:
    (command,) = advice_of(failed(environment="production", limit="production", production=True))["commands"]
    assert f"the verification after it failed (run {RUN['id']})" in command


def test_of_two_databases_the_one_that_is_not_well_goes_back() -> None:
    events = failed()
    for event in events:
        if event.get("result") and event["phase"] != "verify":
            event["result"] = {name: event["result"]["school"] for name in ("school", "other")}
    advice = advice_of(events)
    assert [target["database"] for target in advice["targets"]] == ["school"]
    assert '"pgops_databases": ["school"]' in advice["commands"][0]


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "at", "kinds"),
    [
        ({"error_rate": 0.0}, {"error_rate": 0.051}, 15, ["errors"]),
        ({"error_rate": 0.0}, {"error_rate": 0.049}, 15, []),
        ({"error_rate": 0.04}, {"error_rate": 0.07}, 15, []),
        ({}, {"error_rate": 0.2}, 0, ["errors"]),
        ({"p95_ms": 100}, {"p95_ms": 151}, 15, ["performance"]),
        ({"p95_ms": 100}, {"p95_ms": 150}, 15, []),
        ({"p95_ms": 2}, {"p95_ms": 9}, 15, []),
        ({"throughput": 100}, {"throughput": 49}, 60, ["performance"]),
        ({"throughput": 100}, {"throughput": 49}, 15, []),
        ({"p95_ms": 0, "throughput": 0}, {"p95_ms": 50, "throughput": 0}, 60, []),
    ],
)
def test_the_application_is_compared_with_itself_before(
    before: dict[str, float], now: dict[str, float], at: float, kinds: list[str]
) -> None:
    assert [signal["kind"] for signal in application_metrics.worse(before, now, {}, at=at)] == kinds


def test_its_limits_are_variables() -> None:
    found = application_metrics.worse({"p95_ms": 100}, {"p95_ms": 400}, {"performance": 500}, at=60)
    assert found == []
    (signal,) = application_metrics.worse({}, {"error_rate": 0.02}, {"error_rate": 1}, at=60)
    assert (signal["value"], signal["limit"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("given", "probes", "automatic", "minutes"),
    [
        (None, False, False, 0), (None, True, False, 5), (None, False, True, 5), (0, True, False, 0), (2, True, False, 2),
        (2, False, True, 5), (0, False, True, 5), (9, False, True, 9), ("", True, False, 5),
    ],
)  # fmt: skip
def test_a_watch_lasts_five_minutes_unless_somebody_says_otherwise(
    given: Any, probes: bool, automatic: bool, minutes: float
) -> None:
    assert application_hooks.watch_minutes(given, probes=probes, automatic=automatic) == minutes


# -- the tables of the platform ---------------------------------------------------------------------------------------


def test_severities_and_criteria_are_those_of_the_platform() -> None:
    assert {level: one.respond_min for level, one in SEVERITIES.items()} == {"P0": 0, "P1": 15, "P2": 30, "P3": 120}
    assert [one.requirement for one in CRITERIA.values()] == [f"R9.{number}" for number in range(1, 7)]
    p0 = [(step.from_min, step.to_min) for step in SEVERITIES["P0"].steps]
    assert p0 == [(0, 5), (5, 15), (15, 30), (60, 1440)]


# -- whom to call -----------------------------------------------------------------------------------------------------


def test_contacts_are_four_people_who_can_be_called() -> None:
    assert contacts.missing(CONTACTS) == []
    assert len(contacts.missing(None)) == 12
    assert contacts.missing({**CONTACTS, "cto": {"name": "Alan Turing", "phone": "12", "email": "alan"}}) == [
        "cto.phone", "cto.email",
    ]  # fmt: skip
    for example in ("FILL IN", "<name>", "NAME", "TODO", "tbd"):
        assert contacts.missing({**CONTACTS, "cto": {**CONTACTS["cto"], "name": example}}) == ["cto.name"]
    for example in ("cto@example.org", "x@whitecross.example"):
        assert contacts.missing({**CONTACTS, "cto": {**CONTACTS["cto"], "email": example}}) == ["cto.email"]


def test_a_failed_run_of_production_says_whom_to_call() -> None:
    known = contacts.known({**CONTACTS, "intern": {"name": "x"}})
    assert "intern" not in known
    report = reporting.build(failed(production=True, contacts=known))
    said = "\n".join(reporting.screen(report, None))
    for person in CONTACTS.values():
        assert f"{person['name']}, {person['phone']}, {person['email']}" in said
        assert person["phone"] in reporting.as_log(report)
        assert person["phone"] in reporting.as_page(report)
    assert reporting.result_document(report)["contacts"] == known


# -- the record -------------------------------------------------------------------------------------------------------


def recorded(tmp_path: Path, events: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    run = events[0]
    own = Journal(tmp_path, run["environment"], run["id"])
    for event in events:
        own.append(event)
    report, page = reporting.finish(tmp_path, run)
    file = Path(report["incident"])
    assert file.parent == page.parent
    return json.loads(file.with_suffix(".json").read_text()), file.read_text()


def test_the_record_of_a_rollback_holds_all_that_its_migration_did(tmp_path: Path) -> None:
    Journal(tmp_path, "staging", RUN["id"])
    for event in failed():
        Journal(tmp_path, "staging", str(RUN["id"])).append(event)
    reporting.finish(tmp_path, RUN)
    lost = {"tables": [{"table": "public.rooms", "change": "rows", "rows_now": 3, "rows_written": 2, "example": PUPIL}]}
    run = {**RUN, "id": "20260101T130000Z-0a1b2c", "playbook": "rollback", "why": "wrong", "who": "grace"}
    events = [
        {"event": "run_started", "time": "2026-01-01T13:00:00.000Z", **run},
        *phase_of("disclose", {"school": {"backup": "/var/backups/school/1", "lost": lost}}, 1),
        *phase_of("swap", {"school": {"aside": "school_failed", "way_back": "ansible-playbook rollback.yml"}}, 2),
    ]
    data, page = recorded(tmp_path, events)
    assert data["severity"]["level"] == "P1"
    assert data["reason"] == "wrong"
    assert data["who"] == ["ada on ops1", "grace on ops1"]
    assert data["lost"] == [
        {
            "host": "db1",
            "database": "school",
            "table": "public.rooms",
            "change": "rows",
            "rows_now": 3,
            "rows_written": 2,
        }
    ]
    assert data["kept"][0]["kept_as"] == "school_failed"
    assert {one["what"] for one in data["backups"]} == {"before the migration", "went back to"}
    assert data["due"][-1]["by"] == data["post_mortem_by"] == "2026-01-02T12:00:00Z"
    assert PUPIL not in page + json.dumps(data)
    for told in (
        "| 2026-01-01T12:00:04.000Z | migrate | db1 | apply | 0.5 | done |",
        "school is kept as school_failed",
    ):
        assert told in page


def test_a_rollback_that_fails_is_the_worst_there_is(tmp_path: Path) -> None:
    run = {**RUN, "id": "20260101T130000Z-0a1b2c", "playbook": "rollback"}
    events = [
        {"event": "run_started", "time": "2026-01-01T13:00:00.000Z", **run},
        *phase_of(
            "revert",
            {},
            error={
                "message": "it failed | badly. To go on: ansible-playbook x.yml; to go back: ansible-playbook y.yml"
            },
        ),
    ]
    data, page = recorded(tmp_path, events)
    assert data["severity"]["level"] == "P0"
    assert "FAILED: it failed \\| badly. |" in page


def test_a_run_that_only_looked_is_no_incident() -> None:
    run = {**RUN, "playbook": "rollback"}
    events = [
        {"event": "run_started", "time": "2026-01-01T13:00:00.000Z", **run},
        *phase_of("disclose", {"school": {}}),
    ]
    assert not incident.is_due(reporting.build(events))
    assert not incident.is_due(reporting.build(failed()))
    assert incident.is_due(reporting.build(failed(production=True)))


ROLLBACK = {**RUN, "id": "20260101T130000Z-0a1b2c", "playbook": "rollback"}


def rollback(*more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"event": "run_started", "time": "2026-01-01T13:00:00.000Z", **ROLLBACK}, *more]


def resumed(state: str, **found: Any) -> list[dict[str, Any]]:
    events = phase_of("resume", {"school": {"state": state, **found}})
    return [{**event, "changed": state != "nothing"} if "changed" in event else event for event in events]


def test_a_rollback_that_was_not_confirmed_is_no_incident(tmp_path: Path) -> None:
    events = rollback(
        *resumed("nothing"), *phase_of("strategies", {"school": {}}), *phase_of("disclose", {"school": {}})
    )
    own = Journal(tmp_path, ROLLBACK["environment"], ROLLBACK["id"])
    for event in events:
        own.append(event)
    report, _page = reporting.finish(tmp_path, ROLLBACK, error={"msg": "The rollback of school was not confirmed"})
    assert (report["result"], report["state"], report.get("incident")) == ("failed", "failed", None)
    assert not list(tmp_path.rglob("*.incident.*"))


@pytest.mark.parametrize("phase", ["strategies", "backup_copy", "resume"])
def test_a_rollback_that_was_refused_before_it_touched_anything_is_no_incident(phase: str) -> None:
    events = rollback(*phase_of(phase, {"school": {}}, error={"message": "refused"}))
    assert not incident.is_due(reporting.build(events))


@pytest.mark.parametrize("phase", ["revert", "restore", "swap"])
def test_a_rollback_whose_change_was_refused_before_it_began_is_no_incident(phase: str) -> None:
    events = rollback(*phase_of(phase, {"school": {}}, error={"message": "refused", "refused": True}))
    assert not incident.is_due(reporting.build(events))
    begun = (
        phase_of("restore", {"school": {}}),
        phase_of(phase, {"school": {}}, error={"message": "no", "refused": True}),
    )
    assert incident.is_due(reporting.build(rollback(*begun[0], *begun[1])))


@pytest.mark.parametrize("phase", ["revert", "restore", "swap", "lost_writes"])
def test_a_rollback_that_came_to_what_changes_is_an_incident(phase: str) -> None:
    assert incident.is_due(reporting.build(rollback(*phase_of(phase, {"school": {}}, error={"message": "it failed"}))))


def test_a_swap_that_was_completed_is_an_incident_and_one_that_was_undone_says_so(tmp_path: Path) -> None:
    swapped = reporting.build(rollback(*resumed("completed", aside="school_failed")))
    assert incident.is_due(swapped)
    data, _page = recorded(tmp_path, rollback(*resumed("lifted", why="as was asked for")))
    assert data["what"] == "school on db1: a change that was cut off was undone"


def test_who_is_notified_reads_how_bad_it_is() -> None:
    told = notification.message(reporting.build(failed()))
    assert "severity: P1 high, roll back: the verification after it failed" in told
    assert PUPIL not in told


@pytest.mark.parametrize("level", ["P0", "P1"])
def test_advice_not_to_roll_back_asks_for_no_rollback(level: str) -> None:
    advice = {
        "roll_back": False,
        "why": "nothing to go back to",
        "findings": [],
        "severity": SEVERITIES[level].as_dict(),
    }
    (head, severity) = rollback_advice.lines({**advice, "targets": [], "commands": []})
    assert "do not roll back" in head
    assert "roll back" not in severity and severity.endswith(": investigate")
