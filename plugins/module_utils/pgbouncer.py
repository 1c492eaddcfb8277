# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holding the clients of a PgBouncer while names are swapped: PAUSE before the fence, RESUME in every ending.

PAUSE waits until the pool's server sessions are free; what it waits for is bounded, since the fence ends them anyway. Clients
that ask meanwhile wait in the pool and get no error. A pool stays paused when the console's session ends, so a process that was
killed leaves it so: :func:`is_paused` tells it, and the next rollback resumes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

CONSOLE = "pgbouncer"
PAUSE_SECONDS = 2.0
RESUME_SECONDS = 10.0
# A console that does not answer may be that of a pool which is just started; clients wait meanwhile.
POLL_SECONDS = 0.2
_FIELDS = frozenset({"host", "port", "user", "passfile", "database", "connect_timeout", "pause_seconds", "sslmode"})


@dataclass(frozen=True)
class Pool:
    """One declared PgBouncer. Holds no password: libpq reads the pass file.

    :ivar database: the name that clients ask the pool for; it may differ from the server's.
    :ivar pause_seconds: how long it waits for transactions to end before the fence ends them.
    """

    host: str
    port: str
    user: str
    database: str
    passfile: str | None = None
    sslmode: str = "prefer"
    connect_timeout: int = 5
    pause_seconds: float = PAUSE_SECONDS

    def __str__(self) -> str:
        return f"PgBouncer {self.host}:{self.port}"


def declared(target: Target, settings: Mapping[str, Any] | None) -> Pool | None:
    """:param settings: ``rollback_pgbouncer``; empty where there is none.
    :raises PgopsError: a field that there is not, or a secret among them."""
    if not settings:
        return None
    unknown = sorted(set(settings) - _FIELDS)
    if unknown:
        secret = " A password belongs into the file of pgops_passfile." if "password" in unknown else ""
        raise PgopsError(
            f"rollback_pgbouncer has no field {', '.join(unknown)}; it takes {', '.join(sorted(_FIELDS))}.{secret}",
            database=target.database,
        )
    try:
        return Pool(
            host=str(settings.get("host") or target.host),
            port=str(int(settings.get("port") or 6432)),
            user=str(settings.get("user") or target.restore_user or target.user or ""),
            database=str(settings.get("database") or target.database),
            passfile=str(settings.get("passfile") or target.passfile or "") or None,
            sslmode=str(settings.get("sslmode") or "prefer"),
            connect_timeout=int(settings.get("connect_timeout") or 5),
            pause_seconds=float(settings.get("pause_seconds", PAUSE_SECONDS)),
        )
    except (TypeError, ValueError):
        raise PgopsError(
            "rollback_pgbouncer has a port, connect_timeout or pause_seconds that is no number.",
            database=target.database,
        ) from None


def _console(pool: Pool) -> Connection:
    try:
        conn = psycopg2.connect(
            host=pool.host, port=pool.port, user=pool.user, dbname=CONSOLE, passfile=pool.passfile, sslmode=pool.sslmode,
            connect_timeout=pool.connect_timeout, application_name="pgops rollback",
        )  # fmt: skip
    except psycopg2.Error as exc:
        told = str(exc).strip().splitlines()[-1] if str(exc).strip() else type(exc).__name__
        raise PgopsError(
            f"The console of {pool} does not let {pool.user} in ({told}); nothing was touched.",
            hint="Name that user in its admin_users and in the password file, or leave it out with -e '{\"rollback_pgbouncer\": {}}'.",
            extra={"reason": "pgbouncer"},
        ) from None
    # The console knows no transactions.
    conn.autocommit = True
    return conn


def _say(conn: Connection, command: str, database: str) -> None:
    with conn.cursor() as cursor:
        cursor.execute(sql.SQL(command + " {}").format(sql.Identifier(database)))


def is_paused(pool: Pool) -> bool | None:
    """:return: whether the pool holds the clients of this database; None where it knows none of that name (one that is served by
        a wildcard is known once a client has come): then nobody waits.
    :raises PgopsError: the console does not answer."""
    with closing(_console(pool)) as conn, conn.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        names = [column.name for column in cursor.description or ()]
        for row in cursor.fetchall():
            entry = dict(zip(names, row))
            if entry["name"] == pool.database:
                return bool(int(entry["paused"]))
    return None


def pause(pool: Pool) -> str:
    """Hold the clients; returns when the pool is empty, or after ``pause_seconds``: the fence ends what is left.

    :return: what was done, in a few words.
    :raises PgopsError: the console does not answer, or refuses.
    """
    if is_paused(pool) is None:
        return f"{pool} knows no database {pool.database} (field database of rollback_pgbouncer), so it holds nobody"
    conn = _console(pool)
    began = time.monotonic()
    failed: list[psycopg2.Error] = []

    def wait() -> None:
        try:
            _say(conn, "PAUSE", pool.database)
        except psycopg2.Error as exc:
            failed.append(exc)
        finally:
            conn.close()

    # It stays paused, also when its own session is left waiting.
    waiting = threading.Thread(target=wait, name="pgops-pause", daemon=True)
    waiting.start()
    waiting.join(pool.pause_seconds)
    if failed and not _is_already(failed[0]):
        raise PgopsError(
            f"{pool} does not pause {pool.database}: {_first_line(failed[0])}; nothing was touched.",
            extra={"reason": "pgbouncer"},
        )
    ended = "was empty" if not waiting.is_alive() else "was not empty: what runs is ended"
    return f"{pool} held the clients of {pool.database}, and {ended} after {time.monotonic() - began:.2f} s"


def resume(pool: Pool) -> None:
    """Let the clients go on; nothing where they do. Tried again for :data:`RESUME_SECONDS`.

    :raises PgopsError: the pool still holds them; the message has what to type.
    """
    deadline = time.monotonic() + RESUME_SECONDS
    while True:
        try:
            if is_paused(pool):
                with closing(_console(pool)) as conn:  # RESUME of one that is not paused is an error
                    _say(conn, "RESUME", pool.database)
            return
        except (psycopg2.Error, PgopsError) as error:
            if time.monotonic() > deadline:
                told = error.message if isinstance(error, PgopsError) else _first_line(error)
                raise PgopsError(
                    f"{pool} STILL HOLDS the clients of {pool.database}: it was not resumed ({told.rstrip('.')}).",
                    hint=f"psql -h {pool.host} -p {pool.port} -U {pool.user} {CONSOLE} -c 'RESUME \"{pool.database}\"'",
                    extra={"reason": "pgbouncer"},
                ) from None
            time.sleep(POLL_SECONDS)


def _is_already(exc: psycopg2.Error) -> bool:
    return "already" in str(exc)


def _first_line(exc: psycopg2.Error) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
