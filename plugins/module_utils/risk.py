# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How risky a version is: the highest of what its author declares, what its statements are, and what its rehearsal has shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LEVELS = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
LOW, MEDIUM, HIGH, CRITICAL = LEVELS

# What a statement is, by requirements R11.1 to R11.4, and how it is told of an object.
OF_CHANGE = {
    "new object": (LOW, "makes {0}"),
    "nullable column": (LOW, "adds the column {0}, which may be empty"),
    "concurrent index": (LOW, "builds the index {0} concurrently"),
    "statistics": (LOW, "gathers statistics"),
    "validation": (LOW, "validates {0} while clients read and write"),
    "other": (LOW, "{0}"),
    "seed": (LOW, "writes rows into {0}, which it makes itself"),
    "not null": (MEDIUM, "makes {0} refuse what is empty"),
    "enum": (MEDIUM, "changes the enum {0}"),
    # R11.6: what is built at once keeps writers out, so it is none for business hours.
    "blocking index": (MEDIUM, "builds or drops the index {0} while writers wait"),
    "constraint": (MEDIUM, "changes the constraint {0}"),
    "access": (MEDIUM, "changes who may see or change {0}"),
    "trigger": (MEDIUM, "changes what writing to {0} does"),
    "unread": (MEDIUM, "runs code of which reading tells nothing: {0}"),
    "data": (HIGH, "changes rows of {0}"),
    "column removal": (HIGH, "removes the column {0}"),
    "removal": (HIGH, "removes {0}"),
    "foreign key": (CRITICAL, "changes the foreign key {0}"),
    "restructuring": (CRITICAL, "restructures {0}"),
}
# What leaves the rows, the columns and the rights of the tables that are there as they are.
_LEAVES_ALL = frozenset({"new object", "seed", "concurrent index", "statistics", "validation", "other"})
_BY_SAFETY = {
    "partial": (MEDIUM, "its way back does not bring back everything"),
    "none": (HIGH, "it has no way back but a backup"),
}
# For how many seconds clients are kept out (R11.8: the target is less than 30), from the longest.
_BLOCKED = ((30.0, CRITICAL), (5.0, HIGH), (1.0, MEDIUM))
# What does not fit into half an hour, the longest window that the platform plans with (R6.4), and R5.17.
_TAKES = ((1800.0, HIGH), (900.0, MEDIUM))
_KEEPS_READERS_OUT = frozenset({"AccessExclusiveLock"})
_KEEPS_WRITERS_OUT = frozenset({"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock"})


@dataclass(frozen=True)
class Reason:
    """Why a version has at least a level. :ivar source: ``declared``, ``statement``, ``phi``, ``way back``, ``expected`` or ``rehearsal``."""

    level: str
    source: str
    why: str


