# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The sequences of a database that takes the place of another go on from where that one had them.

A restored sequence stands where the backup has it. The numbers since then were given out: they are on paper, in other systems, and in the
database that is put aside, whose lost writes may be brought back. Given out again, they would name two things.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_all
from psycopg2 import sql

# A sequence that cycles gives its numbers out again by intent; the ledger's own are carried with its rows.
_SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS quoted,
       q.seqincrement > 0 AS ascending, q.seqmin AS least, q.seqmax AS most, abs(q.seqincrement) * q.seqcache AS step,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT') AS readable,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT')
           AND has_sequence_privilege(c.oid, 'UPDATE') AS settable
FROM pg_catalog.pg_sequence AS q JOIN pg_catalog.pg_class AS c ON c.oid = q.seqrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND NOT q.seqcycle AND n.nspname <> {ledger}
"""

# PostgreSQL writes a sequence so many numbers ahead into the WAL, and leaves them out after a crash.
_LOGGED_AHEAD = 32

# A transaction that was prepared meanwhile may hold one, and clients wait.
_NO_WAIT = "SET lock_timeout = '200ms'"
_SET = (
    "SELECT count(pg_catalog.setval(g.name::regclass, g.value, g.called)) FROM (VALUES {}) AS g (name, value, called)"
)


class SequencePositions:
    """Looks at both before the fence, so that little is left to do while clients are kept out."""

    def __init__(
        self, live: Connection, staged: Connection, *, follows: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """
        :param live: a session in the database that goes aside; it stays open until the last client has gone.
        :param staged: one in the database that takes its place, in which nobody else writes.
        :param follows: by sequence there those whose numbers it must not give again; without it the one of its own name.
        """
        self._live, self._staged = live, staged
        self.pids = frozenset(conn.info.backend_pid for conn in (live, staged))
        here, there = _sequences(live), _sequences(staged)
        self._sources = {
            name: same
            for name in there
            if (same := _same_direction(here, (follows or {}).get(name, (name,)), there[name]["ascending"]))
        }
        self._left = {
            name: "the restore role may not read or set it"
            for name, sources in self._sources.items()
            if not (all(here[source]["readable"] for source in sources) and there[name]["settable"])
        }
        able = [name for name in self._sources if name not in self._left]
        self._there = {name: there[name] for name in able}
        self._question = _positions_query({source: here[source] for name in able for source in self._sources[name]})
        self._before = _positions(staged, _positions_query(self._there))
        self._now = dict(self._before)

    @property
    def left(self) -> list[dict[str, Any]]:
        """:return: sequence and ``why`` of each that is not moved."""
        return [{"sequence": name, "why": why} for name, why in self._left.items()]

    def get_ready(self) -> None:
        """Move them on as far as they are by now, just before the fence: what is left for :meth:`move_on` is small, and both sessions
        know their way.

        :raises psycopg2.Error: a session was ended, or a sequence is held.
        """
        execute(self._live, _NO_WAIT)
        # Whatever role has carried the history, it is the restore role that may set them. The commit of the renames waits for the
        # disk, and this one comes before it.
        execute(self._staged, f"RESET ROLE; SET synchronous_commit = off; {_NO_WAIT}")
        self._set(self._look())

    def move_on(self) -> list[dict[str, Any]]:
        """Move every sequence that stands behind, and end both sessions; call it when nobody else is in the live database any more.

        :return: sequence, ``from`` and ``to`` of each that was moved.
        :raises psycopg2.Error: a session was ended, or a sequence is held.
        """
        now = self._look()
        self._live.close()  # its server process ends while the other one works
        self._set(now)
        return [
            {"sequence": name, "from": self._before[name]["last_value"], "to": found["last_value"]}
            for name, found in self._now.items()
            if found is not self._before[name]
        ]

    def keep_ahead(self, seconds: float, over: float = 1.0) -> list[dict[str, Any]]:
        """Move each one past what clients will have taken by the time the live server stops, where nothing can be looked at after that.

        As many numbers are left out as were taken between two looks, as often as fits into ``seconds``, and those that a crash leaves out
        at least: a gap does no harm, and a number that names two things does.

        :param seconds: until the live server stops, at most; :param over: between the two looks.
        :return: sequence, ``from`` and ``to`` of each that was moved.
        :raises psycopg2.Error: a session was ended, or a sequence is held.
        """
        before = self._look()
        if not before:
            return []
        time.sleep(over)  # what clients take meanwhile is their rate
        ahead = {}
        for name, found in self._look().items():
            bounds = self._there[name]
            taken = abs(found["last_value"] - before[name]["last_value"])
            reserve = max(taken * math.ceil(seconds / over), _LOGGED_AHEAD * int(bounds["step"]))
            value = found["last_value"] + (reserve if bounds["ascending"] else -reserve)
            ahead[name] = {**found, "last_value": max(bounds["least"], min(bounds["most"], value)), "is_called": True}
        self._set(ahead)
        return [
            {"sequence": name, "from": self._before[name]["last_value"], "to": found["last_value"]}
            for name, found in self._now.items()
            if found is not self._before[name]
        ]

    def _look(self) -> dict[str, dict[str, Any]]:
        """:return: by sequence of the staged database where the live one has it: of several the one that is furthest."""
        found = _positions(self._live, self._question)
        result: dict[str, dict[str, Any]] = {}
        for name, bounds in self._there.items():
            for source in self._sources[name]:
                if name not in result or _is_ahead(found[source], result[name], bounds["ascending"]):
                    result[name] = found[source]
        return result

    def _set(self, positions: Mapping[str, dict[str, Any]]) -> None:
        moved = []
        for name, found in positions.items():
            bounds = self._there[name]
            if not _is_ahead(found, self._now[name], bounds["ascending"]):
                continue
            if bounds["least"] <= found["last_value"] <= bounds["most"]:
                moved.append((name, found))
            else:
                self._left[name] = f"{found['last_value']} is outside of its bounds"
        if moved:
            values = [
                sql.SQL("({}, {}::bigint, {})").format(
                    sql.Literal(name), sql.Literal(found["last_value"]), sql.Literal(found["is_called"])
                )
                for name, found in moved
            ]
            execute(self._staged, sql.SQL(_SET).format(sql.SQL(", ").join(values)))
            self._now.update(moved)

    def close(self) -> None:
        """End both sessions, which would stand in the way of the renames."""
        for conn in (self._live, self._staged):
            with contextlib.suppress(Exception):
                conn.close()


def _same_direction(sequences: Mapping[str, Mapping[str, Any]], names: Sequence[str], ascending: bool) -> list[str]:
    return [name for name in names if name in sequences and sequences[name]["ascending"] == ascending]


def _sequences(conn: Connection) -> dict[str, dict[str, Any]]:
    rows = fetch_all(conn, sql.SQL(_SEQUENCES).format(ledger=sql.Literal(catalog.LEDGER_SCHEMA)))
    return {str(row["quoted"]): row for row in sorted(rows, key=lambda row: str(row["quoted"]))}


def _positions_query(sequences: Mapping[str, Mapping[str, Any]]) -> sql.Composable | None:
    parts = [
        sql.SQL("SELECT {} AS name, last_value, is_called FROM {}").format(
            sql.Literal(name), sql.Identifier(row["schema"], row["name"])
        )
        for name, row in sequences.items()
    ]
    return sql.SQL(" UNION ALL ").join(parts) if parts else None


def _positions(conn: Connection, question: sql.Composable | None) -> dict[str, dict[str, Any]]:
    return {} if question is None else {str(row["name"]): row for row in fetch_all(conn, question)}


def _is_ahead(one: Mapping[str, Any], other: Mapping[str, Any], ascending: bool) -> bool:
    sign = 1 if ascending else -1
    return (sign * one["last_value"], one["is_called"]) > (sign * other["last_value"], other["is_called"])
