# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup that reads a streaming standby in the primary's place, where one is fit: then nothing is read on the primary.

What a standby shows is older than the primary by what it has not replayed. So the backup notes how far the primary has come when
it begins, and takes its snapshot on the standby only once that is replayed there: whatever was committed before is in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import standby_fitness
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.standby_fitness import MB, Begin, Wish
from psycopg2 import errorcodes

NEVER, PREFER, REQUIRE = "never", "prefer", "require"
# Replay tells nobody how far it has come.
POLL_SECONDS = 0.05
CLIENT_OUTPUT = "client_output"

_REPLAYED = """
SELECT pg_is_in_recovery() AS standby, pg_last_wal_replay_lsn()::text AS lsn,
       coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0'), 0)::bigint AS position
"""
_NOW = """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time"""

# What the server counts, and what it means for who reads.
_CONFLICTS = {
    "lock": "a lock of the primary was replayed: a schema change, a TRUNCATE, or a VACUUM that made a table shorter",
    "snapshot": "the primary has removed row versions that the backup still read",
    "bufferpin": "replay needed a page that the backup was reading",
    "deadlock": "replay and the backup waited for each other",
    "tablespace": "a tablespace was dropped",
}


class Unfit(PgopsError):
    """No standby could be read, or not to the end; the primary may do."""


@dataclass
class Reading:
    """The server that a backup reads: the primary, or a standby that has replayed what the primary had written by then."""

    target: Target
    conn: Connection
    primary: Connection
    begin: Begin | None = None
    behind_bytes: int = 0
    waited_s: float = 0.0
    replayed: str = ""

    @property
    def is_standby(self) -> bool:
        """Whether another server than the target's is read."""
        return self.begin is not None

    def moment(self) -> str | None:
        """Call it when the snapshot is taken. :return: of a standby's snapshot the primary's time by which all of it was
        committed: what a ledger says is of that clock."""
        row = fetch_one(self.primary, _NOW) if self.is_standby else None
        return str(row["time"]) if row else None

    def told(self) -> dict[str, Any] | None:
        """:return: what the manifest says of the standby; None where it is the primary."""
        if self.begin is None:
            return None
        return {
            "host": self.target.host,
            "port": self.target.port,
            "timeline": self.begin.timeline,
            "begin_lsn": self.begin.lsn,
            "replayed_lsn": self.replayed,
            "behind_bytes": self.behind_bytes,
            "waited_seconds": round(self.waited_s, 3),
        }


def made(make: Callable[..., dict[str, Any]], mode: str, wish: Wish, progress: Progress) -> dict[str, Any]:
    """Make a backup as ``backup_from_standby`` says.

    :param make: makes one, by ``standby=`` from a standby or, with None, from the target itself.
    :param mode: ``never``, ``prefer`` (the primary where no standby does) or ``require``.
    :return: what it returns, with ``primary_because``: why a standby was preferred and the primary was read.
    :raises PgopsError: as ``make``.
    """
    if mode == NEVER:
        return make(standby=None)
    try:
        return make(standby=wish)
    except Unfit as error:
        if mode == REQUIRE:
            raise
        progress.emit(f"reads the primary: {error.message}", database=error.database)
        return {**make(standby=None), "primary_because": error.message}


@contextlib.contextmanager
def reading(
    source: Target,
    primary: Connection,
    wish: Wish | None,
    *,
    application_name: str,
    progress: Progress,
    control: Control,
) -> Iterator[Reading]:
    """Open what a backup reads.

    Writes nothing; it takes one transaction number of the primary, so that its WAL goes out at once.

    :param primary: an idle session in autocommit on the target.
    :raises Unfit: no standby is fit, with the reason of each; or the one that was read has ended the backup.
    """
    if wish is None:
        yield Reading(source, primary, primary)
        return
    found = _first_fit(source, primary, wish, application_name, progress, control)
    forget = control.on_interrupt(found.conn.cancel)
    counted = _conflicts(found.conn, source.database)
    try:
        yield found
    except Interrupted:
        raise
    except (PgopsError, psycopg2.Error) as error:
        why = None if control.reason else _ended_by(found.target, error, counted, application_name)
        if why is None:
            raise
        raise Unfit(
            f"The backup of {source.database} from the standby {_name(found.target)} was ended by it ({why}): nothing of it was kept, "
            "and earlier backups are as they were.",
            sqlstate=error.sqlstate if isinstance(error, PgopsError) else error.pgcode,
            database=source.database,
            hint="On that standby set hot_standby_feedback = on and a max_standby_streaming_delay longer than a backup takes; "
            "or -e backup_from_standby=prefer takes the primary then.",
            extra={"reason": "standby"},
        ) from None
    finally:
        forget()
        found.conn.close()


def look(source: Target, primary: Connection, wish: Wish, *, application_name: str) -> dict[str, Any]:
    """Look which server a backup would read now, and write nothing.

    :return: ``standby`` (host:port, None where none is fit) and ``unfit``: the reason of each that is not.
    """
    try:
        with contextlib.closing(
            _first_fit(source, primary, wish, application_name, Progress(None), Control(None), wait=False).conn
        ) as conn:
            return {"standby": f"{conn.info.host}:{conn.info.port}", "unfit": []}
    except Unfit as error:
        return {"standby": None, "unfit": error.extra["unfit"]}


