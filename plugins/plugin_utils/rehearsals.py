# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a rollback was rehearsed in the environment before production, as far as the journals of this ops host know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, runs

# So many runs back it is looked for.
LOOKED_BACK = 50
# What a strategy that reverts no version leaves in a journal.
_PHASE_OF = {"restore": "restore", "pitr": "restore", "swap": "swap", "undo_swap": "swap"}


def told(state_directory: str | Path, environment: str, strategy: str, versions: Sequence[str]) -> list[str]:
    """:param environment: the one in which it should have been rehearsed
    :param versions: those that would go by their way down
    :return: a sentence for each version, or for the strategy, without a full stop"""
    wanted = list(versions) if strategy == "down" else [strategy]
    found = _rehearsed(state_directory, environment, strategy, set(wanted))
    lines = []
    for name in wanted:
        what = name if strategy == "down" else f"rollback_strategy={name}"
        if name in found:
            at, run = found[name]
            lines.append(f"rehearsed: {environment} has gone back by {what} at {at} (run {run})")
        else:
            choice = f"rollback_through={name}" if strategy == "down" else what
            lines.append(
                f"NOT REHEARSED: no rollback by {what} in {environment} is known on this ops host; there: ansible-playbook rollback.yml "
                f"-l {environment} -e {choice}"
            )
    return lines


def rate(state_directory: str | Path, environment: str) -> str | None:
    """How often going back went well, measured: that each way back works is claimed of it before it was tried.

    :return: a sentence without a full stop about the last rollbacks that were begun there; None where none was
    """
    ends = [
        any(event.get("event") == "run_finished" for event in events)
        for events in (
            Journal(state_directory, environment, run).events()
            for run in runs(state_directory, environment)[-LOOKED_BACK:]
        )
        # What was refused before it began went neither well nor badly.
        if events
        and events[0].get("playbook") == "rollback"
        and any(event.get("event") == "announced" for event in events)
    ]
    if not ends:
        return None
    return f"{sum(ends)} of the last {len(ends)} rollbacks in {environment} came to their end ({100 * sum(ends) // len(ends)} %)"


def _rehearsed(
    state_directory: str | Path, environment: str, strategy: str, wanted: set[str]
) -> dict[str, tuple[str, str]]:
    """:return: by version or strategy the moment and the run of the newest rollback there that ended well."""
    found: dict[str, tuple[str, str]] = {}
    for run in reversed(runs(state_directory, environment)[-LOOKED_BACK:]):
        events = Journal(state_directory, environment, run).events()
        ended = next((event for event in reversed(events) if event.get("event") == "run_finished"), None)
        if not events or events[0].get("playbook") != "rollback" or ended is None:
            continue
        for name in _went_back(events, strategy) & wanted:
            found.setdefault(name, (str(ended.get("time")), run))
        if wanted <= set(found):
            break
    return found


def _went_back(events: Sequence[Mapping[str, Any]], strategy: str) -> set[str]:
    """:return: the versions that a run reverted, or its strategy where that is the one that is asked for."""
    done = [event for event in events if event.get("event") == "phase_finished"]
    if strategy != "down":
        phase = _PHASE_OF.get(strategy)
        used = next((event.get("strategy") for event in events if event.get("event") == "announced"), None)
        return {strategy} if used == strategy and any(event.get("phase") == phase for event in done) else set()
    return {
        str(item["version"])
        for event in done
        if event.get("phase") == "revert"
        for result in (event.get("result") or {}).values()
        for item in (result or {}).get("reverted") or []
    }
