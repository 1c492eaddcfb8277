# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a session still stands: what psycopg2 knows of it, and what it says when it is asked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import errorcodes
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

# As long as a new session is waited for (pgops_connect_timeout).
ANSWER_S = 10.0

_CONNECTION_OK = 0  # libpq's word for a session that stands
# The server has ended the session; psycopg2 may take it for open all the same.
_ENDED = frozenset(
    {errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN, errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT}
)
# With which another session is refused while a server restarts, or another one takes its place.
_AWAY = frozenset({errorcodes.CANNOT_CONNECT_NOW, errorcodes.READ_ONLY_SQL_TRANSACTION})
_CONNECTION_EXCEPTION = "08"


def is_broken(conn: Connection) -> bool:
    """:return: whether no statement can be sent any more. Of a session that was just ended psycopg2 does not know it at once."""
    return bool(conn.closed) or conn.info.status != _CONNECTION_OK


def is_lost(conn: Connection, exc: PgopsError | psycopg2.Error) -> bool:
    """Tell a session that ended from a statement that failed.

    What has no SQLSTATE, or one of a connection, may have befallen another session of the run: then this one is asked, for
    ``ANSWER_S`` at most; see :func:`answers`.

    :return: whether it was the session that ended.
    """
    state = _sqlstate(exc)
    return is_broken(conn) or state in _ENDED or (is_of_a_connection(exc) and not answers(conn))


def is_of_a_connection(exc: PgopsError | psycopg2.Error) -> bool:
    """:return: whether a session may have broken or was not to be had; not where the server has answered a statement."""
    state = _sqlstate(exc)
    return state is None or state.startswith(_CONNECTION_EXCEPTION) or state in _AWAY


def answers(conn: Connection, within_s: float = ANSWER_S) -> bool:
    """Ask a session in autocommit whether it stands; a transaction that an error has left open in it is rolled back.

    On a network that is cut without a word it takes ``within_s`` and no longer: tcp_user_timeout alone would be half a minute,
    and none at all where a proxy between the two takes what is sent. Who has not answered by then is shut down.

    :param within_s: seconds.
    :return: whether it stands; where not, psycopg2 knows it from now on.
    """
    # In an aborted transaction SELECT fails in a session that stands.
    idle = conn.info.transaction_status == TRANSACTION_STATUS_IDLE
    # An error is an answer, too: of a cancel that came late.
    with suppress(psycopg2.Error), _ended_after(conn, within_s):
        execute(conn, "SELECT 1" if idle else "ROLLBACK")
    return not is_broken(conn)


@contextmanager
def _ended_after(conn: Connection, seconds: float) -> Iterator[None]:
    """End the session where this block takes longer; the statement in it then fails as on a server that went away.

    libpq has no limit for an answer, and statement_timeout reaches no further than the server.
    """
    if is_broken(conn):
        raise psycopg2.InterfaceError("the session is closed")
    # One of our own: libpq may close its descriptor meanwhile, and another file get the number.
    with socket.socket(fileno=os.dup(conn.fileno())) as end:

        def shut_down() -> None:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _sqlstate(exc: PgopsError | psycopg2.Error) -> str | None:
    state: str | None = exc.sqlstate if isinstance(exc, PgopsError) else exc.pgcode
    return state
