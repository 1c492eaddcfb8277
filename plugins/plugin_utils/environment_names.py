# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which groups are environments and which of them hold production data: the one place that reads the two variables that say it.

``-e pgops_production_environments=production`` is a text; taken for a list it is ten letters, and production would be no production.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import batches
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.unread_values import is_encrypted, is_template

ENVIRONMENTS, PRODUCTION = "pgops_environments", "pgops_production_environments"
_GROUP = re.compile(r"[\w.-]+")
_SHOWN = 60


def listed(variable: str, value: Any) -> list[str]:
    """:param value: as it is set, its template done
    :return: the groups that it names; the default where it names none"""
    named = batches.names(value) if _is_list(value) else []
    return named or list(SHARED_VARIABLES[variable].default)


def refuse_no_list(variable: str, value: Any, host: str) -> None:
    """:raises Refusal: it is set, and neither a list of names nor a text of them with commas"""
    if value is None or _is_list(value):
        return
    shown = " ".join(str(value).split())
    raise Refusal(
        f"{variable} is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}, and it takes a list of groups, or their names with "
        f"commas (set for {host}); correct it where it is set"
    )


def none_is_production(known: list[str], production: list[str]) -> str:
    """:return: what an inventory has to know that has environments of its own and has not told which of them hold production data"""
    return (
        f"None of the environments {', '.join(known)} counts as production ({PRODUCTION} is {', '.join(production)}), so that nothing here is "
        f"guarded as production; name those that hold production data in {PRODUCTION}, beside {ENVIRONMENTS}"
    )


def of_run(
    variables_of: Mapping[str, Mapping[str, Any]], host: str, value: Callable[[str], Any]
) -> tuple[list[str], list[str]]:
    """:param variables_of: host -> its variables, templates not done
    :param host: whose word counts; ``value`` gives its variables with their templates done
    :return: the environments, and those that hold production data
    :raises Refusal: one of them is no list, for any host"""
    for variable in (ENVIRONMENTS, PRODUCTION):
        for name, variables in variables_of.items():
            if not _is_to_be_done(variables.get(variable)):
                refuse_no_list(variable, variables.get(variable), name)
        refuse_no_list(variable, value(variable), host)
    return listed(ENVIRONMENTS, value(ENVIRONMENTS)), listed(PRODUCTION, value(PRODUCTION))


def _is_to_be_done(value: Any) -> bool:
    """:return: whether only a template, or a key of Ansible's vault, tells what it is."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_to_be_done, value))
    return is_encrypted(value) or is_template(value)


def _is_list(value: Any) -> bool:
    if not isinstance(value, (str, list, tuple)):
        return False
    # A list that was written as a text, "['production']", has no such names.
    return all(isinstance(one, str) for one in value) and all(map(_GROUP.fullmatch, batches.names(value)))
