# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who else builds an index of a table: waited for before the lock of that table is asked for, never behind it.

A concurrent build waits for each older snapshot of the database. Who stands in line for the table's lock has a snapshot, and
waits for the build: the server ends one of the two for a deadlock, and the build is left INVALID (measured, either order).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils import locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import Session
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

# Another's build holds a lock that we must not queue behind, so it can only be looked at; builds take seconds to hours.
POLL_S = 0.5

# pg_stat_progress_create_index hides the builds of other roles; their locks are for all to see.
_BUILDERS = f"""
SELECT DISTINCT l.pid
  FROM (SELECT pg_catalog.to_regclass(%s)::oid AS oid) named LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = named.oid
  JOIN pg_catalog.pg_locks l ON l.relation = coalesce(i.indrelid, named.oid)
 WHERE {locks.OF_A_BUILD}
"""


def builders(conn: Connection, schema: str, name: str) -> list[Session]:
    """Who has, or waits for, the lock of a concurrent build, of its table or of the table of that index. Takes no lock.

    A VACUUM or an ANALYZE that a person typed has the same lock and cannot be told apart by a plain role; an autovacuum is left out.

    :param name: of a table or an index; nobody has the lock of one that is not there.
    """
    rows = fetch_all(conn, _BUILDERS, (sql.Identifier(schema, name).as_string(conn),))
    return locks.sessions_of(conn, [int(row["pid"]) for row in rows]) if rows else []


def named(sessions: Sequence[Session]) -> str:
    """:return: them in words, for a sentence."""
    return "; ".join(session.sentence() for session in sessions)


def wait(
    context: StepContext,
    conn: Connection,
    relation: tuple[str, str],
    limit_s: float,
    *,
    index: str,
    failing: str,
    heed: bool = True,
) -> float:
    """Wait until nobody builds an index of that table. No transaction is open meanwhile, so nobody waits for this session.

    :param conn: the session that is about to ask for the lock, in autocommit.
    :param relation: schema and name of the table, or of the index that is to be altered.
    :param limit_s: seconds.
    :param index: what is to be worked on, and ``failing`` what would be done to it, for the person who watches.
    :param heed: whether to end at once when the run is asked to end.
    :return: seconds of the limit that are left, one at least.
    :raises PgopsError: 55006, somebody is still there when the limit ends.
    :raises Interrupted: asked to end.
    """
    deadline, told = time.monotonic() + limit_s, frozenset[int]()
    while True:
        if heed:
            context.control.check()
        there = builders(conn, *relation)
        left_s = deadline - time.monotonic()
        if not there:
            return max(1.0, left_s)
        if left_s <= 0:
            raise PgopsError(
                f"{context.doing} hit its time limit of {limit_s:.0f} s before it {failing}: {named(there)} holds the lock that a build of an "
                f"index takes (SQLSTATE {errorcodes.OBJECT_IN_USE}).",
                sqlstate=errorcodes.OBJECT_IN_USE,
                database=context.database,
                object_name=".".join(relation),
                hint="Wait for it, then run it again, or with a larger limit: -e migrate_index_timeout=SECONDS.",
                extra={"reason": "time_limit", "blockers": [session.as_dict() for session in there]},
            )
        pids = frozenset(session.pid for session in there)
        if pids - told:
            context.tell(f"index {index}: waiting for {named(there)}, which may be building an index of its table")
            told |= pids
        context.sleep(min(POLL_S, left_s))
