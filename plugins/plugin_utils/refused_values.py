# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which values of the roles' variables cannot be meant, decided on plain data before anything is reached.

Ansible's own check of a role's arguments comes when the role does, speaks of all of its arguments at once and says
nothing of a value that is empty or belongs to another choice; both would quietly take the default.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.common.text.converters import to_text
from ansible.module_utils.common.validation import check_type_bool, check_type_float, check_type_int
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unread_values import is_template

# What each way back goes by. Another one passes over it, and would take what it takes when nothing is said.
STRATEGY_OF = {
    "rollback_steps": "down",
    "rollback_keep": "down",
    "rollback_through": "down",
    "rollback_version": "down",
    "rollback_backup": "restore",
    "rollback_swap_to": "swap",
    "rollback_restore_point": "pitr",
    "rollback_to_time": "pitr",
    "rollback_kept_cluster": "pitr",
}
# Where nothing given means a choice of its own: the last version, all versions, the newest backup.
NEVER_EMPTY = frozenset(
    {
        *STRATEGY_OF,
        "rollback_strategy",
        "rollback_reason",
        "migrate_target",
        "migrate_steps",
        "migrate_canary",
        "migrate_batches",
        "backup_path",
        "backup_pin",
        "backup_unpin",
        "backup_list_only",
        "backup_list_newest",
        "backup_from_standby",
        "backup_standby_host",
        "backup_standby_port",
        "drill_backup",
        "drill_point_in_time",
    }
)
# Of none of these 0 means anything.
_COUNTS = frozenset(
    {
        "rollback_steps",
        "rollback_statement_timeout",
        "rollback_lock_budget",
        "migrate_steps",
        "migrate_index_workers",
        "migrate_index_workers_busy",
        "migrate_index_memory_mb",
        "migrate_index_timeout",
        "backup_list_newest",
        "pgops_connect_timeout",
        "pgops_lease",
    }
)

# Of these less than 0 means nothing.
_NEVER_NEGATIVE = frozenset(
    {
        "rollback_emergency_backup_timeout",
        "rollback_keep_days",
        "rollback_max_backup_age_days",
        "backup_standby_lag_seconds",
        "backup_standby_lag_mb",
        "backup_rate_limit_mb",
        "pgops_poll_interval",
    }
)

# libpq takes one for each host, and none between two commas for the default.
_PORTS = ("pgops_port", "pgops_scratch_port", "backup_standby_port")
_LAST_PORT = 65535
# Whose ports they are. Those of a standby are counted where it is looked for.
_HOSTS: Mapping[str, tuple[str, ...]] = {
    "pgops_port": ("pgops_host",),
    "pgops_scratch_port": ("pgops_scratch_host", "pgops_host"),
}
# The shared variables are no options of a role.
_SHARED: Mapping[str, Mapping[str, Any]] = {
    "pgops_connect_timeout": {"type": "int"},
    "pgops_lease": {"type": "int"},
    "pgops_poll_interval": {"type": "float"},
}

_TYPES: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "int": (check_type_int, "a whole number"),
    "float": (check_type_float, "a number"),
    "bool": (check_type_bool, "true or false"),
}
_SHOWN = 40


@dataclass(frozen=True)
class RefusedValue:
    """A value that the run does not start with.

    :ivar sentence: what is wrong, without a full stop
    :ivar instead: what to give in its place; None to leave the variable out
    """

    name: str
    sentence: str
    instead: Any = None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _shown(value: Any) -> str:
    text = " ".join(to_text(value).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _is_port(text: str) -> bool:
    number = text.strip()
    return not number or (number.isascii() and number.isdigit() and 1 <= int(number) <= _LAST_PORT)


def _wrong_number(
    name: str, ports: Any, of_hosts: tuple[str, ...], variables: Mapping[str, Any]
) -> RefusedValue | None:
    """libpq takes one port for all hosts, or as many as there are hosts.

    :param of_hosts: the variables that name the hosts, the first that is set counts
    """
    named = next((host for host in of_hosts if not _is_empty(variables.get(host))), of_hosts[-1])
    hosts = variables.get(named)
    if _is_empty(ports) or is_template(ports) or is_template(hosts):
        return None
    there, given = (1 if _is_empty(one) else len(str(one).split(",")) for one in (hosts, ports))
    if given in (1, there):
        return None
    told = "one host" if there == 1 else f"{there} hosts"
    return RefusedValue(
        name,
        f"{name} is {_shown(ports)}, {given} ports with commas, and {named} names {told}; it takes one port, or one for each",
    )


def empty_value(given: Mapping[str, Any]) -> str | None:
    """The first variable of the command line that has no value though none would be a choice, or None.

    :param given: what was given with ``-e``; an empty shell variable gives an empty text
    """
    return next((name for name in sorted(NEVER_EMPTY & set(given)) if _is_empty(given[name])), None)


def wrong_value(variables: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> RefusedValue | None:
    """The first variable whose value its argument spec does not take, or None.

    Templates are left to the spec itself, which sees what they come to.

    :param variables: name -> value, as they are set
    :param options: name -> the option in ``meta/argument_specs.yml``
    """
    for name in _PORTS:
        value = variables.get(name)
        if not (_is_empty(value) or is_template(value) or all(map(_is_port, str(value).split(",")))):
            return RefusedValue(
                name,
                f"{name} is {_shown(value)}, and it takes a port from 1 to {_LAST_PORT}, or one for each host with commas",
            )
    for name, of_hosts in _HOSTS.items():
        wrong = _wrong_number(name, variables.get(name), of_hosts, variables)
        if wrong:
            return wrong
    for name, option in {**_SHARED, **options}.items():
        value = variables.get(name)
        if _is_empty(value) or is_template(value):
            continue
        choices = [str(choice) for choice in option.get("choices") or []]
        if choices and str(value) not in choices:
            near = difflib.get_close_matches(str(value), choices, 1)
            takes = f"one of {', '.join(choices)}"
            return RefusedValue(name, f"{name} is {_shown(value)}, and it takes {takes}", near[0] if near else None)
        check, takes = _TYPES.get(str(option.get("type")), (None, ""))
        if check is None:
            continue
        try:
            number = check(value)
        except TypeError:
            number = None
        if name in _COUNTS and (number is None or number < 1):
            # One second of a lease is nothing that anybody would want.
            least = None if name in _SHARED else 1
            return RefusedValue(name, f"{name} is {_shown(value)}, and it takes a whole number from 1 on", least)
        if name in _NEVER_NEGATIVE and (number is None or not number >= 0):
            return RefusedValue(name, f"{name} is {_shown(value)}, and it takes a number from 0 on")
        if number is None:
            return RefusedValue(name, f"{name} is {_shown(value)}, and it takes {takes}")
    return None


def stray_selection(variables: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first selection of a rollback that its strategy would pass over, or None.

    :returns: the variable, the strategy that it belongs to, the strategy of this run
    """
    strategy = variables.get("rollback_strategy")
    if is_template(strategy):
        return None
    chosen = "down" if _is_empty(strategy) else str(strategy)
    for name, needed in STRATEGY_OF.items():
        if needed != chosen and not _is_empty(variables.get(name)):
            return name, needed, chosen
    return None
