# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ending a session that idles in a transaction and holds a lock that is needed: only where it was asked for, and audited."""

from __future__ import annotations

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import Session
from psycopg2 import errorcodes

# Looked at again in the statement that ends it: who went back to work meanwhile, or began another transaction, stays. The
# leader of a parallel pg_dump idles while its workers read, and so does a backup of ours: their snapshot is in use.
_TERMINATE = """
SELECT pg_catalog.pg_terminate_backend(a.pid) AS done FROM pg_catalog.pg_stat_activity a
 WHERE a.pid = %(pid)s AND a.backend_type = 'client backend'
   AND a.state IN ('idle in transaction', 'idle in transaction (aborted)')
   AND clock_timestamp() - a.state_change >= %(after)s * interval '1 s'
   AND a.application_name <> 'pg_dump' AND a.application_name NOT LIKE 'pgops %%'
   AND EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'virtualxid'
                  AND l.granted AND l.virtualtransaction = %(transaction)s)
"""


def terminate(conn: Connection, session: Session, after_s: float, *, run_id: str | None, version: str) -> bool:
    """End a session if it idles in the transaction in which it was seen, for at least ``after_s`` seconds, and no other.

    The audit's row is written in the same transaction, before the signal: no session ends without one. Needs membership in
    the session's role, or ``pg_signal_backend``, of the role that logged in.

    :param conn: the session that works, outside a transaction.
    :param after_s: seconds.
    :return: whether it was ended.
    :raises psycopg2.Error: 42501, this role may not.
    """
    if not session.pid or (session.idle_s or 0.0) < after_s:
        return False
    try:
        with transaction(conn, "SET LOCAL synchronous_commit = on"):
            ledger.append_audit(
                conn,
                "blocker_terminated",
                run_id=run_id,
                version=version,
                detail={**session.as_dict(), "idle_s": round(session.idle_s or 0.0, 1), "limit_s": after_s},
            )
            # The role that logged in may hold pg_signal_backend; the owner role as which we act is a member of nothing.
            execute(conn, "SET LOCAL ROLE NONE")
            row = fetch_one(
                conn, _TERMINATE, {"pid": session.pid, "after": after_s, "transaction": session.transaction}
            )
            if not row or not row["done"]:
                raise _Spared
    except _Spared:
        return False
    return True


def refusal(session: Session, exc: psycopg2.Error) -> str | None:
    """:return: what to tell a person where the server does not let us end a session; None for any other error."""
    if exc.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE:
        return None
    return (
        f"{session.sentence()} idles past the limit, and this role may not end it: GRANT pg_signal_backend to it "
        "(a superuser's session stays even then)"
    )


class _Spared(Exception):
    """It was no longer what it was when it was seen: what was to be written about it is taken back."""
