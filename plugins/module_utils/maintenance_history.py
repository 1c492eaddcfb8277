# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What earlier maintenance of a database tells of the next: how fast it went, and what did not come to its end. Kept in the audit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

MAINTAINED = "maintained"
# Old figures tell of another disk.
DAYS = 60
# Bytes a second where nothing is known yet; slow on purpose, since what does not fit is not begun.
SPEEDS = {"freeze": 40e6, "vacuum": 80e6, "analyze": 80e6, "reindex": 25e6}
# What one statement takes besides.
FIXED_S = 0.05
# What ran into the end of its time may need more than it got.
AGAIN = 1.5
# Of less than this a speed says nothing: it is the round trip.
MEASURED_S, MEASURED_BYTES = 0.2, 1_000_000
LISTED = 50

_READ = """
SELECT detail, extract(epoch FROM pg_catalog.clock_timestamp() - at)::float8 AS age_s FROM pgops.audit WHERE event = %s AND at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(days => %s)
 ORDER BY seq
"""


@dataclass(frozen=True)
class Known:
    """:ivar speeds: bytes a second by action, as measured here; ``stopped`` seconds after which something was cut off, by action and
    object.
    :ivar written: by partitioned table, the rows written below it in all when it was analyzed, and how many seconds ago that was told."""

    speeds: Mapping[str, float] = field(default_factory=dict)
    stopped: Mapping[str, float] = field(default_factory=dict)
    written: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    def forecast(self, action: str, size: int, name: str) -> float:
        """:param size: bytes.
        :return: seconds that the work is expected to take; what was cut off the last time gets more than it had."""
        seconds = FIXED_S + size / self.speeds.get(action, SPEEDS[action])
        return round(max(seconds, AGAIN * self.stopped.get(f"{action} {name}", 0.0)), 2)


def read(conn: Connection) -> Known:
    """:return: what is known of this database; nothing where it has no ledger."""
    if ledger.schema_version(conn) == 0:
        return Known()
    seen: dict[str, list[float]] = {}
    stopped: dict[str, float] = {}
    written: dict[str, tuple[int, float]] = {}
    for row in fetch_all(conn, _READ, (MAINTAINED, DAYS)):
        detail = row["detail"]
        for action, speed in (detail.get("speeds") or {}).items():
            seen.setdefault(str(action), []).append(float(speed))
        for name in detail.get("ended") or []:
            stopped.pop(str(name), None)
        stopped.update({str(name): float(seconds) for name, seconds in (detail.get("stopped") or {}).items()})
        for name, rows in (detail.get("written") or {}).items():
            written[str(name)] = (int(rows), float(row["age_s"]))
    return Known({action: statistics.median(speeds[-20:]) for action, speeds in seen.items()}, stopped, written)


def told(done: Iterable[Mapping[str, Any]], known: Known) -> dict[str, Any]:
    """:param done: the outcomes of a run.
    :return: of its row in the audit what the next run reads."""
    speeds: dict[str, list[float]] = {}
    stopped, ended = {}, []
    written: dict[str, int] = {}
    for one in done:
        name, seconds = f"{one['action']} {one['object']}", float(one["seconds"] or 0.0)
        if one["state"] == "done":
            if seconds >= MEASURED_S and one["bytes"] >= MEASURED_BYTES:
                speeds.setdefault(str(one["action"]), []).append(one["bytes"] / seconds)
            written.update(one.get("written") or {})
            if name in known.stopped:
                ended.append(name)
        elif one["state"] == "cancelled" and one.get("out_of_time"):
            stopped[name] = seconds
    return {
        "speeds": {action: round(statistics.median(found)) for action, found in speeds.items()},
        "stopped": dict(list(stopped.items())[:LISTED]),
        "ended": ended[:LISTED],
        "written": dict(list(written.items())[:LISTED]),
    }
