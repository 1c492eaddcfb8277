# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance windows: when a migration may begin, and whether what it is expected to take fits into what is left.

A window opens at a moment in the calendar syntax of systemd (systemd.time(7)), of which this is the part that a window needs:
weekdays, a date with ``*``, numbers, lists and ranges, a time of day and a time zone. The rest is asked of systemd where it is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible_collections.whitecross.pgops.plugins.plugin_utils import blackouts as blackout_days
from ansible_collections.whitecross.pgops.plugins.plugin_utils.systemd_calendar import SystemdCalendar

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = {
    "d": 86400,
    "day": 86400,
    "days": 86400,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
    "m": 60,
    "min": 60,
    "minutes": 60,
}
_TIME = re.compile(r"(?P<hour>[\d,.*]+):(?P<minute>\d\d)(?::(?P<second>\d\d))?")
_DATE = re.compile(r"(?P<year>[\d,.*]+)-(?P<month>[\d,.*]+)-(?P<day>[\d,.*]+)")
# The calendar repeats itself after 28 years; a window that does not open in the next eight (29 February) is a mistake.
_AHEAD_DAYS = 8 * 366 + 1
RISKS = ("LOW", "MEDIUM", "HIGH", "CRITICAL")


class NotUnderstood(ValueError):
    """A window that says nothing; the text is the end of a sentence."""


@dataclass(frozen=True)
class Calendar:
    """Moments that come again. None of a part means any."""

    weekdays: frozenset[int] | None
    years: frozenset[int] | None
    months: frozenset[int] | None
    days: frozenset[int] | None
    times: tuple[time, ...]
    zone: tzinfo

    @classmethod
    def of(cls, text: str) -> Calendar:
        """:param text: e.g. ``Sat 22:00 America/New_York`` or ``*-*-01..07 02:30 UTC``.
        :raises NotUnderstood: it has another form, or its zone is not known here."""
        words = str(text).split()
        weekdays = _weekdays(words.pop(0)) if words and words[0][:1].isalpha() and len(words) > 1 else None
        years = months = days = None
        if words and (found := _DATE.fullmatch(words[0])):
            words.pop(0)
            years, months, days = (
                _numbers(found["year"], 1970, 9999), _numbers(found["month"], 1, 12), _numbers(found["day"], 1, 31)
            )  # fmt: skip
        found = _TIME.fullmatch(words.pop(0)) if words else None
        if found is None:
            raise NotUnderstood(f"opens at '{text}', and has to name a time of day as in 'Sat 22:00 America/New_York'")
        zone = _zone(words.pop(0)) if words else None
        if words or zone is None:
            raise NotUnderstood(
                f"opens at '{text}', and has to end with one time zone as in 'Sat 22:00 America/New_York'"
            )
        hours = _numbers(found["hour"], 0, 23) or frozenset(range(24))
        minute, second = int(found["minute"]), int(found["second"] or 0)
        if minute > 59 or second > 59:
            raise NotUnderstood(f"opens at '{text}', and there is no such time")
        return cls(weekdays, years, months, days, tuple(time(hour, minute, second) for hour in sorted(hours)), zone)

    def moments(self, first: date, days: int) -> Iterator[datetime]:
        """:return: those of so many days in the calendar's own zone, from the first on."""
        for number in range(days):
            day = first + timedelta(days=number)
            if self._falls_on(day):
                for at in self.times:
                    # What the change of clocks leaves out comes an hour later, what it repeats counts once (fold 0).
                    yield datetime.combine(day, at, self.zone).astimezone(UTC)

    def _falls_on(self, day: date) -> bool:
        return (
            (self.weekdays is None or day.weekday() in self.weekdays)
            and (self.years is None or day.year in self.years)
            and (self.months is None or day.month in self.months)
            and (self.days is None or day.day in self.days)
        )


