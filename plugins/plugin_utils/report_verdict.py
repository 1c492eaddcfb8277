# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a reader wants to know first of a run: a sentence, and a line each for what was done, held, lost and how to go back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

OK, WARN, STOP, NEUTRAL = "ok", "warn", "stop", ""
_WORSE = (NEUTRAL, OK, WARN, STOP)
Result = Mapping[str, Any]


def sentence(report: Mapping[str, Any], seconds: Callable[[Any], str]) -> str:
    """:param seconds: a duration as a person reads it. :return: how the run ended, with what it changed."""
    number = {phase: sum(1 for version in report.get("versions") or [] if version.get("phase") == phase) for phase in ("apply", "revert")}  # fmt: skip
    databases = [(host, name) for host, found in (report.get("results") or {}).items() for name in found]
    word = {"succeeded": "It succeeded", "failed": "It failed", "interrupted": "It was interrupted"}
    told = word.get(str(report.get("result")), str(report.get("result")))
    if report.get("state"):
        told += f", and its state is {report['state']}"
    done = [
        f"{count} version{'s' if count > 1 else ''} {verb}"
        for count, verb in ((number["apply"], "applied"), (number["revert"], "reverted"))
        if count
    ]
    if report.get("check_mode"):
        done = ["a check that wrote nothing"]
    if not done and report.get("playbook") == "migrate":
        done = ["no version was applied"]
    done.append(f"{len(databases)} database{'s' if len(databases) != 1 else ''}")
    took = f", in {seconds(report['duration_s'])}" if report.get("duration_s") is not None else ""
    return f"{told}: {', '.join(done)}{took}."


def points(
    report: Mapping[str, Any], seconds: Callable[[Any], str], size: Callable[[Any], str]
) -> list[dict[str, str]]:
    """:return: ``what``, ``told`` and ``level`` (ok, warn, stop, or empty for what only informs), in the order of the run; of several
    databases the worst stands for all."""
    made = [
        _point("backup", _each(report, lambda result: _backup(result, seconds, size))),
        _point("verification", _each(report, _verification)),
        _point("health", _each(report, _health)),
        *_aims(report),
        _point("clients wait", _each(report, lambda result: _outage(result, seconds))),
        _point("PHI", _each(report, _phi)),
        _point("forecast", _each(report, lambda result: _forecast(result, seconds))),
    ]
    back = back_commands(report)
    if back:
        made.append({"what": "rollback", "told": f"{len(back)} command{'s' if len(back) > 1 else ''} below, ready to copy", "level": NEUTRAL})  # fmt: skip
    return [point for point in made if point]


def back_commands(report: Mapping[str, Any]) -> list[str]:
    """:return: the commands of a report that go back, for a block of their own."""
    return [str(command) for command in report.get("next") or [] if _goes_back(str(command))]


def onward_commands(report: Mapping[str, Any]) -> list[str]:
    """:return: the others."""
    return [str(command) for command in report.get("next") or [] if not _goes_back(str(command))]


def _goes_back(command: str) -> bool:
    return "rollback" in command.partition(" -")[0]


def _each(
    report: Mapping[str, Any], look: Callable[[Result], tuple[str, str] | None]
) -> Iterator[tuple[str, str, str]]:
    for host, databases in (report.get("results") or {}).items():
        for database, result in databases.items():
            found = look({phase: part for phase, part in result.items() if isinstance(part, Mapping)})
            if found:
                yield f"{database} on {host}", *found


def _point(what: str, found: Iterator[tuple[str, str, str]]) -> dict[str, str]:
    told: Sequence[tuple[str, str, str]] = list(found)
    if not told:
        return {}
    _, text, level = max(told, key=lambda one: _WORSE.index(one[2]))
    same = sum(1 for one in told if (one[1], one[2]) == (text, level))
    if len(told) > 1:
        worst = next(one[0] for one in told if one[1] == text)
        text = f"{text} (of all {len(told)})" if same == len(told) else f"{text} ({worst}, the worst of {len(told)})"
    return {"what": what, "told": text, "level": level}


def _backup(result: Result, seconds: Callable[[Any], str], size: Callable[[Any], str]) -> tuple[str, str] | None:
    made, proof = result.get("backup") or {}, result.get("prove") or {}
    if not made.get("path"):
        return None
    told = f"{size(made['bytes'])}" if made.get("bytes") is not None else "made"
    if not proof:
        return f"{told}, not proved by this run", WARN
    level = f" to level {proof['level']}" if proof.get("level") is not None else ""
    ready = f", restored and compared in {seconds(proof['ready_seconds'])}" if proof.get("ready_seconds") else ""
    return f"{told}, proved{level}{ready}", OK


def _verification(result: Result) -> tuple[str, str] | None:
    found = result.get("verify") or {}
    if not isinstance(found.get("passed"), bool):
        return None
    findings = [one for one in found.get("findings") or [] if isinstance(one, Mapping)]
    failed = sum(1 for one in findings if one.get("level") == "fail")
    if not found["passed"]:
        return f"failed, {failed} difference{'s' if failed != 1 else ''}", STOP
    return "passed", OK


def _health(result: Result) -> tuple[str, str] | None:
    found = result.get("preflight_after") or result.get("preflight") or {}
    checks = [check for check in found.get("checks") or [] if isinstance(check, Mapping)]
    if not checks and "worse" not in found:
        return None
    level = str(found.get("level") or OK)
    count = {word: sum(1 for check in checks if check.get("level") == word) for word in (STOP, WARN)}
    told = ", ".join(f"{number} {word}" for word, number in count.items() if number) or f"{len(checks)} checks ok"
    if "worse" in found:
        worse = ", ".join(str(change.get("check")) for change in found["worse"] or [] if isinstance(change, Mapping))
        told += f"; worse than before: {worse}" if worse else "; nothing is worse than before"
    return told, level if level in _WORSE else WARN


def _aims(report: Mapping[str, Any]) -> list[dict[str, str]]:
    level = {True: OK, False: WARN, None: NEUTRAL}
    return [
        {"what": str(aim["aim"]), "told": str(aim["figure"]), "level": level[aim["met"]]}
        for aim in report.get("aims") or []
    ]


def _outage(result: Result, seconds: Callable[[Any], str]) -> tuple[str, str] | None:
    forecast = ((result.get("rehearse") or {}).get("rehearsal") or {}).get("forecast") or {}
    if forecast.get("blocks_writes") is None:
        return None
    reads, writes = forecast.get("blocks_reads") or 0.0, forecast["blocks_writes"]
    return f"readers up to {seconds(reads)}, writers up to {seconds(writes)}, by the rehearsal", NEUTRAL


def _phi(result: Result) -> tuple[str, str] | None:
    pending = [item for item in (result.get("plan") or {}).get("pending") or [] if isinstance(item, Mapping)]
    touching = [str(item.get("version")) for item in pending if item.get("phi")]
    if not pending:
        return None
    return (f"touched by {len(touching)} of {len(pending)} versions" if touching else "touched by no version"), NEUTRAL


def _forecast(result: Result, seconds: Callable[[Any], str]) -> tuple[str, str] | None:
    found = result.get("rehearsal_actual") or {}
    if found.get("actual_s") is None or not found.get("steps"):
        return None
    outside = sum(1 for step in found["steps"] if isinstance(step, Mapping) and not step.get("within", True))
    told = f"steps took {seconds(found['actual_s'])}, foretold {seconds(found.get('forecast_s'))}"
    return (f"{told}; {outside} outside of their band", WARN) if outside else (told, OK)
