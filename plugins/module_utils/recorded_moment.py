# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What databases hold at a restore point, while clients write on: the count and the hash of each table, sequences, catalog.

A recovery to a restore point brings back what was committed in the WAL before it. No snapshot can be taken at a place in the WAL, and
hashes of another moment are those of other rows, so one is exported just before the restore point is written and a look is taken just
after it. Three kinds of transactions end near it:

1. ended by the first look: in the snapshot and in the WAL before the restore point;
2. ended between the two looks: on either side. Then all is done again with another restore point, some times;
3. still there when the restore point was written: not in the snapshot. One that waits for the disk or for a standby has its commit in the WAL
   already. The locks that it held then say which tables it wrote to.

Which of 2 and 3 came back is known by the restored cluster: their tables are not compared, and named. Snapshot, restore point and locks are taken
by one statement, so that next to none can have begun, ended and let go of its locks in between; where one has and something differs, nothing is
proved.

A moment of which nothing was recorded can be recovered to, and its rows can be counted, but not compared: nobody has hashed them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    content,
    restore_point,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.dump import LOCK_TIMEOUT_MS, Contents
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

FORMAT = 1
ATTEMPTS = 10
# Behind the name of the restore point where an earlier attempt has taken it.
_SUFFIX = 4
# A lock shows so much of a transaction's number.
XID_32 = 0xFFFFFFFF

_LOOK = "SELECT pg_catalog.pg_export_snapshot() AS name, pg_catalog.pg_current_snapshot()::text AS visible"
_AFTER = "SELECT pg_catalog.pg_current_snapshot()::text AS visible"
# In this order: the subquery cannot be read before its condition, which needs the restore point. The view is read once: twice would be of
# two moments. Whoever has written to a table holds such a lock until all see it.
_LOOK_AND_MARK = """
WITH look AS MATERIALIZED (
  SELECT pg_catalog.pg_export_snapshot() AS name, pg_catalog.pg_current_snapshot()::text AS visible,
         pg_catalog.pg_create_restore_point(%s) AS lsn
), held AS MATERIALIZED (
  SELECT l.* FROM look CROSS JOIN LATERAL (SELECT * FROM pg_catalog.pg_locks WHERE granted AND look.lsn IS NOT NULL OFFSET 0) AS l
)
SELECT look.name, look.visible, look.lsn::text AS lsn, pg_catalog.pg_walfile_name(look.lsn) AS segment,
       to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at,
       (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(x.transactionid::text::bigint, l.database::bigint, l.relation::bigint)), '[]')
        FROM held AS x JOIN held AS l ON l.virtualtransaction = x.virtualtransaction
        WHERE x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND l.locktype = 'relation'
          AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')) AS writing
FROM look
"""
_NAMES = """
SELECT c.oid::bigint AS oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = ANY (%s::oid[]) AND c.relkind IN ('r', 'm')
"""
_OID = "SELECT oid::bigint AS oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"


@dataclass(frozen=True)
class Visible:
    """What pg_current_snapshot tells: every transaction before ``end`` has ended but for those that are in ``running``."""

    end: int
    running: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Visible:
        """:param text: ``xmin:xmax:xip``."""
        _begin, end, running = text.split(":")
        return cls(int(end), frozenset(int(xid) for xid in running.split(",") if xid))

    def ended_by(self, later: Visible) -> set[int]:
        """:return: the transactions that had not ended here and have in a later look."""
        begun_since = range(self.end, later.end)
        return {xid for xid in (*self.running, *begun_since) if xid not in later.running}


