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
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    environment_names,
    environments,
    part_of_run,
    typed_commands,
    typed_settings,
)
from ansible_collections.whitecross.pgops.plugins.plugin_utils.gate_guard import Inventory
from ansible_collections.whitecross.pgops.plugins.plugin_utils.incident_rules import WITHOUT_REASON

_ALWAYS = frozenset({environment_names.PRODUCTION, environment_names.ENVIRONMENTS})
_WINDOWS = "migrate_windows"


def refuse_eased(
    run: Mapping[str, Any], typed: Mapping[str, Any], hosts: Iterable[str], inventory: Inventory, templar: Any, limit: str
) -> None:  # fmt: skip
    """:param run: ``playbook``, ``environment``, ``part_of``, and what its command was typed with
    :param typed: what was given with -e, by name
    :raises environments.Refusal: production is typed away, or the windows of its rollback that waits for one
    """
    asked = {*_ALWAYS, _WINDOWS} if run["playbook"] == "rollback" else _ALWAYS
    values = {name: templar.template(typed[name]) for name in asked if name in typed}
    if not values:
        return
    of_hosts = [inventory.of(host, asked) for host in hosts]
    eased = typed_settings.eased(values, of_hosts)
    kept = [
        name
        for one in of_hosts
        for name in environment_names.listed(environment_names.PRODUCTION, one.get(environment_names.PRODUCTION))
    ]
    if _WINDOWS in eased and (run["environment"] not in kept or _waits_for_none(run, typed, templar)):
        eased.remove(_WINDOWS)
    if not eased:
        return
    way = "; outside of them an emergency is declared with -e rollback_emergency=true" if _WINDOWS in eased else ""
    raise environments.Refusal(
        f"{' and '.join(eased)} {'is' if len(eased) == 1 else 'are'} typed with -e, and which environment is production, and its windows, "
        f"stand in the inventory alone{way}; without it",
        typed_commands.again(typed_commands.without(run, eased), limit),
    )


def _waits_for_none(run: Mapping[str, Any], typed: Mapping[str, Any], templar: Any) -> bool:
    """Whether a rollback of production may begin at any time, so that typing a window is no way round one."""
    strategy, declared = (templar.template(typed.get(name)) for name in ("rollback_strategy", "rollback_emergency"))
    return bool(run.get("part_of")) or strategy in WITHOUT_REASON or boolean(declared or False, strict=False)


def refuse_internals(run: Mapping[str, Any], typed: Mapping[str, Any], limit: str) -> None:
    """:param run: as above. :raises environments.Refusal: a variable of the collection's own playbooks is typed, which nobody sets"""
    allowed = {part_of_run.VARIABLE} if run.get("part_of") or run["playbook"] in part_of_run.BRING_BACK else set()
    names = sorted(str(name) for name in typed if typed_settings.is_internal(str(name)) and name not in allowed)
    if not names:
        return
    raise environments.Refusal(
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} typed with -e, and the playbooks of this collection alone set what begins "
        "with two underscores and a name of theirs; without it",
        typed_commands.again(typed_commands.without(run, names), limit),
    )
