# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done when a rollback fails: traffic stopped, the backup of before the migration, rows and sizes looked at, people told.

The rollback itself does none of it: users came back when it ended, and whether the data is damaged only a person can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import contacts, typed_commands

# In this order: nobody new comes, then nobody at all, then it is stopped.
STOPS = ("divert_traffic", "maintenance_on", "stop")
_PHYSICAL = "pgbackrest:"
# Until these only looks and asks, a rollback that fails has touched nothing.
_TOUCHES = frozenset({"revert", "restore", "swap"})


def is_one(report: Mapping[str, Any]) -> bool:
    """Whether a run is a rollback that failed after it had begun to change something."""
    began = any(row["phase"] in _TOUCHES and row["result"] != "skipped" for row in report["steps"])
    return report["playbook"] == "rollback" and not report["ok"] and not report.get("check_mode") and began


def steps(
    run: Mapping[str, Any],
    migration: Sequence[Mapping[str, Any]] | None,
    people: Mapping[str, Any] | None,
    post_mortem_by: str | None,
) -> list[dict[str, str]]:
    """:param run: the guard's record of the rollback, with what was typed
    :param migration: the journal of the migration that it takes back, where that is known
    :param people: ``pgops_contacts``
    :return: ``what`` is done, in this order, and the ``command`` to type, empty where people do it"""
    limit = str(run.get("limit") or run["environment"])

    def command(name: str, **choice: Any) -> str:
        return typed_commands.other(run, name, limit, choice)

    declared = set(run.get("hooks") or [])
    found = [
        {"what": "stop all traffic", "command": command("hooks", hooks_run=kind)} for kind in STOPS if kind in declared
    ] or [
        {
            "what": "stop all traffic: no hook for it is declared, so stop by hand what reaches the database",
            "command": "",
        }
    ]
    backups = list(backups_before(migration or []))
    # A rollback that was called off in the middle of a window goes on as the emergency that it is by now.
    urgent = {"rollback_emergency": "true"} if run.get("production") else {}
    for backup in backups:
        found.append(
            {
                "what": "if data is damaged, restore the backup from before the migration",
                "command": command("rollback", **backup, **urgent),
            }
        )
    if not backups:
        found.append(
            {
                "what": "if data is damaged, restore a backup from before the migration; its folder is in",
                "command": command("backup_list"),
            }
        )
    found += [
        {"what": "count the students", "command": command("inspect", inspect_query="data_age")},
        {"what": "list the sizes of the tables", "command": command("inspect", inspect_query="sizes")},
        {"what": "notify incident response" + _called(people), "command": ""},
        {"what": f"hold a post-mortem{f' by {post_mortem_by}' if post_mortem_by else ''}", "command": ""},
    ]
    return found


def backups_before(migration: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, str]]:
    """:param migration: its journal
    :return: the choice of rollback.yml for each backup, or restore point, that it made before it changed anything; each once"""
    known: dict[str, dict[str, str]] = {}
    for event in migration:
        if event.get("event") != "phase_finished" or event.get("phase") not in ("backup", "restore_point"):
            continue
        for found in (event.get("result") or {}).values():
            path, point = (str((found or {}).get(name) or "") for name in ("path", "name"))
            if event["phase"] == "backup" and path and not path.startswith(_PHYSICAL):
                known[path] = {"rollback_strategy": "restore", "rollback_backup": path}
            elif event["phase"] == "restore_point" and point:
                known[point] = {"rollback_strategy": "pitr", "rollback_restore_point": point}
    return known.values()


def lines(found: Iterable[Mapping[str, str]]) -> list[str]:
    """:return: a line a step, and its command, for a person."""
    told = []
    for number, step in enumerate(found, 1):
        told.append(f"        {number}. {step['what']}" + (":" if step["command"] else ""))
        if step["command"]:
            told.append(f"           {step['command']}")
    return told


def _called(people: Mapping[str, Any] | None) -> str:
    known = contacts.known(people)
    return f": {'; '.join(contacts.lines(known))}" if known else ""
