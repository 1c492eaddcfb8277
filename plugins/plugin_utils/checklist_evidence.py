# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run has measured in a database for a line of its checklist: done, failed, or None.

Names, counts, seconds and files are told; no value of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.checklist_run import (
    DONE,
    FAILED,
    OPEN,
    Phases,
    Told,
    one_line,
    some,
)


def backup(phases: Phases) -> Told | None:
    """The copy of before; of a swap the database that it has put aside."""
    made = phases.get("backup") or {}
    if made.get("missed"):
        return Told(FAILED, one_line(made["missed"]), "backup")
    if made.get("path"):
        size = f"{made['bytes']:,} bytes in " if isinstance(made.get("bytes"), int) else ""
        return Told(DONE, f"{size}`{made['path']}`", "backup")
    aside = next((found["aside"] for found in phases.values() if found.get("aside")), None)
    return Told(DONE, f"kept as {aside}, by its rename", "swap") if aside else None


def proof(phases: Phases) -> Told | None:
    """How far the backup was proved."""
    found = phases.get("prove") or {}
    if found.get("missed"):
        return Told(FAILED, one_line(found["missed"]), "prove")
    if found.get("level") is None or not found.get("proved_at"):
        return None
    ready = found.get("ready_seconds")
    took = f", restored and compared in {float(ready):.2f} s" if ready is not None else ""
    return Told(DONE, f"proved at level {found['level']} of 6 at {found['proved_at']}{took}", "prove")


def staging(phases: Phases) -> Told | None:
    """The evidence of the environment before, as the gate has found it."""
    found = (_gate(phases).get("promotion")) or {}
    if not found.get("from"):
        return None
    if found.get("lacking"):
        return Told(FAILED, some((one_line(one["why"]) for one in found["lacking"]), 1), "gate")
    signed = f", signed by {found['signed_by']}" if found.get("signed_by") else ""
    return Told(DONE, f"evidence of {found['from']}{signed}: `{found.get('file')}`", "gate")


def performance(phases: Phases) -> Told | None:
    """What a rehearsal has foretold."""
    own = (phases.get("rehearse") or {}).get("rehearsal")
    known = own or _gate(phases).get("rehearsal")
    if not known:
        return None
    if not known.get("ok") or known.get("over_budget"):
        why = known.get("why") or some(known.get("over_budget") or ["it failed"], 1)
        return Told(FAILED, f"rehearsal {known.get('id')}: {one_line(why)}", "rehearse")
    forecast = known.get("forecast") or {}
    told = [
        f"{words} {float(forecast[name]):.1f} s"
        for name, words in (
            ("seconds", "it takes"),
            ("blocks_reads", "readers wait"),
            ("blocks_writes", "writers wait"),
        )
        if forecast.get(name) is not None
    ]
    return Told(DONE, f"rehearsal {known.get('id')}: {', '.join(told)}", "rehearse" if own else "gate")


def way_back(phases: Phases) -> Told | None:
    """Each pending version says what its way down leaves; a rollback has chosen one."""
    chosen = (phases.get("strategies") or {}).get("chosen")
    if chosen:
        return Told(DONE, f"{chosen}: {one_line(phases['strategies'].get('why') or '')}", "strategies")
    pending = (phases.get("plan") or {}).get("pending") or []
    safety = [str((item.get("rollback") or {}).get("safety") or "") for item in pending]
    if not safety:
        return None
    if not all(safety):
        return Told(FAILED, f"{safety.count('')} of {len(safety)} versions do not say how they go back", "plan")
    counts = ", ".join(f"{safety.count(word)} {word}" for word in dict.fromkeys(safety))
    return Told(DONE, f"each pending version declares its way back: {counts}", "plan")


def approval(phases: Phases) -> Told | None:
    """Who has approved at the gate, or reviewed."""
    gate = _gate(phases)
    if gate.get("break_glass"):
        return Told(FAILED, one_line(gate["break_glass"].get("told")), "gate")
    lacking = [one_line(one["what"]) for one in gate.get("missing") or [] if one.get("kind") in ("approval", "signers")]
    if lacking:
        return Told(FAILED, f"missing: {some(lacking)}", "gate")
    given = [f"{one.get('by')} as {one.get('role')} at {one.get('made')}" for one in gate.get("approvals") or []]
    if given:
        return Told(DONE, f"approved by {some(given)}", "gate")
    reviewer = (phases.get("plan") or {}).get("reviewed_by")
    return Told(DONE, f"reviewed by {one_line(reviewer)}, as who typed the command says", "plan") if reviewer else None


