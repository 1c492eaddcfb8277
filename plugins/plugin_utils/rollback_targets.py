# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a migration has changed, and by which way each database goes back to what it was before this run; never further."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import run_outcome, typed_commands

DOWN, RESTORE, PITR = "down", "restore", "pitr"
# What stands in the place of a folder where pgBackRest has made the backup: rollback_strategy=restore cannot read it.
_PHYSICAL = "pgbackrest:"
# A message may name rows by their keys, and a key may be a pupil's.
# Of a way down: which version it is about.
_VERSIONS = ("keep", "through", "version")
_COMMANDS = re.compile(r"[^.;:]*: ansible-playbook .*", re.DOTALL)
_KEYS = re.compile(r" \(keys? [^)]*\)")


def down_selection(given: Mapping[str, Any]) -> dict[str, Any]:
    """:param given: the arguments of a task that goes down, or weighs it.
    :return: those that are set; a version is a word, whatever YAML made of its digits."""
    chosen = {name: value for name, value in given.items() if value not in (None, "")}
    return {name: str(value) if name in _VERSIONS else value for name, value in chosen.items()}


def without_keys(text: str) -> str:
    """:return: a finding without the keys of the rows that it names."""
    return _KEYS.sub("", str(text))


def bare(message: str) -> str:
    """:return: what went wrong, without keys of rows and without what it says to type."""
    return _COMMANDS.sub("", without_keys(message)).strip()


@dataclass(frozen=True)
class Target:
    """A database that this run has changed, and its way back.

    :ivar versions: those that this run has applied or begun, oldest first
    :ivar strategy: ``down``, ``restore``, ``pitr``, or None where there is no way back but by hand
    :ivar backup: this run's own proved backup, for ``restore``
    :ivar why: why it is not ``down``; empty where it is
    :ivar restore_point: this run's own, for ``pitr``
    """

    host: str
    database: str
    versions: tuple[str, ...]
    strategy: str | None
    backup: str | None = None
    why: str = ""
    restore_point: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """:return: plain data for a report."""
        return {**asdict(self), "versions": list(self.versions)}


def changed(
    events: Sequence[Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> list[Target]:
    """:return: the databases in which this run has applied or begun a version; one of whose apply nothing is known counts.

    :param events: the journal, up to a rollback that the run has begun by itself
    """
    rows = list(rows)
    cut_off = {str(row["host"]) for row in rows if row["phase"] == "apply" and run_outcome.unknown(row)}
    found = []
    for host, databases in results.items():
        for database, phases in databases.items():
            planned = [one for one in (phases.get("plan") or {}).get("pending") or [] if isinstance(one, Mapping)]
            done = phases.get("apply") or {}
            versions = [str(one["version"]) for one in [*(done.get("applied") or []), *(done.get("stopped") or [])]]
            if not done and host in cut_off:
                # Killed, or its host lost: how far it came only the ledger knows, and a version that was not begun is passed over.
                versions = [str(one["version"]) for one in planned]
            if versions:
                found.append(_target(host, database, versions, planned, phases))
    return found


def _target(
    host: str, database: str, versions: list[str], planned: Sequence[Mapping[str, Any]], phases: Mapping[str, Any]
) -> Target:
    versions = sorted(dict.fromkeys(versions))
    one_way = [
        str(one["version"])
        for one in planned
        if str(one["version"]) in versions and (one.get("rollback") or {}).get("safety") == "none"
    ]
    if not one_way:
        return Target(host, database, tuple(versions), DOWN)
    why = f"version {one_way[0]} has no way down"
    backup, prove = str((phases.get("backup") or {}).get("path") or ""), phases.get("prove") or {}
    proved = bool(prove.get("proved_at"))
    # A proof by its label where this run has proved a backup of an earlier one.
    if proved and (backup.startswith(_PHYSICAL) or (not backup and prove.get("label"))):
        return _by_the_cluster(host, database, tuple(versions), (phases.get("restore_point") or {}).get("name"), why)
    if proved and backup:
        why = f"{why}: back to the backup of this run; what was written since stays in the database that is kept aside"
        return Target(host, database, tuple(versions), RESTORE, backup, why)
    return Target(
        host, database, tuple(versions), None, why=f"{why}, and this run has no proved backup: restore one by hand"
    )


def _by_the_cluster(host: str, database: str, versions: tuple[str, ...], point: str | None, why: str) -> Target:
    if not point:
        by_hand = "name a moment by hand, with rollback_strategy=pitr and rollback_to_time"
        return Target(host, database, versions, None, why=f"{why}, and this run has no restore point: {by_hand}")
    why = (
        f"{why}: back to restore point {point} of this run, by its proved backup; that takes the whole cluster with all of its "
        "databases, so it is never done by itself"
    )
    return Target(host, database, versions, PITR, why=why, restore_point=point)


@dataclass(frozen=True)
class Rollback:
    """One call of rollback.yml: a host, and its databases that go back by the same way.

    :ivar choice: its variables, without the confirmation
    """

    host: str
    databases: tuple[str, ...]
    choice: Mapping[str, Any]
    versions: tuple[str, ...]


def goes_by_itself(target: Target) -> bool:
    """Whether a run may take it back without a person: never where databases that it has not changed would go, too."""
    return target.strategy in (DOWN, RESTORE)


def rollbacks(targets: Iterable[Target]) -> list[Rollback]:
    """:return: the calls that take these databases back and nothing else; one way for several of them is one call."""
    return _calls(target for target in targets if goes_by_itself(target))


def _calls(targets: Iterable[Target]) -> list[Rollback]:
    grouped: dict[tuple[str, str, str], list[Target]] = {}
    for target in targets:
        if target.strategy:
            named = {DOWN: target.versions[0], RESTORE: target.backup, PITR: target.restore_point}
            grouped.setdefault((target.host, target.strategy, str(named[target.strategy])), []).append(target)
    found = []
    for (host, strategy, first), members in grouped.items():
        choices = {
            DOWN: {"rollback_through": first},
            RESTORE: {"rollback_strategy": RESTORE, "rollback_backup": first},
            PITR: {"rollback_strategy": PITR, "rollback_restore_point": first},
        }
        found.append(
            Rollback(
                host,
                tuple(target.database for target in members),
                choices[strategy],
                tuple(sorted({version for target in members for version in target.versions})),
            )
        )
    # Behind a restore of the cluster there is nothing left to take down.
    return sorted(found, key=_takes_the_cluster)


def _takes_the_cluster(call: Rollback) -> bool:
    return call.choice.get("rollback_strategy") == PITR


def commands(
    run: Mapping[str, Any], targets: Sequence[Target], results: Mapping[str, Mapping[str, Any]], reason: str
) -> list[str]:
    """:return: what to type; in production with the reason, which is asked for there."""
    if not run.get("environment"):
        return []
    several = len(run.get("hosts") or []) > 1
    told = []
    for rollback in _calls(targets):
        limit = rollback.host if several else str(run.get("limit") or run["environment"])
        choice = dict(rollback.choice)
        alone = set(rollback.databases) != planned_databases(results.get(rollback.host) or {})
        # One that is left out goes back with the cluster all the same, and would be refused as one that nobody has named.
        if alone and not _takes_the_cluster(rollback):
            choice["pgops_databases"] = list(rollback.databases)
        if run.get("production"):
            choice["rollback_reason"] = reason
        told.append(typed_commands.other(run, "rollback", limit, choice))
    return told


def planned_databases(databases: Mapping[str, Any]) -> set[str]:
    """:return: the databases of a host that this run is for."""
    return {name for name, phases in databases.items() if "plan" in phases} or set(databases)
