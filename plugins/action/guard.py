# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses a run that should not start, and starts the one that may; documented in the module of the same name."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleTemplateError
from ansible.release import __version__ as ansible_version
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unbroken import Screen, UnbrokenAction

# Everything else of the collection is imported after the versions were looked at: it needs the Python that is missing.

display = Screen()

# Set by Ansible itself beside what the user gave with -e.
_NOT_EXTRA = ("ansible_version",)


class ActionModule(UnbrokenAction):
    """Runs on the controller, once a play; starts no module, so no host is reached."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"playbook"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Refuse in one sentence, or start the run."""
        variables = task_vars or {}
        super().run(tmp, variables)
        try:
            environments.check_versions(ansible_version, sys.version_info)
            going_on = self._next_batch(variables)
            if going_on:
                return going_on
            try:
                self._mark_begun(variables)
                return self._start(variables)
            except AnsibleTemplateError as error:
                self._refuse_untold(variables, failed=error)
                raise
        except environments.Refusal as refusal:
            return {"failed": True, "refused": True, "msg": str(refusal), "next": refusal.next}

    def _next_batch(self, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        """:return: the run of the play's earlier batches, which this one belongs to; None in the first one."""
        hosts = list(task_vars["ansible_play_hosts_all"])
        if hosts[0] in task_vars["ansible_play_batch"]:
            return None
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.typed_commands import GIVEN

        facts = self._variables_of(hosts[0], task_vars)["ansible_facts"]["__pgops_run"]
        # Without what the phases of the earlier batch found.
        run = {name: value for name, value in facts.items() if name == GIVEN or not isinstance(value, dict)}
        display.display(f"pgops run {run['id']} goes on with {', '.join(task_vars['ansible_play_batch'])}")
        return {"changed": False, "run": run, "ansible_facts": {"__pgops_run": run}}

    def _playbook(self) -> str:
        """:return: what runs; by the play's own word, since a playbook of the site may import it."""
        return str(self._task.args.get("playbook") or environments.playbook_name())

    def _value(self, task_vars: dict[str, Any], variable: str) -> Any:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES

        value = task_vars.get(variable)
        if value is not None:
            value = self._templar.template(value)
        return SHARED_VARIABLES[variable].default if value in (None, "", []) else value

    def _mark_begun(self, task_vars: dict[str, Any]) -> None:
        """An older result is none of this run's.

        :raises Refusal: the file cannot be written, which nobody wants to hear behind an apply"""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting

        if task_vars.get("pgops_json"):
            path = str(self._templar.template(task_vars["pgops_json"]))
            try:
                reporting.write_begun(path, self._playbook())
            except OSError as problem:
                raise environments.Refusal(
                    f"pgops_json={path} cannot be written: {problem.strerror}; name a file that can"
                ) from None

    def _start(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
            batches,
            checked_variables,
            environment_names,
            execution_environment,
            part_of_run,
            resumed_run,
            run_duties,
            typed_commands,
        )
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, new_run_id, now

        hosts = list(task_vars["ansible_play_hosts_all"])
        variables_of = {host: self._variables_of(host, task_vars) for host in hosts}
        checked_variables.refuse_unknown(variables_of, load_extra_vars(self._loader))

        limit = str(task_vars.get("ansible_limit") or context.CLIARGS.get("subset") or "")
        groups = task_vars["groups"]
        given = typed_commands.given(self._loader)
        command = typed_commands.before_limit({typed_commands.GIVEN: given}, environments.typed_command())
        known, production = environment_names.of_run(
            variables_of, str(task_vars["inventory_hostname"]), lambda name: self._value(task_vars, name)
        )
        if not {*known} & {*production}:
            display.warning(environment_names.none_is_production(known, production))
        environment = environments.choose_environment(
            hosts,
            {host: list(variables_of[host]["group_names"]) for host in hosts},
            limit,
            known,
            production,
            {*groups, *groups["all"]},
            command,
        )
        phases = environments.choose_phases(task_vars.get("pgops_phases") and self._value(task_vars, "pgops_phases"))
        environments.refuse_unproved_production(phases, environment, production)
        for host in hosts:
            if not any(variables_of[host].get(name) for name in environments.DATABASE_VARIABLES):
                raise environments.Refusal(
                    f"pgops_database is not set for {host}; name it in inventories/group_vars/{environment}/ or here",
                    f"{command} -l {shlex.quote(limit or environment)} -e pgops_database=NAME",
                )
        self._refuse_untold(task_vars, checked_variables.ALWAYS_READ, limit or environment)
        self._check_values(variables_of, given, limit or environment)
        hooks = self._hooks(variables_of)
        self._check_batches(variables_of, given, limit or environment, groups["all"])
        playbook = self._playbook()
        tags = {name: [str(tag) for tag in context.CLIARGS.get(name) or []] for name in ("tags", "skip_tags")}
        state = str(self._value(task_vars, "pgops_state_directory"))
        # The run that has started this one and waits for it; what that has taken away from the users, this one may bring back.
        part_of = part_of_run.believed(
            task_vars.get(part_of_run.VARIABLE),
            state,
            environment,
            hosts,
            batches.names(task_vars.get("pgops_databases")),
        )
        duties = run_duties.Duties(
            variables_of=variables_of,
            templar=self._templar,
            typed=load_extra_vars(self._loader),
            given=given,
            run={"playbook": playbook, "phases": phases, "check_mode": bool(self._task.check_mode), **tags},
            environment=environment,
            is_production=environment in production,
            limit=limit or environment,
            say=display.display,
            part_of=part_of,
        )
        incident = duties.settled()
        told = {
            "playbook": playbook,
            "part_of": part_of,
            "environment": environment,
            typed_commands.GIVEN: given,
            "command": environments.typed_command(),
        }
        execution_environment.refuse_inside(
            playbook, state, variables_of, self._templar.template, told, limit or environment
        )
        past = self._refuse_eased(told, hosts, task_vars, limit or environment)
        if playbook == "migrate":
            from ansible_collections.whitecross.pgops.plugins.plugin_utils import gate_verdict, required_copies

            gate_verdict.refuse_left_out(variables_of, phases, environment, production)
            duties.ask(required_copies.refuse_placeless, variables_of, phases, told, limit or environment)
            run_duties.warn_of_watch(variables_of, display.warning)

        try:
            who = os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            who = str(os.getuid())
        run: dict[str, Any] = {
            "id": new_run_id(),
            "environment": environment,
            "playbook": playbook,
            "command": environments.typed_command(),
            "limit": limit,
            "who": who,
            "ops_host": os.uname().nodename,
            "started": now(),
            "check_mode": bool(self._task.check_mode),
            "hosts": [str(host) for host in hosts],
            "canary": batches.names(load_extra_vars(self._loader).get("migrate_canary")),
            "phases": phases,
            **tags,
            # Names only: a value may be a password.
            "extra_variables": sorted(str(name) for name in load_extra_vars(self._loader) if name not in _NOT_EXTRA),
        }
        run.update(incident)
        if past:
            run["past"] = past
        duties.refuse_left_out(run)
        resumed = resumed_run.take_up(run, str(self._value(task_vars, "pgops_run_id") or ""), state, given)
        if part_of:
            run["part_of"] = part_of
        # Empty where no hook is declared, and then nothing about hooks costs anything.
        run["hooks"] = hooks
        if task_vars.get("pgops_json"):
            run["json"] = str(self._templar.template(task_vars["pgops_json"]))
        if not self._task.check_mode:
            try:
                journal = Journal(state, environment, run["id"])
                journal.append(
                    {
                        "event": "run_resumed" if resumed else "run_started",
                        "pid": os.getppid(),
                        **{key: run[key] for key in run if key != "started"},
                    }
                )
            except OSError as error:
                raise AnsibleActionFail(
                    f"Cannot write the journal of the run below {error.filename or state}: {error.strerror}; name a folder "
                    "that you may write with -e pgops_state_directory=FOLDER."
                ) from None  # Ansible would tell the cause once more
            run["journal"] = str(journal.path)
        # Not in the journal: only this run prints commands.
        run[typed_commands.GIVEN] = given
        display.display(
            f"pgops run {run['id']}: {run['playbook']} in {environment} ({', '.join(run['hosts'])}) by {who} on {run['ops_host']}"
            f", started {run['started']}{', check mode: nothing is written' if self._task.check_mode else ''}"
        )
        return {"changed": False, "run": run, "ansible_facts": {"__pgops_run": run}}

    def _refuse_eased(self, run: dict[str, Any], hosts: list[str], task_vars: dict[str, Any], limit: str) -> list[str]:
        """:return: what a broken glass lets pass of the inventory. :raises Refusal: no glass is broken."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import gate_guard, production_guard

        typed = {name: value for name, value in load_extra_vars(self._loader).items() if name not in _NOT_EXTRA}
        gate_guard.refuse_other_name(typed, run, limit)
        if not typed:
            return []
        inventory = gate_guard.Inventory(task_vars, self._templar)
        past: list[str] = []
        if run["playbook"] not in gate_guard.PLAYBOOKS:
            production_guard.refuse_eased(run, typed, hosts, inventory, self._templar, limit)
        else:
            gate_guard.refuse_server_of_another(run, typed, hosts, inventory, self._templar)
            past = gate_guard.refuse_eased(run, typed, hosts, inventory, self._templar, limit)
        production_guard.refuse_internals(run, typed, limit)
        return past

    @staticmethod
    def _variables_of(host: str, task_vars: dict[str, Any]) -> Any:
        if host == task_vars["inventory_hostname"]:
            return task_vars
        # raw: a template in somebody else's variable is none of the guard's business.
        return task_vars["hostvars"].raw_get(host)

    def _refuse_untold(
        self,
        task_vars: dict[str, Any],
        names: Iterable[str] | None = None,
        limit: str | None = None,
        failed: AnsibleTemplateError | None = None,
    ) -> None:
        """:param names: by default all of the collection's. :raises Refusal: the template of one fails, as ``failed`` did."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
            checked_variables,
            typed_commands,
            variables,
        )

        run = {typed_commands.GIVEN: typed_commands.given(self._loader), "command": environments.typed_command()}
        checked_variables.refuse_untold(
            self._templar,
            str(task_vars["inventory_hostname"]),
            task_vars,
            sorted(variables.known_variables()) if names is None else names,
            load_extra_vars(self._loader),
            run,
            limit or str(task_vars.get("ansible_limit") or context.CLIARGS.get("subset") or "") or None,
            failed,
        )

    @staticmethod
    def _hooks(variables_of: dict[str, Any]) -> list[str]:
        """:return: the kinds of hooks that any host declares. :raises Refusal: one that cannot be meant."""
        if not any(name.startswith("hooks_") for variables in variables_of.values() for name in variables):
            return []
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks

        found: set[str] = set()
        for host, variables in variables_of.items():
            wrong = application_hooks.refusal(variables)
            if wrong:
                raise environments.Refusal(f"{wrong}; correct it where it is set (for {host})")
            found.update(application_hooks.declared(variables))
        return [kind for kind in application_hooks.KINDS if kind in found]

    def _check_values(self, variables_of: dict[str, Any], given: dict[str, Any], limit: str) -> None:
        """A value that cannot be meant would quietly take the default, or fail in the middle of the run."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import refused_values, typed_commands
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import role_options

        extra = load_extra_vars(self._loader)
        run = {typed_commands.GIVEN: given, "command": environments.typed_command()}

        def instead(name: str, value: Any) -> str | None:
            """The command with another value, or without; a wrong one is never told to be typed again."""
            if name not in given["variables"]:
                return None
            kept = {known: old for known, old in given["variables"].items() if known != name or value is not None}
            if value is not None:
                kept[name] = value
            return typed_commands.again({**run, typed_commands.GIVEN: {**given, "variables": kept}}, limit)

        empty = refused_values.empty_value(extra)
        if empty:
            raise environments.Refusal(
                f"{empty} was given without a value, which would count as not given at all (an empty shell variable?); "
                "give it one, and to see the versions",
                typed_commands.other(run, "status", limit),
            )
        for host, variables in variables_of.items():
            wrong = refused_values.wrong_value(variables, role_options())
            if wrong:
                where = "" if wrong.name in extra else f" (set for {host})"
                raise environments.Refusal(f"{wrong.sentence}{where}", instead(wrong.name, wrong.instead))
            stray = refused_values.stray_selection(variables)
            if stray and (stray[0] in extra or self._playbook() == "rollback"):
                name, needed, chosen = stray
                sentence = f"{name} belongs to rollback_strategy={needed}, and this run's is {chosen}, which would pass over it"
                if name not in given["variables"]:
                    raise environments.Refusal(f"{sentence}; take it out where it is set (for {host})")
                choice = {"rollback_strategy": needed, name: given["variables"][name]}
                raise environments.Refusal(
                    f"{sentence}; leave it out, or for {needed}", typed_commands.again(run, limit, choice)
                )

    def _check_batches(
        self, variables_of: dict[str, Any], given: dict[str, Any], limit: str, inventory: Sequence[str]
    ) -> None:
        """A canary that is not in reach would leave its place to whichever host comes first."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches, typed_commands

        extra = load_extra_vars(self._loader)
        run = {typed_commands.GIVEN: given, "command": environments.typed_command()}
        for host, variables in variables_of.items():
            for name in environments.BATCH_VARIABLES:
                if variables.get(name) and name not in extra:
                    raise environments.Refusal(
                        f"{name} is set for {host}, and batches are made before any host's variables are read; take it out "
                        "there and give it with -e",
                        typed_commands.again(run, limit, {name: variables[name]}),
                    )
        wrong = batches.wrong_size(extra.get("migrate_batches"))
        if wrong:
            raise environments.Refusal(
                f"migrate_batches has {wrong}, and it takes numbers from 1 on and percentages, the last for all that is left",
                typed_commands.again(run, limit, {"migrate_batches": "1,10%,30%,100%"}),
            )
        canary = batches.names(extra.get("migrate_canary"))
        hosts = [name for name in canary if name in variables_of]
        if canary and not hosts and len(variables_of) > 1:
            raise environments.Refusal(
                f"migrate_canary names {', '.join(canary)}, which is none of the {len(variables_of)} hosts of this run; name the "
                "host that goes first, and a database of it after a comma",
                typed_commands.again(run, limit, {"migrate_canary": ",".join([next(iter(variables_of)), *canary])}),
            )
        elsewhere = [name for name in canary if name in inventory and name not in hosts]
        if hosts and elsewhere:
            # 'serial' counts it among the canaries all the same, and another host would go with the first.
            raise environments.Refusal(
                f"migrate_canary names {', '.join(elsewhere)}, which is a host outside this run; leave it out",
                typed_commands.again(run, limit, {"migrate_canary": ",".join(n for n in canary if n not in elsewhere)}),
            )
        if any(one.get("pgops_databases_query") and not one.get("pgops_databases") for one in variables_of.values()):
            return  # What there is on the server is asked later.
        there = {
            name
            for variables in variables_of.values()
            for name in batches.names(
                self._templar.template(variables.get("pgops_databases") or variables.get("pgops_database"))
            )
        }
        unknown = [name for name in canary if name not in hosts and name not in there]
        if unknown:
            raise environments.Refusal(
                f"migrate_canary names {', '.join(unknown)}, which is no host and no database of this run; name one of them",
                typed_commands.again(run, limit, {"migrate_canary": min(there)}) if there else None,
            )
