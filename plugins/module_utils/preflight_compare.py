# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is done with a health report: stops that somebody waives, and what is worse or better than in an earlier one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.preflight_checks import OK, STOP, WARN

# ANALYZE reads a sample, so two estimates of the same rows differ by some percent.
ESTIMATE_TOLERANCE = 0.1
_ORDER = {OK: 0, WARN: 1, STOP: 2}


@dataclass(frozen=True)
class Waiver:
    """:ivar until: the last day on which it is in force; None for no end. :ivar by: who answers for it, where that is said."""

    reason: str
    until: date | None = None
    by: str | None = None

    def told(self) -> str:
        """:return: the reason, and who answers for it until which day, where that is said."""
        said = [f"{word} {value}" for word, value in (("by", self.by), ("until", self.until)) if value]
        return self.reason + (f" ({', '.join(said)})" if said else "")


def check_waivers(waivers: Sequence[Mapping[str, Any]], names: Collection[str]) -> dict[str, Waiver]:
    """:param names: those of the checks. :return: check name -> waiver.

    :raises PgopsError: a check that does not exist, no reason, or an end that is no day
    """
    accepted: dict[str, Waiver] = {}
    for waiver in waivers:
        name = str(waiver.get("check") or "")
        reason = str(waiver.get("reason") or "").strip()
        if name not in names:
            raise PgopsError(
                f"preflight_waive names {name or 'no check'!r}, which is no check; choose from {', '.join(names)}."
            )
        if not reason:
            raise PgopsError(
                f"preflight_waive gives no reason for {name}; write {{check: {name}, reason: why it may be passed}}."
            )
        until = str(waiver.get("until") or "").strip()
        try:
            by = str(waiver.get("by") or "").strip() or None
            accepted[name] = Waiver(reason, date.fromisoformat(until) if until else None, by)
        except ValueError:
            raise PgopsError(
                f"preflight_waive ends {name} on {until!r}, which is no day; write until: '2027-01-31'."
            ) from None
    return accepted


def waive(checks: Sequence[dict[str, Any]], waivers: Mapping[str, Waiver], today: date) -> list[dict[str, Any]]:
    """:return: the checks; one that is not ok and waived has ``waived``, the reason, or ``waiver_expired`` where its day has passed."""
    told = []
    for check in checks:
        waiver = waivers.get(check["check"])
        if waiver is not None and check["level"] != OK:
            in_force = waiver.until is None or today <= waiver.until
            check = {**check, "waived" if in_force else "waiver_expired": waiver.told()}
        told.append(check)
    return told


def worst(checks: Sequence[Mapping[str, Any]]) -> str:
    """:return: the gravest level among ``checks``; what is waived counts one level less."""
    weights = [_ORDER[check["level"]] - (1 if check.get("waived") else 0) for check in checks]
    return {weight: level for level, weight in _ORDER.items()}[max(weights, default=0)]


def compare(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What changed between two looks with the same list.

    :return: ``{"worse": [...], "better": [...]}``, each ``{"check", "before", "after", "evidence"}``; a check with more
        objects than before is worse at the same level
    """
    earlier = {check["check"]: check for check in before}
    found: dict[str, list[dict[str, Any]]] = {"worse": [], "better": []}
    for check in after:
        old = earlier.get(check["check"])
        if old is None:
            continue
        then, now = (_ORDER[old["level"]], old["objects"]), (_ORDER[check["level"]], check["objects"])
        if then != now:
            found["worse" if now > then else "better"].append(
                {
                    "check": check["check"],
                    "before": old["level"],
                    "after": check["level"],
                    "evidence": check["evidence"],
                }
            )
    return found


def compare_rows(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """Which tables have more or fewer rows than before.

    Two counts are compared as they are, two estimates beyond :data:`ESTIMATE_TOLERANCE`; a count says nothing about an
    estimate. Other clients write meanwhile, so a difference is told and is no fault by itself.

    :param before: a list of tables with ``name``, ``rows`` (None: not known), ``estimate``
    :return: ``fewer`` and ``more``, each ``{"table", "before", "after", "estimate"}`` with None for a table that is not there and
        those that lost or won most first; ``same``: how many tables have as many as before; ``not_compared``: their names
    """
    found: dict[str, Any] = {"fewer": [], "more": [], "same": 0, "not_compared": []}
    nothing = {"rows": 0, "estimate": False}
    earlier, later = ({table["name"]: table for table in tables} for tables in (before, after))
    for name in sorted(earlier.keys() | later.keys()):
        old, new = earlier.get(name, nothing), later.get(name, nothing)
        estimate = bool(old["estimate"] or new["estimate"])
        both_there = name in earlier and name in later
        if None in (old["rows"], new["rows"]) or (both_there and old["estimate"] != new["estimate"]):
            found["not_compared"].append(name)
            continue
        difference = int(new["rows"]) - int(old["rows"])
        if abs(difference) <= (ESTIMATE_TOLERANCE * int(old["rows"]) if estimate and both_there else 0):
            found["same"] += 1
            continue
        then, now = (side[name]["rows"] if name in side else None for side in (earlier, later))
        found["fewer" if difference < 0 else "more"].append(
            {"table": name, "before": then, "after": now, "estimate": estimate}
        )
    for changed in (found["fewer"], found["more"]):
        changed.sort(key=lambda row: -abs((row["after"] or 0) - (row["before"] or 0)))
    return found
