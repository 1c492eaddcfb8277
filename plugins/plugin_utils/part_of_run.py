# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a rollback is the part of a migration that it says it is: the one that ``migrate_auto_rollback`` has begun and that goes on.

Such a part waits for no window, so the word alone is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import journal

# What the migration gives its rollback, the id of the run.
VARIABLE = "__pgops_part_of"
# They are called as a rollback was that was cut off, with the same variables; none of them waits for a window.
BRING_BACK = ("stop", "hooks")
# In so many seconds Ansible has read its inventory, a dynamic one too, and come to the guard.
STARTS_WITHIN_S = 600


def believed(
    given: Any, state_directory: str | Path, environment: str, hosts: Iterable[str], databases: Iterable[str]
) -> str:
    """:param given: :data:`VARIABLE`
    :param databases: those that this run names
    :return: the id of that run; empty where it is none of this environment that goes on and waits for a rollback of these databases.
        A rollback that has begun goes on where its migration is killed, also while Ansible is still starting it."""
    run_id = str(given or "")
    if not journal.is_run_id(run_id):
        return ""
    events = journal.Journal(state_directory, environment, run_id).events()
    if not events or journal.finished(events):
        return ""
    begun = _open(events)
    if begun and not journal.is_alive(events[0].get("pid")) and _age_s(begun) > STARTS_WITHIN_S:
        return ""
    of_it = (
        begun and [str(begun.get("host"))] == [*map(str, hosts)] and [*(begun.get("databases") or [])] == [*databases]
    )
    return run_id if of_it else ""


def _age_s(event: Mapping[str, Any]) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(event.get("time")))).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


def _open(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """:return: the rollback that was begun last, where it has not ended."""
    begun = None
    for event in events:
        if event.get("event") == "rollback_started":
            begun = event
        elif event.get("event") == "rollback_finished":
            begun = None
    return begun
