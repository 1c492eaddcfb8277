# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One index built CONCURRENTLY, dropped or renamed, on a session of its own.

A concurrent build waits for every older snapshot of the database. A short lock_timeout kills it and leaves an INVALID
index that IF NOT EXISTS takes for done (measured). So a build has a budget of its own and no lock_timeout, and what it
leaves behind when it fails is dropped at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    index_builders,
    index_space,
    time_limits,
    unique_violation,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import index_definition
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import create_index, drop_index, schema_of
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

# A deadlock with another session is worth one more try (the original tried again too).
TRIES = 2
# Who asked for an end waits for it: longer than this nobody tidies up.
CLEAN_UP_S = 10
_ENDED = (errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN)


class Owner(Protocol):
    """Remembers which indexes are ours, so that remains of a build are told from somebody else's index."""

    def began(self, index: Mapping[str, Any]) -> None:
        """From now on what has that name is ours."""

    def forget(self, index: Mapping[str, Any]) -> None:
        """It is not ours after all: somebody made one of that name before us."""


class ByName:
    """Where the name of an index tells whose it is."""

    def began(self, index: Mapping[str, Any]) -> None:
        """Note nothing."""

    def forget(self, index: Mapping[str, Any]) -> None:
        """Nothing was noted."""


def full_name(index: Mapping[str, Any]) -> str:
    """:return: ``schema.name``."""
    return f"{schema_of(index)}.{index['name']}"


def build_by_text(context: StepContext, index: Mapping[str, Any]) -> None:
    """Build an index of another kind of step, whose name says that it is ours; its remains are dropped first.

    Takes SHARE UPDATE EXCLUSIVE on the table.

    :param index: ``schema``, ``table``, ``name``, and ``statement``: CREATE INDEX CONCURRENTLY as the server is to get it.
    """
    found = index_definition(context.conn, schema_of(index), index["name"])
    if found is not None and not found["valid"]:
        drop(context, context.conn, schema_of(index), index["name"])
    build(context, ByName(), context.conn, index)


def build(context: StepContext, owner: Owner, conn: Connection, index: Mapping[str, Any], place: str = "") -> None:
    """Build one index; nothing of its name may be there.

    Takes SHARE UPDATE EXCLUSIVE on the table: no reader and no writer waits. Is not asked for while somebody else builds on that table.

    :param conn: the session that builds, in autocommit; no other statement may be under way on it.
    :param place: which of how many it is, for the person who watches.
    :raises PgopsError: it failed, hit its limit, or the disk has no room for it; its remains are dropped where the table is free.
    :raises Interrupted: asked to end; the build is cancelled and its remains are dropped.
    :raises psycopg2.Error: the session was lost.
    """
    name, limit_s = full_name(index), context.budget("index_timeout_s")
    table, ends = (schema_of(index), str(index["table"])), time.monotonic() + limit_s
    for attempt in range(1, TRIES + 1):
        left_s = index_builders.wait(
            context, conn, table, ends - time.monotonic(), index=name, failing=f"built index {name}"
        )
        # Before the build: whoever finds the remains must know that they are ours.
        owner.began(index)
        _set_limit(conn, left_s)
        since = time.monotonic()
        try:
            with context.watched(f"building index {name}{place}", conn=conn, cancel=True):
                execute(conn, _creation(index))
            return
        except psycopg2.Error as exc:
            if conn.closed or exc.pgcode in _ENDED:
                # psycopg2 takes a session that the server has just ended for open.
                conn.close()
                raise
            timed_out = context.timed_out(exc, since, left_s)
            held_up_by = context.monitor.held_up_by(conn.info.backend_pid)
            execute(conn, "SET statement_timeout = 0")
            if exc.pgcode == errorcodes.DUPLICATE_TABLE:
                # There was none of that name: our own remains are gone before a second try.
                owner.forget(index)
                raise _build_error(context, exc, conn, index) from None
            again = exc.pgcode == errorcodes.DEADLOCK_DETECTED and attempt < TRIES
            if again:
                context.tell(f"the build of index {name} deadlocked with another session: once more when that is done")
            gone = drop_remains(context, conn, index, limit_s=ends - time.monotonic() if again else None)
            context.control.check()
            if again and gone:
                continue
            error = _build_error(context, exc, conn, index, timed_out=timed_out, held_up_by=held_up_by, gone=gone)
            raise error from None
        except Interrupted:
            drop_remains(context, conn, index)
            raise
        finally:
            if not conn.closed:
                execute(conn, "SET statement_timeout = 0")


