# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether to roll back a migration, why, how urgently, and what to type: read from what the run has recorded.

The six criteria and the severities are those of :mod:`severity`. No value of a row is told, only what was found and how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import rollback_targets
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_targets import Target, bare, without_keys
from ansible_collections.whitecross.pgops.plugins.plugin_utils.severity import CRITERIA, SEVERITIES, worst

# Above it an application's errors are beyond what is documented and mended later, though no criterion is met.
MINOR_ERRORS = 1.0
# What a look at the databases or the application's figures found, and the criterion that it is.
_OF_SIGNAL = {
    "errors": "application_errors",
    "silent": "application_errors",
    "probe": "application_errors",
    "performance": "performance",
    "changed": "verification_failed",
}
# Classes of SQLSTATE that are the data's own: broken off by them, a verification has found something.
_OF_DATA = ("22", "58", "XX")
# What a verification found: its checks that speak of data and of their protection.
_OF_CHECK = (("orphans", "data_integrity"), ("constraint", "data_integrity"), ("PHI", "hipaa"), ("check phi", "hipaa"))


@dataclass(frozen=True)
class Finding:
    """One thing that speaks for a rollback, or is to be documented.

    :ivar criterion: its name in :data:`CRITERIA`; None where none is met
    :ivar database: None where it concerns all of the host
    :ivar value: what was measured, where it is a number, and ``limit`` in the same unit
    """

    criterion: str | None
    level: str
    host: str | None
    database: str | None
    told: str
    value: float | None = None
    limit: float | None = None


def advise(
    run: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    interrupted: bool = False,
) -> dict[str, Any] | None:
    """Judge a migration that began to apply.

    :param run: the guard's record of it
    :param events: its journal, up to a rollback that it has begun by itself
    :param rows: its phases, as the report has them
    :param results: host -> database -> phase -> result
    :return: None where nothing was begun, or nothing failed and nobody watched; otherwise ``roll_back``, ``why``, ``findings``, ``severity``,
        ``targets`` (each with host, database, strategy, versions, why) and ``commands``
    """
    rows = list(rows)
    watched = [event for event in events if (event.get("hook") or {}).get("stage") == "after" and _at(event)]
    watched += [event for event in events if event.get("event") == "looked" and event.get("figures")]
    began = any(row["phase"] == "apply" for row in rows)
    if run.get("playbook") != "migrate" or run.get("check_mode") or not began:
        return None
    found = findings(rows, results, events, interrupted=interrupted)
    if not found and not watched and not interrupted:
        return None
    changed = rollback_targets.changed(events, rows, results)
    criteria = [finding for finding in found if finding.criterion]
    going = [target for target in changed if any(_concerns(finding, target) for finding in criteria)]
    severity = worst(finding.level for finding in found)
    roll_back = bool(going)
    advice: dict[str, Any] = {
        "roll_back": roll_back,
        "why": _why(criteria, going, changed, interrupted),
        "findings": [
            {**asdict(finding), "requirement": CRITERIA[finding.criterion].requirement if finding.criterion else None}
            for finding in found
        ],
        "severity": severity.as_dict() if severity else None,
        "watched_s": _watched_s(events),
        "targets": [target.as_dict() for target in going],
        "commands": rollback_targets.commands(run, going, results, reason_of(criteria, run)),
    }
    return advice


def findings(
    rows: Iterable[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
    events: Sequence[Mapping[str, Any]],
    *,
    interrupted: bool = False,
) -> list[Finding]:
    """:return: what speaks for a rollback, the worst first."""
    found: list[Finding] = []
    for row in rows:
        if row["result"] == "unfinished" and row["phase"] == "apply" and not interrupted:
            found.append(_criterion("migration_failed", row["host"], None, "the apply did not come to its end"))
        error = row["error"]
        if not error or row.get("refused"):
            continue  # it has begun nothing that could be taken back, and another run may be at work
        host, database = row["host"], error.get("database")
        if row["phase"] in ("apply", "analyze"):
            unwell = [
                (name, signal)
                for name, phases in (results.get(str(host)) or {}).items()
                for signal in ((phases.get("apply") or {}).get("health") or {}).get("signals") or []
            ]
            found += [_of_signal(host, name, signal) for name, signal in unwell]
            if not unwell and not _was_stopped(results.get(str(host)) or {}):
                found.append(_criterion("migration_failed", host, database, bare(error["message"])))
        elif row["phase"] == "verify":
            found += _of_verification(host, error, results.get(str(host)) or {})
        elif row["phase"] == "preflight_after":
            found.append(_criterion("verification_failed", host, database, bare(error["message"])))
    for event in events:
        found += _of_hook(event)
    found += _minor(events)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.level)


