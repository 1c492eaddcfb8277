# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often migrations and rollbacks ended well, month by month: counted from reports, so that no rate has to be claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.run_outcome import COMPLETE, FAILED, PARTIAL, ROLLED_BACK

# What a run that changes a database can come to, in the words of the page. One that was cut off, or went back by itself, is an incident.
_ENDED = {COMPLETE: "complete", FAILED: "stopped", PARTIAL: "incidents", ROLLED_BACK: "incidents"}
_COUNTED = {"migrate": "migrations", "rollback": "rollbacks"}
_LOSS = {True: "without_loss", False: "with_loss", None: "loss_not_measured"}
COUNTS = (
    *(f"{kind}{ended}" for kind in _COUNTED.values() for ended in ("", "_complete", "_stopped", "_incidents")),
    *_LOSS.values(),
)


def of(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """:param report: of one run.
    :return: its ``month`` and what it counts as; None of a run that is no migration or rollback, or found nothing to do.
    :raises KeyError: it has no word that a report has; so do TypeError and AttributeError tell.
    """
    kind, state = _COUNTED.get(str(report.get("playbook"))), report.get("state")
    aims = {aim["aim"]: aim["met"] for aim in report.get("aims") or []}
    if kind is None or state is None or (state == COMPLETE and not aims):
        return None
    counts = [kind, f"{kind}_{_ENDED[state]}"]
    # A run that stopped before it changed anything can have lost nothing.
    if aims and state != FAILED:
        counts.append(_LOSS[aims.get("zero loss")])
    return {"month": str(report["finished"])[:7], "counts": counts}


def by_month(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """:param found: as :func:`of` returns them.
    :return: of each month with any, the newest first, ``month`` and how many there were of each of ``COUNTS``."""
    months: dict[str, Counter[str]] = {}
    for one in found:
        months.setdefault(str(one["month"]), Counter()).update(one["counts"])
    return [
        {"month": month, **{name: months[month][name] for name in COUNTS}} for month in sorted(months, reverse=True)
    ]


def line(months: Sequence[Mapping[str, Any]]) -> str | None:
    """:return: all months in a sentence for a person; None where there was neither a migration nor a rollback."""
    if not months:
        return None
    sums = {name: sum(int(month[name]) for month in months) for name in COUNTS}
    told = [
        f"{kind} {sums[kind]} (complete {sums[f'{kind}_complete']}, stopped before any change {sums[f'{kind}_stopped']}, "
        f"incidents {sums[f'{kind}_incidents']})"
        for kind in _COUNTED.values()
        if sums[kind]
    ]
    measured = sums["without_loss"] + sums["with_loss"]
    told.append(f"rows lost in {sums['with_loss']} of {measured} that were measured")
    return "; ".join(told)
