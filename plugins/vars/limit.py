# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: limit
short_description: Say what is wrong with a limit that matches no host
version_added: 0.1.0
description:
  - Where C(--limit) names nothing of the inventory, ansible-playbook ends before it reads a play, a callback or the guard. Plugins for
    variables are the only ones of a collection that it has asked by then.
  - This one has no variables. It ends such a run with the groups of the inventory and the nearest name, and leaves the file of
    C(pgops_json), where that is given with C(-e).
options:
  stage:
    description: When Ansible asks it; at another time nothing is left to say.
    type: str
    default: inventory
    choices: [inventory]
requirements:
  - "C(vars_plugins_enabled = host_group_vars, whitecross.pgops.limit) in ansible.cfg; a checkout of the collection has it"
author:
  - White Cross pgops contributors
"""

from contextlib import suppress
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.vars import BaseVarsPlugin
from ansible.utils.vars import load_extra_vars
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments

# Ansible makes this host up where the inventory has none of the name, and limits a run to it where that has no host at all.
_IMPLICIT = ("localhost", "127.0.0.1", "::1")


class VarsModule(BaseVarsPlugin):
    """Asked for each group once the inventory is read; the group of all is enough."""

    def get_vars(self, loader: Any, path: str, entities: Any) -> dict[str, Any]:
        """:return: nothing. :raises AnsibleError: the limit names nothing, in one sentence."""
        super().get_vars(loader, path, entities)
        for entity in entities if isinstance(entities, list) else [entities]:
            if getattr(entity, "name", None) == "all" and hasattr(entity, "get_descendants"):
                self._refuse(loader, entity)
        return {}

    @staticmethod
    def _refuse(loader: Any, everything: Any) -> None:
        # Other commands than ansible-playbook have their own limits.
        if "extra_vars" not in context.CLIARGS or "subset" not in context.CLIARGS:
            return
        limit = str(context.CLIARGS["subset"] or "")
        groups = [group.name for group in everything.get_descendants()]
        hosts = [host.name for host in everything.get_hosts()]
        if hosts:
            names = {"all", *hosts, *(group.name for group in everything.get_descendants() if group.get_hosts())}
        else:
            names = {"all", *groups, *_IMPLICIT}
        parts = environments.limit_parts(limit)
        if not parts or any(environments.is_pattern(part) or part in names for part in parts):
            return
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands

        run = {typed_commands.GIVEN: typed_commands.given(loader)}
        refusal = environments.no_host(limit, groups, typed_commands.before_limit(run, environments.typed_command()))
        given = load_extra_vars(loader).get("pgops_json")
        if isinstance(given, str) and given and "{{" not in given:
            from ansible_collections.whitecross.pgops.plugins.plugin_utils import reporting

            error = {"message": str(refusal), "next": refusal.next}
            report = reporting.build([], run={"playbook": environments.playbook_name()}, error=error)
            # The run ends with its sentence whether or not the file can be written.
            with suppress(OSError):
                reporting.write_result(given, reporting.result_document(report))
        raise AnsibleError(str(refusal))