def record(
    conn: Connection,
    targets: Mapping[str, Target],
    name: str,
    *,
    seconds: float,
    workers: int,
    application_name: str,
    progress: Progress,
    control: Control,
    attempts: int = ATTEMPTS,
) -> dict[str, Any]:
    """Make a restore point, and read what each database holds at it. Nobody is kept from writing.

    :param conn: on the maintenance database, as a role that may make restore points, in autocommit.
    :param seconds: how long the archiver may take.
    :param workers: sessions that count and hash.
    :return: plain data: the restore point as ``restore_point.create`` tells it, and ``databases``.
    :raises PgopsError: rights are missing, or a table stays locked.
    :raises Interrupted: asked to end.

    Takes ACCESS SHARE on every table until it has been read.
    """
    restore_point.refuse_unfit(conn)
    with contextlib.ExitStack() as stack:
        held: list[_Held] = []
        for target in targets.values():
            one = _Held(target, f"{application_name} moment")
            held.append(one)
            stack.callback(one.close)
            stack.callback(control.on_interrupt(one.conn.cancel))
        with restore_point.told(conn, name):
            point, writing = _mark(conn, held, name, attempts, control)
        databases = {one.target.database: one.describe(writing, workers, progress, control) for one in held}
    with restore_point.told(conn, name):
        waited = restore_point.archive_through(conn, point["segment"], seconds=seconds, control=control)
    return {
        "format": FORMAT,
        **point,
        "archived_s": waited,
        "hash": content.ALGORITHM,
        "server_version": conn.info.server_version // 10000,
        "databases": databases,
    }


