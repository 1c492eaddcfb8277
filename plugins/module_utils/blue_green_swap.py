# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The swap of :mod:`swap`, for a database that is kept in step: its replication lives on behind the fence until the last row is over."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_properties,
    blue_green_sequences,
    blue_green_triggers,
    database_marks,
    locks,
    swap,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_compare import arrived
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_link import Link
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, connect, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Database
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.sequence_positions import SequencePositions
from psycopg2 import sql

_WORKERS = 2  # one that sends and one that applies
# Behind the fence a poll costs a query and a wait costs clients.
_POLL_SECONDS = 0.001


class ChangeOver(swap.Swap):
    """The live database goes aside, and the one that was kept in step takes its name. Any failure lifts the fence, and both go on."""

    ROLES = (database_marks.GREEN,)

    def __init__(
        self,
        *args: Any,
        link: Link,
        carry: Callable[[], dict[str, Any]],
        triggers: Sequence[Mapping[str, Any]],
        **settings: Any,
    ) -> None:
        """
        :param link: the replication from the one into the other.
        :param carry: brings the ledger across, with the runner lock of the live database held.
        :param triggers: as ``blue_green_triggers.lower`` returned them.
        """
        super().__init__(*args, **settings)
        self._link = link
        self._carry_ledger = carry
        self._triggers = triggers
        self._sessions: tuple[Connection, Connection] | None = None
        # What was set on the live database since the preparation, by name.
        self.set_meanwhile: list[str] = []
        self._properties = ""

    def _look(self, conn: Connection) -> tuple[Database, Database]:
        live, staged = super()._look(conn)
        assert staged.mark is not None
        # It may have been commented on since the preparation.
        comment = live.mark.comment if live.mark else live.comment
        return live, replace(staged, mark=replace(staged.mark, comment=comment))

    def _refuse_blockers(self, conn: Connection) -> None:
        swap_blockers.refuse_recovery(conn, self.live)
        found = swap_blockers.blockers(conn, [self.live, self.staged])
        swap_blockers.refuse([entry for entry in found if not self._is_own(entry)], self.live)

    def _is_own(self, entry: dict[str, str]) -> bool:
        if entry["name"] == self._link.name:
            return True
        # The worker of the subscription: it is the link's own, and ended by it.
        return entry["kind"] == "session that may not be ended" and entry["database"] == self.staged

    def _carry(self, held: contextlib.ExitStack) -> dict[str, Any]:
        """Here everything has to go well: a row or a number that stays behind is lost."""
        name = locks.application_name(self.run_id)
        source = connect(self.target.as_restore(), application_name=name)
        held.callback(source.close)
        lock = locks.RunnerLock(source, control=self.control, tell=self._tell)
        lock.acquire()
        carried = self._carry_ledger()
        destination = connect(self.target.as_restore().with_(database=self.staged), application_name=name)
        held.callback(destination.close)
        self._sessions = (source, destination)
        self._positions = SequencePositions(
            source, destination, follows=blue_green_sequences.followed(source, destination)
        )
        return carried

    def _get_sequences_ready(self) -> None:
        assert self._positions is not None and self._sessions is not None
        source, destination = self._sessions
        self._positions.get_ready()
        self._follow_properties()
        # What is not over yet would come over behind the fence, while clients wait.
        if not arrived(source, destination, swap.FENCE_SECONDS, _POLL_SECONDS):
            raise self._behind("nothing was touched")
        own = self._link.pids(source)
        if len(own) < _WORKERS:
            raise self._behind("its processes do not run; nothing was touched")
        self._positions.pids |= own

    def _follow_properties(self) -> None:
        assert self._sessions is not None
        source = self._sessions[0]
        self._properties = blue_green_properties.fingerprint(source)
        for name in blue_green_properties.follow(*self._sessions):
            if name not in self.set_meanwhile:
                self.set_meanwhile.append(name)

    def _behind(self, what: str) -> PgopsError:
        return PgopsError(
            f"No change-over of {self.live}: the replication into {self.staged} does not keep up within {swap.FENCE_SECONDS:g} s; {what}.",
            database=self.live,
            hint="End long transactions, or run the same command again when there is less load.",
            extra={"reason": "behind"},
        )

    def _move_sequences(self) -> None:
        """Nobody writes any more: wait for the last row, end the replication, move the sequences."""
        positions, self._positions = self._positions, None
        assert positions is not None and self._sessions is not None
        source, destination = self._sessions
        try:
            if not arrived(source, destination, swap.FENCE_SECONDS, _POLL_SECONDS):
                raise self._behind("the fence was lifted again and the database is as it was")
            self._after("last row arrived")
            execute(destination, sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(sql.Identifier(self._link.name)))
            for pid in self._link.pids(destination):
                fetch_one(destination, "SELECT pg_terminate_backend(%s) AS told", (pid,))
            self._after("replication ended")
            blue_green_triggers.raise_again(destination, self._triggers)
            self._after("triggers raised")
            self._follow_properties()
            self._sequences = {"moved": positions.move_on(), "left": positions.left, "why": None}
            self._after("sequences moved")
        except psycopg2.Error as exc:
            raise from_psycopg(exc, f"The end of the replication of {self.live} failed", database=self.live) from None
        finally:
            positions.close()

    def _last_looks(self, live: Database) -> list[sql.Composable]:
        return [blue_green_properties.refusal(live.oid, self._properties)]

    def _swap_names(self, conn: Connection, live: Database, staged: Database, aside: str) -> None:
        try:
            super()._swap_names(conn, live, staged, aside)
        except psycopg2.Error as exc:
            if not blue_green_properties.is_refusal(exc):
                raise
            raise PgopsError(
                f"No change-over of {self.live}: what is set on the database itself (owner, privileges, limits, settings) was changed while its "
                "clients were kept out; the fence was lifted again and the database is as it was.",
                database=self.live,
                hint="Run the same command again: it gives the new database what was set.",
                extra={"reason": "set_meanwhile"},
            ) from None
