# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""When maintenance may run: ``02:00-04:00``, ``Sat,Sun 22:00-06:00 America/New_York``, or windows as ``migrate_windows`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.windows import NotUnderstood, Window

_SPAN = re.compile(
    r"(?:(?P<days>[A-Za-z][A-Za-z,.]*)\s+)?(?P<begin>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d)(?:\s+(?P<zone>\S+))?"
)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Open:
    """How long maintenance may run now.

    :ivar seconds: until the window closes; None where none is declared. 0 where it is shut.
    :ivar opens_next: where it is shut.
    """

    seconds: float | None
    opens_next: datetime | None = None


@dataclass(frozen=True)
class Span(Window):
    """A window from one time of the clock to another.

    :ivar lasts: as long as it is open on a day on which no clock changes.
    :ivar ends: when it closes, by the clock of its own zone; on the next day where it goes over midnight.
    """

    ends: time = time()
    over_midnight: bool = False

    def closes(self, now: datetime) -> datetime | None:
        """:return: when it closes, the latest where two overlap; None where it is shut."""
        zone = self.calendar.zone
        begin = now.astimezone(zone).date() - timedelta(days=3)
        ends = [self._end(at, zone) for at in self.calendar.moments(begin, 5) if at <= now]
        return max((at for at in ends if now < at), default=None)

    def _end(self, opened: datetime, zone: tzinfo) -> datetime:
        # By the calendar, not by adding hours: the night in which the clocks change is an hour shorter or longer. What the clock
        # says twice is meant the first time (fold 0).
        day = opened.astimezone(zone).date() + timedelta(days=1 if self.over_midnight else 0)
        return datetime.combine(day, self.ends, zone).astimezone(UTC)


def look(given: Any, now: datetime) -> Open:
    """:param given: ``maintenance_window``; empty for no window.
    :raises NotUnderstood: it is none; the text is the end of a sentence."""
    windows = _windows(given)
    if not windows:
        return Open(None)
    closing = max((at for window in windows if (at := window.closes(now))), default=None)
    if closing is not None:
        return Open((closing - now).total_seconds())
    return Open(0.0, min((at for window in windows if (at := window.next(now))), default=None))


def _windows(given: Any) -> list[Window]:
    if given in (None, "", []):
        return []
    entries = given if isinstance(given, (list, tuple)) else [given]
    return [Window.of(entry) if isinstance(entry, Mapping) else _span(str(entry)) for entry in entries]


def _span(text: str) -> Window:
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise NotUnderstood(f"is '{text}', and takes '02:00-04:00' or 'Sat,Sun 22:00-06:00 America/New_York'")
    begin, end = (_minutes(found[name], text) for name in ("begin", "end"))
    # Over midnight where it ends before it begins.
    minutes = (end - begin) % _DAY_MINUTES or _DAY_MINUTES
    opens = " ".join(part for part in (found["days"], found["begin"], found["zone"] or "UTC") if part)
    ends = time(*divmod(end % _DAY_MINUTES, 60))
    window = Span(opens, timedelta(minutes=minutes), ends=ends, over_midnight=end % _DAY_MINUTES <= begin)
    _ = window.calendar
    return window


def _minutes(clock: str, text: str) -> int:
    hours, minutes = map(int, clock.split(":"))
    if hours > 24 or minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise NotUnderstood(f"is '{text}', and there is no {clock}")
    return hours * 60 + minutes
