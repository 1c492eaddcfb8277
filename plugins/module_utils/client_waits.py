# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long clients were seen to wait for a lock that a run has, or that it stands in line for."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# pg_blocking_pids stops the lock table for a moment: it is asked of those only that wait. Who has no role is an autovacuum worker.
_WAITING = """
WITH waiting AS MATERIALIZED (
    SELECT l.pid, min(l.waitstart) AS since FROM pg_catalog.pg_locks l WHERE NOT l.granted AND l.waitstart IS NOT NULL GROUP BY l.pid),
ours AS MATERIALIZED (
    SELECT array_agg(a.pid) AS pids FROM pg_catalog.pg_stat_activity a
     WHERE a.application_name = %s AND a.datname = pg_catalog.current_database())
SELECT w.pid, extract(epoch FROM w.since)::float8 AS since, extract(epoch FROM clock_timestamp() - w.since)::float8 AS waited_s
  FROM waiting w CROSS JOIN ours
  JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid AND a.usesysid IS NOT NULL AND a.application_name NOT LIKE 'pgops %%'
 WHERE pg_catalog.pg_blocking_pids(w.pid) && ours.pids
"""


class ClientWaits:
    """What looks at the server have seen; a wait that begins and ends between two of them is not."""

    def __init__(self, run_id: str) -> None:
        self._name = locks.application_name(run_id)
        self._begun = time.monotonic()
        self._looks = 0
        self._waited: dict[tuple[int, float], float] = {}

    def look(self, conn: Connection) -> None:
        """:param conn: in the database of the run. Takes no lock on tables."""
        found = fetch_all(conn, _WAITING, (self._name,))
        self._looks += 1
        for row in found:
            # When it began to wait tells two waits of one session apart.
            self._waited[(int(row["pid"]), float(row["since"]))] = float(row["waited_s"])

    def as_dict(self) -> dict[str, Any]:
        """:return: ``looks``, ``waits`` that were seen, ``longest_s`` of them as far as it was seen (0 where there were none), and
        the ``seconds`` since the run began to work."""
        return {
            "looks": self._looks,
            "waits": len(self._waited),
            "longest_s": round(max(self._waited.values(), default=0.0), 3),
            "seconds": round(time.monotonic() - self._begun, 3),
        }