@dataclass(frozen=True)
class Window:
    """:ivar opens: as it was written. :ivar lasts: how long it is open. :ivar risks: which risks it is for; None for all."""

    opens: str
    lasts: timedelta
    risks: frozenset[str] | None = None

    @classmethod
    def of(cls, given: Any) -> Window:
        """:param given: ``{opens, lasts, risks}``, the last may be left out. :raises NotUnderstood: it is none."""
        if not isinstance(given, Mapping) or not {"opens", "lasts"} <= set(given) <= {"opens", "lasts", "risks"}:
            raise NotUnderstood("has to have opens and lasts, may have risks, and nothing else")
        risks = given.get("risks")
        if risks is not None and (not isinstance(risks, (list, tuple)) or not set(map(str, risks)) <= set(RISKS)):
            raise NotUnderstood(f"is for the risks {risks}, and takes a list of {', '.join(RISKS)}")
        window = cls(str(given["opens"]), _duration(str(given["lasts"])), frozenset(map(str, risks)) if risks else None)
        _ = window.calendar
        return window

    @cached_property
    def calendar(self) -> Calendar | SystemdCalendar:
        """When it opens."""
        try:
            return Calendar.of(self.opens)
        except NotUnderstood:
            words = self.opens.split()
            try:
                zone = _zone(words[-1]) if len(words) > 1 else None
            except NotUnderstood:
                zone = None
            told = SystemdCalendar.of(self.opens, zone) if zone is not None else None
            if told is None:
                raise
            return told

    def serves(self, risk: str) -> bool:
        """:return: whether what has this risk may begin in it."""
        return self.risks is None or risk in self.risks

    def closes(self, now: datetime) -> datetime | None:
        """:return: when it closes, the latest where two overlap; None where it is shut."""
        begin = (now - self.lasts).astimezone(self.calendar.zone).date() - timedelta(days=1)
        opened = [at for at in self.calendar.moments(begin, self.lasts.days + 4) if at <= now < at + self.lasts]
        return max(opened) + self.lasts if opened else None

    def next(self, now: datetime) -> datetime | None:
        """:return: when it opens next; None where it never does."""
        begin = now.astimezone(self.calendar.zone).date()
        return next((at for at in self.calendar.moments(begin, _AHEAD_DAYS) if at > now), None)


