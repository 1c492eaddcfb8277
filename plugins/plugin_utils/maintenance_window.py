# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""When maintenance may run: ``02:00-04:00``, ``Sat,Sun 22:00-06:00 America/New_York``, or windows as ``migrate_windows`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
    return Window.of({"opens": opens, "lasts": f"{minutes}min"})


def _minutes(time: str, text: str) -> int:
    hours, minutes = map(int, time.split(":"))
    if hours > 24 or minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise NotUnderstood(f"is '{text}', and there is no {time}")
    return hours * 60 + minutes
