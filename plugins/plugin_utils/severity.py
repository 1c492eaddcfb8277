# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a migration is rolled back, how bad that is, and who has to have done what by when: the platform's rules as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Step:
    """One thing to do in an incident; minutes after its beginning."""

    from_min: int
    to_min: int
    action: str


@dataclass(frozen=True)
class Severity:
    """How bad an incident is.

    :ivar level: ``P0`` to ``P3``
    :ivar respond_min: minutes in which somebody has to act; 0 is at once
    :ivar action: what it asks for, in a sentence
    :ivar steps: what is done when, in the order of time
    :ivar post_mortem_h: hours in which the post-mortem is held; None where none is
    """

    level: str
    name: str
    respond_min: int
    action: str
    steps: tuple[Step, ...]
    post_mortem_h: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a report."""
        return {
            "level": self.level,
            "name": self.name,
            "respond_min": self.respond_min,
            "action": self.action,
            "steps": [dict(vars(step)) for step in self.steps],
            "post_mortem_h": self.post_mortem_h,
        }


SEVERITIES: Mapping[str, Severity] = {
    "P0": Severity(
        "P0",
        "critical",
        0,
        "stop, roll back, restore",
        (
            Step(0, 5, "end the migration, switch maintenance mode on, alert the team, begin the rollback"),
            Step(5, 15, "finish the rollback or the restore, verify the integrity, write the time line"),
            Step(15, 30, "bring the application back, verify that the system is well, tell the stakeholders"),
            Step(60, 24 * 60, "post-mortem, root cause, plan of prevention, procedures brought up to date"),
        ),
        24,
    ),
    "P1": Severity(
        "P1",
        "high",
        15,
        "roll back and investigate",
        (
            Step(0, 15, "roll back, verify the integrity, bring the application back"),
            Step(15, 60, "investigate, tell the stakeholders"),
            Step(60, 24 * 60, "post-mortem with the root cause"),
        ),
        24,
    ),
    "P2": Severity(
        "P2",
        "medium",
        30,
        "watch and prepare the rollback",
        (Step(0, 30, "watch, look for the slow queries, have the rollback ready"),),
    ),
    "P3": Severity(
        "P3",
        "low",
        120,
        "document it and mend it in the next release",
        (Step(0, 120, "document it; no rollback"),),
    ),
}


@dataclass(frozen=True)
class Criterion:
    """One of the six for which a migration is rolled back at once.

    :ivar requirement: its number in docs/coverage.md
    """

    requirement: str
    name: str
    level: str


CRITERIA: Mapping[str, Criterion] = {
    "migration_failed": Criterion("R9.1", "the migration failed with an error", "P1"),
    "verification_failed": Criterion("R9.2", "the verification after it failed", "P1"),
    # Between 5 and 10 % no level is given, though the criterion says to roll back: that is done as urgently as above.
    "application_errors": Criterion("R9.3", "errors of the application above their limit", "P1"),
    # P2 says to watch; while a migration runs or is watched the criterion rules and it is rolled back at once.
    "performance": Criterion("R9.4", "performance down by more than its limit", "P2"),
    "data_integrity": Criterion("R9.5", "the data are not sound", "P0"),
    "hipaa": Criterion("R9.6", "health data are not protected", "P0"),
}


def worst(levels: Iterable[str]) -> Severity | None:
    """:return: the highest severity of these levels; None of none."""
    found = sorted(levels)
    return SEVERITIES[found[0]] if found else None


def due(level: str, began: str) -> list[dict[str, Any]]:
    """:param began: when the incident began, an ISO moment.
    :return: what is due when, each with ``by`` and ``what``."""
    start, severity = datetime.fromisoformat(began), SEVERITIES[level]
    return [{"by": _iso(start + timedelta(minutes=step.to_min)), "what": step.action} for step in severity.steps]


def post_mortem_by(level: str, began: str) -> str | None:
    hours = SEVERITIES[level].post_mortem_h
    return _iso(datetime.fromisoformat(began) + timedelta(hours=hours)) if hours else None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
