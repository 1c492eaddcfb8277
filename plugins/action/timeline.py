# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the seven days before a migration; documented in the module of the same name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import notices, timeline
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import display
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import write_private_file
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction, table


class ActionModule(MigrationAction):
    """Runs on the controller, once a play; starts no module."""

    PHASE = "timeline"
    _requires_connection = False
    _VALID_ARGS = frozenset({"planned_for", "done"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Work the dates out, show them, and write plan and texts."""
        variables = task_vars or {}
        try:
            planned = timeline.moment(self._task.args.get("planned_for"))
            places = [
                place for host in variables["ansible_play_hosts_all"] for place in self._places(str(host), variables)
            ]
            if not places:
                raise PgopsError("Nothing is pending, so there is nothing to plan")
            return self._made(planned, places, variables)
        except PgopsError as fault:
            raise AnsibleActionFail(f"{fault.message}.{f' {fault.hint}' if fault.hint else ''}") from None
        except OSError as fault:
            raise AnsibleActionFail(f"The plan cannot be written ({fault.filename}): {fault.strerror}") from None

    def _places(self, host: str, task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        variables = task_vars if host == task_vars["inventory_hostname"] else task_vars["hostvars"].raw_get(host)
        run = self.run_fact(variables)
        found = []
        for database, judged in (run.get("gate") or {}).items():
            verdict, plan = judged["gate"], run["plan"][database]
            found.append(
                {
                    "host": host,
                    "database": database,
                    **{name: verdict[name] for name in ("risk", "reasons", "basis", "roles", "approvals")},
                    **_expected(verdict, plan),
                    "tables": plan.get("tables") or [],
                    "pending": [
                        {name: item.get(name) for name in ("version", "name", "title", "why", "phi", "rollback")}
                        for item in plan["pending"]
                    ],
                }
            )
        return found

    def _made(self, planned: datetime, places: list[dict[str, Any]], task_vars: dict[str, Any]) -> dict[str, Any]:
        run, now = self.run_fact(task_vars), datetime.now(UTC)
        environment = str(run["environment"])
        # Who has approved one database only has not approved all.
        roles = list(dict.fromkeys(role for place in places for role in place["roles"]))
        approved = [
            role
            for role in roles
            if all(
                role not in place["roles"] or role in {one["role"] for one in place["approvals"]} for place in places
            )
        ]
        phi = any(item["phi"] for place in places for item in place["pending"])
        steps = timeline.steps(
            planned, now, phi=phi, roles=roles, approved=approved, done=list(self._task.args.get("done") or [])
        )
        rows = [
            [f"T-{step.days_before}", f"{step.by:%a %Y-%m-%d %H:%M}", step.state, step.what, step.who] for step in steps
        ]
        for line in table(["WHEN", "UNTIL", "STATE", "WHAT", "WHO"], rows):
            self.say(f"    {line}")
        document = {
            "environment": environment,
            "planned_for": timeline.utc(planned),
            "steps": [{**asdict(step), "by": timeline.utc(step.by)} for step in steps],
            "places": places,
            "texts": {
                whom: timeline.notification(whom, environment, planned, places) for whom in timeline.stakeholders(phi)
            },
        }
        if self._task.check_mode:
            return {"changed": False, "timeline": document}
        first = places[0]["pending"][0]["version"]
        commands = {
            "rollback": self.command(task_vars, "rollback.yml", {"rollback_through": first}),
            "verify": self.command(task_vars, "verify.yml"),
        }
        folder = Path(str(self.pgops(task_vars, "state_directory"))).expanduser() / "timelines" / environment
        path = folder / f"{planned:%Y%m%d}.md"
        write_private_file(path, timeline.as_markdown(environment, planned, now, steps, places, commands))
        write_private_file(path.with_suffix(".json"), json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        self.say(f"plan and texts: {path}")
        self._notify(run, places, str(document["planned_for"]), task_vars)
        return {"changed": True, "file": str(path), "timeline": document}

    def _notify(
        self, run: dict[str, Any], places: list[dict[str, Any]], planned_for: str, task_vars: dict[str, Any]
    ) -> None:
        """Whether it is heard changes nothing about the plan."""
        settings = {name: self.pgops(task_vars, name.removeprefix("pgops_")) for name in notices.VARIABLES}
        try:
            notices.deliver(notices.of_plan(run, planned_for, places), settings)
        except notices.NotNotified as fault:
            display.warning(f"{notices.who_was(fault)} was notified of this plan: {fault}")


def _expected(verdict: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """:return: the seconds in all and those for which clients wait, of the rehearsal, or else as the authors have estimated them."""
    if verdict["rehearsal"]:
        forecast = verdict["rehearsal"]["forecast"]
        blocked = [forecast.get(name) for name in ("blocks_reads", "blocks_writes") if forecast.get(name) is not None]
        return {"seconds": forecast.get("high") or forecast.get("seconds"), "blocked": max(blocked, default=None)}
    known = [item["expected_seconds"] for item in plan["pending"] if item.get("expected_seconds") is not None]
    return {"seconds": sum(known) if known else None, "blocked": None}
