# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an apply took, held against what its rehearsal foretold; kept for the forecasts to come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import rehearsal_store


def compare(path: str, applied: Sequence[Mapping[str, Any]], *, keep: bool = True) -> dict[str, Any]:
    """:param path: the rehearsal's file.
    :param applied: the versions of the apply, each with its ``step_durations``.
    :param keep: note it in the history beside the file; what cannot be written is told and fails nothing.
    :return: ``steps``, ``forecast_s``, ``actual_s``, ``told`` (why nothing was noted).
    :raises PgopsError: there is no such rehearsal.
    """
    record = rehearsal_store.read(path)
    foretold = {(str(s["version"]), int(s["ordinal"])): s for s in (record.get("forecast") or {}).get("steps") or []}
    steps, lines = [], []
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    for item in applied:
        for step in item.get("step_durations") or []:
            known = foretold.get((str(item["version"]), int(step["step"])))
            if known is None:
                continue
            actual = float(step["duration_s"])
            shown = {
                "version": known["version"],
                "ordinal": known["ordinal"],
                "step": known["step"],
                "kind": known["kind"],
                "forecast": known["seconds"],
            }
            band = {"low": known["low"], "high": known["high"]}
            steps.append({**shown, **band, "actual": actual, "within": known["low"] <= actual <= known["high"]})
            lines.append({
                "time": now, "run_id": record["id"], "pair": record["servers"]["pair"], "plain": known["plain"], "actual": actual,
                "wal_bytes": known["wal_bytes"], **shown,
            })  # fmt: skip
    told = None
    if keep and lines:
        try:
            rehearsal_store.note_beside(path, lines)
        except OSError as exc:
            told = f"what the steps took could not be noted beside {path}: {exc.strerror}"
    return {
        "steps": steps,
        "forecast_s": round(sum(float(step["forecast"]) for step in steps), 3),
        "actual_s": round(sum(float(step["actual"]) for step in steps), 3),
        **({"told": told} if told else {}),
    }