def window(phases: Phases) -> Told | None:
    """Whether the gate has found the window open."""
    found = _gate(phases).get("window") or {}
    if "open" not in found:
        return None
    if not found["open"]:
        return Told(FAILED, some((one_line(one.get("why")) for one in found.get("shut") or []), 1), "gate")
    return Told(DONE, f"open at {found.get('at')}", "gate")


def order(phases: Phases) -> Told | None:
    """A plan refuses a gap and a version before one that is applied."""
    plan = phases.get("plan")
    if not plan or "pending" not in plan:
        return None
    pending = [str(item.get("version")) for item in plan["pending"]]
    told = f"{len(plan.get('applied') or [])} applied, then {some(pending) or 'none'}"
    return Told(DONE, told, "plan")


def applied(phases: Phases) -> Told | None:
    """The versions that were applied."""
    found = phases.get("apply") or {}
    if found.get("stopped"):
        return Told(FAILED, f"stopped in {some(item.get('version') for item in found['stopped'])}", "apply")
    done = found.get("applied") or []
    if not done:
        return None
    return Told(DONE, _timed(done), "apply")


def verified(phases: Phases) -> Told | None:
    """The end of the verification, with how much it has looked at."""
    found = phases.get("verify") or {}
    if not isinstance(found.get("passed"), bool):
        return None
    if not found["passed"]:
        wrong = [f"{one['check']} {one['object']}" for one in found.get("findings") or [] if one["level"] == "fail"]
        return Told(FAILED, f"{len(wrong)} differences: {one_line(some(wrong))}", "verify")
    objects, read = len(found.get("lines") or []), len(found.get("foreign_keys") or [])
    checks = sum(one.get("state") == "passed" for one in found.get("checks") or [])
    if not (objects or read or checks):
        return Told(OPEN, "the verification found nothing to look at")
    return Told(DONE, f"passed: {objects} objects as declared, {read} foreign keys, {checks} named checks", "verify")


def integrity(phases: Phases) -> Told | None:
    """The named checks of the tree."""
    checks = (phases.get("verify") or {}).get("checks") or []
    failed = [one["name"] for one in checks if one.get("state") == "failed"]
    passed = sum(one.get("state") == "passed" for one in checks)
    if failed:
        return Told(FAILED, f"checks that failed: {some(failed)}", "verify")
    left = f", {len(checks) - passed} left out" if len(checks) > passed else ""
    return Told(DONE, f"{passed} named checks passed{left}", "verify") if passed else None


def keys(phases: Phases) -> Told | None:
    """The foreign keys: no row without a parent, and which are not validated yet."""
    found = (phases.get("verify") or {}).get("foreign_keys") or []
    wrong = [one["name"] for one in found if one.get("orphans") != 0]
    if wrong:
        return Told(FAILED, f"rows without a parent, or not read: {some(wrong)}", "verify")
    later = sum(not one.get("validated") for one in found)
    more = f", {later} not validated yet" if later else ""
    return Told(DONE, f"{len(found)} foreign keys, no row without a parent{more}", "verify") if found else None


def indexes(phases: Phases) -> Told | None:
    """The indexes as the versions declare them, and foreign keys without one."""
    found = [one for one in (phases.get("verify") or {}).get("lines") or [] if one.get("kind") == "index"]
    wrong = [one["object"] for one in found if not one.get("passed")]
    keys_of = (phases.get("verify") or {}).get("foreign_keys") or []
    wrong += [f"none for {one['name']}" for one in keys_of if not one.get("indexed")]
    if wrong:
        return Told(FAILED, f"not as declared: {some(wrong)}", "verify")
    return Told(DONE, f"{len(found)} indexes are as declared", "verify") if found else None


