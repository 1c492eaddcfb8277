# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The six steps of a rollback with the seconds of each, for the report and the screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import run_outcome

NAMES = (
    "divert traffic",
    "status",
    "copy of the present state",
    "go back",
    "status and verification",
    "restore traffic",
)
COPY, GO_BACK = 3, 4
# A restore and a swap have no status of their own: what can be told before stands in the table of the ways back.
_UNNUMBERED = {"strategies": 2}


def of(
    rows: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    ok: bool,
    goes_back: bool = True,
) -> list[dict[str, Any]]:
    """:param rows: the phases, as the report has them
    :param hosts: host -> database -> phase -> result
    :param ok: whether the run did all that was asked for
    :param goes_back: False where tags left that out
    :return: of each step ``step``, ``name``, ``seconds`` (of the slowest host, None where nothing was done) and ``told``"""
    took: dict[int, dict[str, float]] = {}
    reached: set[int] = set()
    for row in rows:
        label = re.match(r"\((\d)/6\)", str(row.get("step") or ""))
        number = int(label[1]) if label else _UNNUMBERED.get(str(row.get("phase")))
        if number is None:
            continue
        reached.add(number)
        of_host = took.setdefault(number, {})
        of_host[str(row["host"])] = of_host.get(str(row["host"]), 0.0) + float(row["duration_s"] or 0)
    kept = _kept(hosts)
    steps = []
    for number, name in enumerate(NAMES, 1):
        seconds = round(max(took[number].values()), 3) if number in took else None
        told = "" if number in reached else "nothing to do" if ok or number < max(reached, default=0) else "not reached"
        if number == GO_BACK and not goes_back:
            told = "left out by --tags or --skip-tags"
        if number == COPY and kept:
            told = kept
        steps.append({"step": number, "name": name, "seconds": seconds, "told": told})
    return steps


def _kept(hosts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """:return: where the present state was kept, or that it was not; empty where a backup says it by its own seconds."""
    told = []
    for databases in hosts.values():
        for database, phases in databases.items():
            aside = next((found["aside"] for found in phases.values() if (found or {}).get("aside")), None)
            cluster = run_outcome.kept_cluster(phases)
            path = (phases.get("backup") or {}).get("path")
            missed = (phases.get("backup") or {}).get("missed") or (phases.get("prove") or {}).get("missed")
            if aside:
                told.append(f"{database} is kept as {aside}, by its rename")
            elif cluster:
                told.append(f"{database} is kept in the cluster {cluster['kept']}, by its rename")
            elif missed:
                told.append(f"{database}: {missed}")
            elif path:
                told.append(f"{database} in {path}")
    return "; ".join(told)


def lines(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """:return: a line a step, for a person."""
    return [
        f"    ({step['step']}/6) {step['name']:<26}"
        + (f"{step['seconds']:8.2f} s" if step["seconds"] is not None else " " * 10)
        + (f"  {step['told']}" if step["told"] else "")
        for step in steps
    ]
