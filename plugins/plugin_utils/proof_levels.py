# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Levels of a proof on the controller: which one an environment needs, and how they and their seconds are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL, NAMES
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import seconds

VARIABLE = "backup_level_required"
ASKED = "backup_prove_level"
# Playbooks that rely on the backup of their run for what they do next.
RELYING = ("migrate", "rollback")


def required(given: Any, environment: str, production: bool) -> int:
    """:param given: ``backup_level_required`` as it is set.
    :return: the level to which a backup must be proved before this environment relies on it.
    :raises AnsibleActionFail: production asks for less than a restore that was compared."""
    level = EQUAL if given in (None, "") else int(given)
    if production and level < EQUAL:
        raise AnsibleActionFail(
            f"{VARIABLE} is {level} in {environment}, which holds production data: there a backup is proved to level {EQUAL} "
            f"({NAMES[EQUAL]}) at least; set it to {EQUAL} or more."
        )
    return level


def other_cluster_only(scratch_reason: Any, production: bool) -> bool:
    """:param scratch_reason: ``backup_scratch_reason`` or the like: why it may be otherwise.
    :return: whether a restore that is thrown away keeps off the cluster that the backup comes from."""
    return production and not scratch_reason


def proves(run: Mapping[str, Any], task_vars: Mapping[str, Any]) -> bool:
    """:return: whether this run proves the backup that it makes: its environment does, and no tag leaves it out."""
    wanted, left_out = (set(task_vars.get(f"ansible_{word}_tags") or ()) for word in ("run", "skip"))
    if left_out & {"prove"} or (wanted and not wanted & {"all", "prove"}):
        return False
    return "prove" in (run.get("phases") or [])


def ladder_lines(found: Mapping[str, Any]) -> list[str]:
    """:return: a line for each level that was climbed, for the screen."""
    return [
        f"    level {entry['level']} {'ok' if entry['ok'] else 'no'} {seconds(entry['seconds']):>9}  {entry['name']}"
        + (f": {entry['detail']}" if entry["detail"] else "")
        for entry in sorted(found.get("levels") or [], key=lambda entry: int(entry["level"]))
    ]


def forecast_line(forecast: Mapping[str, Any] | None) -> str:
    """:return: how long a restore takes, in one sentence."""
    if not forecast:
        return "how long a restore takes was never measured"
    times = "once" if forecast["measured"] == 1 else f"{forecast['measured']} times"
    place = f" on {forecast['host']}" if forecast["host"] else ""
    told = f"a restore takes about {seconds(forecast['seconds'])}, measured {times}{place}"
    if forecast["measured"] > 1:
        told += f" ({seconds(forecast['low'])} to {seconds(forecast['high'])})"
    return told + trend(forecast)


def trend(forecast: Mapping[str, Any]) -> str:
    """:return: how the last restore was beside those before it, as the end of a sentence; empty where there is none."""
    share = forecast.get("trend")
    if share is None:
        return ""
    percent = round(abs(share) * 100)
    if not percent:
        return "; the last one took as long as those before"
    return f"; the last one took {percent} % {'longer' if share > 0 else 'less'} than those before"
