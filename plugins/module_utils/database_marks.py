# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Databases that the collection made or moved: their names, and the mark in their comment that says what they are.

The mark is JSON in the database's own comment. Comments on databases are shared across the cluster, so the mark can be
written from the maintenance database in the same transaction as a rename or a fence: no crash can part the two.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from psycopg2 import sql

NAME_LIMIT = 63  # bytes; NAMEDATALEN - 1. PostgreSQL would cut a longer name without an error.
PREFIX = "whitecross.pgops "

SCRATCH = "scratch"  # a throw-away restore
RESTORED = "restored"  # a staged restore beside the live database
FAILED = "failed"  # a database that a swap has put aside
GREEN = "green"  # is kept in step with the live database, and has the shape that this one is to get
LIVE = "live"  # has just been swapped in; the last steps of the swap are still to do

# States of a mark.
VERIFIED = "verified"  # a staged restore that equals its backup
FENCED = "fenced"  # a swap keeps clients out, or was cut off while it did
SWAPPED = "swapped"  # the names are swapped, the record is still to be written

_COMMENTS = """
SELECT d.datname AS name, pg_catalog.shobj_description(d.oid, 'pg_database') AS comment, d.datallowconn AS open,
       pg_catalog.pg_get_userbyid(d.datdba) AS owner, d.oid::bigint AS oid
FROM pg_catalog.pg_database AS d
"""


@dataclass(frozen=True)
class Mark:
    """What a database of ours is. ``comment`` keeps the comment that the database has beneath the mark; ``xid`` is the
    transaction of the swap that put it aside. Of a staged restore ``restored_xid`` is the first transaction that may have
    written to it since it equalled its backup, and ``was`` its name until it was swapped in.
    """

    role: str
    database: str
    run_id: str
    since: str
    state: str = ""
    backup: str = ""
    manifest_sha256: str = ""
    comment: str | None = None
    aside: str = ""
    xid: int = 0
    restored_xid: int = 0
    was: str = ""

    def text(self) -> str:
        """:return: the comment that carries the mark."""
        return PREFIX + json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True)
class Database:
    """A database of the server, and its mark if it is one of ours."""

    name: str
    open: bool
    owner: str
    oid: int
    comment: str | None
    mark: Mark | None


def read_mark(comment: str | None) -> Mark | None:
    """:return: the mark in a comment, or None."""
    if not comment or not comment.startswith(PREFIX):
        return None
    try:
        return Mark(**json.loads(comment[len(PREFIX) :]))
    except (TypeError, ValueError):
        return None


def _database(row: dict[str, Any]) -> Database:
    return Database(row["name"], row["open"], row["owner"], row["oid"], row["comment"], read_mark(row["comment"]))


def databases(conn: Connection) -> dict[str, Database]:
    """:return: all databases of the server by name."""
    return {row["name"]: _database(row) for row in fetch_all(conn, _COMMENTS)}


def database(conn: Connection, name: str) -> Database | None:
    """:return: one database, or None where there is none of that name."""
    row = fetch_one(conn, _COMMENTS + "WHERE d.datname = %s", (name,))
    return _database(row) if row else None


def set_aside(conn: Connection, name: str) -> list[Database]:
    """:return: what swaps of a database have put aside, newest first."""
    found = [
        entry
        for entry in databases(conn).values()
        if entry.mark and entry.mark.role == FAILED and entry.mark.database == name
    ]
    return sorted(found, key=lambda entry: entry.mark.since if entry.mark else "", reverse=True)


def staged_copies(conn: Connection, name: str) -> list[Database]:
    """:return: the staged restores of a database that no swap has under way; whether a run is at one its lock tells."""
    return [
        entry
        for entry in databases(conn).values()
        if entry.mark and entry.mark.role == RESTORED and entry.mark.database == name and entry.mark.state != FENCED
    ]


def set_comment(conn: Connection, name: str, comment: str | None) -> None:
    """Comment on a database; takes part in the caller's transaction."""
    execute(conn, sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(comment or None)))


def set_mark(conn: Connection, name: str, mark: Mark) -> None:
    """Write a database's mark; takes part in the caller's transaction."""
    set_comment(conn, name, mark.text())


def name_for(database: str, suffix: str) -> str:
    """:return: ``<database>_<suffix>`` within 63 bytes; a long name is cut, and a digest keeps it apart from others."""
    name = f"{database}_{suffix}"
    if len(name.encode()) <= NAME_LIMIT:
        return name
    digest = hashlib.sha256(database.encode()).hexdigest()[:6]
    room = NAME_LIMIT - len(f"_{digest}_{suffix}".encode())
    return database.encode()[:room].decode("utf-8", "ignore") + f"_{digest}_{suffix}"


def free_name(conn: Connection, database: str, suffix: str) -> str:
    """:return: :func:`name_for`, numbered where a database has that name already: two may begin within a second."""
    taken = databases(conn)
    name = name_for(database, suffix)
    number = 1
    while name in taken:
        number += 1
        name = name_for(database, f"{suffix}_{number}")
    return name


def try_lock(conn: Connection, what: str) -> bool:
    """Take a session's advisory lock on a name, in the maintenance database. It dies with the session.

    :return: whether this session has it now.
    """
    row = fetch_one(conn, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS got", (PREFIX + what,))
    return bool(row and row["got"])


def unlock(conn: Connection, what: str) -> None:
    """Give the lock of :func:`try_lock` back."""
    fetch_one(conn, "SELECT pg_advisory_unlock(hashtextextended(%s, 0)) AS done", (PREFIX + what,))


def is_locked(conn: Connection, what: str) -> bool:
    """:param conn: to any database of the server.
    :return: whether any session has the lock of :func:`try_lock`; takes nothing itself."""
    row = fetch_one(
        conn,
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
        "AND (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0)) AS held",
        (PREFIX + what,),
    )
    return bool(row and row["held"])
