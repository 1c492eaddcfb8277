# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who stands in the way of maintenance without holding a table's lock: old transactions, and what keeps rows from being frozen."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import lock_forecast, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_forecast import TableLock

# A client's ordinary transaction is over by then.
OLD_S = 2.0

_OLD_SNAPSHOTS = """
SELECT a.pid FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type = 'client backend'
   AND a.xact_start < pg_catalog.clock_timestamp() - %s * interval '1 s'
   AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = a.pid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index b WHERE b.pid = a.pid)
"""
# What keeps rows from being frozen or removed, whoever it is.
_HOLDS_BACK = """
SELECT told FROM (
    SELECT greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid)) AS age, pg_catalog.format('session %s (%s)', a.pid, a.application_name) AS told
      FROM pg_catalog.pg_stat_activity a WHERE a.pid <> pg_catalog.pg_backend_pid()
    UNION ALL
    SELECT greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin)), pg_catalog.format('replication slot %s', s.slot_name)
      FROM pg_catalog.pg_replication_slots s
    UNION ALL
    SELECT pg_catalog.age(p.transaction), pg_catalog.format('prepared transaction %s', p.gid) FROM pg_catalog.pg_prepared_xacts p) AS held
 WHERE age > 0 ORDER BY age DESC LIMIT 1
"""


def holds_back(conn: Connection) -> str:
    """:return: who keeps rows from being frozen or removed, the oldest of them."""
    with locks.as_login_role(conn):
        row = fetch_one(conn, _HOLDS_BACK)
    return str(row["told"]) if row else "a transaction that this role cannot see"


def old_transactions(conn: Connection, table: TableLock, sleep: Callable[[float], None]) -> str | None:
    """:param table: with the lock of whoever uses it.
    :return: whose transaction a rebuild would wait for, in words: each that has a snapshot, and each that uses its table."""
    with locks.as_login_role(conn):
        pids = [int(row["pid"]) for row in fetch_all(conn, _OLD_SNAPSHOTS, (OLD_S,))]
    seen = {one.pid: one for one in [*lock_forecast.in_the_way(conn, [table]), *locks.sessions_of(conn, pids)]}
    old = [one for one in seen.values() if one.age_s is not None and one.age_s >= OLD_S]
    hidden = [one for one in seen.values() if one.age_s is None]
    if hidden and not old:
        # How old they are only pg_read_all_stats sees; that they stay everybody does.
        sleep(OLD_S)
        old = [one for one in hidden if one.pid == 0] + locks.still_open(conn, hidden)
    if not old:
        return None
    return f"a rebuild would wait for {'; '.join(one.sentence() for one in old)}, in an old transaction"