def refuse_none(looked: dict[str, Any], database: str) -> None:
    """:param looked: by :func:`look`. :raises Unfit: a backup that has to read a standby would be refused."""
    if looked["standby"] is None:
        raise _none_fits(database, looked["unfit"])


def _first_fit(
    source: Target,
    primary: Connection,
    wish: Wish,
    application_name: str,
    progress: Progress,
    control: Control,
    *,
    wait: bool = True,
) -> Reading:
    targets = wish.targets(source)
    begin = standby_fitness.begin_on(primary, source, nudge=wait)
    unfit: list[str] = []
    for target in targets:
        control.check()
        try:
            conn = connect(target, application_name=application_name)
        except PgopsError as error:
            unfit.append(f"{_name(target)}: {error.message.rstrip('.')}")
            continue
        try:
            found = Reading(target, conn, primary, begin)
            why, found.behind_bytes = standby_fitness.look(conn, begin, wish)
            if why is None and wait:
                why = _wait(found, wish, progress, control)
            if why is None:
                return found
            unfit.append(f"{_name(target)} {why}")
        except psycopg2.Error as exc:
            unfit.append(f"{_name(target)} ended the session (SQLSTATE {exc.pgcode or '08006'})")
        except BaseException:
            conn.close()
            raise
        conn.close()
    raise _none_fits(source.database, unfit)


def _none_fits(database: str, unfit: list[str]) -> Unfit:
    return Unfit(
        f"No standby is fit to be read for a backup of {database}: {'; '.join(unfit)}. Nothing was written.",
        database=database,
        hint="Mend that, or take the primary: -e backup_from_standby=prefer, or never.",
        extra={"reason": "standby", "unfit": unfit},
    )


def _wait(found: Reading, wish: Wish, progress: Progress, control: Control) -> str | None:
    """Wait until it has replayed what the primary had written when the backup began. How long that takes is its lag.

    :return: why it is not read after all.
    """
    begin = found.begin
    assert begin is not None and begin.xid is not None
    told = False
    while True:
        row = fetch_one(found.conn, _REPLAYED) or {}
        found.waited_s = time.monotonic() - begin.clock
        if not row["standby"]:
            return "is no standby any more"
        if row["position"] >= begin.position and _has_ended(found.conn, begin.xid):
            found.replayed = str(row["lsn"])
            return None
        if found.waited_s > wish.lag_s:
            missing = max(begin.position - row["position"], 0)
            return f"has not replayed in {wish.lag_s:g} s what was written before ({missing / MB:,.1f} MB of WAL are missing)"
        if not told:
            told = True
            progress.emit(f"waiting for {_name(found.target)} to replay {begin.lsn}", database=found.target.database)
        control.check()
        time.sleep(POLL_SECONDS)  # until it has replayed that far


def _has_ended(conn: Connection, xid: int) -> bool:
    """Whether the primary's own transaction has arrived: positions of two histories say nothing of each other."""
    try:
        row = fetch_one(conn, "SELECT pg_xact_status(%s::text::xid8) AS status", (str(xid),))
    except psycopg2.errors.InvalidParameterValue:  # it lies in the future there
        return False
    return row is not None and row["status"] == "committed"


# -- how a standby ends a backup ------------------------------------------------------------------------------------------


def _conflicts(conn: Connection, database: str) -> dict[str, int]:
    """:return: how many queries recovery has cancelled in a database, by cause."""
    row = fetch_one(conn, "SELECT * FROM pg_catalog.pg_stat_database_conflicts WHERE datname = %s", (database,)) or {}
    return {cause: int(row.get(f"confl_{cause}") or 0) for cause in _CONFLICTS}


def _ended_by(
    target: Target, error: PgopsError | psycopg2.Error, before: dict[str, int], application_name: str
) -> str | None:
    """:return: what the standby did that ended a backup; None where it was something else."""
    try:
        with contextlib.closing(connect(target, application_name=application_name)) as conn:
            after = _conflicts(conn, target.database)
            state = fetch_one(conn, "SELECT pg_is_in_recovery() AS standby")
    except (PgopsError, psycopg2.Error):
        return "it does not answer any more"
    causes = [text for cause, text in _CONFLICTS.items() if after[cause] > before[cause]]
    if causes:
        return f"recovery conflict, {causes[0]}"
    if _tells_conflict(error):
        return "recovery conflict"
    return None if state and state["standby"] else "it was promoted"


def _tells_conflict(error: PgopsError | psycopg2.Error) -> bool:
    # Nothing else makes a transaction that only reads fail so.
    if isinstance(error, psycopg2.Error):
        return error.pgcode == errorcodes.SERIALIZATION_FAILURE
    told = [error.message, *error.extra.get(CLIENT_OUTPUT, [])]
    return error.sqlstate == errorcodes.SERIALIZATION_FAILURE or any("conflict with recovery" in line for line in told)


def _name(target: Target) -> str:
    return f"{target.host}:{target.port}" if target.port else target.host
