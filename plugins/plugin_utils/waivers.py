# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run is let off by whoever types it: a name, a reason and an end stand behind each entry, as behind a broken glass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

LONGEST = timedelta(days=7)
# What is shorter tells an auditor nothing.
_LEAST = {"by": 3, "reason": 15}


def wrong_end(item: Mapping[str, Any]) -> str | None:
    """:return: what is wrong with ``until`` of a waiver, as the end of a sentence; None where it is a day or is not given."""
    try:
        _end(item)
    except ValueError:
        return f"ends on '{item['until']}', and until takes a day, '2027-01-31'"
    return None


def in_force(item: Mapping[str, Any], today: date) -> bool:
    """:return: whether a waiver counts today; one that has no end always does. A day is a UTC one."""
    try:
        end = _end(item)
    except ValueError:
        return False
    return end is None or today <= end


def told(item: Mapping[str, Any]) -> str:
    """:return: the reason, and who answers for it until when, where that is said."""
    by = [f"by {item['by']}"] if item.get("by") else []
    until = [f"until {item['until']}"] if item.get("until") else []
    return f"{item['reason']} ({', '.join(by + until)})" if by or until else str(item["reason"])


def unsigned(typed: Any, kept: Any, today: date) -> str | None:
    """:param typed: ``migrate_waive`` or ``preflight_waive`` as somebody typed it.
    :param kept: what the inventory has of it; its entries may be typed as they are.
    :return: what an entry lacks, as the end of a sentence; None where each has ``by``, ``reason`` and ``until``"""
    if not isinstance(typed, (list, tuple)) or not all(isinstance(item, Mapping) for item in typed):
        return "is no list of entries with by, reason and until"
    for item in typed:
        if item in (kept or []):
            continue
        lack = next((name for name in ("by", "reason", "until") if not str(item.get(name) or "").strip()), None)
        if lack:
            return f"has no {lack} for {item.get('version') or item.get('check')}"
        short = next((name for name, least in _LEAST.items() if len(str(item[name]).strip()) < least), None)
        if short:
            return f"has the {short} '{item[short]}', of which nobody learns anything later"
        wrong = wrong_end(item)
        if wrong:
            return wrong
        end = date.fromisoformat(str(item["until"]).strip())
        if end < today:
            return f"ends on {end}, which is over"
        if end > today + LONGEST:
            return f"ends on {end}, which is more than {LONGEST.days} days ahead"
    return None


def _end(item: Mapping[str, Any]) -> date | None:
    until = str(item.get("until") or "").strip()
    return date.fromisoformat(until) if until else None
