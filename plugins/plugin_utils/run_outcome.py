# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run comes to, read from its journal: complete, partial or failed, and what became of each of the application's hooks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import application_hooks

COMPLETE = "complete"
PARTIAL = "partial"
FAILED = "failed"
# By a rollback that the migration has begun itself.
ROLLED_BACK = "rolled back"

NOT_APPLICABLE = "not applicable"
# Playbooks whose report says of every kind of hook what became of it.
WITH_HOOKS = ("migrate", "rollback")
# What changes a database, and where in its result the versions are that were done to their end.
_CHANGES = {"apply": "applied", "revert": "reverted"}


def final_state(
    playbook: Any,
    ok: bool,
    rows: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str | None:
    """How a migration, a change-over or a rollback has left its databases; None for a playbook that is none of these.

    ``complete``: everything was done that was asked for. ``failed``: nothing was changed. ``partial``: something was, and not
    everything was done or found well after it; also where the run was cut off while it changed something.

    :param rows: the phases, as the report has them
    :param hosts: host -> database -> phase -> result
    """
    if playbook not in (*WITH_HOOKS, "blue_green"):
        return None
    if ok:
        return COMPLETE
    rows = list(rows)
    if any(
        row["phase"] in (*_CHANGES, "swap", "blue_green") and (unknown(row) or row["result"] == "changed")
        for row in rows
    ):
        return PARTIAL
    cut_off = {row.get("host") for row in rows if row["phase"] == "restore" and unknown(row)}
    for host, databases in hosts.items():
        for phases in databases.values():
            if any(
                (phases.get(phase) or {}).get("aside") for phase in ("swap", "resume", "blue_green")
            ) or kept_cluster(phases):
                return PARTIAL
            # A dump is restored beside the live database; a restore to a point in time ends with the change of the clusters.
            if host in cut_off and (phases.get("disclose") or {}).get("target"):
                return PARTIAL
            for phase, done in _CHANGES.items():
                found = phases.get(phase) or {}
                if found.get(done) or any(_in_the_middle(item) for item in found.get("stopped") or []):
                    return PARTIAL
    return FAILED


def unknown(row: Mapping[str, Any]) -> bool:
    """:param row: a phase, as the report has it
    :return: whether only the database knows how far it came: the run was cut off, its job was killed or its host was lost"""
    return row["result"] == "unfinished" or bool(row.get("unknown"))


def kept_cluster(phases: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """:return: of a database whose cluster was changed over, in this run, the result that says where the replaced one is kept."""
    for phase in ("resume", "restore"):
        found = phases.get(phase) or {}
        if found.get("kept") and found.get("outage_ms") is not None:
            return dict(found)
    return None


def changed_over(run: Mapping[str, Any]) -> str:
    """:param run: what the run knows of a host: phase -> database -> result.
    :return: which databases, or their cluster, this run has replaced, and where the replaced one is; empty where it has not."""
    told: dict[str, None] = {}
    for phase in ("resume", "swap", "restore"):
        for database, found in (run.get(phase) or {}).items():
            if found.get("aside"):
                told[f"{database} is swapped by this run, and the replaced one is kept as {found['aside']}"] = None
            elif cluster := kept_cluster({phase: found}):
                told[f"the cluster is changed over by this run, and the replaced one is kept in {cluster['kept']}"] = (
                    None
                )
    return ", ".join(told)


def _in_the_middle(stopped: Mapping[str, Any]) -> bool:
    step = re.search(r"at step (\d+) of", str(stopped.get("state")))
    return step is not None and int(step[1]) > 1


def hooks(
    playbook: Any, ok: bool, declared: Iterable[str], events: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What became of the hooks, in the order of their kinds and then of the run.

    :param declared: the kinds that the guard has found
    :param events: the journal
    :return: each with ``kind``, ``label`` and ``done``: ``yes``; ``no``, which failed, was cut off or never came; ``not
        applicable``, where none is declared or none was due. One that was run has ``host``, ``on``, ``stage`` and its seconds.
    """
    begun: list[dict[str, Any]] = []
    running: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        hook = event.get("hook")
        if not hook:
            continue
        key = (event.get("host"), hook["stage"], hook["label"])
        if event["event"] == "phase_started":
            running[key] = {"host": event.get("host"), **hook, "done": "no"}
            begun.append(running[key])
        elif key in running:
            running.pop(key).update(hook)
        else:
            begun.append({"host": event.get("host"), **hook})
    found = []
    known = set(declared)
    for kind, words in application_hooks.KINDS.items():
        of_kind = [hook for hook in begun if hook["kind"] == kind]
        if not of_kind and playbook in WITH_HOOKS:
            done = "no" if kind in known and not ok and kind != "alert" else NOT_APPLICABLE
            of_kind = [{"kind": kind, "label": words, "done": done}]
        found += of_kind
    return found


def not_brought_back(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """What was tried to be brought back and is away still, in words: ``stop for db-1``.

    :param found: as :func:`hooks` gives it; of several tries of one hook the last one counts
    """
    last: dict[tuple[str, str, str, Any], str] = {}
    for hook in found:
        if hook.get("stage") == "back" and hook["kind"] in application_hooks.BRINGS_BACK:
            last[str(hook["host"]), str(hook["kind"]), str(hook["label"]), hook.get("number")] = str(hook["done"])
    away = [(host, kind) for (host, kind, _label, _number), done in last.items() if done != "yes"]
    return [
        f"{application_hooks.KINDS[application_hooks.BRINGS_BACK[kind]]} for {host}"
        for host, kind in sorted(dict.fromkeys(away), key=lambda known: known[0])
    ]


def hooks_line(found: Iterable[Mapping[str, Any]]) -> str | None:
    """One line for the screen: each kind once, with ``no`` where any of its hooks says so; None where there is none to tell."""
    told: dict[str, str] = {}
    for hook in found:
        if told.get(str(hook["kind"])) != "no":
            told[str(hook["kind"])] = str(hook["done"])
    if not told:
        return None
    if set(told.values()) == {NOT_APPLICABLE}:
        return "hooks: not applicable"
    return "hooks: " + ", ".join(f"{application_hooks.KINDS[kind]} {done}" for kind, done in told.items())
