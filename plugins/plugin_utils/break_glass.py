# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way past the gate in an emergency: a person, a reason, an end, all of them typed; told wherever the run is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

PARTS = ("reason", "by", "expires")
VARIABLES = {part: f"gate_break_glass_{part}" for part in PARTS}
LONGEST = timedelta(hours=24)
# What is shorter tells an auditor nothing.
_LEAST = {"reason": 15, "by": 3}


def settled(given: Mapping[str, Any], typed: Collection[str], now: datetime) -> dict[str, str] | None:
    """:param given: ``reason``, ``by`` and ``expires``.
    :param typed: the names of the variables that were given with -e.
    :return: the three, or None where nobody breaks the glass.
    :raises PgopsError: something of it is missing, was not typed, or has an end that is none."""
    said = {part: " ".join(str(given.get(part) or "").split()) for part in PARTS}
    if not any(said.values()):
        return None
    missing = [VARIABLES[part] for part in PARTS if not said[part]]
    if missing:
        raise PgopsError(
            f"Nothing was applied: to break the glass {' and '.join(missing)} have to be given as well", hint=_hint()
        )
    stored = [VARIABLES[part] for part in PARTS if VARIABLES[part] not in typed]
    if stored:
        raise PgopsError(
            f"Nothing was applied: {', '.join(stored)} is set in the inventory, and the glass is broken by somebody who types it with -e",
            hint="Take it out where it is set.",
        )
    short = next((part for part, least in _LEAST.items() if len(said[part]) < least), None)
    if short:
        raise PgopsError(
            f"Nothing was applied: {VARIABLES[short]} is '{said[short]}', of which nobody learns anything later",
            hint=_hint(),
        )
    try:
        until = datetime.fromisoformat(said["expires"])
        left = until - now
    except (ValueError, TypeError):
        raise PgopsError(
            f"Nothing was applied: gate_break_glass_expires is '{said['expires']}', and takes a moment with its time zone",
            hint=_hint(),
        ) from None
    if not timedelta() < left <= LONGEST:
        why = "is over" if left <= timedelta() else f"is more than {LONGEST.total_seconds() / 3600:.0f} hours ahead"
        raise PgopsError(f"Nothing was applied: gate_break_glass_expires {said['expires']} {why}", hint=_hint())
    return said


def shout(glass: Mapping[str, str], past: Collection[str]) -> str:
    """:param past: what was missing.
    :return: the sentence that stands on the screen, in the report, the notification, the ledger and the audit."""
    without = f" WITHOUT {'; '.join(past)}" if past else ", and nothing was missing"
    return f"BREAK GLASS by {glass['by']} until {glass['expires']}: {glass['reason']}{without}"


def _hint() -> str:
    return (
        "-e \"gate_break_glass_by='NAME'\" -e gate_break_glass_expires=2026-01-31T04:00:00+00:00 "
        "-e \"gate_break_glass_reason='WHY NOW'\""
    )
