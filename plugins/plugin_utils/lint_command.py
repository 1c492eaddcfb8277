# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The command that lists all faults of the tree that a run was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands

_OF_THE_TREE = "pgops_sql"


def told(error: PgopsError, run: Mapping[str, Any], tree: Any) -> dict[str, Any]:
    """:param run: with what was given with -e and -i.
    :param tree: ``pgops_sql`` of the host, as the inventory or -e says it: lint.yml reads no host's variables; empty for the collection's own
    :return: the result of an action that could not read its tree; with more than one fault it names the command."""
    result = {"msg": error.message, **error.as_dict()}
    if len(error.extra.get("findings") or []) > 1:
        # lint.yml reaches no host of the inventory, and would look for a database that is named.
        where = [name for name in typed_commands.typed_variables(run) if name.startswith("pgops_")]
        of_tree = {_OF_THE_TREE: str(tree)} if tree else {}
        command = typed_commands.other(typed_commands.without(run, where), "lint", None, of_tree)
        result |= {"msg": f"{error.message}. To list them all: {command}", "next": [command]}
    return result
