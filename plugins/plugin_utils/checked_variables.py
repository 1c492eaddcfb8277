# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard's look at the variables of a run: each has a name that somebody reads, and a value that can be told.

Ansible names what a template lacks and not which variable holds the template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleTemplateError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.environments import Refusal
from ansible_collections.whitecross.pgops.plugins.plugin_utils.near_names import near_variables
from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.variables import (
    misspelt_prefixes,
    role_names,
    unknown_variables,
)

# Each run fills the options of its modules from these, whichever playbook it is.
ALWAYS_READ = (*(name for name, variable in SHARED_VARIABLES.items() if variable.option), "pgops_database")


def refuse_unknown(variables_of: Mapping[str, Mapping[str, Any]], typed: Iterable[str]) -> None:
    """A variable that nothing reads would be a default that nobody chose.

    :param variables_of: host -> all variables in its scope
    :param typed: the names given with -e
    :raises Refusal: a name is misspelt
    """
    misspelt = misspelt_prefixes(typed)
    if misspelt:
        raise Refusal(f"There is no variable {', '.join(map(str, misspelt))}; correct the name behind -e")
    for host, variables in variables_of.items():
        near = near_variables(variables)
        unknown = unknown_variables(variables) + near
        if not unknown:
            continue
        verb = "is no variable" if len(unknown) == 1 else "are no variables"
        first = unknown[0].nearest if unknown[0] in near else unknown[0].name
        role = next((name for name in role_names() if str(first).startswith(f"{name}_")), "migrate")
        own = f" (one of your own needs a name that is less like {near[0].nearest})" if near else ""
        raise Refusal(
            f"{', '.join(map(str, unknown))} {verb} of this collection (set for {host}); correct the name where it is set{own}, "
            "and for the list of the role's variables",
            f"ansible-doc -t role whitecross.pgops.{role}",
        )


def cause(error: AnsibleTemplateError) -> str:
    """:return: what Ansible says of a template, ``'site_host' is undefined``, in one line without a full stop"""
    told = str(error.message if hasattr(error, "message") else error)
    return " ".join(told.split()).rstrip(".")


def refuse_untold(
    templar: Any,
    host: str,
    variables: Mapping[str, Any],
    names: Iterable[str],
    typed: Mapping[str, Any],
    run: Mapping[str, Any],
    limit: str | None,
    failed: AnsibleTemplateError | None = None,
) -> None:
    """Name the first variable whose template comes to nothing.

    :param variables: those of the templar's own host
    :param names: the variables to look at
    :param typed: what was given with -e
    :param run: with the typed command and ``given``
    :param failed: what has failed, where only its holder is looked for
    :raises Refusal: there is one
    """
    for name in names:
        value = variables.get(name)
        if value is None:
            continue
        try:
            templar.template(value)
        except AnsibleTemplateError as error:
            if failed is not None and cause(error) != cause(failed):
                continue
            where, mend = (
                ("was given with -e", "and without it")
                if name in typed
                else (f"is set for {host}", "correct it there, and then")
            )
            raise Refusal(
                f"{name} {where}, and its template has no value: {cause(error)}; {mend}",
                typed_commands.again(typed_commands.without(run, [name]), limit),
            ) from None
