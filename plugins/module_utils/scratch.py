# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A throw-away database on the scratch server: made empty, marked as ours, always dropped."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import database_marks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import sql

PREFIX = "pgops_verify_"


def _lock_name(name: str) -> str:
    # The same as for the scratch of a restore, so that each drops what a dead run of the other left, and nothing alive.
    return f"restore {name}"


@contextmanager
def empty_database(target: Target, *, encoding: str, run_id: str | None = None) -> Iterator[Target]:
    """An empty database on the scratch server for the length of the block.

    It is made from template0 in the C locale, which fits every encoding, and marked in its comment. Its maker holds an
    advisory lock as long as it lives: what is marked and not locked was left behind by a killed run and is dropped here.

    :param target: the database that is worked on; its scratch server, restore role and maintenance database are used.
    :param encoding: of the source, so that names and enum labels fit.
    :return: the new database as the restore role.
    :raises PgopsError: the restore role cannot connect or may not create databases.

    Takes the locks of CREATE DATABASE and DROP DATABASE on the scratch server; nothing on the target.
    """
    name = PREFIX + secrets.token_hex(6)
    maintenance = target.scratch(target.maintenance_database)
    with closing(connect(maintenance, application_name="pgops scratch")) as conn:
        drop_leftovers(conn)
        database_marks.try_lock(conn, _lock_name(name))
        try:
            _create(conn, name, encoding, maintenance)
            database_marks.set_mark(
                conn,
                name,
                database_marks.Mark(
                    role=database_marks.SCRATCH,
                    database=target.database,
                    run_id=run_id or "",
                    since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    state="verify",
                ),
            )
            yield target.scratch(name)
        finally:
            # A server that went away meanwhile still has it: the next run finds it unlocked and drops it.
            with suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
                _drop(conn, name)


def _create(conn: Connection, name: str, encoding: str, where: Target) -> None:
    try:
        execute(
            conn,
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE_PROVIDER libc LOCALE 'C' CONNECTION LIMIT 5"
            ).format(sql.Identifier(name), sql.Literal(encoding)),
        )
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise PgopsError(
            f"Role {where.user} may not create a scratch database on {where.host}; ALTER ROLE {quoted(where.user)} CREATEDB, "
            "or name another pgops_restore_user or pgops_scratch_host.",
            sqlstate=exc.pgcode,
            database=where.database,
        ) from None
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"A scratch database could not be created on {where.host}") from None


def _drop(conn: Connection, name: str) -> None:
    execute(conn, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_leftovers(conn: Connection) -> list[str]:
    """Drop scratch databases whose maker is gone.

    A database is ours by its name, and by our mark or no comment at all (killed between CREATE and COMMENT).

    :param conn: a session in the maintenance database of the scratch server.
    :return: the names of those dropped.
    """
    dropped = []
    for name, database in database_marks.databases(conn).items():
        ours = database.mark is not None and database.mark.role == database_marks.SCRATCH
        if not name.startswith(PREFIX) or not (ours or database.comment is None):
            continue
        if not database_marks.try_lock(conn, _lock_name(name)):
            continue
        try:
            _drop(conn, name)
            dropped.append(name)
        except psycopg2.errors.InsufficientPrivilege:
            continue  # made by another role: its own next run drops it
        finally:
            database_marks.unlock(conn, _lock_name(name))
    return dropped
