# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Expand and contract: what takes the old shape away waits until nobody can need it any longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import Ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Plan

# By the server's clock, which wrote the time: that of this machine may be another.
_AGE = "SELECT extract(epoch FROM pg_catalog.clock_timestamp() - %s::timestamptz)::float8 AS age_s"
_SESSIONS = """
SELECT application_name, count(*) AS sessions FROM pg_catalog.pg_stat_activity
WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND application_name LIKE ANY (%s)
GROUP BY application_name ORDER BY application_name
"""


def hold_back(conn: Connection, found: Ledger, plan: Plan, waived: Mapping[str, str] | None) -> Plan:
    """Leave a contract whose time has not come, and what sorts behind it, for another run.

    A database that has no version yet is made at once: nothing has ever used its old shape. One that was begun goes on. Reads only; no lock on tables.

    :param waived: versions that do not wait, with the reason; None where nobody waits: in a throw-away database.
    :return: the plan with ``waiting``, which has ``version``, ``name`` and ``why``.
    """
    if waived is None or not found.in_state("applied"):
        return plan
    for place, migration in enumerate(plan.pending):
        terms, row = migration.get("contract"), found.get(str(migration["version"]))
        begun = row is not None and row.state in ("applying", "failed")
        if not terms or begun or str(migration["version"]) in waived:
            continue
        why = _too_young(conn, found, terms) or _in_use(conn, terms.get("no_sessions_of") or [])
        if why is None:
            continue
        waiting = {"version": str(migration["version"]), "name": migration["name"], "why": why}
        behind = [str(item["version"]) for item in plan.pending[place:]]
        return replace(plan, pending=plan.pending[:place], later=[*behind, *plan.later], waiting=[waiting])
    return plan


def _too_young(conn: Connection, found: Ledger, terms: Mapping[str, Any]) -> str | None:
    after, wanted = str(terms["after"]), int(terms["min_age_s"])
    row = found.get(after)
    if row is None or row.state != "applied":
        return f"{after} has to be applied {_told(wanted)} before it"
    read = fetch_one(conn, _AGE, (row.finished_at,))
    age = float(read["age_s"]) if read else 0.0
    if age >= wanted:
        return None
    return f"{after} was applied {_told(age)} ago, and it is to be {_told(wanted)}"


def _in_use(conn: Connection, names: Sequence[str]) -> str | None:
    """:param names: application names; ``*`` stands for any text."""
    patterns = [name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%") for name in names]
    rows = fetch_all(conn, _SESSIONS, (patterns,)) if patterns else []
    told = ", ".join(f"{row['sessions']} of {row['application_name']}" for row in rows)
    return f"sessions that know the old shape are connected: {told}" if rows else None


def _told(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
