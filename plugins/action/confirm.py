# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks for the name of the database that is about to be rolled back; documented in the module of the same name."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.utils.display import Display
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    notices,
    promotion,
    rehearsals,
    typed_commands,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import now, without_secrets

# What says which rollback it is, in the command that is told to be typed next.
_ASKED_FOR = (
    "rollback_strategy",
    "rollback_steps",
    "rollback_keep",
    "rollback_through",
    "rollback_version",
    "rollback_backup",
    "rollback_swap_to",
    "rollback_restore_point",
    "rollback_to_time",
    "rollback_kept_cluster",
    "rollback_whole_cluster",
)

display = Display()


class ActionModule(PgopsAction):
    """Runs on the controller; starts no module."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"answer", "databases", "variable", "what"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Go on when every database is named; ask at a terminal, refuse without one."""
        variables = task_vars or {}
        databases = list(self._task.args.get("databases") or self.pgops(variables, "databases") or [])
        answer = self._task.args.get("answer")
        wanted = ",".join(databases)
        if self._is_of_rollback(variables):
            self._tell_rehearsed(variables)
        if self._task.check_mode:
            return {"changed": False, "confirmed": False, "msg": f"check mode: would ask for {wanted}"}
        if not answer:
            try:
                given = display.prompt_until(
                    f"Type the name of the database ({wanted}) to go on, anything else to stop: "
                )
                answer = given.decode("utf-8", "replace").strip() if isinstance(given, bytes) else str(given).strip()
            except AnsiblePromptNoninteractive:
                return self._refused(variables, wanted, "nobody is there to be asked")
            except AnsiblePromptInterrupt:
                return self._refused(variables, wanted, "it was interrupted")
        if self._names(answer) != sorted(databases):
            return self._refused(variables, wanted, f"{answer!s} was given")
        if self._is_of_rollback(variables):
            self._announce(variables, databases)
        return {"changed": False, "confirmed": True}

    def _is_of_rollback(self, task_vars: dict[str, Any]) -> bool:
        own = str(self._task.args.get("variable") or "rollback_confirm") == "rollback_confirm"
        return own and self.run_fact(task_vars).get("playbook") == "rollback"

    def _strategy(self, task_vars: dict[str, Any]) -> str:
        return str(self._templar.template(task_vars.get("__rollback_strategy")) or "down")

    def _tell_rehearsed(self, task_vars: dict[str, Any]) -> None:
        """In production, which of it was done in the environment before. Before the versions are known there is nothing to tell."""
        environment, production = (
            str(self.run_fact(task_vars).get("environment")),
            self.pgops(task_vars, "production_environments"),
        )
        before = promotion.previous(environment, self.pgops(task_vars, "environments"), production)
        strategy, shown = self._strategy(task_vars), task_vars.get("__rollback_shown")
        if before is None or (strategy == "down" and not shown) or strategy == "auto":
            return
        versions: list[str] = []
        if strategy == "down":
            going = self._templar.template(task_vars.get("__rollback_versions")) or {}
            versions = list(dict.fromkeys(str(version) for found in going.values() for version in found))
        state = str(self.pgops(task_vars, "state_directory"))
        for line in rehearsals.told(state, before, strategy, versions):
            self.say(line)
        rate = rehearsals.rate(state, before)
        if rate:
            self.say(rate)

    def _announce(self, task_vars: dict[str, Any], databases: list[str]) -> None:
        """Say once, on the screen and to whom the environment names, that a rollback begins now; whether that is heard stops nothing."""
        journal, host, run = self._journal(task_vars), task_vars.get("inventory_hostname"), self.run_fact(task_vars)
        if journal is None or any(
            event.get("event") == "announced" and event.get("host") == host for event in journal.events()
        ):
            return
        strategy = self._strategy(task_vars)
        at = now()
        self.say(f"{', '.join(databases)} on {host}: the rollback ({strategy}) begins at {at}")
        settings = {name: self.pgops(task_vars, name.removeprefix("pgops_")) for name in notices.VARIABLES}
        told = "neither pgops_webhook nor pgops_mail is set"
        try:
            # In an emergency they are told by its alert, with the hooks.
            if run.get("emergency") == "declared":
                told = "by the alert of the emergency"
            elif notices.deliver(notices.of_rollback(run, str(host), at, strategy, databases), settings):
                told = "told"
        except notices.NotNotified as fault:
            told = f"{notices.who_was(fault).lower()} was told"
            display.warning(f"{notices.who_was(fault)} was told that this rollback begins: {fault}")
        journal.append({"event": "announced", "host": host, "strategy": strategy, "result": told})

    @staticmethod
    def _names(answer: Any) -> list[str]:
        names = answer if isinstance(answer, list) else str(answer).split(",")
        return sorted(str(name).strip() for name in names)

    def _refused(self, task_vars: dict[str, Any], wanted: str, why: str) -> dict[str, Any]:
        host = task_vars.get("inventory_hostname")
        variable = str(self._task.args.get("variable") or "rollback_confirm")
        what = str(self._task.args.get("what") or "rollback")
        # All that was typed, for the inventory may say otherwise, and what the inventory has chosen.
        typed = typed_commands.typed_variables(self.typed(task_vars))
        choice = {name: value for name, value in typed.items() if name.startswith("rollback_")}
        for name in _ASKED_FOR if variable == "rollback_confirm" else ("rollback_keep_days",):
            value = self._templar.template(task_vars.get(name))
            if value not in (None, "", False) and (name, value) != ("rollback_strategy", "down"):
                choice.setdefault(name, value)
        confirmed = {variable: wanted}
        return {
            "failed": True,
            "msg": f"The {what} of {wanted} on {host} was not confirmed ({why}); nothing was changed. Read what is lost, "
            f"then add {extra_variables_argument(confirmed)}",
            "next": [self.again(task_vars, without_secrets({**choice, **confirmed}))],
        }
