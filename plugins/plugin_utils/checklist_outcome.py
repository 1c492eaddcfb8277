# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run as a whole tells for a line of its checklist, and whether it went back.

Each takes the run and who else fills the line in, and says what stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.whitecross.pgops.plugins.plugin_utils import checklist_evidence as evidence
from ansible_collections.whitecross.pgops.plugins.plugin_utils.application_hooks import KINDS
from ansible_collections.whitecross.pgops.plugins.plugin_utils.checklist_run import (
    DONE,
    FAILED,
    OPEN,
    Run,
    Told,
    one_line,
    some,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.contacts import ROLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rollback_targets import bare

TABLES_SHOWN = 8


def contacts(run: Run, by: str) -> Told:
    named = [ROLES[role] for role in run.report.get("contacts") or {} if role in ROLES]
    return Told(OPEN, f"{by}; pgops_contacts names {', '.join(named) or 'nobody'}")


def tables(run: Run, by: str) -> Told:
    found = {
        str(table)
        for place in run.places
        for phase in ("plan", "apply", "revert")
        for table in place.phases.get(phase, {}).get("tables") or []
    }
    found |= {
        str(one.get("table"))
        for place in run.places
        for one in (place.phases.get("disclose", {}).get("lost") or {}).get("tables") or []
    }
    if not found:
        return Told(OPEN, by)
    return Told(DONE, f"{len(found)}: {some(sorted(found), TABLES_SHOWN)}", "plan, apply, revert")


def minutes(run: Run, by: str) -> Told:
    """The longest of the ways to know it: a rehearsal, a measured restore, the word of the versions' authors."""
    seconds: list[tuple[float, str]] = []
    for place in run.pending():
        strategies = place.phases.get("strategies") or {}
        way = (strategies.get("ways") or {}).get(strategies.get("chosen")) or {}
        forecast = ((place.phases.get("rehearse") or {}).get("rehearsal") or {}).get("forecast") or {}
        said = [item.get("expected_seconds") for item in (place.phases.get("plan") or {}).get("pending") or []]
        if way.get("seconds") is not None:
            seconds.append((float(way["seconds"]), "strategies"))
        elif forecast.get("seconds") is not None:
            seconds.append((float(forecast["seconds"]), "rehearse"))
        elif said and all(one is not None for one in said):
            seconds.append((float(sum(said)), "plan"))
        else:
            return Told(OPEN, by)
    if not seconds:
        return Told(OPEN, by)
    return Told(DONE, f"{sum(one for one, _ in seconds) / 60:.1f}", seconds[0][1])


def downtime(run: Run, by: str) -> Told:
    for aim in run.report.get("aims") or []:
        if aim["aim"] == "outage" and aim["met"] is not None:
            return Told(DONE if aim["met"] else FAILED, str(aim["figure"]), "aims")
    waits = []
    for place in run.pending():
        strategies = place.phases.get("strategies") or {}
        way = (strategies.get("ways") or {}).get(strategies.get("chosen")) or {}
        forecast = ((place.phases.get("rehearse") or {}).get("rehearsal") or {}).get("forecast") or {}
        if way.get("outage"):
            waits.append((f"{one_line(way['outage'])}, foretold", "strategies"))
        elif forecast.get("blocks_writes") is not None:
            waits.append((f"writers wait {float(forecast['blocks_writes']):.1f} s, foretold", "rehearse"))
    return Told(DONE, some(dict.fromkeys(text for text, _ in waits)), waits[0][1]) if waits else Told(OPEN, by)


def phi(run: Run, by: str) -> Told:
    pending = [item for place in run.places for item in (place.phases.get("plan") or {}).get("pending") or []]
    if not pending:
        return Told(OPEN, by)
    touching = sorted({str(item.get("version")) for item in pending if item.get("phi")})
    return Told(DONE, f"yes: {some(touching)}" if touching else "no", "plan")


def executor(run: Run, by: str) -> Told:
    who = run.report.get("who")
    return Told(DONE, f"{who} on {run.report.get('ops_host')}", "who") if who else Told(OPEN, by)


def date(run: Run, by: str) -> Told:
    began = run.report.get("started")
    return Told(DONE, f"{began} to {run.report['finished']} (UTC)", "started") if began else Told(OPEN, by)


def _of_hooks(run: Run, kinds: Sequence[str]) -> Told | None:
    """What became of the hooks of these kinds that were called after the change."""
    called = [one for one in run.report.get("hooks") or [] if one["kind"] in kinds and one.get("stage")]
    called = [one for one in called if one["stage"] != "before"]
    failed = [one for one in called if one["done"] == "no"]
    if failed:
        return Told(FAILED, f"{some(one_line(one['label']) for one in failed)}: failed, or was cut off", "hooks")
    done = [one for one in called if one["done"] == "yes"]
    if not done:
        return None
    kinds_done = dict.fromkeys(KINDS[one["kind"]] for one in done)
    return Told(DONE, f"{len(done)} hooks of {', '.join(kinds_done)} were answered as they should", "hooks")


def _worst(found: Sequence[Told | None], otherwise: Told) -> Told:
    known = [one for one in found if one is not None and one.mark != OPEN]
    for mark in (FAILED, DONE):
        of_mark = [one for one in known if one.mark == mark]
        if of_mark:
            sources = dict.fromkeys(one.source for one in of_mark)
            return Told(mark, "; ".join(one.text for one in of_mark), ", ".join(sources))
    return otherwise


def metrics(run: Run, by: str) -> Told:
    speed = next(
        (one for one in run.report.get("aims") or [] if one["aim"] == "speed" and one["met"] is not None), None
    )
    asked = Told(DONE if speed["met"] else FAILED, str(speed["figure"]), "aims") if speed else None
    server = run.of_databases(("preflight_after",), evidence.health, by)
    return _worst([asked, _of_hooks(run, ("metrics",)), server], server)


def queries(run: Run, by: str) -> Told:
    """The server's health alone says nothing of a query."""
    speed = next(
        (one for one in run.report.get("aims") or [] if one["aim"] == "speed" and one["met"] is not None), None
    )
    asked = Told(DONE if speed["met"] else FAILED, str(speed["figure"]), "aims") if speed else None
    return _worst([asked, _of_hooks(run, ("metrics",))], Told(OPEN, by))


def application(run: Run, by: str) -> Told:
    asked = run.of_databases(("preflight_after",), evidence.application, by)
    return _worst([_of_hooks(run, ("health",)), asked], asked)


def works(run: Run, by: str) -> Told:
    found = _of_hooks(run, ("health", "smoke_test"))
    return found or Told(OPEN, by)


def smoke(run: Run, by: str) -> Told:
    return _of_hooks(run, ("smoke_test",)) or Told(OPEN, by)


def watched(run: Run, by: str) -> Told:
    looks = [event for event in run.events if event.get("event") == "looked" and event.get("figures")]
    if not looks:
        return Told(OPEN, by)
    findings = (run.report.get("advice") or {}).get("findings") or []
    if findings:
        return Told(FAILED, f"{len(findings)} findings: {one_line(run.report['advice'].get('why'))}", "advice")
    return Told(
        DONE, f"{len(looks)} looks from {looks[0].get('time')} to {looks[-1].get('time')}, no finding", "journal"
    )


def window(run: Run, by: str) -> Told:
    if run.report.get("window"):
        return Told(DONE, one_line(run.report["window"]), "window")
    return run.of_databases(("gate_early", "gate"), evidence.window, by)


def staging(run: Run, by: str) -> Told:
    return run.of_databases(("gate_early", "gate"), evidence.staging, by)


def _not_gone_back(run: Run) -> Told | None:
    if run.is_rollback or run.report.get("automatic"):
        return None
    advice = run.report.get("advice") or {}
    told = f"; the advice is to roll back: {one_line(advice.get('why'))}" if advice.get("roll_back") else ""
    return Told(OPEN, f"nothing was rolled back{told}")


def reason(run: Run, by: str) -> Told:
    automatic = run.report.get("automatic") or {}
    why = (
        run.report.get("why") if run.is_rollback else next((one["reason"] for one in automatic.get("runs") or []), None)
    )
    return _not_gone_back(run) or (Told(DONE, one_line(why), "why") if why else Told(OPEN, by))


def reverted(run: Run, by: str) -> Told:
    automatic = run.report.get("automatic")
    if automatic:
        return Told(DONE if automatic["ok"] else FAILED, one_line(bare(automatic["told"])), "automatic")
    phases = ("revert", "resume", "restore", "swap")
    return _not_gone_back(run) or run.of_databases(phases, evidence.reverted, by)


def verified_back(run: Run, by: str) -> Told:
    if run.report.get("automatic"):
        return Told(OPEN, f"the checklist of the rollback has it: {some(_runs(run))}")
    return _not_gone_back(run) or run.of_databases(("verify",), evidence.verified, by)


def _runs(run: Run) -> list[str]:
    return [str(one.get("run_id")) for one in run.report["automatic"]["runs"]]


def incident(run: Run, by: str) -> Told:
    path = run.report.get("incident")
    if path:
        return Told(DONE, f"`{path}`", "incident")
    return _not_gone_back(run) or Told(OPEN, by)


def post_mortem(run: Run, by: str) -> Told:
    return _not_gone_back(run) or Told(OPEN, by)
