# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Leaves one page over all hosts of the inventory; documented in the module of the same name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    batches,
    environment_names,
    fleet_outcomes,
    fleet_page,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.tree_action import TreeAction

# The page has all of them.
SHOWN = 20


class ActionModule(TreeAction):
    """Reads on the controller only."""

    PLAYBOOK = "report"
    _VALID_ARGS = frozenset({"output", "days"})

    def work(self, directory: Path, task_vars: dict[str, Any]) -> dict[str, Any]:
        """:return: the fleet, and where its page is. :raises PgopsError: the page cannot be written, or an argument is none."""
        days, path = self._days(), self._path(task_vars)
        hosts, faults = self._hosts(task_vars)
        fleet = fleet_page.document(hosts, faults, now=datetime.now(UTC), days=days)
        for line in _lines(fleet):
            self.say(line)
        if not self._task.check_mode:
            try:
                fleet_page.write(fleet, path)
            except OSError as fault:
                raise PgopsError(f"The page cannot be written to {path}: {fault.strerror}; name another one with -e fleet_report_output=FILE.html") from None  # fmt: skip
            self.say(f"    page: {path}")
        return {"changed": False, "fleet": fleet, "page": None if self._task.check_mode else str(path)}

    def _days(self) -> float:
        try:
            days = float(self._task.args.get("days", 90))
        except (TypeError, ValueError):
            days = math.nan
        if not 0 < days <= 36_500:
            raise PgopsError(
                f"fleet_report_days is {self._task.args.get('days')}, and takes a number of days, more than 0"
            )
        return days

    def _path(self, task_vars: dict[str, Any]) -> Path:
        given = self._task.args.get("output")
        if not given:
            state = self._value(task_vars, "pgops_state_directory") or SHARED_VARIABLES["pgops_state_directory"].default
            return (Path(str(state)).expanduser() / "reports" / "fleet.html").absolute()
        path = Path(str(given)).expanduser().absolute()
        if path.suffix != ".html":
            raise PgopsError(f"fleet_report_output={given} is no page; let it end in .html")
        return path

    def _hosts(self, task_vars: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
        """:return: the hosts of the inventory that belong to an environment; and what of it could not be read."""
        known = self._value(task_vars, environment_names.ENVIRONMENTS)
        groups: Mapping[str, list[str]] = task_vars.get("groups") or {}
        found, faults = [], []
        for environment in environment_names.listed(environment_names.ENVIRONMENTS, known):
            for host in groups.get(environment) or []:
                one, fault = self._host(str(host), environment, task_vars)
                found.append(one)
                faults += fault
        return found, faults

    def _host(self, host: str, environment: str, task_vars: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        faults = []

        def value(name: str) -> Any:
            try:
                return task_vars["hostvars"][host].get(name)
            except (AnsibleError, KeyError) as fault:
                # Not its words: a template that fails may quote a secret.
                faults.append(f"{name} of {host} cannot be read ({type(fault).__name__})")
                return None

        databases = batches.names(value("pgops_databases") or value("pgops_database"))
        state = value("pgops_state_directory") or SHARED_VARIABLES["pgops_state_directory"].default
        # A query gives them, so the reports know them.
        if value("pgops_databases_query") and not value("pgops_databases"):
            databases = []
        return {"host": host, "environment": environment, "databases": databases, "state": str(state)}, faults


def _lines(fleet: Mapping[str, Any]) -> list[str]:
    """What a person reads on the screen: the worst, and what could not be read."""
    counted = ", ".join(f"{number} {level}" for level, number in fleet["levels"].items() if number)
    lines = [f"fleet: {counted or 'no host'}; from {fleet['reports']} reports of the last {fleet['days']:g} days, no database was asked"]  # fmt: skip
    rows = [
        [one["level"], one["environment"], one["host"], one["database"], one["version"] or "", one["wrong"][0]["told"] if one["wrong"] else ""]
        for one in fleet["members"][:SHOWN]
    ]  # fmt: skip
    if rows:
        lines += [
            f"    {line}" for line in table(["STATE", "ENVIRONMENT", "HOST", "DATABASE", "VERSION", "WORST"], rows)
        ]
    if len(fleet["members"]) > SHOWN:
        lines.append(f"    and {len(fleet['members']) - SHOWN} more on the page")
    outcomes = fleet_outcomes.line(fleet["outcomes"])
    lines += [f"    outcomes: {outcomes}"] if outcomes else []
    lines += [f"    warn   {told}" for told in fleet["faults"]]
    lines += [f"    warn   {one['file']}: {one['why']}" for one in fleet["unreadable"]]
    return lines
