# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far an index build or an ANALYZE is by the server's own word, who holds it up, and when it will be done."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils import locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one

_CREATE_INDEX = """
SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total, p.lockers_done, p.lockers_total,
       p.current_locker_pid AS locker, a.application_name AS locker_name,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS') AS locker_since,
       pg_catalog.pg_relation_size(nullif(p.index_relid, 0)) AS bytes
  FROM pg_catalog.pg_stat_progress_create_index p
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = p.current_locker_pid AND p.current_locker_pid <> 0
 WHERE p.pid = %s
"""
_ANALYZE = """
SELECT phase, sample_blks_scanned AS done, sample_blks_total AS total
  FROM pg_catalog.pg_stat_progress_analyze WHERE pid = %s
"""

# The phases of CREATE INDEX CONCURRENTLY in their order, and the share of its work that each has, measured on tables as in
# benchmarks/indexes.py; waiting is no work. A method that does not tell its parts has the phase "building index".
_WORK = (
    ("building index: scanning table", 0.15),
    ("building index: sorting live tuples", 0.40),
    ("building index: loading tuples in tree", 0.20),
    ("index validation: scanning index", 0.10),
    ("index validation: sorting tuples", 0.08),
    ("index validation: scanning table", 0.07),
)
_WHOLE = ("building index", 0.75)
# A forecast from less than this share of the work is a guess.
_ENOUGH = 0.03


@dataclass(frozen=True)
class Seen:
    """What the server tells of a session's statement at one moment; empty where it tells nothing.

    :ivar text: the phase, and who holds it up.
    :ivar held_up_by: that session alone, in words.
    :ivar bytes: how large the index is so far.
    """

    phase: str = ""
    text: str = ""
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    held_up_by: str | None = None
    bytes: int | None = None


def look(conn: Connection, pid: int) -> Seen:
    """:param pid: the server process that builds, analyzes, or waits for a lock."""
    with locks.as_login_role(conn):
        building, analyzing = fetch_one(conn, _CREATE_INDEX, (pid,)), fetch_one(conn, _ANALYZE, (pid,))
    if building is not None:
        phase = text = str(building["phase"])
        held_up_by = None
        size = int(building["bytes"]) if building["bytes"] else None
        if building["locker"]:
            held_up_by = f"pid {building['locker']} ({building['locker_name'] or 'no application_name'})"
            text += f", held up by {held_up_by}"
            if building["locker_since"]:
                held_up_by += f", in a transaction since {building['locker_since']} UTC"
        for name, unit in (("blocks", "blocks"), ("tuples", "rows"), ("lockers", "sessions")):
            if building[f"{name}_total"]:
                done, total = int(building[f"{name}_done"]), int(building[f"{name}_total"])
                return Seen(phase, text, done, total, unit, held_up_by, size)
        return Seen(phase, text, held_up_by=held_up_by, bytes=size)
    if analyzing is not None:
        phase = str(analyzing["phase"])
        return Seen(phase, phase, int(analyzing["done"]), int(analyzing["total"]), "blocks")
    # A build that waits for the lock of its table has not begun to tell.
    held_up_by = "; ".join(session.sentence() for session in locks.blockers_of(conn, pid))
    return Seen(text=f"held up by {held_up_by}", held_up_by=held_up_by) if held_up_by else Seen()


class Forecast:
    """When a build will be done: the share of its work that is behind it, and the time that this took without the waiting."""

    def __init__(self) -> None:
        self._last_s = 0.0
        self._waited_s = 0.0
        self._phase = ""
        self._phase_began_s = 0.0

    def left_s(self, seen: Seen, elapsed_s: float) -> float | None:
        """:param elapsed_s: seconds since the build began; not less than at the call before.
        :return: seconds of work that are left; waiting that is still to come is not in it. None where nobody can tell."""
        if seen.phase.startswith("waiting"):
            self._waited_s += elapsed_s - self._last_s
        before, self._last_s = self._last_s, elapsed_s
        if seen.phase != self._phase:
            # It began at some time since the last look.
            self._phase, self._phase_began_s = seen.phase, before - self._waited_s
        found = _share(seen.phase)
        if found is None:
            return None
        worked_s = elapsed_s - self._waited_s
        begin, share = found
        if seen.done is not None and seen.total:
            part = min(1.0, seen.done / seen.total)
        else:
            # Of a sort the server does not tell how far it is: it takes its share of the time so far, then it is about to end.
            expected_s = self._phase_began_s * share / begin if begin else 0.0
            part = min(0.95, (worked_s - self._phase_began_s) / expected_s) if expected_s > 0 else 0.0
        done = begin + share * part
        return round(worked_s * (1.0 - done) / done, 1) if done >= _ENOUGH else None


def _share(phase: str) -> tuple[float, float] | None:
    """:return: the share of the work that is behind where the phase begins, and its own; None for one that does no work."""
    if phase == _WHOLE[0]:
        return 0.0, _WHOLE[1]
    begin = 0.0
    for name, share in _WORK:
        if name == phase:
            return begin, share
        begin += share
    return None
