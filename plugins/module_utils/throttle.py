# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Batches give way to a server that has other things to do: they rest, pause and go on, and say why."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one, server_version
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import as_login_role

# A look costs about 1 ms: a thousandth of the time.
LOOK_S = 1.0
# What presses may last for hours and be none of our making: then one batch goes by each time.
PAUSE_MOST_S = 30.0
REST_MOST_S = 5.0

REPLICA_LAG, LOCK_WAIT, SESSIONS, WAL, CHECKPOINTS = (
    "replica lag",
    "lock waits",
    "active sessions",
    "WAL rate",
    "requested checkpoints",
)


@dataclass(frozen=True)
class Limits:
    """How much of each is too much; 0 switches one off.

    :ivar replica_lag_s: seconds that a standby has not replayed. 10: readers of standbys are seldom promised less.
    :ivar lock_wait_s: seconds that somebody waits for a lock. 1: what a client notices.
    :ivar active_sessions: other sessions that run a statement. 50: half of PostgreSQL's default ``max_connections``.
    :ivar wal_mb_s: WAL of the whole server, MB/s. Off: the lag of a standby tells better what is too much for it.
    :ivar requested_checkpoints: checkpoints in one second that came before their time, for ``max_wal_size``.
    :ivar except_standbys: ``application_name`` of standbys that lag on purpose, e.g. with ``recovery_min_apply_delay``.
    """

    replica_lag_s: float = 10.0
    lock_wait_s: float = 1.0
    active_sessions: int = 50
    wal_mb_s: float = 0.0
    requested_checkpoints: int = 1
    except_standbys: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Limits:
        """:return: the defaults with what is given in their place.
        :raises PgopsError: an unknown name, or no number."""
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name not in known:
                raise PgopsError(f"migrate_throttle has no '{name}'; it has {', '.join(sorted(known))}.")
            if name == "except_standbys":
                if not isinstance(value, (list, tuple)):
                    raise PgopsError(f"migrate_throttle.{name} must be a list of application_name, not {value!r}.")
                values[name] = tuple(str(item) for item in value)
                continue
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                values[name] = -1.0
            if not (0 <= values[name] < math.inf):
                raise PgopsError(f"migrate_throttle.{name} must be a number, 0 or more.")
        return cls(**values)


# The WAL that is made, not what is written of it: batches commit lazily, and a moment later it is written.
# waitstart is there for all to see; of a row lock's wait the database is not told, so it is the whole server's.
# A wait for a virtual transaction is a concurrent index build's, and may last for hours without any harm.
_LOOK = """
SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal,
       {checkpoints} AS checkpoints,
       current_user::text AS role, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT count(*) FROM pg_stat_activity
         WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()) AS active,
       (SELECT jsonb_build_object('pid', l.pid, 'name', a.application_name,
                   'seconds', extract(epoch FROM clock_timestamp() - l.waitstart))
          FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE NOT l.granted AND l.locktype NOT IN ('advisory', 'virtualxid') AND l.waitstart IS NOT NULL
         ORDER BY l.waitstart LIMIT 1) AS waiting,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('name', application_name,
                   'replayed', pg_wal_lsn_diff(replay_lsn, '0/0')::bigint,
                   'seconds', extract(epoch FROM replay_lag))), '[]')
          FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')) AS standbys
"""


@dataclass
class _Pressure:
    """What is too much at this moment: ``pauses`` stop the batches, ``slows`` give them a rest of so many seconds."""

    pauses: dict[str, str] = field(default_factory=dict)
    slows: dict[str, str] = field(default_factory=dict)
    rest_share: float = 0.0


