# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backups the policy keeps: grandfather, father, son by count, and by age what a schema change may need again.

Pure: moments are passed in, and all calendars are UTC. A period is a day, an ISO week, a month or a year that has a backup:
days without one take no place, so a pause in the backups never empties the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Below these, production is refused: so long the platform's policy keeps what a migration may need again.
LEAST_CHANGE_DAYS = 90
LEAST_PHI_YEARS = 7
# Beyond these a calendar ends.
MOST_DAYS = 36_500
MOST_YEARS = 100

NEWEST_PROVED = "newest proved"


@dataclass(frozen=True)
class Policy:
    """How many periods of each kind keep a backup, and how old one must be that was taken before a schema change.

    :ivar last: so many of the newest, whatever their day.
    :ivar daily: so many of the newest days with a backup keep one; likewise the others.
    :ivar change_days: days that a backup from before a schema change stays at least.
    :ivar phi_years: years that it stays where the change touches protected health information, or where that is not known.
    """

    last: int = 7
    daily: int = 14
    weekly: int = 8
    monthly: int = 12
    yearly: int = 7
    change_days: int = LEAST_CHANGE_DAYS
    phi_years: int = LEAST_PHI_YEARS


@dataclass(frozen=True)
class Candidate:
    """What the policy looks at of one backup.

    :ivar moment: when its snapshot was taken, UTC.
    :ivar change: it was taken before a schema change or a rollback.
    :ivar phi: whether that change touches protected health information; None where nobody has said.
    """

    id: str
    moment: datetime
    proved: bool
    change: bool = False
    phi: bool | None = None


def refuse_unfit(policy: Policy, *, production: bool) -> None:
    """Refuse a policy that keeps nothing, or in production less than the platform's.

    :raises PgopsError: naming the variable.
    """
    for name, most in (("last", MOST_DAYS), ("daily", MOST_DAYS), ("weekly", MOST_DAYS), ("monthly", MOST_DAYS),
                       ("yearly", MOST_YEARS), ("change_days", MOST_DAYS), ("phi_years", MOST_YEARS)):  # fmt: skip
        value = getattr(policy, name)
        if not 0 <= value <= most:
            raise PgopsError(f"backup_keep_{name} is {value}, and it takes 0 to {most}; nothing was deleted.")
    if not any((policy.last, policy.daily, policy.weekly, policy.monthly, policy.yearly)):
        raise PgopsError(
            "backup_keep_last, _daily, _weekly, _monthly and _yearly are all 0, which would keep no backup; nothing was deleted.",
            hint="Give one of them 1 or more.",
        )
    for name, least, unit in (("change_days", LEAST_CHANGE_DAYS, "days"), ("phi_years", LEAST_PHI_YEARS, "years")):
        if production and getattr(policy, name) < least:
            raise PgopsError(
                f"backup_keep_{name} is {getattr(policy, name)}, and production keeps backups from before a schema change for "
                f"{least} {unit} at least; nothing was deleted.",
                hint=f"Give {least} or more.",
            )


def kept_until(candidate: Candidate, policy: Policy) -> datetime | None:
    """:return: the moment until which its age alone keeps a backup from before a schema change; None for another one."""
    if not candidate.change:
        return None
    until = candidate.moment + timedelta(days=policy.change_days)
    # Where nobody has said that no health data is touched, it may be.
    return max(until, _years_later(candidate.moment, policy.phi_years)) if candidate.phi is not False else until


def _years_later(moment: datetime, years: int) -> datetime:
    try:
        return moment.replace(year=moment.year + years)
    except ValueError:  # 29 February
        return moment.replace(year=moment.year + years, month=3, day=1)


def kept(candidates: Iterable[Candidate], policy: Policy, now: datetime) -> dict[str, list[str]]:
    """Apply the policy to the backups of one database.

    Of a period the newest proved backup stays, where none is proved the newest. One that a clock has put into the future
    stays as well, and takes nobody's place.

    :param now: UTC.
    :return: for each id the rules that keep it, the longest first; none where the policy lets it go.
    """
    found = list(candidates)
    rules: dict[str, list[str]] = {candidate.id: [] for candidate in found}
    present = sorted((one for one in found if one.moment <= now), key=lambda one: (one.moment, one.id), reverse=True)
    for candidate in found:
        if candidate.moment > now:
            rules[candidate.id].append("of the future")
        until = kept_until(candidate, policy)
        if until is not None and until > now:
            touched = "" if candidate.phi is False else ", PHI" if candidate.phi else ", PHI not ruled out"
            rules[candidate.id].append(f"before a change{touched}, until {until:%Y-%m-%d}")
    for name, count, period in _PERIODS:
        for when, candidate in _of_periods(present, getattr(policy, count), period):
            rules[candidate.id].append(f"{name} {when}")
    for place, candidate in enumerate(present[: policy.last], 1):
        rules[candidate.id].append(f"last {place}")
    newest = next((candidate for candidate in present if candidate.proved), None)
    if newest is not None:
        rules[newest.id].append(NEWEST_PROVED)
    return rules


def _week(moment: datetime) -> str:
    year, week, _day = moment.isocalendar()
    return f"{year}-W{week:02d}"


# The name of the rule, the policy's count, and the period that a moment is in; names sort by time.
_PERIODS: Sequence[tuple[str, str, Callable[[datetime], str]]] = (
    ("year", "yearly", lambda moment: moment.isoformat()[:4]),
    ("month", "monthly", lambda moment: moment.isoformat()[:7]),
    ("week", "weekly", _week),
    ("day", "daily", lambda moment: moment.isoformat()[:10]),
)


def _of_periods(
    present: Sequence[Candidate], count: int, period: Callable[[datetime], str]
) -> list[tuple[str, Candidate]]:
    """:param present: newest first."""
    best: dict[str, Candidate] = {}
    for candidate in present:
        when = period(candidate.moment)
        if when not in best or (candidate.proved and not best[when].proved):
            best[when] = candidate
    return [(when, best[when]) for when in sorted(best, reverse=True)[:count]]