def _mark(
    conn: Connection, held: list[_Held], name: str, attempts: int, control: Control
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    for attempt in range(1, attempts + 1):
        control.check()
        for one in held:
            one.lock()
        for one in held[:-1]:
            one.look()
        point, writing = held[-1].look_and_mark(_numbered(name, attempt))
        after = Visible.of(str((fetch_one(conn, _AFTER) or {})["visible"]))
        if attempt == attempts or not any(one.visible.ended_by(after) for one in held):
            break
        for one in held:
            one.let_go()
    return point, writing


def _numbered(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name[: restore_point.NAME_LIMIT - _SUFFIX]}_{attempt}"


class _Held:
    """One database, seen in one snapshot, its tables locked against what a snapshot does not see (TRUNCATE, rewrites)."""

    def __init__(self, target: Target, application_name: str) -> None:
        self.target = target
        self._application_name = application_name
        self.conn = connect(target.as_restore(), application_name=application_name)
        self.visible = Visible(0, frozenset())
        self._snapshot = ""
        self._sequences: dict[str, dict[str, Any]] = {}

    def lock(self) -> None:
        """Begin, with every table locked and nothing looked at yet. :raises PgopsError: a table is not to be had."""
        tables = content.user_tables(self.conn)
        content.refuse_unreadable(tables)
        # They obey no snapshot: what comes back stands here or further.
        self._sequences = content.sequences(self.conn)
        names = [sql.Identifier(table.schema, table.name) for table in tables if table.kind == "table"]
        execute(self.conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            if names:
                execute(self.conn, sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
                execute(
                    self.conn, sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(sql.SQL(", ONLY ").join(names))
                )
        except psycopg2.Error as exc:
            raise from_psycopg(
                exc, f"The tables of {self.target.database} cannot be read", database=self.target.database
            ) from None

    def look(self) -> None:
        """Take the snapshot: the first look."""
        row = fetch_one(self.conn, _LOOK)
        assert row is not None
        self._snapshot, self.visible = row["name"], Visible.of(row["visible"])

    def look_and_mark(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Take the snapshot, write the restore point, look who holds which tables.

        :return: name, lsn, segment, timeline and at of the restore point; xid, database and relation of each lock of who writes.
        """
        row = fetch_one(self.conn, _LOOK_AND_MARK, (name,))
        assert row is not None
        self._snapshot, self.visible = row["name"], Visible.of(row["visible"])
        point = {
            "name": name,
            **{key: row[key] for key in ("lsn", "segment", "at")},
            "timeline": int(row["segment"][:8], 16),
        }
        return point, [dict(zip(("xid", "database", "relation"), lock)) for lock in row["writing"]]

    def let_go(self) -> None:
        """Give up this attempt."""
        execute(self.conn, "ROLLBACK")

    def describe(
        self, writing: list[dict[str, Any]], workers: int, progress: Progress, control: Control
    ) -> dict[str, Any]:
        """:param writing: who held which tables when the restore point was written. :return: what the database holds in the snapshot."""
        progress.emit("counting and hashing what the restore point holds", database=self.target.database)
        contents = Contents(
            self.target.as_restore(), workers=workers, application_name=self._application_name,
            snapshot=self._snapshot, progress=progress,
        ).start()  # fmt: skip
        forget = control.on_interrupt(contents.cancel)
        try:
            tables = content.user_tables(self.conn)
            inventory = catalog.inventory(self.conn, exclude_schemas=())
            described = {
                "visible": {"end": self.visible.end, "running": sorted(self.visible.running)},
                "writing": self._tables_of(writing),
                "catalog_fingerprint": catalog.fingerprint(inventory),
                "inventory": inventory,
                "unlogged": [table.quoted for table in tables if table.persistence == "unlogged"],
                "sequences": self._sequences,
                "large_objects": content.large_objects(self.conn),
            }
            found = contents.result(f"{self.target.database} cannot be read")
            control.check()
        finally:
            forget()
            contents.cancel()
            contents.join()
        execute(self.conn, "COMMIT")
        return {**described, "tables": found}

    def _tables_of(self, writing: list[dict[str, Any]]) -> dict[str, list[str]]:
        """:return: by transaction the tables of this database that it may have written to; none for one that wrote elsewhere."""
        own = int((fetch_one(self.conn, _OID) or {})["oid"])
        here = [row for row in writing if row["database"] in (own, 0)]
        names = {row["oid"]: row["name"] for row in fetch_all(self.conn, _NAMES, ([row["relation"] for row in here],))}
        found: dict[str, list[str]] = {str(row["xid"]): [] for row in writing}
        for row in here:
            if row["relation"] in names:
                found[str(row["xid"])].append(names[row["relation"]])
        return {xid: sorted(set(tables)) for xid, tables in found.items()}

    def close(self) -> None:
        """End the session."""
        self.conn.close()


# -- kept on disk --------------------------------------------------------------------------------------------------------


def path_of(directory: str, stanza: str, name: str) -> str:
    """:return: the file that tells what a restore point holds."""
    return os.path.join(directory, f"physical-{stanza}", "moments", f"{name}.json.gz")


def keep(directory: str, stanza: str, moment: Mapping[str, Any]) -> str:
    """Keep a moment for whoever recovers to it later, without the definitions of the catalog, in which values may stand.

    :return: the file, 0600.
    :raises PgopsError: it cannot be written.
    """
    databases = {
        database: {name: value for name, value in described.items() if name != "inventory"}
        for database, described in moment["databases"].items()
    }
    path = path_of(directory, stanza, str(moment["name"]))
    backup_store.make_private_folder(os.path.dirname(path))
    data = gzip.compress(json.dumps({**moment, "databases": databases}, sort_keys=True).encode(), 6, mtime=0)
    partial = path + backup_store.PARTIAL
    try:
        backup_store.write_private(partial, data)
        os.rename(partial, path)
        backup_store.sync_folder(os.path.dirname(path))
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise PgopsError(
            f"What restore point {moment['name']} holds cannot be kept in {path}: {exc.strerror}.",
            hint="Free space there, or set backup_directory to a larger file system.",
        ) from None
    return path


def kept(directory: str | None, stanza: str, name: str | None) -> dict[str, Any] | None:
    """:return: what was recorded at a restore point; None where nothing was, or by a rule that this version does not know.
    :raises PgopsError: the file is damaged."""
    if not directory or not name:
        return None
    path = path_of(directory, stanza, name)
    try:
        with gzip.open(path, "rb") as stream:
            found: dict[str, Any] = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as exc:
        raise PgopsError(f"What restore point {name} holds cannot be read from {path}: {exc}.") from None
    return found if found.get("format") == FORMAT and found.get("hash") == content.ALGORITHM else None


def forget_before(directory: str, stanza: str, oldest: datetime) -> None:
    """Remove what was recorded before the oldest backup: no recovery leads there any more."""
    folder = os.path.dirname(path_of(directory, stanza, "x"))
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_mtime < oldest.timestamp():
                os.unlink(path)
