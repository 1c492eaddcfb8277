# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintenance windows: when a migration may begin, and whether what it is expected to take fits into what is left.

A window opens at a moment in the calendar syntax of systemd (systemd.time(7)), of which this is the part that a window needs:
weekdays, a date with ``*``, numbers, lists and ranges, a time of day and a time zone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

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
    """:ivar opens: as it was written. :ivar lasts: how long it is open."""

    opens: str
    lasts: timedelta

    @classmethod
    def of(cls, given: Any) -> Window:
        """:param given: ``{opens, lasts}``. :raises NotUnderstood: it is none."""
        if not isinstance(given, Mapping) or set(given) != {"opens", "lasts"}:
            raise NotUnderstood("has to have opens and lasts, and nothing else")
        window = cls(str(given["opens"]), _duration(str(given["lasts"])))
        _ = window.calendar
        return window

    @cached_property
    def calendar(self) -> Calendar:
        """When it opens."""
        return Calendar.of(self.opens)

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
) -> list[Shut]:
    """The pending versions that need a window and have none.

    Requirements R6.18 and R5.17. A version that clients are expected to wait for needs one whatever its risk.

    :param pending: those of the run, with ``version``, ``name``, ``risk``, ``to_be_split`` and ``expected_seconds`` of each, in their order
    :param at_any_time: the risks that need no window
    :param required: whether a version that clients wait for is refused where no window is declared at all
    :param waived: versions that go without
    """
    need = [
        item
        for item in pending
        if str(item["version"]) not in set(waived)
        and (item.get("to_be_split") or str(item.get("level") or item.get("risk")).upper() not in set(at_any_time))
    ]
    if not windows:
        return [
            Shut(str(item["version"]), str(item["name"]), f"is expected to make clients wait for {item.get('expected_seconds')} s, and "
                 "no window is declared in migrate_windows")
            for item in need
            if required and item.get("to_be_split")
        ]  # fmt: skip
    closing = max((at for window in windows if (at := window.closes(now))), default=None)
    if closing is None:
        following = min((at for window in windows if (at := window.next(now))), default=None)
        opens = f"the next one opens at {moment(following)}" if following else "none opens any more"
        why = f"needs a window, and it is {moment(now)}: {opens}"
        return [Shut(str(item["version"]), str(item["name"]), why) for item in need]
    left, taken, found = (closing - now).total_seconds(), 0, []
    for item in pending:
        # What needs no window takes its time in it all the same.
        taken += int(item.get("expected_seconds") or 0)
        if taken > left and item in need:
            why = f"is expected to end after {taken} s, and the window closes in {int(left)} s, at {moment(closing)}"
            found.append(Shut(str(item["version"]), str(item["name"]), why))
    return found


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