@dataclass(frozen=True)
class Risk:
    """:ivar level: the highest of the reasons'. :ivar reasons: the highest first."""

    level: str
    reasons: list[Reason] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data."""
        return {"level": self.level, "reasons": [asdict(reason) for reason in self.reasons]}


def rank(level: str) -> int:
    """:return: the place of a level, 0 for LOW. :raises ValueError: it is none."""
    return LEVELS.index(level.upper())


def highest(levels: Iterable[str]) -> str:
    """:return: the highest of some levels; LOW where there is none."""
    return max((level.upper() for level in levels), key=rank, default=LOW)


def assess(
    version: Mapping[str, Any],
    changes: Sequence[Mapping[str, Any]],
    steps: Sequence[Mapping[str, Any]] | None = None,
    forecast: Sequence[Mapping[str, Any]] | None = None,
    *,
    down_equal: bool | None = None,
) -> Risk:
    """:param version: as a plan tells it: ``risk``, ``phi``, ``rollback``, ``expected_seconds``, ``to_be_split``.
    :param changes: what its statements are: ``change``, a key of :data:`OF_CHANGE`, and ``object``.
    :param steps: what the rehearsal traced of it; None where there was none.
    :param forecast: of the same steps, seconds on this server; None where there was no rehearsal.
    :param down_equal: whether the way down of the rehearsal has left what was there before; None where it was not gone.
    """
    reasons = [Reason(str(version.get("risk") or LOW).upper(), "declared", "its author declares it")]
    reasons += _of_changes(changes)
    touches = any(change["change"] not in _LEAVES_ALL for change in changes)
    if version.get("phi") and touches:
        reasons.append(Reason(MEDIUM, "phi", "it changes health data that is there, or who may see it"))
    safety = str((version.get("rollback") or {}).get("safety") or "complete")
    if safety in _BY_SAFETY and touches:
        reasons.append(Reason(_BY_SAFETY[safety][0], "way back", _BY_SAFETY[safety][1]))
    if down_equal is False:
        reasons.append(Reason(HIGH, "rehearsal", "its way down has left a difference"))
    if version.get("to_be_split"):
        why = f"clients are expected to wait for {version.get('expected_seconds')} s in one piece"
        reasons.append(Reason(HIGH, "expected", why))
    if steps is not None:
        reasons += _of_trace(steps, changes)
        reasons += _of_forecast(forecast or [])
    reasons = list(dict.fromkeys(sorted(reasons, key=lambda reason: -rank(reason.level))))
    return Risk(highest(reason.level for reason in reasons), reasons)


def _of_changes(changes: Sequence[Mapping[str, Any]]) -> list[Reason]:
    """Changes of one kind are one reason, with the objects that there is room for."""
    objects: dict[str, list[str]] = {}
    for change in changes:
        named = objects.setdefault(str(change["change"]), [])
        if str(change.get("object") or "") not in named:
            named.append(str(change.get("object") or ""))
    found = []
    for kind, names in objects.items():
        level, words = OF_CHANGE[kind]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(Reason(level, "statement", words.format(", ".join(names[:3]) + more)))
    return found


def _of_trace(steps: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[Reason]:
    """What was seen and cannot be read off the statements: a function or a trigger has its own."""
    found = []
    for step in steps:
        rewritten = [str(table) for table in step.get("rewrites") or []]
        if rewritten:
            why = f"rewrites {', '.join(rewritten[:3])} in the step {step.get('step')}"
            found.append(Reason(MEDIUM, "rehearsal", why))
    kinds = {str(change["change"]) for change in changes}
    # What a query calls writes beside whatever else the version writes into tables of its own.
    counted = [step for step in steps if "seed" not in kinds or str(step.get("statement")).upper().startswith("SELECT")]
    written = sum(int(step.get("rows") or 0) for step in counted)
    if written and "unread" in kinds and "data" not in kinds:
        found.append(Reason(HIGH, "rehearsal", f"writes {written:,} rows that no statement tells of"))
    return found


def _of_forecast(forecast: Sequence[Mapping[str, Any]]) -> list[Reason]:
    found = []
    for item in forecast:
        for name, whom in (("blocks_reads", "readers"), ("blocks_writes", "writers")):
            seconds = float(item.get(name) or 0)
            level = next((level for least, level in _BLOCKED if seconds >= least), None)
            if level:
                why = f"keeps {whom} out for {seconds:.1f} s in the step {item.get('step')}"
                found.append(Reason(level, "rehearsal", why))
    taken = sum(float(item.get("high") or item.get("seconds") or 0) for item in forecast)
    level = next((level for least, level in _TAKES if taken >= least), None)
    if level:
        found.append(Reason(level, "rehearsal", f"may take {taken:.0f} s"))
    return found


def blocked(steps: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """:return: the seconds for which traced steps have kept readers and writers out of a table, the longest lock of each step counted."""
    reads = writes = 0.0
    for step in steps:
        locks = step.get("locks") or []
        all_out = [float(lock["seconds"]) for lock in locks if lock["mode"] in _KEEPS_READERS_OUT]
        out = [float(lock["seconds"]) for lock in locks if lock["mode"] in _KEEPS_READERS_OUT | _KEEPS_WRITERS_OUT]
        reads += max(all_out, default=0.0)
        writes += max(out, default=0.0)
    return {"blocks_reads": round(reads, 3), "blocks_writes": round(writes, 3)}


def of_database(
    pending: Sequence[Mapping[str, Any]], rehearsal: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Rate what a database has pending.

    :param pending: its versions as a plan tells them, with their ``changes``.
    :param rehearsal: of the same checksums; None where there is none.
    :return: version -> ``level``, ``reasons``.
    """
    rated = {}
    for item in pending:
        version = str(item["version"])
        steps = forecast = None
        if rehearsal is not None:
            steps = [
                step for step in rehearsal.get("steps") or []
                if str(step.get("version")) == version and step.get("direction", "up") == "up"
            ]  # fmt: skip
            forecast = [
                step for step in (rehearsal.get("forecast") or {}).get("steps") or [] if str(step["version"]) == version
            ]
            if not forecast:
                # Nothing was forecast: the seconds of the rehearsal itself stand for it.
                forecast = [
                    {"step": step.get("step"), "seconds": step.get("seconds"), **blocked([step])} for step in steps
                ]
        down = rehearsal.get("down_equal") if rehearsal is not None and _went_down(rehearsal) else None
        rated[version] = assess(item, item.get("changes") or [], steps, forecast, down_equal=down).as_dict()
    return rated


def _went_down(rehearsal: Mapping[str, Any]) -> bool:
    """:return: whether the way down was gone; one that is declared not to be there, or not come to, has left nothing."""
    taken = rehearsal.get("seconds")
    return not isinstance(taken, Mapping) or "down" in taken
