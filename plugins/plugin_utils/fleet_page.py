# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The page over all hosts of an inventory, and the same as JSON, from what their runs have left on the ops host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from ansible_collections.whitecross.pgops.plugins.module_utils import timer_look, timer_state
from ansible_collections.whitecross.pgops.plugins.module_utils.timer_state import TimerPlace
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    fleet_history,
    fleet_judgement,
    fleet_outcomes,
    page_lists,
    report_page,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import without_secrets, write_private_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.reporting import seconds, size

TEMPLATES = Path(__file__).parents[2] / "roles" / "fleet_report" / "templates"
FORMAT = 1


def document(
    hosts: Iterable[Mapping[str, Any]], faults: Iterable[str], *, now: datetime, days: float
) -> dict[str, Any]:
    """:param hosts: of the inventory: ``host``, ``environment``, ``databases`` (names, where it has them), ``state``.
    :param faults: what of the inventory could not be read, in sentences.
    :param days: how far back.
    :return: the fleet as plain data."""
    hosts = list(hosts)
    found = fleet_history.read([(one["state"], one["environment"]) for one in hosts], now=now, days=days)
    timers, unreadable = _timers(hosts, now)
    known = {(one["environment"], one["host"]) for one in hosts}
    for one in hosts:
        seen = [key for key in found.databases if key[:2] == (one["environment"], one["host"])]
        for database in one["databases"] or ([] if seen else [""]):
            found.of(one["environment"], one["host"], database)
    for (environment, host, _), history in found.databases.items():
        # A host that could not be reached is so for all its databases.
        history.runs += found.nowhere.get((environment, host)) or []
        history.runs.sort(key=lambda run: str(run["at"]))
    members = [
        fleet_judgement.member(
            history, timers.get(environment) or [], now, known=(environment, host) in known
        )
        for (environment, host, _), history in found.databases.items()
    ]  # fmt: skip
    members = fleet_judgement.sorted_by_worst(members)
    return dict(
        without_secrets(
            {
                "format": FORMAT,
                "at": timer_state.utc(now),
                "days": days,
                "reports": found.looked_at,
                "levels": {level: sum(1 for one in members if one["level"] == level) for level in reversed(fleet_judgement.WORST_LAST)},
                "members": members,
                "timers": [{"environment": name, **row} for name, rows in sorted(timers.items()) for row in rows],
                "outcomes": fleet_outcomes.by_month(found.outcomes),
                "unfinished": found.unfinished,
                "unreadable": [*found.unreadable, *unreadable],
                "faults": list(faults),
            }
        )
    )  # fmt: skip


def _timers(
    hosts: Iterable[Mapping[str, Any]], now: datetime
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, str]]]:
    """:return: the timers of each environment, and the records of them that cannot be read."""
    found: dict[str, list[dict[str, Any]]] = {}
    unreadable = []
    for state, environment in dict.fromkeys((one["state"], one["environment"]) for one in hosts):
        place = TimerPlace(os.path.abspath(os.path.expanduser(state)), environment)
        if not os.path.exists(place.record):
            continue
        try:
            found.setdefault(environment, []).extend(timer_look.rows(place, now))
            if timer_state.read(place.record) is None:
                raise ValueError("it is no record of timers")
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            told = str(fault) if isinstance(fault, ValueError) else "it is not made as a record of timers is"
            unreadable.append({"file": place.record, "why": told})
    return found, unreadable


def page(fleet: Mapping[str, Any], folder: Path) -> str:
    """:param folder: where the page will lie; what it links to is named from there. :return: the page."""

    def link(path: str) -> str:
        return quote(os.path.relpath(path, folder))

    def figure(value: Any, unit: str) -> str:
        return size(value) if unit == "bytes" else seconds(value)

    def ago(at: Any) -> str:
        then, now = timer_state.moment(at), timer_state.moment(fleet["at"])
        return f"{timer_state.span(max((now - then).total_seconds(), 0))} ago" if then and now else str(at)

    made = report_page.environment({"size": size, "seconds": seconds, "link": link, "figure": figure, "ago": ago})
    made.loader = jinja2.FileSystemLoader([TEMPLATES, report_page.TEMPLATES])
    return page_lists.slim(made.get_template("fleet.html.j2").render(fleet=fleet))


def write(fleet: Mapping[str, Any], path: Path) -> Path:
    """Write the page and its JSON beside it, 0600, each whole or not at all.

    :return: the JSON.
    :raises OSError: they cannot be written.
    """
    twin = path.with_suffix(".json")
    write_private_file(twin, json.dumps(fleet, indent=2, ensure_ascii=False) + "\n")
    write_private_file(path, page(fleet, path.parent))
    return twin
