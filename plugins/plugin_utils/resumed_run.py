# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A migration that stopped at its gate goes on there under its own id: with the backup that it has proved and the rehearsal that it has made,
as long as both are of what is there today."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import environments, typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal, is_alive, is_run_id

# What is not done again.
KEPT = ("backup", "prove", "backup_copy", "rehearse")
_STATE = {"ledger_head": "the ledger", "catalog_fingerprint": "the schema"}


def refusal(run_id: str, events: Sequence[Mapping[str, Any]], playbook: str, hosts: Iterable[str]) -> str | None:
    """:param events: of that run's journal.
    :param hosts: of this play.
    :return: why the run does not go on, as a sentence without its full stop; None where it may."""
    if playbook != "migrate":
        return f"pgops_run_id is for a migration that stopped at its gate, and this is {playbook}.yml; leave it out"
    if not events:
        return f"There is no run {run_id} in this environment on this ops host, so it does not go on"
    began = events[0]
    if began.get("playbook") != "migrate" or began.get("event") != "run_started":
        return f"{run_id} is a run of {began.get('playbook')}.yml, and only a migration goes on"
    if any(event.get("event") == "run_finished" for event in events):
        return f"The run {run_id} has ended well, and nothing of it is left to do"
    ended = any(event.get("event") in ("run_failed", "interrupted") for event in events)
    if not ended and is_alive(began.get("pid")):
        return f"The run {run_id} still goes on, in the process {began.get('pid')}"
    if has_begun_to_apply(events):
        return f"The run {run_id} has begun to apply, so what goes on is a run of its own"
    others = sorted(set(hosts) - set(map(str, began.get("hosts") or [])))
    if others:
        return f"The run {run_id} was for {', '.join(began.get('hosts') or [])}, and not for {', '.join(others)}"
    return None


def has_begun_to_apply(events: Iterable[Mapping[str, Any]]) -> bool:
    """:param events: of a run's journal."""
    return any(event.get("phase") == "apply" and event.get("event") == "phase_started" for event in events)


def take_up(run: dict[str, Any], run_id: str, state_directory: str, given: Mapping[str, Any]) -> bool:
    """Give a run that begins the id of the one that it goes on with.

    Outside of check mode a word that has ended it, left by ``stop.yml``, is taken away: whoever types its id wants it to go on.

    :param run: the guard's record of it; it is changed.
    :param run_id: ``pgops_run_id``; empty for a run that begins.
    :param given: what was typed besides, see :func:`typed_commands.given`.
    :return: whether it goes on. :raises environments.Refusal: that run does not go on."""
    if not run_id:
        return False
    journal = Journal(state_directory, str(run["environment"]), run_id) if is_run_id(run_id) else None
    events = journal.events() if journal else []
    why = refusal(run_id, events, str(run["playbook"]), run["hosts"])
    if why:
        # Without its id the same command begins a run of its own.
        typed = typed_commands.without({**run, typed_commands.GIVEN: given}, ["pgops_run_id"])
        anew = typed_commands.again(typed, run["limit"] or run["environment"])
        raise environments.Refusal(why, anew if run["playbook"] == "migrate" else None)
    if journal and not run.get("check_mode"):
        journal.stop_path.unlink(missing_ok=True)
    run.update(id=run_id, resumed=True, first_by=events[0].get("who"))
    return True


def kept(events: Iterable[Mapping[str, Any]], host: str) -> dict[str, dict[str, Any]]:
    """:return: phase -> database -> what the run has found or made on a host and need not again; the plan's too, to compare with."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        phase = str(event.get("phase"))
        ours = event.get("event") == "phase_finished" and str(event.get("host")) == host
        # Of plans that of the run's beginning: a later one is of a later try.
        if ours and phase in (*KEPT, "plan") and not (phase == "plan" and "plan" in found):
            found[phase] = dict(event.get("result") or {})
    return found


def outdated(
    database: str,
    before: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
    looked_at: Mapping[str, Any] | None,
    *,
    phases: Iterable[str],
    oldest: datetime,
) -> str | None:
    """:param before: :func:`kept`.
    :param state: of the plan of today.
    :param looked_at: what the module gate says of the backup.
    :param oldest: when the backup may have been made at the earliest.
    :return: why backup and rehearsal are made anew, as the end of a sentence; None where they hold."""
    backup = (before.get("backup") or {}).get(database) or {}
    if not backup.get("path") or database not in (before.get("prove") or {}):
        return "it has no proved backup"
    if looked_at is None or looked_at.get("why"):
        return f"its backup {backup['path']} {(looked_at or {}).get('why') or 'was not looked at'}"
    if not _made_after(backup, oldest):
        return f"its backup {backup['path']} is too old"
    for name, what in _STATE.items():
        if backup.get(name) and backup[name] != state.get(name):
            return f"{what} is another than when its backup was made"
    planned = (((before.get("plan") or {}).get(database) or {}).get("state") or {}).get("rendered_checksum")
    if planned != state.get("rendered_checksum"):
        return "the SQL is another than what it has planned"
    if "rehearse" in phases and database not in (before.get("rehearse") or {}):
        return "it has no rehearsal"
    return None


def _made_after(backup: Mapping[str, Any], oldest: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(backup.get("finished"))) >= oldest - timedelta(seconds=1)
    except (ValueError, TypeError):
        return False
