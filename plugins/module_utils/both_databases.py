# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The live database and one that a swap has put aside, both open to be read: several sessions on one snapshot a side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    content,
    database_marks,
    lost_writes,
    own_writes,
    restored_from,
    row_versions,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.content import Table
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Database, Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.lost_writes import Since
from ansible_collections.whitecross.pgops.plugins.module_utils.output_settings import pin
from ansible_collections.whitecross.pgops.plugins.module_utils.own_writes import OwnWrites
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql

WITHOUT_THE_BACKUP = (
    "the backup that both databases come from cannot be read: a row that {live} has changed or deleted itself since the swap may "
    "be among those that are told"
)
OTHER_BACKUP = (
    "{live} was made of another backup than {kept} was left for, and which of its rows were written between the two cannot be "
    "told in every table"
)


@dataclass(frozen=True)
class Side:
    """One of the two databases, as one snapshot sees it.

    :ivar conns: sessions in a read-only transaction on that snapshot, with pinned settings.
    :ivar tables: by quoted name.
    :ivar since: which of its rows were written since the two parted.
    """

    database: str
    conns: list[Connection]
    tables: dict[str, Table]
    since: Since

    @property
    def conn(self) -> Connection:
        """:return: the first session."""
        return self.conns[0]


@dataclass(frozen=True)
class Pair:
    """Both sides.

    :ivar backup: the folder of the backup that both come from; empty where it is not known.
    :ivar put_aside: when the names were swapped, UTC.
    :ivar own: the transactions of the kept database's versions.
    :ivar bounds: why something is not exact; None where all is.
    """

    kept: Side
    live: Side
    backup: str
    put_aside: str
    own: OwnWrites
    bounds: str | None


def choose(conn: Connection, database: str, name: str | None) -> Database:
    """:param conn: to the maintenance database.
    :param name: of the kept database; the one that was put aside last, where none is given.
    :raises PgopsError: there is none, or it is none that a swap of this database has put aside."""
    kept = database_marks.set_aside(conn, database)
    found = next((entry for entry in kept if name in (None, entry.name)), None)
    if found:
        return found
    there = ", ".join(entry.name for entry in kept)
    raise PgopsError(
        f"{name} is no database that a swap of {database} has put aside; nothing was read."
        if name
        else f"No swap has put a database aside for {database}; there is nothing to compare it with.",
        database=database,
        object_name=name,
        hint=f"Kept are: {there}." if there else "status.yml names the databases that are kept.",
    )


@contextlib.contextmanager
def opened(target: Target, kept: Database, *, sessions: int, application_name: str, control: Control) -> Iterator[Pair]:
    """Connect to both, in one snapshot each; the end of the block ends the sessions.

    The kept database lets clients in only while we connect: a session that is there stays when the door is closed again.
    Both transactions are read-only. Takes ACCESS SHARE on the tables that are read.

    :param sessions: on each side.
    :raises PgopsError: a swap is at work, or the restore role may not read every row of either.
    """
    mark = kept.mark
    assert mark is not None
    maintenance = connect(target.maintenance(), application_name=application_name)
    with contextlib.ExitStack() as held:
        try:
            with _door(maintenance, target.database, kept):
                aside = _sessions(target.with_(database=kept.name), sessions, application_name, held)
        finally:
            maintenance.close()
        live = _sessions(target, sessions, application_name, held)
        for conn in (*aside, *live):
            held.callback(control.on_interrupt(conn.cancel))
        try:
            yield _pair(target, kept.name, mark, aside, live)
        except psycopg2.Error as exc:
            control.check()
            raise from_psycopg(
                exc, f"{kept.name} cannot be compared with {target.database}", database=target.database
            ) from None


@contextlib.contextmanager
def _door(maintenance: Connection, live: str, kept: Database) -> Iterator[None]:
    if not database_marks.try_lock(maintenance, f"swap {live}"):
        raise PgopsError(
            f"A swap of {live} is running, or another look at what it has put aside is beginning; nothing was read.",
            database=live,
            hint="Wait until it has ended, then type it again.",
            extra={"locked": True},
        )
    # Looked at again under the lock: another look may have had it open a moment ago.
    now = database_marks.database(maintenance, kept.name)
    closed = now is not None and not now.open
    if closed:
        _allow(maintenance, kept.name, True)
    try:
        yield
    finally:
        if closed:
            _allow(maintenance, kept.name, False)
        database_marks.unlock(maintenance, f"swap {live}")


def _allow(conn: Connection, name: str, allowed: bool) -> None:
    execute(conn, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed)))


def _sessions(target: Target, number: int, application_name: str, held: contextlib.ExitStack) -> list[Connection]:
    conns: list[Connection] = []
    snapshot = ""
    for _ in range(max(number, 1)):
        conn = connect(target.as_restore(), application_name=application_name)
        held.callback(conn.close)
        execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if conns:
            execute(conn, sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        else:
            row = fetch_one(conn, "SELECT pg_catalog.pg_export_snapshot() AS name")
            snapshot = str(row["name"]) if row else ""
        with conn.cursor() as cursor:
            pin(cursor)
        # Several sessions share the work. A parallel worker would be refused by a database that lets nobody in.
        execute(conn, "SET LOCAL max_parallel_workers_per_gather = 0")
        conns.append(conn)
    return conns


def _pair(target: Target, kept: str, mark: Mark, aside: list[Connection], live: list[Connection]) -> Pair:
    bounds = None
    try:
        backup = backup_store.read_backup(mark.backup) if mark.backup else None
    except PgopsError:
        backup = None
    restored = restored_from.look(live[0])
    if backup and backup.was(mark.manifest_sha256):
        known = lost_writes.counted(backup.manifest)
        kept_since = lost_writes.since_backup(aside[0], backup, known)
        live_since = lost_writes.since_backup(live[0], backup, known)
        if (
            live_since.kept is not None
            and restored is None
            and len(database_marks.set_aside(live[0], target.database)) == 1
        ):
            # Without a ledger nothing in it says when it was restored, but it has been swapped in once, with all its rows.
            live_since = lost_writes.since_restore(live[0], mark.xid)
        if kept_since.kept is not None or live_since.kept is not None:
            bounds = OTHER_BACKUP.format(live=target.database, kept=kept)
    else:
        kept_since = Since(row_versions.all_rows())
        live_since = lost_writes.since_restore(live[0], restored.xid if restored else mark.xid)
        bounds = WITHOUT_THE_BACKUP.format(live=target.database)
    return Pair(
        Side(kept, aside, _tables(aside[0]), kept_since),
        Side(target.database, live, _tables(live[0]), live_since),
        mark.backup,
        mark.since,
        own_writes.look(aside[0]),
        bounds,
    )


def _tables(conn: Connection) -> dict[str, Table]:
    # The ledger's own tables are not data: what they say of the past is carried across.
    tables = [
        table
        for table in content.user_tables(conn, exclude_schemas=(catalog.LEDGER_SCHEMA,))
        if table.kind == "table" and not table.condition
    ]
    content.refuse_unreadable(tables)
    return {table.quoted: table for table in tables}
