# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A look at a database that does not wait for ever behind a rewrite or a TRUNCATE that nobody ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

LOOK_LOCK_TIMEOUT_S = 10

_EXCLUSIVE = """
SELECT l.pid, string_agg(DISTINCT l.relation::regclass::text, ', ') AS tables
  FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
 GROUP BY l.pid ORDER BY l.pid
"""


@contextmanager
def bounded(conn: Connection, told: str) -> Iterator[None]:
    """Wait for no lock longer than :data:`LOOK_LOCK_TIMEOUT_S`, neither here nor in a :func:`reader`.

    :param conn: a session without an open transaction.
    :param told: what could not be done, as the beginning of a sentence.
    :raises PgopsError: somebody holds a table; names who.
    """
    database = str(conn.info.dbname)
    execute(conn, f"SET lock_timeout = '{LOOK_LOCK_TIMEOUT_S}s'")
    try:
        yield
    except psycopg2.errors.LockNotAvailable as exc:
        holders = fetch_all(conn, _EXCLUSIVE)
        tables = {int(row["pid"]): str(row["tables"]) for row in holders}
        sessions = locks.sessions_of(conn, list(tables))
        named = "; ".join(f"{session.sentence()} holds {tables.get(session.pid, 'it')}" for session in sessions)
        raise PgopsError(
            f"{told}: a table has been locked by somebody else for more than {LOOK_LOCK_TIMEOUT_S} s, and its definition cannot be "
            f"read past that lock ({named or 'who held it was gone when looked for'}). Nothing was written.",
            sqlstate=exc.pgcode,
            database=database,
            hint="End or wait for the sessions named, then run it again.",
            extra={"reason": "lock_wait", "blockers": [session.as_dict() for session in sessions]},
        ) from None
    finally:
        # What ended the look says more than that its session is gone.
        with suppress(psycopg2.Error):
            execute(conn, "SET lock_timeout = 0")


@contextmanager
def reader(target: Target, name: str) -> Iterator[Connection]:
    """A session of the role that reads every row; it waits for no lock longer than :data:`LOOK_LOCK_TIMEOUT_S`."""
    with closing(connect(target.as_backup(), application_name=name)) as conn:
        execute(conn, f"SET lock_timeout = '{LOOK_LOCK_TIMEOUT_S}s'")
        yield conn
