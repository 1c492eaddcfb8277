# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A swap that was cut off, as the marks of its databases tell it. Only reads; :func:`swap.resume` acts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import database_marks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import FENCED, SWAPPED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# A database that does not allow connections; the server says so of other things, too.
NOT_ACCEPTING = "55000"
OPENED = "opened"  # fenced, and somebody has let clients in again by hand


@dataclass(frozen=True)
class PendingSwap:
    """What there is to finish or to undo.

    :ivar state: ``fenced``, ``opened``, or ``swapped`` where only its record is missing.
    :ivar staged: what was to take the place, or has taken it under another name.
    :ivar role: what that was: a staged restore, or a database put aside; empty where it is gone.
    :ivar backup: of a staged restore its backup.
    :ivar aside: where the replaced database is; empty before the names were swapped.
    :ivar running: the swap has not been cut off: a process is at it now.
    """

    database: str
    state: str
    staged: str
    role: str
    backup: str
    aside: str
    run_id: str
    since: str
    running: bool

    @property
    def sentence(self) -> str:
        """What a person reads first, without a full stop."""
        by = f"of run {self.run_id}, {self.since}"
        if self.running:
            return f"A swap of {self.database} is running now ({by}); clients are kept out for a moment"
        if self.state == FENCED:
            return f"{self.database} is fenced and clients are kept out: the swap of {self.staged} into its place was cut off ({by})"
        if self.state == OPENED:
            return (
                f"{self.database}: the swap of {self.staged} into its place was cut off ({by}), and somebody has let clients in "
                "again since; it is not finished any more"
            )
        return (
            f"{self.database}: a swap was cut off behind its renames ({by}); the replaced database is {self.aside}, and the "
            "record of the swap is missing in the audit"
        )

    def as_dict(self) -> dict[str, Any]:
        """:return: for a module's result."""
        return {**asdict(self), "told": self.sentence}

    def error(self) -> PgopsError:
        """:return: the refusal of whatever needs the database; the controller adds the commands."""
        return PgopsError(
            f"{self.sentence}.",
            sqlstate=NOT_ACCEPTING,
            database=self.database,
            object_name=self.staged,
            extra={"pending_swap": self.as_dict()},
        )


def look(conn: Connection, database: str) -> PendingSwap | None:
    """:param conn: to any database of the server.
    :return: the swap of this database that has not come to its end, or None."""
    live = database_marks.database(conn, database)
    mark = live.mark if live else None
    if live is None or mark is None or mark.state not in (FENCED, SWAPPED) or mark.database != database:
        return None
    running = database_marks.is_locked(conn, f"swap {database}")
    if mark.state == SWAPPED:
        role = database_marks.RESTORED if mark.restored_xid else database_marks.FAILED
        return PendingSwap(database, SWAPPED, mark.was, role, mark.backup, mark.aside, mark.run_id, mark.since, running)
    there = database_marks.database(conn, mark.aside)
    staged = there.mark if there else None
    return PendingSwap(
        database,
        OPENED if live.open else FENCED,
        mark.aside,
        staged.role if staged else "",
        staged.backup if staged else "",
        "",
        mark.run_id,
        mark.since,
        running,
    )


def keeping_out(target: Target) -> PendingSwap | None:
    """Ask the maintenance database why a database lets nobody in.

    :return: the swap whose fence keeps clients out, or None: another cause, or nobody there to be asked.
    """
    for maintenance in (target.with_(database=target.maintenance_database, owner=None), target.maintenance()):
        try:
            conn = connect(maintenance, application_name="pgops look")
        except PgopsError:
            continue
        try:
            found = look(conn, target.database)
        except psycopg2.Error:
            continue
        finally:
            conn.close()
        return found if found and found.state == FENCED else None
    return None
