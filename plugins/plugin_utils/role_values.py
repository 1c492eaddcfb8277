# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of another role's variables, for a play in which that role has no part: as they are set, or as the role has them by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import role_options


def of_roles(
    action: PgopsAction, options: Mapping[str, str], task_vars: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """:param options: option of the module -> variable of a role; :param given: options that the task has.
    :return: the others, as the variables or the role's defaults say; without those that say nothing"""
    found = {}
    for option, variable in options.items():
        value = action._templar.template(task_vars.get(variable))
        if value in (None, ""):
            value = role_options()[variable].get("default")
        if option not in given and value not in (None, ""):
            found[option] = value
    return found
