# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same timers where there is no systemd: lines of the user's crontab, between two marks.

Only calendars that cron can keep are taken. It makes up for no run that the machine slept through; the heartbeat tells that one is missing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

_NAMES = {
    "minutely": "*-*-* *:*",
    "hourly": "*-*-* *:00",
    "daily": "*-*-* 00:00",
    "weekly": "Mon *-*-* 00:00",
    "monthly": "*-*-01 00:00",
    "quarterly": "*-01,04,07,10-01 00:00",
    "yearly": "*-01-01 00:00",
    "annually": "*-01-01 00:00",
}
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SHAPE = re.compile(
    r"(?:(?P<week>[A-Za-z][A-Za-z.,]*)\s+)?(?:(?:\*-)?(?P<month>[0-9*,./]+)-(?P<day>[0-9*,./]+)\s+)?(?P<hour>[0-9*,./]+):(?P<minute>[0-9*,./]+)(?::00?)?"
)
# A leap year and the one after it.
_YEARS = (2028, 2029)


@dataclass(frozen=True)
class CronCalendar:
    """:ivar fields: the five of a crontab. :ivar longest_s: the longest time between two of its moments, in seconds."""

    fields: str
    longest_s: int


def calendar(name: str, text: str) -> CronCalendar:
    """Put a calendar of systemd into the five fields of cron.

    :param name: of the job, for the sentence
    :raises PgopsError: cron cannot keep it
    """
    found = _SHAPE.fullmatch(_NAMES.get(text.strip(), text.strip()))
    try:
        if not found:
            raise ValueError("it has seconds, a zone, a year or another form")
        week = _numbers((found["week"] or "*").lower(), 0, 6)
        month, day = _numbers(found["month"] or "*", 1, 12), _numbers(found["day"] or "*", 1, 31)
        hour, minute = _numbers(found["hour"], 0, 23), _numbers(found["minute"], 0, 59)
        if len(week) < 7 and len(day) < 31:
            raise ValueError("cron takes a day of the week or one of the month, not both at once")
        longest = _longest(minute, hour, day, month, week)
    except ValueError as error:
        raise PgopsError(
            f"The calendar {text!r} of the job {name} is none that cron can keep ({error}), and there is no systemd here; nothing was "
            "installed.",
            hint="Give one such as '*-*-* 01:30', 'Mon..Fri *-*-* 01:30' or '*-*-01 04:00'.",
        ) from None
    ranges = ((minute, 60), (hour, 24), (day, 31), (month, 12), (week, 7))
    return CronCalendar(" ".join(_field(numbers, size) for numbers, size in ranges), longest)


def _numbers(text: str, first: int, last: int) -> list[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        begin, dots, end = span.partition("..")
        low = first if begin == "*" else _number(begin, first, last)
        high = _number(end, first, last) if dots else last if begin == "*" or step else low
        # Fri..Mon goes over the end of the week.
        numbers = range(low, high + 1) if low <= high else [*range(low, last + 1), *range(first, high + 1)]
        found.update(list(numbers)[:: int(step) if step else 1])
    return sorted(found)


def _number(text: str, first: int, last: int) -> int:
    number = _DAYS.index(text[:3]) if text[:3] in _DAYS else int(text)
    if not first <= number <= last:
        raise ValueError(f"{text} is not between {first} and {last}")
    return number


def _field(numbers: Sequence[int], size: int) -> str:
    return "*" if len(numbers) == size else ",".join(map(str, numbers))


def _longest(minute: list[int], hour: list[int], day: list[int], month: list[int], week: list[int]) -> int:
    times = [timedelta(hours=h, minutes=m) for h, m in product(hour, minute)]
    first = date(_YEARS[0], 1, 1)
    every = (first + timedelta(days=number) for number in range((date(_YEARS[1] + 1, 1, 1) - first).days))
    days = [at for at in every if at.month in month and at.day in day and (at.weekday() + 1) % 7 in week]
    gaps = [after - before for before, after in zip(times, times[1:])]
    # From the last of a day to the first of the next one.
    gaps += [after - before + times[0] - times[-1] for before, after in zip(days, days[1:])]
    if len(days) < 2:
        raise ValueError("it does not come again within a year")
    return int(max(gaps).total_seconds())


def block(mark: str, lines: Iterable[str]) -> str:
    """:return: our lines between their marks."""
    return "\n".join([f"# BEGIN {mark}", *lines, f"# END {mark}"]) + "\n"


def line(fields: str, directory: str, words: Sequence[str]) -> str:
    """:return: a line of a crontab; a ``%`` would end the command for cron."""
    command = f"cd {shlex.quote(directory)} && exec {shlex.join(words)}"
    return f"{fields} {command}".replace("%", "\\%")


def replaced(table: str, mark: str, new: str) -> str:
    """:return: a crontab with our block as it is to be, all other lines as they were.

    :param new: empty to take it out
    """
    pattern = re.compile(rf"^# BEGIN {re.escape(mark)}\n.*?^# END {re.escape(mark)}\n", re.MULTILINE | re.DOTALL)
    without = pattern.sub("", table)
    if not new:
        return without
    found = pattern.search(table)
    if found:
        return table[: found.start()] + new + pattern.sub("", table[found.end() :])
    return without + ("" if without.endswith("\n") or not without else "\n") + new
