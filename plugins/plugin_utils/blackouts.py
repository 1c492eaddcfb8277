# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Days on which nothing is changed, whatever windows there are: holidays, the first day of school, an audit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_DAYS = re.compile(r"(?P<first>\d{4}-\d\d-\d\d)(?:\.\.(?P<last>\d{4}-\d\d-\d\d))?\s+(?P<zone>\S+)")


class NotUnderstood(ValueError):
    """Days that say nothing; the text is a sentence."""


@dataclass(frozen=True)
class Blackout:
    """:ivar text: as it was written. :ivar begins: its first moment. :ivar ends: the first moment after it."""

    text: str
    begins: datetime
    ends: datetime


def read(given: Any) -> list[Blackout]:
    """:param given: ``migrate_blackouts``: each ``2026-12-24..2027-01-02 Europe/Berlin``, both days included.
    :raises NotUnderstood: one of them is none."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise NotUnderstood("migrate_blackouts is no list of days")
    return [_of(str(entry)) for entry in given]


def _of(text: str) -> Blackout:
    found = _DAYS.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        zone = ZoneInfo(found["zone"])
        first = date.fromisoformat(found["first"])
        last = date.fromisoformat(found["last"] or found["first"])
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise NotUnderstood(
            f"migrate_blackouts has '{text}', and takes days and a time zone as in '2026-12-24..2027-01-02 Europe/Berlin'"
        ) from None
    if last < first:
        raise NotUnderstood(f"migrate_blackouts has '{text}', which ends before it begins")
    ends = datetime.combine(last + timedelta(days=1), time(), zone)
    return Blackout(text.strip(), datetime.combine(first, time(), zone), ends)


def standing(blackouts: Sequence[Blackout], now: datetime) -> Blackout | None:
    """:return: the one that it is now, the longest where several overlap."""
    return max((one for one in blackouts if one.begins <= now < one.ends), key=lambda one: one.ends, default=None)


def next_begin(blackouts: Sequence[Blackout], now: datetime) -> datetime | None:
    """:return: when the next one begins."""
    return min((one.begins for one in blackouts if one.begins > now), default=None)
