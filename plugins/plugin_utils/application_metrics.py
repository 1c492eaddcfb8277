# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's own figures in a watch, against those of before the change; decided on plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Percent; the defaults of ``migrate_health``.
ERROR_RATE = 5.0
PERFORMANCE = 50.0
# Of a request that takes a few milliseconds the noise alone is half as much again.
SLOWER_AT_LEAST_MS = 20.0
# Users who have just been sent back are not all there yet.
SETTLED_S = 60.0
_LATENCIES = ("p95_ms", "p99_ms", "p50_ms")


def worse(
    before: Mapping[str, float], now: Mapping[str, float], limits: Mapping[str, Any], *, at: float
) -> list[dict[str, Any]]:
    """What is worse than it may be.

    :param before: the metrics before the apply; empty where nobody asked
    :param now: ``error_rate`` (a share, 0 to 1), ``p50_ms``, ``p95_ms``, ``p99_ms``, ``throughput``, each where it is measured
    :param limits: of ``migrate_health``: ``error_rate`` and ``performance``, percent
    :param at: seconds since the watch began
    :return: signals: ``kind`` (``errors`` or ``performance``), ``told``, ``value`` and ``limit`` in percent
    """
    found = []
    allowed = _percent(limits.get("error_rate"), ERROR_RATE)
    errors = 100.0 * float(now.get("error_rate") or 0.0)
    usual = 100.0 * float(before.get("error_rate") or 0.0)
    # An application that has always failed for one in ten is no worse for it.
    allowed = max(allowed, min(2 * usual, usual + allowed))
    if errors > allowed:
        found.append(_signal("errors", f"{errors:.1f} % of the application's requests fail", errors, allowed))
    slower = _percent(limits.get("performance"), PERFORMANCE)
    for name in _LATENCIES:
        was, is_now = before.get(name), now.get(name)
        if not was or is_now is None:
            continue
        percent = 100.0 * (is_now / was - 1)
        if percent > slower and is_now - was >= SLOWER_AT_LEAST_MS:
            told = f"{name} is {is_now:g} and was {was:g} before the apply, {percent:.0f} % more"
            found.append(_signal("performance", told, percent, slower))
        break
    was, is_now = before.get("throughput"), now.get("throughput")
    if was and is_now is not None and at >= SETTLED_S and 100.0 * (1 - is_now / was) > slower:
        percent = 100.0 * (1 - is_now / was)
        told = f"throughput is {is_now:g} and was {was:g} before the apply, {percent:.0f} % less"
        found.append(_signal("performance", told, percent, slower))
    return found


def _percent(given: Any, default: float) -> float:
    return default if given in (None, "") else float(given)


def _signal(kind: str, told: str, value: float, limit: float) -> dict[str, Any]:
    told = f"{told}, and {limit:g} % are let pass"
    return {"kind": kind, "told": told, "value": round(value, 2), "limit": round(limit, 2)}
