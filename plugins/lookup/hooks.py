# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: hooks
short_description: Which of the application's hooks are due
version_added: 0.1.0
description:
  - Lists the hooks that a stage of a run has to run for the host in hand, in their order, for the loop of the role P(whitecross.pgops.hooks#role).
  - An item says where a hook is declared and on which host it runs; nothing of it may be secret.
options:
  _terms:
    description: The stage - V(before), V(after), V(back), V(emergency), or the kind of hook that is asked for by hand.
    type: list
    elements: str
    required: true
author:
  - White Cross pgops contributors
"""

EXAMPLES = r"""
- name: Run the hooks before the apply
  whitecross.pgops.hook:
    stage: before
    kind: "{{ item.kind }}"
    number: "{{ item.number }}"
  loop: "{{ query('whitecross.pgops.hooks', 'before') }}"
  delegate_to: "{{ item.on }}"
"""

RETURN = r"""
_raw:
  description: The hooks that are due.
  type: list
  elements: dict
"""

from itertools import takewhile
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """Reads the variables of the host, and what runs have left to bring back."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """:return: the items of the loop. :raises AnsibleError: the hooks cannot be meant, in one sentence."""
        seen = variables or {}
        (stage,) = terms
        step = seen.get("__pgops_step")
        run = dict((seen.get("ansible_facts") or {}).get("__pgops_run") or {})
        # The guard has looked at every host; where nobody declares a hook nothing more is imported.
        looked_for = bool(run.get("hooks")) or stage in ("back", "emergency")
        if stage in ("before", "after") and run.get("playbook") == "migrate":
            looked_for = looked_for or self._watched_for(seen, []) > 0
        items = self._due(str(stage), run, seen) if run and looked_for else []
        if not items and step:
            # A numbered step is told, also where there is nothing to do.
            items = [{"kind": "", "number": 0, "last": True, "first": False, "on": "localhost", "label": "none"}]
        return items

    def _due(self, stage: str, run: dict[str, Any], seen: dict[str, Any]) -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.pgops_variables import SHARED_VARIABLES
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.taken_away import TakenAway

        state = self._value(seen, "pgops_state_directory") or SHARED_VARIABLES["pgops_state_directory"].default
        host = str(seen["inventory_hostname"])
        own = [str(run[name]) for name in ("id", "part_of") if run.get(name)]
        away = TakenAway(state, str(run["environment"])).to_bring_back(host, *own)
        if stage == "back" and not away:
            return []
        if stage == "before":
            # What an earlier run has left away is taken away again: nobody knows how far it came.
            away = {kind: taken for kind, taken in away.items() if taken.run_id in own}
        given = {hooks.variable(kind): self._value(seen, hooks.variable(kind)) for kind in hooks.KINDS}
        wrong = hooks.refusal(given)
        if wrong:
            raise AnsibleError(f"{wrong}; correct it where it is set for {host}")
        declared = {kind: list(given[hooks.variable(kind)] or []) for kind in hooks.KINDS}
        lost = [taken for taken in away if not declared[hooks.BROUGHT_BACK_BY[taken]]]
        if lost:
            folder = TakenAway(state, str(run["environment"])).folder
            raise AnsibleError(
                f"Run {away[lost[0]].run_id or 'before'} took away {hooks.KINDS[lost[0]]} for {host} and "
                f"{hooks.variable(hooks.BROUGHT_BACK_BY[lost[0]])} is declared no more; declare it, or bring it back by hand and "
                f"remove {lost[0]}.json below {folder}"
            )
        watch: list[float] = []
        if stage in ("before", "after") and run.get("playbook") == "migrate":
            minutes = self._watched_for(seen, [kind for kind in hooks.PROBES if declared[kind]])
            watch = hooks.watch_times(minutes, float(self._value(seen, "hooks_watch_interval") or 15))
        first = set() if stage == "back" else self._first(stage, [kind for kind in hooks.KINDS if declared[kind]], seen)
        out = {kind: taken.first for kind, taken in away.items()}
        if stage == "after" and seen.get("ansible_check_mode"):
            out = {kind: kind in first for kind in hooks.BROUGHT_BACK_BY}  # shown as if it had been taken away
        items = hooks.due(stage, declared, first=first, out=out, watch=watch)
        looks = hooks.looks_at_databases(str(stage), host, watch)
        items = [*looks, *items] if stage == "before" else [*items, *looks]
        # In the order of their times; what is no look of a watch comes first.
        items.sort(key=lambda item: float(item.get("at", -1)))
        if (
            stage == "emergency"
            and [*map(str, seen.get("ansible_play_batch") or [])][:1] in ([], [host])
            and any(self._value(seen, name) for name in ("pgops_webhook", "pgops_webhook_file", "pgops_mail"))
        ):
            told = {"kind": "alert", "number": hooks.WEBHOOK, "last": True, "first": True, "on": "localhost"}
            items.append({**told, "label": "alert (pgops_webhook)"})
        return items

    @staticmethod
    def _first(stage: str, kinds: list[str], seen: dict[str, Any]) -> set[str]:
        """:return: the kinds whose hooks no earlier host of the batch runs that this run changes too, declared as they are here."""
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks

        host = str(seen["inventory_hostname"])
        left = set(kinds)
        own: dict[str, Any] = {}
        earlier = [*takewhile(lambda name: name != host, map(str, seen.get("ansible_play_batch") or []))]
        # The nearest is the likeliest; each look at a host's variables costs a millisecond, and a fleet has many.
        for name in reversed(earlier):
            if not left:
                break
            other = seen["hostvars"].raw_get(name)
            run = (other.get("ansible_facts") or {}).get("__pgops_run") or {}
            if stage in ("before", "after") and not hooks.has_work(run):
                continue
            # Both without the variables of the play, which no other host's are told with.
            own = own or seen["hostvars"].raw_get(host)
            left = {kind for kind in left if other.get(hooks.variable(kind)) != own.get(hooks.variable(kind))}
        return left

    def _watched_for(self, seen: dict[str, Any], probes: list[str]) -> float:
        """:return: minutes. :param probes: the kinds of hooks that a watch asks."""
        from ansible.module_utils.parsing.convert_bool import boolean
        from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks as hooks

        query = (self._value(seen, "migrate_health") or {}).get("probe")
        automatic = boolean(self._value(seen, "migrate_auto_rollback") or False, strict=False)
        return hooks.watch_minutes(
            self._value(seen, "migrate_watch"), probes=bool(probes or query), automatic=automatic
        )

    def _value(self, seen: dict[str, Any], name: str) -> Any:
        value = seen.get(name)
        return None if value is None else self._templar.template(value)
