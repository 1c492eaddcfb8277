# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restore will take on the server's disk, and whether that is free; asked before anything is made.

PostgreSQL tells nobody what is free. It is seen where the module runs on the server's own host, and nowhere else.
"""

from __future__ import annotations

import os
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import server_host
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import errorcodes

MB = 1024 * 1024
DEFAULT_TABLESPACE = "pg_default"
# What a database takes that is new and empty.
EMPTY_DATABASE = 8 * MB

_OF_DATABASE = """
SELECT pg_catalog.pg_tablespace_location(d.dattablespace) AS folder
FROM pg_catalog.pg_database AS d WHERE d.datname = %s
"""
_OF_TABLESPACE = (
    "SELECT pg_catalog.pg_tablespace_location(oid) AS folder FROM pg_catalog.pg_tablespace WHERE spcname = %s"
)


def mb(size: int) -> str:
    """:return: bytes as a person reads them."""
    return f"{size / MB:,.0f} MB"


def free_bytes(conn: Connection, *, database: str = "", tablespace: str = "") -> int | None:
    """:param database: whose tablespace is meant; or
    :param tablespace: its name.
    :return: what its file system has free, None where that cannot be seen from here, or there is no such tablespace."""
    host = server_host.of(conn)
    place = fetch_one(conn, _OF_DATABASE if database else _OF_TABLESPACE, (database or tablespace,))
    if host is None or place is None:
        return None
    return host.free_bytes(str(place["folder"] or ""))


def of_rows(backup: Backup, rows: int) -> int:
    """:return: bytes that a restore of so many rows takes, by their share of all."""
    every = sum(entry["rows"] or 0 for entry in backup.manifest["tables"].values() if entry["kind"] == "table")
    share = rows / (every or 1)
    return EMPTY_DATABASE + int(share * int(backup.manifest["database_bytes"]))


def of_dump(path: str) -> int:
    """:return: bytes that the restore of a dump without a manifest takes at least: its own, whatever it is compressed by."""
    if not os.path.isdir(path):
        return os.stat(path).st_size
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path))


def refuse_full(
    conn: Connection, needed: int, what: str, *, database: str, hint: str, tablespace: str | None = DEFAULT_TABLESPACE
) -> dict[str, Any]:
    """:param needed: bytes; what they are for is ``what``, the subject of a sentence.
    :param database: the one that it is about, for the error.
    :param tablespace: where they will lie, None for that of the database.
    :return: ``needed_bytes`` and ``free_bytes``, None where nobody can see them
    :raises PgopsError: it has no room (SQLSTATE 53100); nothing was made."""
    free = free_bytes(conn, tablespace=tablespace) if tablespace else free_bytes(conn, database=database)
    found = {"needed_bytes": needed, "free_bytes": free}
    if free is None or free >= needed:
        return found
    raise PgopsError(
        f"{what} takes {mb(needed)} on {conn.info.host}:{conn.info.port}, and {mb(free)} are free in {f'the tablespace {tablespace}' if tablespace else 'its tablespace'}; nothing "
        "was made there.",
        sqlstate=errorcodes.DISK_FULL,
        database=database,
        object_name=tablespace,
        hint=hint,
        extra={"reason": "disk", **found},
    )
