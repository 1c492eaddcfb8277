# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which environment is production, and when a rollback of it may begin, is what the inventory says, whatever was typed with -e.

Of what a gate looks at, :mod:`gate_guard` holds more against the inventory; this is for all other playbooks, and with no gate, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, typed_commands, typed_settings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.gate_guard import Inventory

_PRODUCTION, _WINDOWS = "pgops_production_environments", "migrate_windows"


def refuse_eased(
    run: Mapping[str, Any], typed: Mapping[str, Any], hosts: Iterable[str], inventory: Inventory, templar: Any, limit: str
) -> None:  # fmt: skip
    """:param run: ``playbook``, ``environment``, and what its command was typed with
    :param typed: what was given with -e, by name
    :raises environments.Refusal: production is typed away, or the windows of its rollback that is no emergency
    """
    asked = {_PRODUCTION, _WINDOWS} if run["playbook"] == "rollback" else {_PRODUCTION}
    values = {name: templar.template(typed[name]) for name in asked if name in typed}
    if not values:
        return
    of_hosts = [inventory.of(host, asked) for host in hosts]
    eased = typed_settings.eased(values, of_hosts)
    kept = [name for one in of_hosts for name in one.get(_PRODUCTION) or typed_settings.default(_PRODUCTION)]
    emergency = boolean(templar.template(typed.get("rollback_emergency")) or False, strict=False)
    if _WINDOWS in eased and (emergency or run["environment"] not in kept):
        eased.remove(_WINDOWS)
    if not eased:
        return
    way = "; outside of them an emergency is declared with -e rollback_emergency=true" if _WINDOWS in eased else ""
    raise environments.Refusal(
        f"{' and '.join(eased)} {'is' if len(eased) == 1 else 'are'} typed with -e, and which environment is production, and its windows, "
        f"stand in the inventory alone{way}; without it",
        typed_commands.again(typed_commands.without(run, eased), limit),
    )