def reason_of(criteria: Iterable[Finding], run: Mapping[str, Any]) -> str:
    """:return: why it is rolled back, for the record: criteria and run, without any detail that may hold a value."""
    names = list(dict.fromkeys(CRITERIA[finding.criterion].name for finding in criteria if finding.criterion))
    return f"{' and '.join(names) or 'interrupted'} (run {run.get('id')})"


def _criterion(name: str, host: Any, database: Any, told: str, **numbers: float | None) -> Finding:
    return Finding(name, CRITERIA[name].level, host, database, told, **numbers)


def _was_stopped(databases: Mapping[str, Any]) -> bool:
    """Whether somebody has ended the apply: it goes on where it was, and nothing is wrong with it."""
    stopped = [one for phases in databases.values() for one in (phases.get("apply") or {}).get("stopped") or []]
    return any(str(one.get("state")).startswith("interrupted") for one in stopped)


def _of_verification(host: Any, error: Mapping[str, Any], databases: Mapping[str, Any]) -> list[Finding]:
    """One finding a criterion and database; the verification itself has said everything.

    What no version makes is not mended by taking a version back, and a verification that could not be carried out has found nothing.
    """
    found = []
    for name, phases in databases.items():
        failures = [one for one in (phases.get("verify") or {}).get("findings") or [] if one.get("level") == "fail"]
        by: dict[str | None, list[Mapping[str, Any]]] = {}
        for failure in failures:
            by.setdefault(_criterion_of(failure), []).append(failure)
        for criterion, ones in by.items():
            more = f", and {len(ones) - 1} more" if len(ones) > 1 else ""
            # What was found may name keys of rows; the object says enough here.
            told = f"{ones[0].get('check')}: {ones[0].get('object')} is not as it should be{more}"
            if criterion:
                found.append(_criterion(criterion, host, name, told))
            else:
                found.append(
                    Finding(None, "P2", host, name, f"{told}; no version makes it, so none mends it by going back")
                )
    if found:
        return found
    database, told = error.get("database"), bare(error["message"])
    if str(error.get("sqlstate") or "").startswith(_OF_DATA):
        return [_criterion("verification_failed", host, database, told)]
    return [
        Finding(None, "P2", host, database, f"the verification did not come to its end, verify.yml looks again: {told}")
    ]


def _criterion_of(failure: Mapping[str, Any]) -> str | None:
    """:return: the criterion that a failure of a verification is; None where it is about what no version makes."""
    if not failure.get("declared", True):
        return None
    check = str(failure.get("check"))
    return next((criterion for word, criterion in _OF_CHECK if check.startswith(word)), "verification_failed")


def _of_hook(event: Mapping[str, Any]) -> list[Finding]:
    hook = event.get("hook") or {}
    if event.get("event") not in ("phase_failed", "phase_finished") or hook.get("stage") != "after":
        return []
    host = event.get("host")
    signals = [_of_signal(host, signal.get("database"), signal) for signal in hook.get("signals") or []]
    if signals or hook.get("done") != "no":
        return signals
    if hook["kind"] in ("health", "smoke_test", "metrics"):
        told = f"{hook['label']} failed"
        return [_criterion("application_errors", host, None, told)]
    return []


def _of_signal(host: Any, database: Any, signal: Mapping[str, Any]) -> Finding:
    criterion = _OF_SIGNAL.get(str(signal.get("kind")))
    numbers = {"value": signal.get("value"), "limit": signal.get("limit")}
    told = without_keys(str(signal.get("told")))
    if criterion:
        return _criterion(criterion, host, database, told, **numbers)
    return Finding(None, "P2", host, database, told, **numbers)