class Throttle:
    """Looks at the server between two batches, once a second, on the session that works.

    It never waits without an end: after half a minute of pause one batch goes by.
    """

    def __init__(
        self,
        conn: Connection,
        limits: Limits,
        *,
        tell: Callable[[str], None],
        check: Callable[[], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param conn: a session in autocommit, idle while it looks.
        :param tell: is told why it pauses and that it goes on.
        :param check: raises where the job has to end."""
        self._conn = conn
        self._limits = limits
        self._tell = tell
        self._check = check
        self._sleep = sleep
        self._clock = clock
        view = "pg_stat_checkpointer" if server_version(conn)[0] >= 17 else "pg_stat_bgwriter"
        column = "num_requested" if server_version(conn)[0] >= 17 else "checkpoints_req"
        self._query = _LOOK.format(checkpoints=f"(SELECT {column} FROM {view})")
        self._looks: list[tuple[float, int]] = []
        # The checkpointer tells of one a moment after it: what the first look after the beginning finds may be older, e.g. that
        # of a CREATE DATABASE for the proof.
        self._checkpoints: list[int] = []
        self._pressure = _Pressure()
        self._replayed: list[int] = []
        self._wal_share = 0.0
        self._slowed = False
        self._unseen: dict[str, str] = {}
        self._seconds: dict[str, float] = {"paused_s": 0.0, "slowed_s": 0.0}
        self._times: dict[str, int] = {}

    def before_batch(self) -> None:
        """Wait while the server is pressed. Holds nothing meanwhile.

        :raises Interrupted: the job has to end.
        """
        if not self._due():
            return
        self._look()
        if not self._pressure.pauses:
            return
        began = self._clock()
        told: set[str] = set()
        while self._pressure.pauses and self._clock() - began < PAUSE_MOST_S:
            new = {why: text for why, text in self._pressure.pauses.items() if why not in told}
            if new:
                told |= set(new)
                self._count(new)
                self._tell(f"pauses: {'; '.join(new.values())}")
            self._check()
            self._sleep(LOOK_S)
            self._look()
        seconds = self._clock() - began
        self._seconds["paused_s"] += seconds
        more = f", one batch, though {'; '.join(self._pressure.pauses.values())}" if self._pressure.pauses else ""
        self._tell(f"goes on after {seconds:.0f} s{more}")

    def pressing(self) -> dict[str, str]:
        """:return: what is too much at this moment, by its kind, in words; for who decides himself what to do about it."""
        self._look()
        return dict(self._pressure.pauses)

    def follow(self) -> bool:
        """:return: whether each standby has replayed by the last look what there was at the first; one that replays nothing looks until
        then like one that is up to date."""
        return all(replayed >= self._looks[0][1] for replayed in self._replayed) if self._looks else True

    def rest(self, seconds: float) -> float:
        """:param seconds: that the last batch took.
        :return: seconds to rest now, so that all in all it asks less of the server; 0 where nothing presses."""
        if not self._pressure.slows:
            if self._slowed:
                self._slowed = False
                self._tell("goes on at full speed")
            return 0.0
        if not self._slowed:
            self._slowed = True
            self._count(self._pressure.slows)
            self._tell(f"slows down: {'; '.join(self._pressure.slows.values())}")
        rest = min(REST_MOST_S, seconds * self._pressure.rest_share)
        self._seconds["slowed_s"] += rest
        return rest

    def summary(self) -> dict[str, Any]:
        """:return: for the result: seconds of pause and of slowing down, how often for what, and what could not be seen."""
        told: dict[str, Any] = {name: round(value, 3) for name, value in self._seconds.items() if value}
        if self._times:
            told["reasons"] = dict(self._times)
        if self._unseen:
            told["unseen"] = dict(self._unseen)
        return told

    # What it sees

    def _due(self) -> bool:
        return bool(self._pressure.pauses) or not self._looks or self._clock() - self._looks[-1][0] >= LOOK_S

    def _count(self, reasons: Mapping[str, str]) -> None:
        for reason in reasons:
            self._times[reason] = self._times.get(reason, 0) + 1

    def _look(self) -> None:
        now = self._clock()
        try:
            # What the views show depends on the role that logged in; the owner's is a member of nothing.
            with as_login_role(self._conn):
                seen = fetch_one(self._conn, self._query)
        except psycopg2.Error as exc:
            if self._conn.closed or exc.pgcode is None:
                raise
            # A managed server that has no WAL of its own to tell about, for example.
            self._unseen["all"] = f"the server refused the look (SQLSTATE {exc.pgcode})"
            self._looks, self._pressure = [(now, 0)], _Pressure()
            return
        if seen is not None:
            self._pressure = self._judge(seen, now)

    def _judge(self, seen: Mapping[str, Any], now: float) -> _Pressure:
        limits, found = self._limits, _Pressure()
        before = self._looks[-1] if self._looks else None
        self._looks = [*self._looks[-600:], (now, int(seen["wal"]))]
        if not seen["sees_all"]:
            # Of other roles' sessions and of standbys such a role sees no more than that they are there.
            self._unseen = dict.fromkeys((REPLICA_LAG, SESSIONS), f"GRANT pg_monitor TO {quoted(seen['role'])}")
        self._replayed = [
            int(standby["replayed"])
            for standby in seen["standbys"]
            if standby["replayed"] is not None and standby["name"] not in limits.except_standbys
        ]
        for standby in seen["standbys"]:
            lag = self._lag(standby, now)
            if 0 < limits.replica_lag_s < lag and standby["name"] not in limits.except_standbys:
                found.pauses[REPLICA_LAG] = (
                    f"standby {standby['name']} is {lag:.0f} s behind (limit {limits.replica_lag_s:g} s)"
                )
        waiting = seen["waiting"]
        if waiting and 0 < limits.lock_wait_s < float(waiting["seconds"]):
            found.pauses[LOCK_WAIT] = (
                f"pid {waiting['pid']} ({waiting['name'] or 'no application_name'}) waits for a lock since "
                f"{float(waiting['seconds']):.0f} s (limit {limits.lock_wait_s:g} s)"
            )
        if 0 < limits.active_sessions < int(seen["active"]):
            found.pauses[SESSIONS] = f"{seen['active']} sessions are active (limit {limits.active_sessions:g})"
        if before is not None and now > before[0]:
            rate = (int(seen["wal"]) - before[1]) / (now - before[0]) / 1e6
            # What it would be without the rests of now: they go on while they are needed.
            self._wal_share = max(0.0, rate * (1 + self._wal_share) / limits.wal_mb_s - 1) if limits.wal_mb_s else 0.0
            if self._wal_share:
                found.slows[WAL] = f"{rate:.0f} MB/s of WAL are written (limit {limits.wal_mb_s:g} MB/s)"
                found.rest_share = self._wal_share
        self._checkpoints = [*self._checkpoints[-2:], int(seen["checkpoints"])]
        new = self._checkpoints[-1] - self._checkpoints[-2] if len(self._checkpoints) > 2 else 0
        if 0 < limits.requested_checkpoints <= new:
            found.slows[CHECKPOINTS] = f"{new} checkpoint(s) came before their time"
            found.rest_share = max(found.rest_share, 1.0)
        return found

    def _lag(self, standby: Mapping[str, Any], now: float) -> float:
        """Seconds since WAL was written that the standby has not replayed. The server's own figure stands still with a
        standby that replays nothing, and is gone with one that has nothing to replay."""
        if standby["replayed"] is None:
            return 0.0
        missing = [moment for moment, wal in self._looks if wal > int(standby["replayed"])]
        return max(now - missing[0] if missing else 0.0, float(standby["seconds"] or 0.0) if missing else 0.0)
