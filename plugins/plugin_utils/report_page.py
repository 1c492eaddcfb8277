# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pages of HTML that need nothing else: the report of a run, drawn from plain data and never larger than a mail takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_sampler import BLOCKS_WRITES
from ansible_collections.whitecross.pgops.plugins.plugin_utils import page_lists, report_timeline, report_verdict

TEMPLATES = Path(__file__).parents[2] / "roles" / "report" / "templates"
# Bytes of a page; what does not fit is in the JSON beside it, and the page says so.
LARGEST = 490_000
# Bytes for the lists of all databases, of which the first that gives a page of that size is taken.
_ROOMS = (260_000, 130_000, 60_000, 25_000, 8_000, 1_000)
_FOR_STEPS = 0.4


def environment(filters: Mapping[str, Callable[..., Any]]) -> jinja2.Environment:
    """:return: what renders a page: everything is escaped, and a word that is not there is an error."""
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
    )
    made.filters.update(filters)
    made.filters.update(as_table=page_lists.as_table, groupby_two=_groups, blocking=_blocking)
    return made


def render(report: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> str:
    """:param filters: how figures read, ``size`` and ``seconds`` among them. :return: the page of a run."""
    seconds, size = filters["seconds"], filters["size"]
    drawn = [report_timeline.of_run(report), *report_timeline.of_versions(report)]
    told = {
        "report": report,
        "verdict": report_verdict.sentence(report, seconds),
        "points": report_verdict.points(report, seconds, size),
        "back": report_verdict.back_commands(report),
        "onward": report_verdict.onward_commands(report),
        "charts": [chart for chart in drawn if chart],
    }
    databases = max(sum(len(found) for found in (report.get("results") or {}).values()), 1)
    versions = max(len(report.get("versions") or []), 1)
    page = ""
    for total in _ROOMS:
        made = environment(filters)
        made.filters["fitting"] = page_lists.Room(total // databases).fitting
        of_steps = page_lists.Room(total // versions)
        made.filters["fitting_steps"] = lambda items, room=of_steps: room.fitting(items, _FOR_STEPS)
        page = page_lists.slim(made.get_template("report.html.j2").render(told))
        if len(page.encode()) <= LARGEST:
            break
    return page


def _groups(items: Iterable[Mapping[str, Any]], first: str, second: str) -> list[tuple[tuple[str, str], list[Any]]]:
    """:return: the items by two of their words, in the order in which these come first."""
    found: dict[tuple[str, str], list[Any]] = {}
    for item in items:
        found.setdefault((str(item.get(first)), str(item.get(second))), []).append(item)
    return list(found.items())


def _blocking(steps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """:param steps: the statements of a trace. :return: the locks on the way up that clients wait for, the longest first."""
    found = [
        {"version": step.get("version"), "step": step.get("step"), **lock}
        for step in steps
        if step.get("direction", "up") == "up"
        for lock in step.get("locks") or []
        if lock.get("mode") in BLOCKS_WRITES
    ]
    return sorted(found, key=lambda lock: -float(lock["seconds"]))
