# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A blue-green change as it stands: what there is of it, whether that can go on, and how all of it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_state,
    database_marks,
    pending_swap,
    pgbouncer,
    restore,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_link import Link, Settings
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import FENCED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql

# What there is.
NONE = "none"
LEFT = "left"  # of a run that died, or that cannot go on: it is only to be taken away
READY = "ready"
OVER = "changed_over"

_UNFENCE = swap.Asked(swap.UNFENCE, confirmed=True)


@dataclass(frozen=True)
class Change:
    """One blue-green change of one database, with what every part of it needs.

    :ivar target: the live database.
    :ivar after: is told each step that has been done; the tests kill the process there.
    """

    target: Target
    work: Work
    settings: Settings = field(default_factory=Settings)
    pool: pgbouncer.Pool | None = None
    reason: str | None = None
    after: Callable[[str], None] = field(default=lambda step: None)

    @property
    def database(self) -> str:
        """:return: the name of the live database."""
        return self.target.database

    @property
    def green(self) -> str:
        """:return: the name of the new database."""
        return database_marks.name_for(self.database, "green")

    @property
    def link(self) -> Link:
        """:return: the replication into it."""
        return Link(self.target, self.green, application_name=self.work.application_name)

    @property
    def live_target(self) -> Target:
        """:return: the live database as the restore role."""
        return self.target.as_restore()

    @property
    def green_target(self) -> Target:
        """:return: the new one likewise."""
        return self.live_target.with_(database=self.green)

    def connect(self, target: Target) -> Connection:
        """:return: a session under the name of the run."""
        return connect(target, application_name=self.work.application_name)

    def tell(self, text: str, **more: Any) -> None:
        """Tell what is being done."""
        self.work.progress.emit(text, database=self.database, **more)
        self.work.control.check()


@contextmanager
def alone(change: Change) -> Iterator[Connection]:
    """:yield: a session in the maintenance database that keeps every other blue-green run of this database out.
    :raises PgopsError: one is running."""
    with closing(change.connect(change.target.maintenance())) as conn:
        if not database_marks.try_lock(conn, _lock_name(change.database)):
            raise PgopsError(
                f"Another blue-green run of {change.database} is at work; nothing was touched.",
                database=change.database,
                hint="Wait until it has ended, then look with -e blue_green_stage=status.",
                extra={"locked": True},
            )
        try:
            yield conn
        finally:
            # The server takes a moment to see that a session has gone, and who comes next would find it locked.
            if not conn.closed:
                with suppress(psycopg2.Error):
                    database_marks.unlock(conn, _lock_name(change.database))


def _lock_name(database: str) -> str:
    return f"blue_green {database}"


def look(change: Change, conn: Connection) -> dict[str, Any]:
    """:param conn: to any database of the server.
    :return: ``state``; ``record`` of the run that prepared it, ``link`` as ``Link.look``, ``running``, and ``why`` it cannot go on.
    :raises PgopsError: the live database cannot be reached, since it is fenced for instance."""
    link = change.link.look(conn)
    there = database_marks.database(conn, change.green)
    mark = there.mark if there else None
    with closing(change.connect(change.live_target)) as live:
        record, frozen = blue_green_state.read(live), blue_green_state.is_frozen(live)
    found: dict[str, Any] = {"green": change.green, "link": link, "record": record, "why": None}
    if there is None and record is None and not any(link["there"].values()):
        return {**found, "state": NONE}
    if there is not None and (mark is None or mark.role != database_marks.GREEN or mark.database != change.database):
        raise PgopsError(
            f"There is a database {change.green} already, which no blue-green change has made; it was not touched.",
            database=change.database,
            object_name=change.green,
            hint=f"Rename or drop it: {change.green} is the name of the new database.",
        )
    lacking = [
        text
        for missing, text in (
            (mark is None or mark.state not in (database_marks.VERIFIED, database_marks.FENCED), "it was never whole"),
            (not link["there"]["slot"], "its slot is gone"),
            (not link["there"]["subscription"], "its subscription is gone"),
            (
                bool(link.get("errors")) and not link.get("enabled"),
                "a row could not be written into it, and it stopped; the server's log names table and cause",
            ),
            (link.get("wal_status") == "lost", "WAL that it needs is gone (max_slot_wal_keep_size)"),
            (record is None, "its record is gone"),
            (not frozen, "the freeze of DDL was taken off"),
        )
        if missing
    ]
    return {**found, "state": LEFT if lacking else READY, "why": "; ".join(lacking) or None}


def finish_swap(change: Change, conn: Connection) -> list[str]:
    """Look after a change-over that was cut off. Behind the renames its record is written; before them the fence is lifted.

    :param conn: of :func:`alone`.
    :return: what was done, in words. :raises PgopsError: another swap is at work, or the fence is that of a rollback.
    """
    pending = pending_swap.look(conn, change.database)
    if pending and pending.state == FENCED and (pending.running or pending.role not in ("", database_marks.GREEN)):
        raise pending.error()
    ended = swap.resume(change.target, _UNFENCE, run_id=change.work.run_id, progress=change.work.progress)
    return ["the fence of a run that was cut off is lifted"] if ended["state"] == swap.LIFTED else []


def let_clients_go_on(change: Change) -> list[str]:
    """A run that was killed behind its PAUSE has left the clients of the pool waiting, with a fence, without one, and behind the renames.

    :return: what was done, in words. :raises PgopsError: the console of the pool does not answer.
    """
    released = swap.release_pool(change.target, change.pool, _UNFENCE, run_id=change.work.run_id)
    return [released] if released else []


def take_away(change: Change, conn: Connection) -> list[str]:
    """Take away all that there is: subscription, slot, publication, freeze, the new database, and what stands in a replaced one.

    Doing it again is fine. The slot goes first of all that can go.

    :param conn: of :func:`alone`.
    :return: what was taken away, in words. :raises PgopsError: something could not be, and what.
    """
    done = []
    databases = database_marks.databases(conn)
    aside = [entry.name for entry in database_marks.set_aside(conn, change.database)][:1]
    green = databases.get(change.green)
    ours = bool(
        green and green.mark and green.mark.role == database_marks.GREEN and green.mark.database == change.database
    )
    before = change.link.look(conn)["there"]
    with opened(change, conn, aside):
        change.link.drop([change.database, *aside, *([change.green] if ours else [])])
        for name in (change.database, *aside):
            with closing(change.connect(change.live_target.with_(database=name))) as session:
                if blue_green_state.has_marker(session):
                    blue_green_state.remove(session)
                    done.append(f"the freeze of {name}")
    if before["slot"] or before["subscription"]:
        done.append("the replication and its slot")
    if ours:
        restore.drop(conn, change.green)
        done.append(change.green)
    return done


@contextmanager
def opened(change: Change, conn: Connection, names: list[str]) -> Iterator[None]:
    """Let us into databases that were put aside, for the length of the block."""
    closed = [name for name in names if not (database_marks.database(conn, name) or _CLOSED).open]
    try:
        for name in closed:
            _allow(conn, name, True)
        yield
    finally:
        for name in closed:
            try:
                _allow(conn, name, False)
            except psycopg2.Error as exc:
                change.work.progress.emit(f"{name} stays open: {exc.pgcode}", database=change.database)


_CLOSED = database_marks.Database("", False, "", 0, None, None)


def _allow(conn: Connection, name: str, allowed: bool) -> None:
    execute(conn, sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed)))