def _set_limit(conn: Connection, seconds: float) -> None:
    milliseconds = sql.Literal(f"{int(seconds * 1000)}ms")
    execute(conn, sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}").format(milliseconds))


def _creation(index: Mapping[str, Any]) -> sql.Composable:
    return sql.SQL(index["statement"]) if "statement" in index else create_index(index)


def drop_remains(
    context: StepContext, conn: Connection, index: Mapping[str, Any], limit_s: float | None = None
) -> bool:
    """Drop an index of ours where it is invalid; where its table is in use it stays for the next run, which is told.

    :param limit_s: seconds for who goes on afterwards; who ends waits for :data:`CLEAN_UP_S`.
    :return: whether no remains are left.
    """
    found = index_definition(conn, schema_of(index), index["name"])
    if found is None or found["valid"]:
        return True
    try:
        drop(
            context,
            conn,
            schema_of(index),
            index["name"],
            limit_s=CLEAN_UP_S if limit_s is None else limit_s,
            heed=limit_s is not None,
        )
    except PgopsError as error:
        # Somebody holds the table. The ledger knows that these are our remains: the next run drops them first.
        context.tell(
            f"index {full_name(index)} stays invalid for now, its table is in use: the next run drops it first"
        )
        if isinstance(error, Interrupted):
            raise
        return False
    return True


def drop(
    context: StepContext, conn: Connection, schema: str, name: str, limit_s: float | None = None, heed: bool = True
) -> None:
    """DROP INDEX CONCURRENTLY. Takes SHARE UPDATE EXCLUSIVE on the table, and waits for transactions that use the index.

    :param limit_s: seconds, in the place of ``index_timeout_s`` where it is less.
    :param heed: whether the wait for another build of that table ends when the run is asked to end.
    """
    telling, failing = f"dropping index {schema}.{name}", f"dropped index {schema}.{name}"
    statement = drop_index(schema, name)
    alter(context, conn, (schema, name), statement, telling=telling, failing=failing, limit_s=limit_s, heed=heed)


def alter(
    context: StepContext,
    conn: Connection,
    index: tuple[str, str],
    statement: sql.Composed,
    *,
    telling: str,
    failing: str,
    limit_s: float | None = None,
    heed: bool = True,
) -> None:
    """Drop an index concurrently, or rename it: a session that holds it makes this wait, not fail, up to the limit.

    Neither asks for a lock that a reader or a writer would queue behind, nor for any while somebody builds on that table.

    :param index: its schema and name.
    :raises PgopsError: it failed or hit the limit.
    """
    limit = min(limit_s or context.budget("index_timeout_s"), context.budget("index_timeout_s"))
    left_s = index_builders.wait(context, conn, index, limit, index=".".join(index), failing=failing, heed=heed)
    _set_limit(conn, left_s)
    since = time.monotonic()
    try:
        with context.watched(telling, conn=conn):
            execute(conn, statement)
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        error = from_psycopg(
            exc,
            f"{context.doing} failed when it {failing}",
            statement=statement.as_string(conn),
            database=context.database,
        )
        if context.timed_out(exc, since, left_s):
            time_limits.tell(context, error, "index_timeout_s", f"when it {failing}", limit)
        raise error from None
    finally:
        if not conn.closed:
            execute(conn, "SET statement_timeout = 0")


def _build_error(
    context: StepContext,
    exc: psycopg2.Error,
    conn: Connection,
    index: Mapping[str, Any],
    *,
    timed_out: bool = False,
    held_up_by: str | None = None,
    gone: bool = True,
) -> PgopsError:
    statement = _creation(index).as_string(conn)
    name = full_name(index)
    error = from_psycopg(
        exc, f"{context.doing} failed when it built index {name}", statement=statement, database=context.database
    )
    error.object_name = name
    remains = "its remains were dropped" if gone else "it stays invalid, the next run drops it first"
    if timed_out:
        held_up = f", held up by {held_up_by}" if held_up_by else ""
        time_limits.tell(context, error, "index_timeout_s", f"when it built index {name}{held_up}; {remains}")
    elif exc.pgcode == errorcodes.DISK_FULL:
        index_space.explain(context, conn, index, error)
    elif exc.pgcode == errorcodes.UNIQUE_VIOLATION and "statement" not in index:
        unique_violation.explain(context, conn, index, error)
    elif exc.pgcode == errorcodes.DEADLOCK_DETECTED:
        error.hint = (
            f"{remains.capitalize()}; run it again when the other session, named in the server's log, is done: "
            "it goes on at this index."
        )
        error.extra["reason"] = "deadlock"
    return error
