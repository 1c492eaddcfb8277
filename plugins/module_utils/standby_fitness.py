# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a standby is fit to be read for a backup, and how far its primary had come when that began."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.open_transactions import MOST_LOOKED_AT

MB = 1_000_000

# The WAL that was made and not only what is on the disk: a lazy commit counts as soon as its client was told. The file's name
# has the timeline of this moment, the control file that of the last checkpoint.
_BEGIN = """
SELECT c.system_identifier::text, w.lsn::text, pg_wal_lsn_diff(w.lsn, '0/0')::bigint AS position,
       ('x' || left(pg_walfile_name(w.lsn), 8))::bit(32)::int AS timeline
  FROM pg_control_system() AS c, (SELECT pg_current_wal_insert_lsn() AS lsn OFFSET 0) AS w
"""
_LOOK = """
SELECT c.system_identifier::text, pg_get_wal_replay_pause_state() AS paused,
       pg_last_wal_replay_lsn()::text AS lsn, coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint AS position,
       current_setting('hot_standby_feedback')::boolean AS feedback, current_user::text AS role,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_standby_streaming_delay') AS patience_ms,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'recovery_min_apply_delay') AS delay_ms,
       pg_database_size(current_database()) AS database_bytes,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_receiver,
       (SELECT status FROM pg_stat_wal_receiver) AS receiver, (SELECT received_tli FROM pg_stat_wal_receiver) AS timeline,
       (SELECT pg_snapshot_xmax(s)::text::bigint - pg_snapshot_xmin(s)::text::bigint FROM pg_current_snapshot() AS s) AS open_for,
       ARRAY(SELECT r.oid::regclass::text FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
              WHERE r.relpersistence = 'u' AND r.relkind IN ('r', 'S') AND n.nspname !~ '^pg_' ORDER BY 1 LIMIT 1) AS unlogged
  FROM pg_control_system() AS c
"""


@dataclass(frozen=True)
class Wish:
    """What ``backup_from_standby`` asks for.

    :ivar hosts: of the standbys, with commas; empty for those of the target.
    :ivar ports: one for all of them, or one each; empty for the target's.
    :ivar lag_s: seconds that a standby may need until it has replayed what the primary has written.
    :ivar lag_mb: MB of WAL that it may be behind when it is looked at.
    :ivar forecast_s: of a database's bytes, the seconds that the backup will take; a standby must let it read so long.
    """

    hosts: str = ""
    ports: str = ""
    lag_s: float = 30.0
    lag_mb: float = 256.0
    forecast_s: Callable[[int], float] = lambda size: 0.0

    def targets(self, source: Target) -> list[Target]:
        """:return: the servers to look at. :raises PgopsError: there is none, or not a port for each."""
        hosts = [host.strip() for host in (self.hosts or source.host).split(",") if host.strip()]
        ports = [port.strip() for port in str(self.ports or source.port or "").split(",") if port.strip()]
        if len(ports) not in (0, 1, len(hosts)):
            raise PgopsError(
                f"backup_standby_port names {len(ports)} ports for {len(hosts)} hosts.",
                database=source.database,
                hint="Name one port for all hosts, or one for each.",
            )
        if not self.hosts and len(hosts) == 1:
            raise PgopsError(
                f"backup_from_standby is set, and no standby is named: pgops_host is {source.host} alone.",
                database=source.database,
                hint="Name the standby with -e backup_standby_host=HOST, or every server of the cluster in pgops_host.",
            )
        if len(ports) < len(hosts):
            ports = ports * len(hosts)
        return [source.with_(host=host, port=ports[place] if ports else None) for place, host in enumerate(hosts)]


@dataclass(frozen=True)
class Begin:
    """How far the primary had come when the backup began.

    :ivar xid: a transaction of ours that was begun and ended after that; None where nothing was to be waited for.
    """

    system_identifier: str
    timeline: int
    lsn: str
    position: int
    xid: int | None
    clock: float


def begin_on(primary: Connection, source: Target, *, nudge: bool) -> Begin:
    """:param primary: an idle session in autocommit.
    :param nudge: take a transaction number, so that its WAL goes out at once.
    :return: how far it has come.
    :raises PgopsError: it is no primary.
    """
    row = fetch_one(primary, "SELECT pg_is_in_recovery() AS standby")
    if row and row["standby"]:
        raise PgopsError(
            f"{source} is a standby itself, so how far its primary has come cannot be asked.",
            database=source.database,
            hint="Let pgops_host name the primary, and backup_standby_host the standby.",
        )
    clock = time.monotonic()
    row = fetch_one(primary, _BEGIN) or {}
    # Its commit record lies behind all that was written until now, and is on its way within wal_writer_delay: an open
    # transaction's WAL may else stay in memory for as long as nobody commits.
    nudged = fetch_one(primary, "SELECT pg_current_xact_id()::text::bigint AS xid") if nudge else None
    return Begin(
        row["system_identifier"], row["timeline"], row["lsn"], row["position"], nudged["xid"] if nudged else None, clock
    )


def look(conn: Connection, begin: Begin, wish: Wish) -> tuple[str | None, int]:
    """Look whether a server is fit now; nothing is waited for.

    :param conn: to the server that may be read, in autocommit.
    :return: why it is not, None where it is; and by how many bytes of WAL it is behind, as far as that was looked at.
    """
    state = fetch_one(conn, "SELECT pg_is_in_recovery() AS standby")
    if not state or not state["standby"]:
        return "is no standby", 0
    seen = fetch_one(conn, _LOOK) or {}
    behind = max(begin.position - int(seen["position"]), 0)
    return _unlike(seen, begin) or _late(seen, behind, wish) or _unreadable(seen, wish), behind


def _unlike(seen: Mapping[str, Any], begin: Begin) -> str | None:
    """:return: why it is no standby of this primary."""
    if seen["system_identifier"] != begin.system_identifier:
        return f"is a standby of another cluster (system identifier {seen['system_identifier']})"
    if not seen["sees_receiver"]:
        return f"does not show role {seen['role']} whom it follows; GRANT pg_read_all_stats TO {quoted(seen['role'])}"
    if seen["receiver"] != "streaming":
        return "does not stream from anybody"
    if seen["timeline"] != begin.timeline:
        return f"follows timeline {seen['timeline']}, and the primary is on {begin.timeline}"
    return None


def _late(seen: Mapping[str, Any], behind: int, wish: Wish) -> str | None:
    if seen["paused"] != "not paused":
        return f"does not replay (replay is {seen['paused']})"
    if seen["delay_ms"] > wish.lag_s * 1000:
        return f"replays {seen['delay_ms'] / 1000:g} s late on purpose (recovery_min_apply_delay)"
    if behind > wish.lag_mb * MB:
        return f"is {behind / MB:,.0f} MB of WAL behind (limit {wish.lag_mb:g} MB)"
    return None


def _unreadable(seen: Mapping[str, Any], wish: Wish) -> str | None:
    """:return: why a backup could not read all of it to the end."""
    forecast_s = wish.forecast_s(int(seen["database_bytes"]))
    if not seen["feedback"] and 0 <= seen["patience_ms"] < forecast_s * 1000:
        return (
            f"may end a query after {seen['patience_ms'] / 1000:g} s (max_standby_streaming_delay, hot_standby_feedback is off), and the "
            f"backup takes about {forecast_s:.0f} s"
        )
    if seen["unlogged"]:
        return f"has no rows of {seen['unlogged'][0]}, which is unlogged"
    if seen["open_for"] > MOST_LOOKED_AT:
        return f"knows of a transaction that is open since {seen['open_for']:,} others"
    return None
