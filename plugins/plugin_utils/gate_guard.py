# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holds what was typed with -e against what the inventory says, before anything of a run that has a gate begins."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    break_glass,
    environment_names,
    environments,
    gate_verdict,
    typed_commands,
    typed_settings,
    waivers,
)

# What applies, and what leaves a rehearsal that lets something be applied.
PLAYBOOKS = ("migrate", "rehearse", "blue_green")
# Where a glass is broken; of a blue-green change the change-over alone asks for it and tells it.
_APPLIES = ("migrate", "blue_green")
_SERVER = ("pgops_host", "pgops_port", "ansible_host")
_NEAR = ("127.0.0.1", "::1", "localhost")
_ALWAYS = ("gate_required", environment_names.PRODUCTION)


class Inventory:
    """What the hosts would have if nothing had been typed with -e."""

    def __init__(self, task_vars: Mapping[str, Any], templar: Any) -> None:
        self._templar = templar
        # The manager is shared with the hosts' variables; only this copy forgets what was typed.
        self._manager = copy.copy(task_vars["hostvars"]._variable_manager)
        self._manager.__dict__.update(vars(task_vars["hostvars"]._variable_manager))
        self._manager._extra_vars = {}

    def of(self, host: str, names: Iterable[str]) -> dict[str, Any]:
        """:return: these variables of a host, templates done; one that cannot be stays the text that it is."""
        variables = self._manager.get_vars(host=self._manager._inventory.get_host(host))
        templar = self._templar.copy_with_new_env(available_variables=variables)
        return {name: _done(templar, variables[name]) for name in names if name in variables}

    def others(self, hosts: Iterable[str]) -> list[str]:
        """:return: the hosts of the inventory besides these."""
        own = set(map(str, hosts))
        everyone = self._manager._inventory.get_hosts("all", ignore_limits=True, ignore_restrictions=True)
        return [str(host.name) for host in everyone if str(host.name) not in own]

    def environment(self, host: str) -> str:
        """:return: the first environment of a host's groups; empty where it is in none."""
        known = self.of(host, [environment_names.ENVIRONMENTS]).get(environment_names.ENVIRONMENTS)
        groups = {group.name for group in self._manager._inventory.get_host(host).get_groups()}
        return next(
            (name for name in environment_names.listed(environment_names.ENVIRONMENTS, known) if name in groups), ""
        )


def _done(templar: Any, value: Any) -> Any:
    try:
        return templar.template(value)
    except AnsibleError:
        return value


def refuse_other_name(typed: Iterable[str], run: Mapping[str, Any], limit: str) -> None:
    """What is held against the inventory depends on the playbook, and the playbook itself says which one it is.

    :raises environments.Refusal: somebody has typed another name for it, which would win
    """
    if "guard_playbook" in typed:
        raise environments.Refusal(
            "guard_playbook is typed with -e, and each playbook says itself which one it is; without it",
            typed_commands.again(typed_commands.without(run, ["guard_playbook"]), limit),
        )


def refuse_eased(
    run: Mapping[str, Any], typed: Mapping[str, Any], hosts: Iterable[str], inventory: Inventory, templar: Any, limit: str
) -> list[str]:  # fmt: skip
    """:param run: ``playbook``, ``environment``, and what its command was typed with.
    :param typed: what was given with -e, by name.
    :return: for a run behind a broken glass what it passes of the inventory, each a phrase; nothing for others.
    :raises environments.Refusal: somebody has typed less than an environment with a gate asks for
    """
    # Most runs have typed nothing of it, and a fleet has many hosts whose variables would be read for nothing.
    if not any(name in typed_settings.RULES or typed_settings.is_internal(str(name)) for name in typed):
        return []
    values = {str(name): _done(templar, value) for name, value in typed.items()}
    of_hosts = [inventory.of(host, {*values, *_ALWAYS, "blue_green_stage"}) for host in hosts]
    eased = typed_settings.eased(values, of_hosts)
    kept = of_hosts[0].get(environment_names.PRODUCTION) if of_hosts else None
    production = environment_names.listed(environment_names.PRODUCTION, kept)
    never = [name for name in eased if name in typed_settings.NEVER or typed_settings.is_internal(name)]
    switches = [name for name in never if name in typed_settings.NEVER]
    if not switches and not gate_verdict.is_gated(of_hosts, str(run["environment"]), production):
        return []
    if eased and not never and _is_applied(run, values, of_hosts) and _glass(values):
        return [f"what the inventory says of {', '.join(eased)}"]
    today = datetime.now(UTC).date()
    why = next(
        (
            f"{name} {lack}"
            for name in eased
            if typed_settings.RULES.get(name) is typed_settings.named
            for variables in of_hosts
            if (lack := waivers.unsigned(values[name], variables.get(name), today))
        ),
        None,
    )
    gate_verdict.refuse_typed(run, switches or eased, why, limit)
    return []


def refuse_server_of_another(
    run: Mapping[str, Any], typed: Mapping[str, Any], hosts: Iterable[str], inventory: Inventory, templar: Any
) -> None:
    """A run of an environment without a gate, which is sent to the server of one that has it.

    :raises environments.Refusal: ``pgops_host`` or ``ansible_host`` says so; a server is known by the name that its inventory gives it
    """
    if run["playbook"] not in _APPLIES or not {"pgops_host", "ansible_host"} & set(map(str, typed)):
        return
    values = {name: _done(templar, typed[name]) for name in _SERVER if name in typed}
    here = {**inventory.of(next(iter(hosts)), _SERVER), **values}
    wanted = _names(values)
    for host in inventory.others(hosts):
        there, environment = inventory.of(host, {*_SERVER, *_ALWAYS}), inventory.environment(host)
        production = environment_names.listed(environment_names.PRODUCTION, there.get(environment_names.PRODUCTION))
        same_port = str(here.get("pgops_port") or 5432) == str(there.get("pgops_port") or 5432)
        if (
            same_port
            and wanted & _names({"ansible_host": host, **there})
            and gate_verdict.is_gated([there], environment, production)
        ):
            names = [name for name in ("pgops_host", "ansible_host") if name in values]
            raise environments.Refusal(
                f"{names[0]} is typed with -e and names the server of {host}, and {environment} has a gate; without it",
                typed_commands.again(typed_commands.without(run, _SERVER), environment),
            )


def _names(variables: Mapping[str, Any]) -> set[str]:
    """:return: how a server is called: by pgops_host, or as the machine on which it listens for that machine alone."""
    named = {name.strip() for name in str(variables.get("pgops_host") or "").split(",")} - {""}
    far = {name for name in named if name not in _NEAR and not name.startswith("/")}
    return far or {str(variables["ansible_host"])} if variables.get("ansible_host") else far


def _is_applied(run: Mapping[str, Any], values: Mapping[str, Any], of_hosts: Iterable[Mapping[str, Any]]) -> bool:
    """:return: whether the run asks for a broken glass, and so tells of one."""
    if run["playbook"] != "blue_green":
        return run["playbook"] in _APPLIES
    return all({**one, **values}.get("blue_green_stage") == "change_over" for one in of_hosts)


def _glass(values: Mapping[str, Any]) -> bool:
    """:return: whether somebody breaks the glass; what is wrong with that is told where it is broken."""
    given = {part: values.get(name) for part, name in break_glass.VARIABLES.items()}
    try:
        return break_glass.settled(given, set(values), datetime.now(UTC)) is not None
    except PgopsError:
        return False
