# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of the present state before a rollback that destroys: how long it may take, and what follows where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.whitecross.pgops.plugins.plugin_utils.action_base import PgopsAction

MODE = "rollback_emergency_backup"
TIMEOUT = "rollback_emergency_backup_timeout"


def missed(result: dict[str, Any], databases: Iterable[str], what: str, seconds: float | None = None) -> dict[str, Any]:
    """:param result: of the module that failed.
    :param databases: those that it was for.
    :param what: ``backup``, ``proof`` or ``copy in a second place``.
    :param seconds: how long all of it took, where that counts; the first database without one has what no other has.
    :return: a result with which the run goes on; each database without one says why under ``missed``."""
    made = {name: found for name, found in (result.get("databases") or {}).items() if "missed" not in found}
    why = str(result.get("msg") or "it failed")
    told = {name: made.get(name) or {"missed": f"no {what}: {why}"} for name in databases}
    first = next((found for found in told.values() if "missed" in found), None)
    if first is not None and seconds is not None:
        first["seconds"] = round(max(seconds - _took(made), 0.0), 3)
    return {"changed": bool(made), "databases": told}


def after(
    result: dict[str, Any],
    *,
    tolerated: bool,
    databases: Iterable[str],
    what: str,
    playbook: Any,
    seconds: float | None = None,
) -> dict[str, Any]:
    """:param result: of the module, whatever became of it.
    :param seconds: how long it took.
    :return: what the run goes on with, or the failure with what lets a rollback go on."""
    if not result.get("failed"):
        return result
    if tolerated:
        return missed(result, databases, what, seconds)
    if playbook == "rollback":
        hint = f"Nothing was rolled back. Give it longer with -e {TIMEOUT}=SECONDS, or go on where none can be made: -e {MODE}=try."
        result["hint"] = f"{result.get('hint') or ''} {hint}".strip()
    return result


def lines(databases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """:return: a line for each database that goes on without."""
    return [
        f"{name}: {found['missed']} The rollback goes on without it ({MODE}=try): of what it destroys there may be no copy"
        for name, found in databases.items()
        if found.get("missed")
    ]


def below(database: str, needed: int, level: int) -> str:
    """:return: what is said where a rollback goes on with a proof of a lower level than its environment needs."""
    return f"{database}: level {needed} is needed here; the rollback goes on with level {level} ({MODE}=try)"


def left(run: Mapping[str, Any], whole: float) -> float:
    """:param whole: seconds for the backup, its proof and its copies together, 0 for any number.
    :return: what this run has left of them, at least one second."""
    took = sum(_took(run.get(phase) or {}) for phase in ("backup", "prove"))
    return max(whole - took, 1.0) if whole > 0 else 0.0


def _took(databases: Mapping[str, Mapping[str, Any]]) -> float:
    """:return: seconds. All databases of a cluster have one physical backup, and one proof of it: it is counted once."""
    each = {
        str(found.get("label") or f"/{name}"): float(found.get("seconds") or 0) for name, found in databases.items()
    }
    return sum(each.values())


class TolerantAction(PgopsAction):
    """Base of the actions whose failure a rollback may go on from: backup, proof and copy."""

    def tolerated(self) -> bool:
        """:return: whether the run goes on where this fails."""
        return bool(boolean(self._task.args.get("tolerated") or False))

    def told_missed(
        self,
        result: dict[str, Any],
        task_vars: dict[str, Any],
        what: str,
        *,
        databases: Iterable[str] | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Go on without where that is allowed, and say so.

        :param databases: those that it was for, all of the run by default; see :func:`missed`.
        :return: the result.
        """
        result = after(
            result,
            tolerated=self.tolerated(),
            databases=list(self.pgops(task_vars, "databases") or []) if databases is None else databases,
            what=what,
            playbook=self.run_fact(task_vars).get("playbook"),
            seconds=seconds,
        )
        for line in lines(result.get("databases") or {}):
            self.say(line)
        return result
