# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Put one database in the place of another by two renames, with a fence of milliseconds, and back again.

Three transactions in the maintenance database, each of which leaves a state that says what it is:

1. fence: both databases refuse connections, the staged one is marked ``fenced``;
2. all sessions are signalled at once and polled until they are gone (a loop over ``pg_terminate_backend(pid, timeout)``
   waits for each in turn: 831 ms against 42 ms for the worst of 8 clients, fact 9);
3. swap: both renames, the fence lifted and the marks written, together.

Whatever ends the process between them, the marks tell it (:mod:`pending_swap`), and :func:`resume` finishes, where that is
what was asked for and confirmed, or lifts the fence.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    database_marks,
    history,
    locks,
    lost_writes,
    pending_swap,
    pgbouncer,
    restored_from,
    row_versions,
    standby_readers,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import (
    FENCED,
    SWAPPED,
    VERIFIED,
    Database,
    Mark,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import (
    Interrupted,
    PgopsError,
    from_psycopg,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.pending_swap import PendingSwap
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.sequence_positions import SequencePositions
from psycopg2 import sql

# What a rollback may be typed for; the names are those of rollback_strategy.
RESTORE = "restore"
SWAP = "swap"
UNDO_SWAP = "undo_swap"
UNFENCE = "unfence"

# States of :func:`resume`.
NOTHING = "nothing"
COMPLETED = "completed"  # as it was asked for
RECORDED = "recorded"  # it had gone through, and something else was asked for
LIFTED = "lifted"

# Clients are kept out until the last session is gone, and nothing tells of that: a look costs one query.
POLL_SECONDS = 0.002
# A server that is just starting refuses at once; it is not asked in a tight loop.
CONNECT_AGAIN_SECONDS = 0.2
SIGNAL_AGAIN_SECONDS = 0.05  # a client that was connecting while the fence came up shows only now
# How long sessions may take to end before the fence is lifted again. Each second of it is an outage.
FENCE_SECONDS = 5.0
# RENAME waits up to 5 s for the last session in steps of 100 ms; we would rather signal again.
RENAME_TIMEOUT_MS = 500
LIFT_SECONDS = 30.0

Step = Callable[[str], None]

# Asked again and again under the fence, so without the views.
_PRESENT = """
SELECT pid FROM pg_catalog.pg_stat_get_activity(NULL) WHERE datid = ANY (%(oids)s::oid[]) AND pid <> pg_backend_pid()
"""

_SIGNAL = f"""
SELECT count(pg_terminate_backend(s.pid)) AS signalled FROM ({swap_blockers.SESSIONS}) AS s
WHERE s.endable AND s.pid <> ALL (%(ours)s::int[])
"""


class Swap:
    """One swap: ``live`` goes aside, ``staged`` takes its name."""

    # What may take the place of the live database.
    ROLES: tuple[str, ...] = (database_marks.RESTORED, database_marks.FAILED)

    def __init__(
        self,
        target: Target,
        staged: str,
        *,
        run_id: str,
        progress: Progress | None = None,
        control: Control | None = None,
        after: Step = lambda step: None,
        pool: pgbouncer.Pool | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        reason: str | None = None,
    ) -> None:
        """
        :param target: the live database.
        :param staged: the database that takes its name: a verified staged restore, or one that a swap has put aside.
        :param after: is told each statement that has been done; the tests kill the process there.
        :param pool: holds the clients while the fence is up.
        :param reason: why, for the audit.
        """
        self.target = target
        self.live = target.database
        self.staged = staged
        self.run_id = run_id
        self.progress = progress or Progress(None)
        self.control = control or Control(None)
        self._after = after
        self._pool = pool
        self._now = now
        self._still_held: PgopsError | None = None
        self._held = ""
        self._reason = reason
        self._xid = 0
        self._swapped_at = ""
        self._begun = False
        self._positions: SequencePositions | None = None
        self._sequences: dict[str, Any] = {"moved": [], "left": [], "why": None}

    # -- the whole way --------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Check, carry the history, fence, swap, finish.

        :return: live, aside (where the replaced database is now), outage_ms, sessions_ended, ``standbys`` (whose readers stay in the
            replaced database, with what ends them), history, and ``sequences``: those that were ``moved`` on to where the replaced
            database had them, and ``left``, or ``why`` none was.
        :raises PgopsError: blockers, a staged database that is not verified, or sessions that did not end; on any
            failure the fence is lifted and the live database is the one it was.
        """
        conn = connect(self.target.maintenance(), application_name=locks.application_name(self.run_id))
        try:
            self._lock(conn)
            live, staged = self._look(conn)
            self._refuse_blockers(conn)
            self.control.check()
            aside = database_marks.free_name(conn, self.live, f"failed_{self._now():%Y%m%d_%H%M%S}")
            standbys = standby_readers.look(conn, self.live)
            with contextlib.ExitStack() as held:
                self.progress.emit("carrying the history across", database=self.live)
                carried = self._carry(held)
                self._after("history carried")
                self.control.check()
                with self._held_by_the_pool():
                    outage, ended = self._fence_and_rename(conn, live, staged, aside, held)
            self._finish({**carried, "outage_ms": outage, "sequences_moved": len(self._sequences["moved"])})
        except PgopsError as error:
            error.extra["refused"] = not self._begun
            if self._still_held:
                error.hint = " ".join(filter(None, [self._still_held.message, self._still_held.hint, error.hint]))
            raise
        except psycopg2.Error as exc:
            raise from_psycopg(exc, f"The swap of {self.live} failed", database=self.live) from None
        finally:
            conn.close()
        done = {
            "live": self.live,
            "aside": aside,
            "swapped_in": self.staged,
            "outage_ms": outage,
            "sessions_ended": ended,
            "standbys": standbys,
            "history": carried,
            "sequences": self._sequences,
            **({"pool": self._held} if self._held else {}),
        }
        if self._still_held:
            told = self._still_held
            raise PgopsError(
                f"{self.live} is swapped, and {told.message}",
                database=self.live,
                hint=told.hint,
                extra={**told.extra, "databases": {self.live: done}},
            )
        return done

    def preview(self) -> dict[str, Any]:
        """Look whether the swap could be done, and touch nothing.

        :return: live, swapped_in, how many sessions would be ended, and what is ``lost``: on the way back the rows written since,
            with a staged restore, also ``backup``, what going back to its backup loses.
        :raises PgopsError: as :meth:`run` would before the fence.
        """
        conn = connect(self.target.maintenance(), application_name=locks.application_name(self.run_id))
        try:
            _live, staged = self._look(conn)
            self._refuse_blockers(conn)
            sessions = fetch_all(conn, swap_blockers.SESSIONS, {"names": [self.live]})
            told: dict[str, Any] = {"live": self.live, "swapped_in": self.staged, "sessions_ended": len(sessions)}
            if staged.mark and staged.mark.role == database_marks.FAILED and staged.mark.xid:
                told["lost"] = lost_writes.written_since(
                    self.target, staged.mark.xid, application_name=locks.application_name(self.run_id)
                )
                told["lost"]["since"] = staged.mark.since
            elif staged.mark and staged.mark.role == database_marks.RESTORED:
                # The backup may be on another host by now.
                with contextlib.suppress(PgopsError):
                    told["lost"] = self._lost_since_the_backup(staged.mark)
                    told.update(backup=staged.mark.backup, why=f"restored as {self.staged}")
            return told
        finally:
            conn.close()

    def _lost_since_the_backup(self, mark: Mark) -> dict[str, Any]:
        return lost_writes.lost_writes(
            self.target,
            backup_store.read_backup(mark.backup),
            application_name=locks.application_name(self.run_id),
            progress=self.progress,
            control=self.control,
        )

    def _refuse_blockers(self, conn: Connection) -> None:
        swap_blockers.refuse_blockers(conn, [self.live, self.staged], self.live)

    def _lock(self, conn: Connection) -> None:
        if not database_marks.try_lock(conn, f"swap {self.live}"):
            raise PgopsError(
                f"Another swap of {self.live} is running; nothing was touched.",
                database=self.live,
                hint="Wait until it has ended, then look with status.yml.",
                extra={"locked": True},
            )

    def _look(self, conn: Connection) -> tuple[Database, Database]:
        live, staged = (database_marks.database(conn, name) for name in (self.live, self.staged))
        if live is None:
            raise PgopsError(f"There is no database {self.live} on {self.target.host}.", database=self.live)
        if staged is None:
            raise PgopsError(
                f"There is no database {self.staged} to put in the place of {self.live}; nothing was touched.",
                database=self.live,
                object_name=self.staged,
            )
        mark = staged.mark
        if mark is None or mark.database != self.live or mark.role not in self.ROLES:
            raise PgopsError(
                f"{self.staged} is neither a staged restore of {self.live} nor a database that a swap has put aside; "
                "nothing was touched.",
                database=self.live,
                object_name=self.staged,
                hint="Name the database that the rollback has printed.",
            )
        if mark.role == database_marks.RESTORED and mark.state not in (VERIFIED, FENCED):
            raise PgopsError(
                f"The staged restore {self.staged} was never verified (a run died over it); nothing was touched.",
                database=self.live,
                object_name=self.staged,
                hint="Run rollback.yml again: it restores anew.",
            )
        pending = pending_swap.look(conn, self.live)
        if pending and pending.state == FENCED:
            raise pending.error()
        _refuse_unknown_fence(conn, self.live)
        return live, staged

    def _carry(self, held: contextlib.ExitStack) -> dict[str, Any]:
        """Bring audit and runs into the staged database, with no other run at work on the live one.

        :param held: keeps the runner lock of the live database until the fence is up, so that no run writes in between, and a
            session in each database, which moves the sequences on under the fence.
        :return: what was carried. A live database that cannot be read does not stop the rollback: it is kept, and with
            it its history.
        """
        name = locks.application_name(self.run_id)
        try:
            source = connect(self.target.as_restore(), application_name=name)
            held.callback(source.close)
            lock = locks.RunnerLock(source, control=self.control, tell=self._tell)
            lock.acquire()
            with _opened(self.target.maintenance(), self.staged):
                destination = connect(self.target.as_restore().with_(database=self.staged), application_name=name)
                held.callback(destination.close)
            self._look_at_sequences(source, destination)
            return history.carry(source, destination, owner=self.target.owner)
        except (locks.RunnerBusy, Interrupted):
            raise
        except PgopsError as error:
            return self._not_carried(error.message)
        except psycopg2.Error as exc:
            return self._not_carried(from_psycopg(exc, "The history cannot be read").message)

    def _not_carried(self, why: str) -> dict[str, Any]:
        if self._positions is None and not self._sequences["why"]:
            self._sequences = {**self._sequences, "why": f"The sequences stay where they were restored: {why}"}
        return {"carried": False, "why": why}

    def _look_at_sequences(self, source: Connection, destination: Connection) -> None:
        try:
            self._positions = SequencePositions(source, destination)
        except psycopg2.Error as exc:
            self._sequences = _not_moved(exc)

    def _get_sequences_ready(self) -> None:
        try:
            if self._positions:
                self._positions.get_ready()
        except psycopg2.Error as exc:
            self._sequences, self._positions = _not_moved(exc), None

    def _move_sequences(self) -> None:
        """Nobody gives out a number any more, and nobody has the restored ones yet. No failure of it stops the rollback."""
        positions, self._positions = self._positions, None
        if positions is None:
            return
        try:
            self._sequences = {"moved": positions.move_on(), "left": positions.left, "why": None}
            self._after("sequences moved")
        except psycopg2.Error as exc:
            self._sequences = _not_moved(exc)
        finally:
            positions.close()

    @contextlib.contextmanager
    def _held_by_the_pool(self) -> Iterator[None]:
        """Whatever ends the block, the clients of the pool go on."""
        if self._pool is None:
            yield
            return
        self.progress.emit(f"{self._pool} holds its clients", database=self.live)
        try:
            self._held = pgbouncer.pause(self._pool)
            self._after("pool paused")
            yield
        finally:
            try:
                pgbouncer.resume(self._pool)
            except PgopsError as error:
                # What the block did, or why it failed, is told first.
                self._still_held = error

    def _tell(self, text: str) -> None:
        self.progress.emit(text, database=self.live)

    # -- the three transactions -------------------------------------------------------------------------------------

    def _fence_and_rename(
        self, conn: Connection, live: Database, staged: Database, aside: str, held: contextlib.ExitStack
    ) -> tuple[float, int]:
        mark = staged.mark
        assert mark is not None
        self._get_sequences_ready()
        self.progress.emit("fence, end sessions, rename", database=self.live)
        self._xid, self._swapped_at = row_versions.next_xid(conn), _server_time(conn)
        began = time.monotonic()
        self._begun = True
        try:
            self._fence(conn, live, replace(mark, state=FENCED, run_id=self.run_id, aside=aside))
            if self._positions is None:
                held.close()
            ended = self._rename_when_empty(conn, live, staged, aside, began + FENCE_SECONDS)
        except BaseException as error:
            held.close()
            _give_back(conn)
            swapped = self._lift(mark)
            if swapped:
                # The commit went through and only its answer was lost.
                return round((time.monotonic() - began) * 1000, 1), 0
            if isinstance(error, psycopg2.Error):
                raise from_psycopg(
                    error, f"The swap of {self.live} failed and the fence was lifted again", database=self.live
                ) from None
            raise
        return round((time.monotonic() - began) * 1000, 1), ended

    def _fence(self, conn: Connection, live: Database, mark: Mark) -> None:
        # Both say what they are, so that the fence can be lifted though the other has been dropped meanwhile.
        fenced = Mark(
            database_marks.LIVE, self.live, self.run_id, self._stamp(), state=FENCED, comment=_beneath(live),
            aside=self.staged,
        )  # fmt: skip
        _transaction(
            conn,
            _comment(self.staged, mark),
            _comment(self.live, fenced),
            _allow(self.staged, False),
            _allow(self.live, False),
        )
        self._after("fence: commit")

    def _stamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _rename_when_empty(
        self, conn: Connection, live: Database, staged: Database, aside: str, deadline: float
    ) -> int:
        oids = {"oids": [live.oid, staged.oid]}
        ours = self._positions.pids if self._positions else frozenset()
        ended: set[int] = set()
        signalled_at = 0.0
        while True:
            there = {row["pid"] for row in fetch_all(conn, _PRESENT, oids)}
            if self._positions and there <= ours:
                self._move_sequences()
                continue
            if not there:
                try:
                    self._swap_names(conn, live, staged, aside)
                    return len(ended)
                except (psycopg2.errors.ObjectInUse, psycopg2.errors.QueryCanceled):
                    execute(conn, "ROLLBACK")
                    self._refuse_prepared(conn)
            moment = time.monotonic()
            if moment > deadline:
                found = fetch_all(conn, swap_blockers.SESSIONS, {"names": [self.live, self.staged]})
                self._give_up([row for row in found if row["pid"] not in ours])
            there -= ours
            if there and moment - signalled_at >= SIGNAL_AGAIN_SECONDS:
                signalled_at = moment
                ended |= there
                fetch_one(conn, _SIGNAL, {"names": [self.live, self.staged], "ours": list(ours)})
                self._after("sessions signalled")
            time.sleep(POLL_SECONDS)

    def _give_up(self, there: list[dict[str, Any]]) -> None:
        told = ", ".join(f"server process {row['pid']} of {row['user']}" for row in there[:5]) or "another transaction"
        raise PgopsError(
            f"No swap of {self.live}: {told} did not end within {FENCE_SECONDS:g} s; the fence was lifted again and "
            "the database is as it was.",
            database=self.live,
            hint="End these sessions by hand, then run the same command again.",
            extra={"sessions": [{"pid": row["pid"], "user": row["user"]} for row in there]},
        )

    def _refuse_prepared(self, conn: Connection) -> None:
        found = swap_blockers.prepared_under_the_fence(conn, [self.live, self.staged])
        if found:
            raise PgopsError(
                f"No swap of {self.live}: prepared transaction {found[0]['name']} in {found[0]['database']} came while the fence went "
                "up; the fence was lifted again and the database is as it was.",
                database=self.live,
                object_name=found[0]["name"],
                hint=f"{found[0]['fix']}, then run the same command again.",
            )

    def _swap_names(self, conn: Connection, live: Database, staged: Database, aside: str) -> None:
        mark = staged.mark
        assert mark is not None
        since = self._stamp()
        failed = Mark(
            database_marks.FAILED, self.live, self.run_id, since, backup=mark.backup,
            manifest_sha256=mark.manifest_sha256, comment=_beneath(live), xid=self._xid,
        )  # fmt: skip
        swapped = replace(
            mark, role=database_marks.LIVE, state=SWAPPED, run_id=self.run_id, since=self._swapped_at,
            aside=aside, was=self.staged,
        )  # fmt: skip
        _transaction(
            conn,
            sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(RENAME_TIMEOUT_MS)),
            _rename(self.live, aside),
            _rename(self.staged, self.live),
            _allow(self.live, True),
            _comment(aside, failed),
            _comment(self.live, swapped),
            *self._last_looks(live),
        )
        self._after("swap: commit")

    def _last_looks(self, live: Database) -> list[sql.Composable]:
        """:return: statements that fail where the names must not be swapped after all."""
        return []

    def _lift(self, mark: Mark) -> bool:
        """Lift the fence over a fresh connection, for the old one may be what broke.

        :return: whether the swap had gone through after all.
        """
        deadline = time.monotonic() + LIFT_SECONDS
        while True:
            try:
                conn = connect(self.target.maintenance(), application_name=locks.application_name(self.run_id))
                try:
                    return lift_fence(conn, self.live, self.staged, mark)
                finally:
                    conn.close()
            except (psycopg2.Error, PgopsError):
                if time.monotonic() > deadline:
                    raise PgopsError(
                        f"{self.live} IS STILL FENCED: its server did not answer for {LIFT_SECONDS:g} s while the "
                        "swap was undone.",
                        database=self.live,
                        hint="When the server is back, status.yml says how to finish the swap and how to undo it.",
                    ) from None
                time.sleep(CONNECT_AGAIN_SECONDS)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _finish(self, told: dict[str, Any]) -> None:
        """Write the swap into the audit of the new live database, and give it its own comment back.

        :param told: what the audit keeps of it besides its databases.
        """
        conn = connect(self.target.maintenance(), application_name=locks.application_name(self.run_id))
        try:
            now_live = database_marks.database(conn, self.live)
            mark = now_live.mark if now_live else None
            if mark is not None and mark.state == SWAPPED:
                self._record(mark, told)
                database_marks.set_comment(conn, self.live, mark.comment)
                self._after("comment restored")
        finally:
            conn.close()

    def _record(self, mark: Mark, told: dict[str, Any]) -> None:
        session = connect(self.target.as_restore(), application_name=locks.application_name(self.run_id))
        try:
            detail = {"aside": mark.aside, "backup": mark.backup, "manifest_sha256": mark.manifest_sha256, **told}
            if self._reason:
                detail["reason"] = self._reason
            if mark.restored_xid:
                detail["restored"] = restored_from.detail(session, mark.restored_xid, mark.since)
            history.record_swap(session, run_id=self.run_id, detail=detail)
        finally:
            session.close()
        self._after("audit written")


def _transaction(conn: Connection, *statements: sql.Composable) -> None:
    """Run statements in one transaction and in one message: on a busy server each round trip would add to the outage.

    A failing statement leaves the transaction for the caller to roll back.
    """
    execute(conn, sql.SQL("; ").join([sql.SQL("BEGIN"), *statements, sql.SQL("COMMIT")]))


def _rename(old: str, new: str) -> sql.Composable:
    return sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))


def _allow(name: str, allowed: bool) -> sql.Composable:
    return sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed))


def _comment(name: str, mark: Mark) -> sql.Composable:
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(mark.text()))


def _not_moved(exc: psycopg2.Error) -> dict[str, Any]:
    return {"moved": [], "left": [], "why": from_psycopg(exc, "The sequences stay where they were restored").message}


def _beneath(database: Database) -> str | None:
    """:return: the comment that a database has of its own, beneath a mark of ours."""
    return database.mark.comment if database.mark else database.comment


def _server_time(conn: Connection) -> str:
    """:return: what tells later whether a version was applied before or after the swap: both by the server's clock."""
    row = fetch_one(
        conn, """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at"""
    )
    return str(row["at"]) if row else ""


def _give_back(conn: Connection) -> None:
    """End the transaction in hand: the locks that it holds would stand in the way of lifting the fence."""
    try:
        execute(conn, "ROLLBACK")
    except psycopg2.Error:
        conn.close()


class _opened:
    """Let connections into a database that was put aside, for as long as the block lasts."""

    def __init__(self, maintenance: Target, name: str) -> None:
        self._maintenance = maintenance
        self._name = name
        self._was_open = True

    def __enter__(self) -> None:
        conn = connect(self._maintenance, application_name="pgops swap")
        try:
            found = database_marks.database(conn, self._name)
            self._was_open = bool(found and found.open)
            if not self._was_open:
                execute(conn, _allow(self._name, True))
        finally:
            conn.close()

    def __exit__(self, *unused: object) -> None:
        if self._was_open:
            return
        conn = connect(self._maintenance, application_name="pgops swap")
        try:
            execute(conn, _allow(self._name, False))
        finally:
            conn.close()


def lift_fence(conn: Connection, live: str, staged: str, mark: Mark | None) -> bool:
    """Let clients in again after a fence that led to nothing; in one transaction.

    :param mark: what the staged database was before the fence; None where it is gone.
    :return: True where there is nothing to lift since the swap had gone through.
    """
    now_live = database_marks.database(conn, live)
    if now_live and now_live.mark and now_live.mark.state == SWAPPED:
        return True
    execute(conn, "BEGIN")
    if now_live and now_live.mark and now_live.mark.state == FENCED:
        execute(conn, _allow(live, True))
        database_marks.set_comment(conn, live, now_live.mark.comment)
    if mark and database_marks.database(conn, staged):
        # A database put aside stays closed; a staged restore is open, as it was made.
        execute(conn, _allow(staged, mark.role in (database_marks.RESTORED, database_marks.GREEN)))
        database_marks.set_mark(conn, staged, mark)
    execute(conn, "COMMIT")
    return False


@dataclass(frozen=True)
class Asked:
    """What a rollback was typed for. A swap that was cut off is finished by nothing but the same, confirmed.

    :ivar strategy: ``rollback_strategy``.
    :ivar to: with ``swap``, the database that takes the name.
    :ivar backup: with ``restore``, the backup where one was named.
    :ivar confirmed: the name of the database was given.
    """

    strategy: str = ""
    to: str | None = None
    backup: str | None = None
    confirmed: bool = False

    def finishes(self, pending: PendingSwap) -> bool:
        """Whether the swap is what was asked for; whoever asked for anything else has not seen what it takes away."""
        if not self.confirmed or pending.role == database_marks.GREEN:
            return False
        if self.strategy == SWAP:
            return self.to == pending.staged
        if self.strategy == UNDO_SWAP:
            return pending.role == database_marks.FAILED
        if self.strategy == RESTORE:
            return pending.role == database_marks.RESTORED and self.backup in (None, pending.backup)
        return False

    def undoes(self, pending: PendingSwap) -> bool:
        """Whether the fence is to be lifted, be it since what was to be swapped in is gone."""
        return self.confirmed and (
            self.strategy == UNFENCE or (self.strategy in (SWAP, UNDO_SWAP, RESTORE) and not pending.role)
        )


def refuse_pending(target: Target, asked: Asked, *, run_id: str, check_only: bool = False) -> None:
    """Refuse what cannot be done while clients are kept out, before anything of any database is touched.

    :raises PgopsError: a swap that was cut off keeps clients out, and what was asked for neither finishes nor undoes it.
    """
    conn = connect(target.maintenance(), application_name=locks.application_name(run_id))
    try:
        pending = pending_swap.look(conn, target.database)
    finally:
        conn.close()
    if pending is None or pending.state != FENCED:
        return
    if check_only or pending.running or not (asked.finishes(pending) or asked.undoes(pending)):
        raise pending.error()


def resume(
    target: Target,
    asked: Asked,
    *,
    run_id: str,
    check_only: bool = False,
    progress: Progress | None = None,
    control: Control | None = None,
    after: Step = lambda step: None,
    pool: pgbouncer.Pool | None = None,
) -> dict[str, Any]:
    """Bring a swap that was cut off to an end.

    Under its fence it is finished or undone as was asked for and confirmed, and nothing else. Where somebody has let clients
    in again by hand, rows were written since: its marks are taken off, and nothing is swapped. Behind the renames only its
    record is written.

    :param check_only: only look.
    :return: state (``nothing``, ``completed``, ``recorded``, ``lifted``; ``opened`` or ``swapped`` where it only looked),
        what :meth:`Swap.run` returns where it was completed, ``why``, and ``drop`` where a staged copy stays.
    :raises PgopsError: the fence is up, and what was asked for neither finishes nor undoes it.
    """
    refuse_pending(target, asked, run_id=run_id, check_only=check_only)
    conn = connect(target.maintenance(), application_name=locks.application_name(run_id))
    try:
        pending = pending_swap.look(conn, target.database)
        if pending is None:
            if asked.strategy == UNFENCE:
                _refuse_unknown_fence(conn, target.database)
            return {"state": NOTHING}
        if check_only:
            return {"state": pending.state, "why": pending.sentence}
        if pending.state == SWAPPED:
            return _record_dead_swap(conn, target, pending, asked, run_id, after)
        # The fence keeps everybody out, us too: it is lifted, and put up again once all is looked at anew.
        staged = _lift_dead_fence(conn, target.database, pending.staged)
    finally:
        conn.close()
    if pending.state == FENCED and asked.finishes(pending) and staged:
        try:
            done = Swap(target, staged, run_id=run_id, progress=progress, control=control, after=after, pool=pool).run()
        except PgopsError as error:
            return {"state": LIFTED, "why": error.message, **_copy_that_stays(pending)}
        return {"state": COMPLETED, **done}
    if pending.state == pending_swap.OPENED:
        why = pending.sentence
    else:
        why = f"{pending.staged} is gone" if staged is None else "as was asked for"
    return {"state": LIFTED, "why": why, **_copy_that_stays(pending)}


def release_pool(
    target: Target, pool: pgbouncer.Pool | None, asked: Asked, *, run_id: str, check_only: bool = False
) -> str | None:
    """A run that was killed between PAUSE and RESUME has left the pool's clients waiting, with or without a fence.

    :return: what was found and done; None where nobody waits, or a swap is under way and holds them.
    :raises PgopsError: the console does not answer.
    """
    if pool is None or not pgbouncer.is_paused(pool):
        return None
    conn = connect(target.maintenance(), application_name=locks.application_name(run_id))
    try:
        if database_marks.is_locked(conn, f"swap {target.database}"):
            return None
    finally:
        conn.close()
    if check_only or not asked.confirmed:
        return f"{pool} holds the clients of {pool.database}, and no swap is under way; a confirmed rollback lets them go on"
    pgbouncer.resume(pool)
    return f"{pool} held the clients of {pool.database} though no swap was under way; they go on"


def _refuse_unknown_fence(conn: Connection, name: str) -> None:
    live = database_marks.database(conn, name)
    if live and not live.open:
        raise PgopsError(
            f"{name} does not allow connections, and it was not a swap that fenced it; nothing was touched.",
            database=name,
            hint=f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true",
        )


def _copy_that_stays(pending: PendingSwap) -> dict[str, Any]:
    """What nobody would look for: a staged restore takes as much room as the database. One put aside has a name that tells."""
    if pending.role != database_marks.RESTORED:
        return {"staged": pending.staged}
    return {"staged": pending.staged, "drop": f'DROP DATABASE "{pending.staged}"'}


def _record_dead_swap(
    conn: Connection, target: Target, pending: PendingSwap, asked: Asked, run_id: str, after: Step
) -> dict[str, Any]:
    done = asked.finishes(pending) and not _applied_since(target, run_id)
    swap = Swap(target, target.database, run_id=run_id, after=after)
    swap._lock(conn)
    swap._finish({"resumed": True})
    return {
        "state": COMPLETED if done else RECORDED,
        "live": target.database,
        "aside": pending.aside,
        "swapped_in": pending.staged,
        "standbys": standby_readers.look(conn, pending.aside),
        "why": pending.sentence,
    }


def _applied_since(target: Target, run_id: str) -> bool:
    conn = connect(target.as_restore(), application_name=locks.application_name(run_id))
    try:
        restored = restored_from.look(conn)
        return bool(restored and restored.applied_since)
    finally:
        conn.close()


def _lift_dead_fence(conn: Connection, live: str, staged: str) -> str | None:
    """:return: the database that was to take the place, or None where it is gone."""
    if not database_marks.try_lock(conn, f"swap {live}"):
        raise PgopsError(
            f"Another swap of {live} is running; nothing was touched.", database=live, extra={"locked": True}
        )
    there = database_marks.database(conn, staged)
    if there is None or there.mark is None:
        lift_fence(conn, live, staged, None)
        return None
    before = VERIFIED if there.mark.role in (database_marks.RESTORED, database_marks.GREEN) else ""
    lift_fence(conn, live, staged, replace(there.mark, state=before, aside=""))
    return staged


def not_what_was_asked(found: Mapping[str, Mapping[str, Any]], asked: Asked) -> PgopsError | None:
    """A swap that was cut off is at its end now, and what the rollback was typed for was typed for another database.

    :param found: by database what :func:`resume` returned.
    :return: the refusal to go on with it; None where there is nothing in the way, or nothing is left to do.
    """
    if not asked.confirmed and asked.strategy != UNFENCE:
        return None
    of: dict[str, list[str]] = {}
    for name, entry in found.items():
        of.setdefault(str(entry["state"]), []).append(name)
    recorded, done = of.get(RECORDED, []), of.get(COMPLETED, [])
    rest = [name for name in found if name not in done]
    if recorded:
        told = f"{', '.join(recorded)} had been swapped by a run that was cut off before it wrote that down; it is written down now"
    elif done and rest:
        told = f"The swap of {', '.join(done)}, which had been cut off, was completed"
    else:
        return None
    return PgopsError(
        f"{told}, and nothing else was done: what was asked for was not begun in {', '.join(rest)}.",
        database=(recorded or rest)[0],
        hint="Look at the database, then type what it needs now.",
        extra={"reason": "not_what_was_asked", "databases": {name: dict(entry) for name, entry in found.items()}},
    )
