# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the audit says of a run when it ends: who, what, when, where, why and with what result, and its execution log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, runs, without_secrets

COLLECTION_ROOT = Path(__file__).parents[2]
NOT_KNOWN = "not known"
_VERIFIED: Mapping[Any, str] = {True: "passed", False: "failed", None: "not run"}
# What takes a database back in time, by the phases of its run.
_BACK = ("resume", "restore", "swap", "restore_database")
_LOOKED_BACK = 20
# Of a change-over: what was compared, how long clients were kept out, where the replaced database is, and whether it was only finished.
_OVER = ("compared", "outage_ms", "aside", "settings", "left", "resumed")


@cache
def tool_version(root: Path = COLLECTION_ROOT) -> str:
    """:return: the version of this collection, of a checkout or of what Ansible has installed."""
    try:
        return str(json.loads((root / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return str(yaml.safe_load((root / "galaxy.yml").read_text(encoding="utf-8"))["version"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return NOT_KNOWN


def entry(report: Mapping[str, Any], host: str, database: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The detail of a run's last row in the audit of one database.

    :param report: as ``reporting.build`` makes it
    :param settings: ``justification``, ``ticket``, ``reviewer``, ``issues``, ``resolutions``, as far as they are given
    :return: plain data without secrets; docs/audit.md lists its fields
    """
    phases = dict((report["results"].get(host) or {}).get(database) or {})
    plan, backup, proof = (dict(phases.get(name) or {}) for name in ("plan", "backup", "prove"))
    over = _change_over(phases)
    backup = backup or dict(over.get("backup") or {})
    proof = proof or backup
    versions = _versions(phases)
    gate = _inner(phases, "gate")
    rehearsal = _inner(phases, "rehearsal", phase="rehearse")
    verified = (phases.get("verify") or {}).get("passed")
    found = {
        "timestamp": report["finished"],
        "started": report["started"],
        "executor": report["who"],
        "ops_host": report["ops_host"],
        "tool_version": tool_version(),
        "playbook": report["playbook"],
        "environment": report["environment"],
        "host": host,
        "database": database,
        "migrations": versions,
        "tables_affected": sorted(
            {*plan.get("tables", []), *((phases.get("apply") or {}).get("tables") or []), *(over.get("tables") or [])}
        ),
        "phi_impact": any(version["phi"] for version in versions),
        "risk": gate.get("risk") or plan.get("risk"),
        "justification": settings.get("justification") or report.get("why"),
        "ticket": settings.get("ticket"),
        "backup_location": backup.get("path"),
        "backup_proved_at": proof.get("proved_at"),
        "duration_seconds": report["duration_s"],
        "status": report["state"] or report["result"],
        "verification_status": _VERIFIED[verified],
        "retention": _retention(phases) if any(version["phi"] for version in versions) else None,
        "rollback_tested": rehearsal.get("down_equal"),
        "rehearsal": rehearsal.get("id"),
        "approvals": gate.get("approvals")
        or ([{"reviewed_by": plan["reviewed_by"]}] if plan.get("reviewed_by") else []),
        "break_glass": gate.get("break_glass"),
        "execution_log": _log(report, phases, versions, settings),
    }
    phi = _inner(phases, "phi_window", phase="phi_close")
    if phi:
        found["phi_window"] = phi
    if over:
        found["change_over"] = {name: over.get(name) for name in _OVER if name in over}
    return dict(without_secrets(found))


def _retention(phases: Mapping[str, Any]) -> dict[str, Any]:
    """Whether what has to be kept was kept: the rows of each table before and after, as the health report has counted them."""
    rows = (phases.get("preflight_after") or {}).get("rows")
    if not isinstance(rows, Mapping):
        return {"compared": False, "fewer": []}
    fewer = [{name: item.get(name) for name in ("table", "before", "after")} for item in rows.get("fewer") or []]
    return {"compared": True, "fewer": fewer}


def _inner(phases: Mapping[str, Any], key: str, phase: str | None = None) -> dict[str, Any]:
    found = (phases.get(phase or key) or {}).get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _change_over(phases: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the result of a blue-green change that has gone over; of its other stages nothing."""
    found = phases.get("blue_green") or {}
    return dict(found) if "applied" in found else {}


def _versions(phases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each version that was worked on, with what the plan knew of it."""
    over = _change_over(phases)
    declared = [*(over.get("planned") or []), *((phases.get("plan") or {}).get("pending") or [])]
    planned = {str(item["version"]): item for item in declared if "version" in item}
    found = []
    for phase, word in (("apply", "applied"), ("revert", "reverted"), ("blue_green", "applied")):
        result = phases.get(phase) or {}
        for item in [*(result.get(word) or []), *(result.get("stopped") or [])]:
            if isinstance(item, Mapping) and item.get("version"):
                found.append(_version(item, planned.get(str(item["version"]), {}), word))
    return found


def _version(item: Mapping[str, Any], planned: Mapping[str, Any], word: str) -> dict[str, Any]:
    steps = item.get("step_durations") or []
    counted = [step["rows"] for step in steps if isinstance(step.get("rows"), int)]
    phi = bool(planned.get("phi"))
    return {
        "version": str(item["version"]),
        "name": item.get("name"),
        "status": item.get("state") or word,
        "duration_seconds": item.get("duration_s"),
        "checksum": planned.get("checksum"),
        "rendered_checksum": planned.get("rendered_checksum"),
        "risk": planned.get("risk"),
        "phi": phi,
        # What was done to PHI, step by step; `why` says what for.
        "transformations": [{name: step.get(name) for name in ("step", "kind", "name", "rows")} for step in steps]
        if phi
        else [],
        "why": planned.get("why"),
        "records_affected": sum(counted) if counted else None,
        "indexes": {
            f"{index.get('schema')}.{index.get('name')}": index.get("state") or "built"
            for index in item.get("indexes") or []
            if isinstance(index, Mapping)
        },
        "notes": list(item.get("notes") or []),
        # Of another run, which has prepared it and wrote its rows.
        **({"run_id": item["run_id"]} if item.get("run_id") else {}),
    }


def _log(
    report: Mapping[str, Any],
    phases: Mapping[str, Any],
    versions: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The execution log of the platform's handbook, as far as the run knows; a person signs off the rest."""
    done = {hook["kind"]: hook["done"] for hook in report["hooks"]}
    backup, verified = phases.get("backup") or {}, phases.get("verify") or {}
    kept = backup.get("path") or _change_over(phases).get("aside")
    error = (report["error"] or {}).get("message")
    return {
        "before": {
            "backup_created": backup.get("path") or "no",
            "schema_verified": "yes" if "plan" in phases or "verify" in phases else "no",
            "application_stopped": done.get("stop", "not applicable"),
        },
        "versions": [
            {
                "version": item["version"],
                "result": item["status"],
                "duration_seconds": item["duration_seconds"],
                "notes": item["notes"],
            }
            for item in versions
        ],
        "after": {
            "schema_verification": _VERIFIED[verified.get("passed")],
            "application_restarted": done.get("start", "not applicable"),
            "smoke_tests": done.get("smoke_test", "not applicable"),
            "performance_tests": done.get("metrics", "not applicable"),
            "rollback_plan_prepared": "yes" if kept else "no",
        },
        "issues": [*([error] if error else []), *_texts(settings.get("issues"))],
        "resolutions": _texts(settings.get("resolutions")),
        "final_status": report["state"] or report["result"],
        "sign_off": {
            "executor": {"name": report["who"], "at": report["finished"]},
            "reviewer": {"name": settings["reviewer"], "at": report["finished"]} if settings.get("reviewer") else None,
        },
    }


def _texts(value: Any) -> list[str]:
    if value in (None, "", []):
        return []
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def explained(state: str, environment: str, host: str, database: str, since: str | None) -> tuple[str, str] | None:
    """Whether a run of this tool took a database back in time since its last anchor.

    :param since: the run of that anchor
    :return: what it did and its id, or None; the run in hand is among them
    """
    for run_id in reversed(runs(state, environment)[-_LOOKED_BACK:]):
        if since and run_id < since:
            break
        events = Journal(state, environment, run_id).events()
        phase = _went_back(events, host, database)
        if phase:
            playbook = next(
                (event.get("playbook") for event in events if event.get("event") == "run_started"), "rollback"
            )
            return f"{playbook}.yml ({phase})", run_id
    return None


def _went_back(events: Iterable[Mapping[str, Any]], host: str, database: str) -> str | None:
    """Begun is enough: a run that was killed behind the change of the clusters leaves no end. What was refused was never begun."""
    begun: str | None = None
    for event in events:
        phase = event.get("phase")
        if phase not in _BACK or event.get("host") != host:
            continue
        if event.get("event") == "phase_failed" and (event.get("error") or {}).get("refused"):
            begun = None if begun == phase else begun
        if event.get("event") == "phase_started" and (not event.get("databases") or database in event["databases"]):
            begun = begun or str(phase)
    return begun
