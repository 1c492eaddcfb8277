# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a change-over may begin now, before anything of it does: the gate of its environment, its windows, a broken glass."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import blackouts, break_glass, gate_verdict, windows
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import MigrationAction


def verdict(action: MigrationAction, task_vars: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Approvals of the gate hold for a rehearsal, and such a version has none: there the change-over needs the broken glass.

    :param given: ``windows`` and ``blackouts`` of the environment.
    :return: what the audit keeps, in the words of the gate.
    :raises AnsibleActionFail: it may not
    """
    again = action.again(task_vars)
    try:
        glass = action.break_glass(task_vars)
        open_windows, standing = windows.read(given.get("windows") or []), blackouts.read(given.get("blackouts") or [])
    except PgopsError as fault:
        raise AnsibleActionFail(f"{fault.message}; {fault.hint}") from None
    except (windows.NotUnderstood, blackouts.NotUnderstood) as fault:
        raise AnsibleActionFail(f"Nothing was changed over: {fault}.") from None
    run = action.run_fact(task_vars)
    asked = action._templar.template(task_vars.get("gate_required"))
    gated = gate_verdict.required(
        asked, str(run.get("environment") or ""), action.pgops(task_vars, "production_environments")
    )
    change = {"version": "change_over", "name": "", "risk": "HIGH"}
    shut = windows.shut(
        [change], open_windows, at_any_time=(), required=False, waived=(), now=datetime.now(UTC), blackouts=standing
    )
    found: dict[str, Any] = {"required": gated, "allowed": True, "approvals": [], "missing": [], "break_glass": None}
    if glass is not None:
        past = [
            *(["the approvals of a rehearsal"] if gated else []),
            *(f"an open window: it {one.why}" for one in shut),
            *(run.get("past") or []),
        ]
        told = break_glass.shout(glass, past)
        action.say(told)
        return {**found, "break_glass": {**glass, "told": told, "past": past}}
    if gated:
        raise AnsibleActionFail(
            "Nothing was changed over: this environment has a gate, whose approvals hold for a rehearsal, and a blue-green version has "
            f"none. With -e gate_break_glass_by, _expires and _reason, which the audit keeps: {again}"
        )
    if shut:
        raise AnsibleActionFail(f"Nothing was changed over: it {shut[0].why}. In a window: {again}")
    return found
