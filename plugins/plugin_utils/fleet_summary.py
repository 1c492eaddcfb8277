# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who of a fleet is at which version when a run ends, and the commands for those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import typed_commands
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_actions import table

MIGRATED = "migrated"
NOTHING_PENDING = "nothing pending"
FAILED = "failed"
UNWELL = "not well"
NOT_LOOKED_AT = "not looked at"
UNTOUCHED = "untouched"
NOT_BEGUN = "not begun"

# What an error says of databases that have not failed themselves: all of it is applied there, or nothing was begun.
_TOLD = {"unwell": UNWELL, "not_looked_at": NOT_LOOKED_AT, "untouched": UNTOUCHED}

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def members(events: Iterable[Mapping[str, Any]], hosts: Sequence[str], results: Results) -> list[dict[str, Any]]:
    """Every database of the run with the version that it is at.

    :param events: the run's journal
    :param hosts: all hosts of the play, those whose batch was never reached too
    :param results: host -> database -> phase -> result
    :returns: ``host``, ``database`` (None where no phase asked for it), ``version`` (None where nobody looked or nothing is applied),
        ``state``, and ``why`` of one that failed
    """
    events = list(events)
    errors = _errors(events)
    known = {
        (str(event.get("host")), database): state
        for event in events
        if event.get("event") == "phase_failed"
        for name, state in _TOLD.items()
        for database in (event.get("error") or {}).get(name) or ()
    }
    found = []
    for host in hosts:
        named = [str(name) for event in events if event.get("host") == host for name in event.get("databases") or []]
        databases = list(dict.fromkeys([*(results.get(host) or {}), *named]))
        if "databases" in {event.get("phase") for event in events if event.get("host") == host}:
            # That phase names the maintenance database, in which it asks.
            databases = list(results.get(host) or {})
        if not databases:
            why = errors.get((host, None))
            found.append(_member(host, None, None, FAILED if why else NOT_BEGUN, why))
            continue
        for database in databases:
            why = errors.get((host, database)) or errors.get((host, None))
            phases = (results.get(host) or {}).get(database) or {}
            state = known.get((host, database)) or (FAILED if why else _state(phases))
            found.append(_member(host, database, _version(phases), state, None if state == UNTOUCHED else why))
    return found


def _member(host: str, database: str | None, version: str | None, state: str, why: str | None) -> dict[str, Any]:
    return {"host": host, "database": database, "version": version, "state": state, "why": why}


def _errors(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], str]:
    """(host, database) -> in which phase it failed; a phase that names no database failed for all of its host."""
    errors: dict[tuple[str, str | None], str] = {}
    for event in events:
        if event.get("event") != "phase_failed":
            continue
        error = event.get("error") or {}
        place = str(event.get("phase"))
        if error.get("not_applied"):
            place += f" at {error['not_applied'][0]}"
        named = error.get("unwell") or error.get("not_looked_at") or [error.get("database")]
        for database in named:
            errors.setdefault((str(event.get("host")), database), place)
    return errors


def _version(phases: Mapping[str, Any]) -> str | None:
    plan, done = phases.get("plan") or {}, phases.get("apply") or {}
    versions = [str(version) for version in plan.get("applied") or []]
    versions += [str(item["version"]) for item in done.get("applied") or [] if isinstance(item, Mapping)]
    return max(versions, default=None)


def _state(phases: Mapping[str, Any]) -> str:
    if (phases.get("apply") or {}).get("applied"):
        return MIGRATED
    if "plan" in phases and not (phases["plan"] or {}).get("pending"):
        return NOTHING_PENDING
    return UNTOUCHED


def lines(fleet: Sequence[Mapping[str, Any]]) -> list[str]:
    """:returns: the table for a person, nothing for a run of one database."""
    if len(fleet) < 2:
        return []
    rows = [
        [
            item["host"],
            item["database"],
            item["version"] or "-",
            item["state"] + (f" in {item['why']}" if item["why"] else ""),
        ]
        for item in fleet
    ]
    counts: dict[str, int] = {}
    for item in fleet:
        counts[item["state"]] = counts.get(item["state"], 0) + 1
    told = ", ".join(f"{number} {state}" for state, number in counts.items())
    return [*(f"    {line}" for line in table(["HOST", "DATABASE", "VERSION", "STATE"], rows)), f"    {told}"]


def only_failed(run: Mapping[str, Any], fleet: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that take the failed ones again and nobody else; none where all or none of the run failed.

    A list of databases counts for every host of its command, so hosts share one only where the same names have failed on each.
    """
    failed = [item for item in fleet if item["state"] == FAILED]
    if not failed or len(failed) == len(fleet):
        return []
    named: dict[str, list[str]] = {}
    for item in failed:
        named.setdefault(str(item["host"]), []).append(str(item["database"]))
    # All of a host is what its own variables say.
    part = {str(item["host"]) for item in fleet if item["state"] != FAILED}
    hosts_of: dict[tuple[str, ...], list[str]] = {}
    for host, databases in named.items():
        hosts_of.setdefault(tuple(databases) if host in part else (), []).append(host)
    kept = typed_commands.without(run, ("migrate_canary", "migrate_batches"))
    return [
        typed_commands.again(kept, ",".join(hosts), {"pgops_databases": list(databases)} if databases else {})
        for databases, hosts in hosts_of.items()
    ]
