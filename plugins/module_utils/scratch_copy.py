# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A second copy beside a scratch database, without a second restore: CREATE DATABASE … TEMPLATE, as a clone where the server can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import database_marks, disk_forecast, restore
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql

# file_copy_method came with it.
CLONES_FROM = 18


@contextmanager
def beside(source: Target, *, database: str, work: Work) -> Iterator[str | None]:
    """A copy of a scratch database for the length of the block, with its owner; nobody may be connected to that while it is made.

    :param source: the scratch database, as the restore role.
    :param database: the one that it is a restore of.
    :return: the copy's name; None where the server has no room for it.
    :raises PgopsError: it cannot be made.
    """
    maintenance = source.with_(database=source.maintenance_database)
    name = database_marks.name_for(source.database, "again")
    with closing(connect(maintenance, application_name=work.application_name)) as conn:
        if not _has_room(conn, source.database):
            yield None
            return
        database_marks.try_lock(conn, f"restore {name}")
        try:
            _create(conn, source.database, name)
            moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            database_marks.set_mark(conn, name, Mark(database_marks.SCRATCH, database, work.run_id, moment))
            execute(conn, sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
            yield name
        finally:
            restore.drop_for_sure(maintenance, name, work)


def _has_room(conn: Connection, source: str) -> bool:
    row = fetch_one(conn, "SELECT pg_catalog.pg_database_size(%s) AS bytes", (source,))
    free = disk_forecast.free_bytes(conn, database=source)
    return free is None or row is None or free >= int(row["bytes"])


def _create(conn: Connection, source: str, name: str) -> None:
    row = fetch_one(
        conn,
        "SELECT pg_catalog.pg_get_userbyid(datdba) AS owner FROM pg_catalog.pg_database WHERE datname = %s",
        (source,),
    )
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
        sql.Identifier(name), sql.Identifier(source), sql.Identifier(row["owner"] if row else "")
    )
    if server_version(conn)[0] >= CLONES_FROM and _cloned(conn, statement):
        return
    try:
        execute(conn, statement)
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The copy {name} cannot be made", database=source) from None


def _cloned(conn: Connection, statement: sql.Composed) -> bool:
    """:return: whether it is made; not on a file system without reflinks, nor where the server was built without them."""
    try:
        execute(conn, "SET file_copy_method = clone")
        execute(conn, sql.SQL("{} STRATEGY file_copy").format(statement))
        return True
    except psycopg2.errors.QueryCanceled as exc:
        raise PgopsError("The copy was cut off.", sqlstate=exc.pgcode) from None
    except psycopg2.Error:
        return False
    finally:
        if not conn.closed:
            execute(conn, "RESET file_copy_method")
