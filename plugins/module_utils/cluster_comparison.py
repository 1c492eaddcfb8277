# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""One database as it is live and as its cluster was restored: the rows of both, the history carried across.

A rollback is wanted most where the live database is gone or damaged, so what cannot be read of it is told and stops nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import history, ledger, locks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.content import user_tables
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import (
    Interrupted,
    PgopsError,
    as_pgops_error,
    from_psycopg,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.sequence_positions import SequencePositions
from psycopg2 import sql

CLUSTER_RESTORED = "cluster_restored"
# A kept cluster took its place again; it has its own history, of which this is no restore.
CLUSTER_RETURNED = "cluster_returned"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Record:
    """What the audit of the restored database keeps of the rollback.

    :ivar reason: why, where it was typed.
    :ivar break_glass: why a backup was taken that is not proved far enough, and what that lets off.
    """

    run_id: str
    target: str
    reason: str | None = None
    break_glass: Mapping[str, Any] | None = None

    def detail(self) -> dict[str, Any]:
        """:return: what the audit keeps."""
        given = {"reason": self.reason, "break_glass": self.break_glass}
        return {"target": self.target, **{name: value for name, value in given.items() if value}}


class Live:
    """The live database, with no other run at work on it from :meth:`lock` to :meth:`close`."""

    def __init__(self, target: Target, *, application_name: str, progress: Progress, control: Control) -> None:
        """:param target: the database; it need not be there."""
        self.target = target
        self._application_name = application_name
        self._progress = progress
        self._control = control
        self._conn: Connection | None = None

    def lock(self) -> Connection:
        """Take the runner lock, or look that the session that has it is still there.

        :return: that session.
        :raises RunnerBusy: another run is at work.
        :raises Interrupted: asked to stop while waiting.
        :raises PgopsError: the database cannot be connected to.
        :raises psycopg2.Error: it went away meanwhile.
        """
        if self._conn is None or not _answers(self._conn):
            self.close()
            conn = connect(self.target.as_restore(), application_name=self._application_name)
            try:
                locks.RunnerLock(conn, control=self._control, tell=self._tell).acquire()
            except BaseException:
                conn.close()
                raise
            self._conn = conn
        return self._conn

    def lock_if_it_can_be(self) -> None:
        """As :meth:`lock`; a database that cannot be connected to is left alone.

        :raises RunnerBusy: another run is at work.
        :raises Interrupted: asked to stop while waiting.
        """
        self.read(lambda conn: None)

    def read(self, look: Callable[[Connection], Found]) -> tuple[Found | None, str | None]:
        """:param look: is given the session that has the runner lock.
        :return: what it found, or None and why it cannot be read.
        :raises RunnerBusy: another run is at work.
        :raises Interrupted: asked to stop."""
        try:
            return look(self.lock()), None
        except (locks.RunnerBusy, Interrupted):
            raise
        except (PgopsError, psycopg2.Error) as error:
            told = as_pgops_error(error, f"{self.target.database} cannot be read", database=self.target.database)
            return None, told.message

    def close(self) -> None:
        """End the session, and with it the lock."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _tell(self, text: str) -> None:
        self._progress.emit(text, database=self.target.database)


def _answers(conn: Connection) -> bool:
    # The restore takes hours, and a session that idles so long may have been ended.
    try:
        return fetch_one(conn, "SELECT 1 AS yes") is not None
    except psycopg2.Error:
        return False


def compare(live: Live, restored: Callable[[], Connection], record: Record) -> dict[str, Any]:
    """Count both, carry the history across, and write into the restored audit what it is.

    :param restored: opens a session on the restored database.
    :return: ``versions``, ``tables``, ``rows``; ``lost``, None where the live one cannot be counted, and ``lost_unknown`` why;
        ``history``.
    :raises PgopsError: the restored database cannot be read; another run is at work on the live one.
    """
    name = live.target.database
    try:
        with contextlib.closing(restored()) as conn:
            after = counts(conn)
        before, unknown = live.read(counts)
        carried, why = live.read(lambda conn: _carry(conn, restored, live.target.owner))
        versions, untold = _record(restored, record)
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"{name} could not be compared", database=name) from None
    return {
        "versions": versions,
        "tables": len(after),
        "rows": sum(after.values()),
        "lost": None if before is None else _differ(before, after),
        "lost_unknown": unknown,
        "history": carried or {"carried": False, "why": why or untold},
    }


def keep_sequences_ahead(live: Live, restored: Callable[[], Connection], seconds: float) -> dict[str, Any]:
    """Let the sequences of the restored database go on behind what the live one has given out and will until it stops.

    :param seconds: until the live server stops, at most.
    :return: ``moved`` and ``left``, each that could not be, with why; only ``why`` where it is not known what was given out.
    """

    def move(conn: Connection) -> dict[str, Any]:
        with contextlib.closing(restored()) as staged:
            positions = SequencePositions(conn, staged)
            return {"moved": positions.keep_ahead(seconds), "left": positions.left}

    found, unknown = live.read(move)
    return {"why": unknown} if found is None else found


def _carry(live: Connection, restored: Callable[[], Connection], owner: str | None) -> dict[str, Any]:
    with contextlib.closing(restored()) as conn:
        return history.carry(live, conn, owner=owner)


def _record(restored: Callable[[], Connection], record: Record) -> tuple[list[str], str | None]:
    """:return: the versions that the restored database has; why they are not known where its ledger is a newer tool's."""
    with contextlib.closing(restored()) as conn:
        try:
            if ledger.schema_version(conn) == 0:
                return [], None
            versions = [row.version for row in ledger.read(conn).migrations if row.state == "applied"]
        except PgopsError as error:
            return [], error.message
        ledger.append_audit(conn, CLUSTER_RESTORED, run_id=record.run_id, detail=record.detail())
    return versions, None


def record_return(targets: Iterable[Target], record: Record) -> dict[str, dict[str, Any]]:
    """Write into the audit of each database that its cluster, which had been put aside, is live again.

    The cluster is live by now: what cannot be written is told and undoes nothing.

    :return: by database ``history``, where there is something to tell.
    """
    told = {}
    for target in targets:
        try:
            with contextlib.closing(
                connect(target.as_restore(), application_name=locks.application_name(record.run_id))
            ) as conn:
                if ledger.schema_version(conn):
                    # The standbys followed the cluster that was replaced, and a commit would wait for them for ever.
                    execute(conn, "SET synchronous_commit = local")
                    ledger.append_audit(conn, CLUSTER_RETURNED, run_id=record.run_id, detail=record.detail())
        except (psycopg2.Error, PgopsError) as exc:
            why = as_pgops_error(exc, "the return could not be written into the audit").message
            told[target.database] = {"history": {"carried": False, "why": why}}
    return told


def _differ(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, dict[str, int | None]]:
    return {
        table: {"now": before.get(table), "then": after.get(table)}
        for table in sorted({*before, *after})
        if before.get(table) != after.get(table)
    }


def counts(conn: Connection, control: Control | None = None) -> dict[str, int]:
    """:return: the exact rows of each table in one snapshot; the ledger's own are not among them."""
    tables = [t for t in user_tables(conn, exclude_schemas=("pgops",)) if t.kind == "table"]
    found = {}
    execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        for table in tables:
            if control:
                control.check()
            rows = fetch_all(
                conn, sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(table.schema, table.name))
            )
            found[table.quoted] = int(rows[0]["n"])
    finally:
        execute(conn, "ROLLBACK")
    return found