def read(given: Any) -> list[Window]:
    """:param given: ``migrate_windows``.
    :return: the windows. :raises NotUnderstood: one of them says nothing; the text begins with the variable's name."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise NotUnderstood("migrate_windows is no list of opens and lasts")
    windows = []
    for number, entry in enumerate(given, 1):
        try:
            windows.append(Window.of(entry))
        except NotUnderstood as fault:
            raise NotUnderstood(f"window {number} of migrate_windows {fault}") from None
    return windows


@dataclass(frozen=True)
class Shut:
    """Why a version may not begin now. :ivar reason: of the result: ``window``."""

    version: str
    name: str
    why: str


def shut(
    pending: Sequence[Mapping[str, Any]],
    windows: Sequence[Window],
    *,
    at_any_time: Iterable[str],
    required: bool,
    waived: Iterable[str],
    now: datetime,
    blackouts: Sequence[blackout_days.Blackout] = (),
    before: int = 0,
) -> list[Shut]:
    """The pending versions that need a window and have none.

    Requirements R6.18 and R5.17. A version that clients are expected to wait for needs one whatever its risk.

    :param pending: those of the run, with ``version``, ``name``, ``risk`` or the computed ``level``, ``to_be_split`` and
        ``expected_seconds`` of each, in their order
    :param at_any_time: the risks that need no window
    :param required: whether a version that clients wait for is refused where no window is declared at all
    :param waived: versions that go without
    :param blackouts: days on which nothing begins, whatever its risk
    :param before: seconds that what comes before it is expected to take: the databases and hosts that are changed first
    """
    need = [
        item
        for item in pending
        if str(item["version"]) not in set(waived)
        and (item.get("to_be_split") or _risk(item) not in set(at_any_time) or blackout_days.standing(blackouts, now))
    ]
    if not windows and not blackout_days.standing(blackouts, now):
        return [
            Shut(str(item["version"]), str(item["name"]), f"is expected to make clients wait for {item.get('expected_seconds')} s, and "
                 "no window is declared in migrate_windows")
            for item in need
            if required and item.get("to_be_split")
        ]  # fmt: skip
    standing = blackout_days.standing(blackouts, now)
    if standing:
        why = f"may not begin on a blackout day ({standing.text}), which ends at {moment(standing.ends)}"
        return [Shut(str(item["version"]), str(item["name"]), why) for item in need]
    taken, found = before, []
    for item in pending:
        # What needs no window takes its time in it all the same.
        taken += int(item.get("expected_seconds") or 0)
        if item in need:
            fault = _shut(
                taken, [window for window in windows if window.serves(_risk(item))], blackouts, _risk(item), now
            )
            if fault:
                found.append(Shut(str(item["version"]), str(item["name"]), fault))
    return found


def expected(pending: Iterable[Mapping[str, Any]]) -> int:
    """:return: the seconds that all versions of a database are expected to take."""
    return sum(int(item.get("expected_seconds") or 0) for item in pending)


def turn(host: str, batch: Sequence[str], forks: int) -> int:
    """:param batch: the hosts of a batch, in their order. :param forks: so many Ansible changes side by side.
    :return: how many hosts come before this one, one after another."""
    return list(batch).index(host) // max(1, forks) if host in batch else 0


def _risk(item: Mapping[str, Any]) -> str:
    return str(item.get("level") or item.get("risk")).upper()


def _shut(
    taken: int, windows: Sequence[Window], blackouts: Sequence[blackout_days.Blackout], risk: str, now: datetime
) -> str | None:
    """:param taken: the seconds after which it is expected to have ended.
    :param windows: those that are for its risk.
    :return: why it may not begin; None where it may."""
    if not windows:
        return f"needs a window, and none of migrate_windows is for the risk {risk}"
    closing = max((at for window in windows if (at := window.closes(now))), default=None)
    if closing is None:
        following = opens_next(windows, blackouts, now)
        opens = f"the next one opens at {moment(following)}" if following else "none opens any more"
        return f"needs a window, and it is {moment(now)}: {opens}"
    begins = blackout_days.next_begin(blackouts, now)
    if begins is not None and begins < closing:
        closing = begins
    left = (closing - now).total_seconds()
    if taken > left:
        return f"is expected to end after {taken} s, and the window closes in {int(left)} s, at {moment(closing)}"
    return None


def opens_next(
    windows: Sequence[Window], blackouts: Sequence[blackout_days.Blackout], now: datetime
) -> datetime | None:
    """:return: when the next window opens that no blackout keeps shut; None where none ever does."""
    at = now
    while True:
        following = min((opened for window in windows if (opened := window.next(at))), default=None)
        standing = blackout_days.standing(blackouts, following) if following else None
        if following is None or standing is None:
            return following
        # One that opens with the end of the blackout counts.
        at = standing.ends - timedelta(seconds=1)


def moment(at: datetime) -> str:
    """:return: a moment as a person reads it, e.g. ``Sat 2026-11-21 22:00 UTC``."""
    return at.astimezone(UTC).strftime("%a %Y-%m-%d %H:%M UTC")


def wrong_risks(given: Any) -> str | None:
    """:return: what is wrong with ``migrate_without_window``, as the end of a sentence; None where it is a list of risks."""
    if not isinstance(given, list) or not set(map(str, given)) <= set(RISKS):
        return f"is {given!r}, and takes a list of {', '.join(RISKS)}"
    return None


def _weekdays(text: str) -> frozenset[int]:
    def number(name: str) -> int:
        for names in (_DAYS, _FULL_DAYS):
            if name.lower() in names:
                return names.index(name.lower())
        raise NotUnderstood(f"has the weekday '{name}'")

    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        begin, end = number(first), number(last if dots else first)
        if end < begin:
            raise NotUnderstood(f"has the weekdays '{part}', whose end comes before their beginning")
        found |= set(range(begin, end + 1))
    return frozenset(found)


def _numbers(text: str, least: int, most: int) -> frozenset[int] | None:
    if text == "*":
        return None
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part)
        begin = int(match[1]) if match else -1
        end = int(match[2]) if match and match[2] else begin
        if match is None or not least <= begin <= end <= most:
            raise NotUnderstood(f"has '{text}', where numbers from {least} to {most} belong")
        found |= set(range(begin, end + 1))
    return frozenset(found)


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise NotUnderstood(f"has the time zone '{name}', which is not known on this machine") from None


def _duration(text: str) -> timedelta:
    parts = re.findall(r"(\d+)\s*([a-z]+)", text)
    if not parts or re.sub(r"(\d+)\s*([a-z]+)", "", text).strip() or any(unit not in _UNITS for _, unit in parts):
        raise NotUnderstood(f"lasts '{text}', and takes hours and minutes as in '4h' or '1h 30min'")
    lasts = timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in parts))
    if not timedelta() < lasts <= timedelta(days=7):
        raise NotUnderstood(f"lasts '{text}', and a window is open for at most seven days")
    return lasts