def rows(phases: Phases) -> Told | None:
    """The rows of each table before and after."""
    found = (phases.get("preflight_after") or {}).get("rows")
    if not isinstance(found, Mapping):
        return None
    fewer = [f"{one['table']} {one['before']} to {one['after']}" for one in found.get("fewer") or []]
    if fewer:
        return Told(FAILED, f"fewer than before: {some(fewer)}", "preflight_after")
    more = len(found.get("more") or [])
    told = f"the same in {found.get('same', 0)} tables, more in {more}, fewer in none"
    return Told(DONE, told, "preflight_after") if more or found.get("same") else None


def audit(phases: Phases) -> Told | None:
    """The row that the run has left in the audit."""
    for phase in ("audit", "apply", "revert"):
        found = phases.get(phase) or {}
        row = found.get("seq") if phase == "audit" else (found.get("audit") or {}).get("seq")
        if row:
            return Told(DONE, f"row {row} of pgops.audit", phase)
    return None


def server_log(phases: Phases) -> Told | None:
    """What the server has logged of the run."""
    found = (phases.get("verify") or {}).get("server_log") or {}
    if not found:
        return None
    if not found.get("looked"):
        return Told(OPEN, f"the server's log was not read: {one_line(found.get('why'))}")
    errors = [
        f"{one.get('severity') or 'ERROR'} {one.get('sqlstate') or ''}".strip() for one in found.get("errors") or []
    ]
    if errors:
        return Told(FAILED, f"errors of the run: {some(errors)}", "verify")
    gaps = "".join(f"; but {one_line(gap)}" for gap in found.get("gaps") or [])
    return Told(DONE, f"no error of the run{gaps}", "verify")


def analyzed(phases: Phases) -> Told | None:
    """The tables that were analyzed after the change."""
    found = phases.get("analyze") or {}
    tables = found.get("analyzed") or []
    told = f"{len(tables)} tables in {float(found.get('seconds') or 0):.2f} s"
    return Told(DONE, told, "analyze") if tables else None


def health(phases: Phases) -> Told | None:
    """The server's checks after the change, against those before."""
    found = phases.get("preflight_after") or {}
    checks = found.get("checks") or []
    if not checks:
        return None
    stop = [one["check"] for one in checks if one.get("level") == "stop"]
    if stop:
        return Told(FAILED, f"stop: {some(stop)}", "preflight_after")
    worse = [f"{one['check']} {one['before']} to {one['after']}" for one in found.get("worse") or []]
    told = f"{len(checks)} checks of the server, none stops"
    return Told(DONE, f"{told}; {f'worse: {some(worse)}' if worse else 'none is worse'}", "preflight_after")


def application(phases: Phases) -> Told | None:
    """What the application has answered to the check of that name."""
    for phase in ("preflight_after", "preflight_again", "preflight"):
        for one in (phases.get(phase) or {}).get("checks") or []:
            if one.get("check") == "application" and not str(one.get("evidence")).startswith("not asked"):
                # Before the change it tells nothing of how the application is after it.
                mark = DONE if one.get("level") == "ok" and phase == "preflight_after" else FAILED
                if mark == DONE or one.get("level") != "ok":
                    return Told(mark, one_line(one.get("evidence")), phase)
    return None


def reverted(phases: Phases) -> Told | None:
    """What was taken back, by which way."""
    found = phases.get("revert") or {}
    if found.get("stopped"):
        return Told(FAILED, f"stopped in {some(item.get('version') for item in found['stopped'])}", "revert")
    done = found.get("reverted") or []
    if done:
        return Told(DONE, _timed(done), "revert")
    for phase in ("resume", "swap", "restore"):
        found = phases.get(phase) or {}
        kept = found.get("aside") or (found.get("kept") if found.get("outage_ms") is not None else None)
        if kept:
            away = f" in {float(found['outage_ms']):.0f} ms" if found.get("outage_ms") is not None else ""
            return Told(DONE, f"changed over{away}; the replaced one is kept as {kept}", phase)
    return None


def _timed(done: Iterable[Mapping[str, Any]]) -> str:
    versions = {str(item.get("version")): float(item.get("duration_s") or 0) for item in done}
    plural = "s" if len(versions) > 1 else ""
    return f"{len(versions)} version{plural} in {sum(versions.values()):.2f} s: {some(versions)}"


def _gate(phases: Phases) -> Mapping[str, Any]:
    for phase in ("gate", "gate_early"):
        found = (phases.get(phase) or {}).get("gate")
        if isinstance(found, Mapping):
            return found
    return {}