def _minor(events: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Errors that no criterion speaks of are documented, where they are more than those of before."""
    found = {}
    for event in events:
        if event.get("event") != "looked":
            continue
        for name, figures in (event.get("figures") or {}).items():
            usual = float(((event.get("seen") or {}).get(name) or {}).get("before", {}).get("error_rate") or 0.0)
            rate = figures.get("error_rate")
            if rate is not None and MINOR_ERRORS < rate and rate > usual:
                told = f"{rate:.1f} % of its transactions rolled back"
                found[event.get("host"), name] = Finding(None, "P3", event.get("host"), name, told, rate)
    return list(found.values())


def _concerns(finding: Finding, target: Target) -> bool:
    return finding.host in (None, target.host) and finding.database in (None, target.database)


def _why(criteria: Sequence[Finding], going: Sequence[Target], changed: Sequence[Target], interrupted: bool) -> str:
    if going:
        names = list(dict.fromkeys(CRITERIA[finding.criterion].name for finding in criteria if finding.criterion))
        return "; ".join(names)
    if criteria:
        return "this run has changed nothing that could be rolled back" if not changed else "it changed other databases"
    if interrupted:
        return "the run was interrupted and nothing is known to be wrong; go on or back as you need"
    return "no criterion is met"


def _at(event: Mapping[str, Any]) -> bool:
    return event.get("event") in ("phase_finished", "phase_failed") and (event.get("hook") or {}).get("at") is not None


def _watched_s(events: Iterable[Mapping[str, Any]]) -> float | None:
    """:return: seconds from the beginning of the watch to its last look; None where nobody watched."""
    from datetime import datetime

    times: dict[str, list[datetime]] = {}
    for event in events:
        if event.get("event") in ("watch_started", "looked") or _at(event):
            started = times.setdefault(str(event.get("host")), [])
            if event.get("event") == "watch_started" or started:
                started.append(datetime.fromisoformat(str(event["time"])))
    spans = [(seen[-1] - seen[0]).total_seconds() for seen in times.values() if seen]
    return round(max(spans), 1) if spans else None


def lines(advice: Mapping[str, Any]) -> list[str]:
    """:return: the block for the screen, without the contacts."""
    severity = advice.get("severity")
    head = "ROLL BACK" if advice["roll_back"] else "do not roll back"
    found = [f"    advice: {head}: {advice['why']}"]
    if advice.get("watched_s") is not None:
        found.append(f"        watched for {advice['watched_s']:.0f} s")
    for finding in advice["findings"]:
        where = f"{finding['database']}: " if finding.get("database") else ""
        number = f" [{finding['requirement']}]" if finding.get("requirement") else ""
        found.append(f"        {finding['level']}{number} {where}{finding['told']}")
    if severity:
        within = f"within {severity['respond_min']} minutes" if severity["respond_min"] else "at once"
        told = f"{within}: {severity['action']}"
        steps = severity["steps"] if advice["roll_back"] else []
        if advice["roll_back"] and severity["level"] == "P2":
            told = f"at once: {SEVERITIES['P1'].action}, as it is seen in the run or its watch (afterwards {told})"
            steps = []
        if not advice["roll_back"] and severity["level"] in ("P0", "P1"):
            # What it asks for is to roll back, and here is nothing to roll back.
            told = f"{within}: investigate"
        found.append(f"        severity {severity['level']} {severity['name']}, {told}")
        found += [f"        {_clock(step)}: {step['action']}" for step in steps]
    for target in advice["targets"]:
        if target["why"]:
            found.append(f"        {target['database']}: {target['why']}")
    found += [f"        type: {command}" for command in advice["commands"]]
    return found


def _clock(step: Mapping[str, Any]) -> str:
    if step["from_min"] >= 60:
        return f"hours {step['from_min'] // 60} to {step['to_min'] // 60}"
    return f"minutes {step['from_min']} to {step['to_min']}"
