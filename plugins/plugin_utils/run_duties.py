# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run owes before it begins, by its playbook and by the variables of its hosts: whom to call, why, and which parts it may not leave out.

A blue-green change-over owes what a migration does; its preparation is told what will be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible import context
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    application_hooks,
    contacts,
    environments,
    gate_verdict,
    incident_rules,
    rollback_plan,
    run_parts,
    typed_commands,
)


@dataclass
class Duties:
    """:ivar variables_of: each host's; a template of another host is not read.
    :ivar typed: what was given with -e. :ivar given: the same as ``typed_commands.given`` has it, with the inventories.
    :ivar run: ``playbook``, ``phases``, ``check_mode``, ``tags`` and ``skip_tags``.
    :ivar part_of: the run that has begun this one and waits for it."""

    variables_of: Mapping[str, Any]
    templar: Any
    typed: Mapping[str, Any]
    given: Mapping[str, Any]
    run: dict[str, Any]
    environment: str
    is_production: bool
    limit: str
    say: Callable[[str], None]
    part_of: str = ""

    def __post_init__(self) -> None:
        if self.run["playbook"] == "blue_green":
            self.run["stage"] = self._stage()

    def _stage(self) -> str:
        """:return: of hosts at different stages the one that owes the most."""
        stages = [
            str(self.templar.template(variables.get("blue_green_stage") or "status"))
            for variables in self.variables_of.values()
        ]
        return next((one for one in (run_parts.CHANGE_OVER, run_parts.PREPARE) if one in stages), stages[0])

    def first_of(self, name: str) -> Any:
        """:return: the value of the first host that has one; a template of another host is not the guard's to read."""
        value = next((variables[name] for variables in self.variables_of.values() if variables.get(name)), None)
        return self.templar.template(value)

    def _is_on(self, name: str) -> bool:
        return bool(boolean(self.first_of(name) or False, strict=False))

    def settled(self) -> dict[str, Any]:
        """:return: what a run that becomes an incident is recorded with. :raises Refusal: something of that is not settled."""
        playbook = self.run["playbook"]
        run = {typed_commands.GIVEN: self.given, "command": environments.typed_command()}
        people = self.first_of("pgops_contacts") if self.is_production else None
        owes = playbook == "migrate" or self.run.get("stage") in (run_parts.CHANGE_OVER, run_parts.PREPARE)
        why = ""
        if owes:
            why = self._words("audit_justification")
            if self.is_production:
                self.ask(incident_rules.refuse_uncalled, people, run, self.limit)
                if self._is_on("audit_justification_required"):
                    self.ask(incident_rules.refuse_unjustified, why, run, self.limit)
        planned: dict[str, Any] = {}
        if playbook == "rollback":
            why = self._words("rollback_reason")
            if self.is_production:
                incident_rules.refuse_without_reason(why, self.first_of("rollback_strategy"), run, self.limit)
            planned = self._planned(run)
        if playbook == "migrate" and self._is_on("migrate_auto_rollback"):
            reason = str(self.first_of("migrate_auto_rollback_reason") or "")
            asking = [name for name in incident_rules.ASKING if context.CLIARGS.get(name)]
            typed = [str(name) for name in self.typed]
            incident_rules.refuse_automatic(reason, self.is_production, typed, asking, run, self.limit)
        known = {
            "production": self.is_production, "contacts": contacts.known(people), "why": why, "stage": self.run.get("stage"), **planned,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value}

    def _words(self, name: str) -> str:
        return " ".join(str(self.first_of(name) or "").split())

    def ask(self, refuse: Callable[..., None], *about: Any) -> None:
        """For a migration: who only looks is told what will be missing. :raises Refusal: it is one that applies."""
        try:
            refuse(*about)
        except environments.Refusal as refusal:
            if run_parts.changes(self.run):
                raise
            self.say(f"will be missing: {str(refusal).partition('; type: ')[0]}")

    def _planned(self, run: dict[str, Any]) -> dict[str, Any]:
        """:return: ``emergency`` and ``window`` of a rollback. :raises Refusal: it has no plan, or no window and is no emergency."""
        given = {name: self.first_of(name) for name in rollback_plan.VARIABLES} | {"part_of": self.part_of}
        windows_of = {
            host: self.templar.template(variables.get("migrate_windows"))
            for host, variables in self.variables_of.items()
        }
        facts = rollback_plan.settled(
            given, windows_of, self.is_production, bool(self.run["check_mode"]), run, self.limit
        )
        if facts.get("window"):
            self.say(rollback_plan.line(facts))
        return facts

    def refuse_left_out(self, run: Mapping[str, Any]) -> None:
        """Where tags leave the plan out as well, nothing else is left that could ask before the application is taken away. The plan of a
        change-over comes behind its gate, which lifts the fence of one that was cut off.

        :param run: as the guard records it."""
        planned = "plan" not in run["phases"] or run_parts.is_taken("plan", run)
        if planned and run["playbook"] != "blue_green":
            return
        production = [self.environment] if self.is_production else []
        # A template says nothing here; where it means yes, the apply refuses.
        asked = [variables.get("gate_required") for variables in self.variables_of.values()]
        missing = run_parts.left_out(
            run,
            production=self.is_production,
            gated=any(gate_verdict.required(one, self.environment, production) for one in asked),
            assessed=self._is_on("audit_phi_required"),
        )
        if missing:
            raise environments.Refusal(
                f"Nothing was begun: {run_parts.told(missing)}, and {self.environment} applies nothing without",
                typed_commands.again(
                    typed_commands.whole({**run, typed_commands.GIVEN: self.given}), run["limit"] or self.environment
                ),
            )


def warn_of_watch(variables_of: Mapping[str, Any], warn: Callable[[str], None]) -> None:
    """A watch of minutes that looks at no application is hardly what was meant."""
    minutes = {}
    for host, variables in variables_of.items():
        given = str(variables.get("migrate_watch") or 0)
        # A template is no number, and that of another host not the guard's to read.
        if given.replace(".", "", 1).isdigit() and float(given) > 0:
            minutes[host] = given
    if not minutes:
        return
    probes = {application_hooks.variable(kind) for kind in application_hooks.PROBES}
    bare = [host for host in minutes if not any(variables_of[host].get(name) for name in probes)]
    if bare:
        named = f" for {', '.join(bare[:3])}{f' and {len(bare) - 3} more' if len(bare) > 3 else ''}"
        warn(
            f"migrate_watch={minutes[bare[0]]} and neither hooks_health nor hooks_metrics is declared{named}: only the databases "
            "are watched (transactions that roll back, indexes that become invalid, standbys), not the application"
        )
