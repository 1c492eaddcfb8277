# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Databases that swaps have put aside, and staged copies that dead restores left: what is kept and for how long.

One that was put aside is dropped here only; a copy that a restore left also by the next restore of its database.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    database_marks,
    ledger,
    locks,
    pending_swap,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Database
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

DAY_S = 86400.0

_OF_THE_SERVER = """
SELECT d.datname::text AS name, pg_catalog.pg_database_size(d.oid) AS bytes,
       extract(epoch FROM clock_timestamp())::float AS now,
       (SELECT coalesce(array_agg(s.slot_name::text ORDER BY 1), '{}') FROM pg_catalog.pg_replication_slots AS s
         WHERE s.database = d.datname) AS slots
FROM pg_catalog.pg_database AS d WHERE d.datname = ANY (%s)
"""


@dataclass(frozen=True)
class Kept:
    """One database that a swap has put aside, or that a restore left.

    :ivar age_days: by the server's clock, None where its mark does not say when.
    :ivar run_id: the rollback that put it aside, or the run that restored it.
    :ivar backup: what took its place, where that was a restore; of a copy what it was restored from.
    :ivar due: whether it is old enough to go and nothing holds it.
    :ivar why: why it stays; empty where it is due.
    :ivar slots: logical slots that go with it.
    :ivar copy: whether it is a staged copy that a restore left, and no database that was put aside.
    """

    name: str
    since: str
    age_days: float | None
    bytes: int
    run_id: str
    backup: str
    due: bool
    why: str
    slots: list[str]
    copy: bool = False

    def as_dict(self) -> dict[str, Any]:
        """:return: for a module's result."""
        return asdict(self)


def listed(target: Target, keep_days: float) -> list[Kept]:
    """:param keep_days: how old one has to be to go.
    :return: what swaps of this database have put aside and restores left, oldest first; writes nothing.
    :raises PgopsError: the number cannot be meant, or the server cannot be asked."""
    _refuse_nonsense(keep_days, target.database)
    conn = connect(target.maintenance(), application_name="pgops cleanup")
    try:
        return _listed(conn, target.database, keep_days)
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"What is kept of {target.database} cannot be told", database=target.database) from None
    finally:
        conn.close()


def _refuse_nonsense(keep_days: float, database: str) -> None:
    if not keep_days >= 0:
        raise PgopsError(f"rollback_keep_days is {keep_days}; give 0 or more days.", database=database)


def _listed(conn: Connection, database: str, keep_days: float, *, own_lock: bool = False, ours: str = "") -> list[Kept]:
    """:param ours: the copy whose lock this session has."""
    copies = database_marks.staged_copies(conn, database)
    at_work = {
        entry.name for entry in copies if entry.name != ours and database_marks.is_locked(conn, f"restore {entry.name}")
    }
    entries = [*database_marks.set_aside(conn, database), *copies]
    facts = {row["name"]: row for row in fetch_all(conn, _OF_THE_SERVER, ([entry.name for entry in entries],))}
    pending = pending_swap.look(conn, database)
    if pending and own_lock:
        pending = replace(pending, running=False)  # the lock of a swap is held by us
    held = {row["database"]: row for row in _holding(conn, [entry.name for entry in entries])}
    found = [
        _kept(
            entry,
            facts[entry.name],
            keep_days,
            pending.sentence if pending else "",
            {"told": "a run restores it now"} if entry.name in at_work else held.get(entry.name),
        )
        for entry in entries
        if entry.name in facts and entry.name != database
    ]
    return sorted(found, key=lambda kept: kept.since)


def _holding(conn: Connection, names: Sequence[str]) -> list[dict[str, Any]]:
    """Whoever is in one, or has left a transaction prepared in it, has a reason."""
    sessions = [
        {"database": row["database"], "told": f"server process {row['pid']} of {row['user']} is in it"}
        for row in fetch_all(conn, swap_blockers.SESSIONS, {"names": list(names)})
    ]
    others = [
        {"database": row["database"], "told": f"{row['kind']} {row['name']}: {row['fix']}"}
        for row in swap_blockers.blockers(conn, names, sessions=0)
        if row["database"] and row["kind"] != "session that may not be ended"
    ]
    return sessions + others


def _kept(entry: Database, facts: dict[str, Any], keep_days: float, pending: str, held: dict[str, Any] | None) -> Kept:
    mark = entry.mark
    assert mark is not None
    since = _moment(mark.since)
    age = None if since is None else (float(facts["now"]) - since) / DAY_S
    why = ""
    copy = mark.role == database_marks.RESTORED
    # Half a copy is of no use to anybody; a whole one can still be swapped in.
    half = copy and mark.state != database_marks.VERIFIED
    if pending or (mark.state and not copy):
        why = f"a swap is not at its end ({pending or mark.state})"
    elif age is None and not half:
        why = f"since when it is kept cannot be read ({mark.since!r})"
    elif not half and age is not None and age < keep_days:
        why = f"younger than {keep_days:g} days"
    elif held:
        why = str(held["told"])
    return Kept(
        entry.name, mark.since, None if age is None else round(age, 3), int(facts["bytes"]), mark.run_id, mark.backup,
        not why, why, list(facts["slots"]), copy,
    )  # fmt: skip


def _moment(since: str) -> float | None:
    try:
        return datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def drop(
    target: Target,
    names: Sequence[str],
    keep_days: float,
    *,
    run_id: str,
    progress: Progress | None = None,
    control: Control | None = None,
) -> list[str]:
    """Drop the databases that were shown and confirmed, one after the other; each is looked at anew right before.

    Holds the lock of a swap of this database. The audit of the live database has each before and after it is dropped, so that a
    kill in between leaves no drop that nobody wrote down.

    :param names: exactly what was confirmed.
    :return: those that were dropped.
    :raises PgopsError: one of them is not due any more; those before it are gone, and named.
    """
    _refuse_nonsense(keep_days, target.database)
    progress, control = progress or Progress(None), control or Control(None)
    database = target.database
    done: list[str] = []
    conn = connect(target.maintenance(), application_name=locks.application_name(run_id))
    try:
        if not database_marks.try_lock(conn, f"swap {database}"):
            raise PgopsError(
                f"A swap of {database} is running; no database was dropped.",
                database=database,
                hint="Wait until it has ended, then run the same command again.",
                extra={"locked": True},
            )
        for name in names:
            control.check()
            # So that no restore drops, and none fills, what is looked at here.
            ours = name if database_marks.try_lock(conn, f"restore {name}") else ""
            found = _listed(conn, database, keep_days, own_lock=True, ours=ours)
            kept = next((one for one in found if one.name == name), None)
            if kept is None or not kept.due:
                why = kept.why if kept else "it is no database that a swap has put aside or a restore has left"
                raise PgopsError(
                    f"{name} was not dropped: {why}; dropped before it: {', '.join(done) or 'none'}.",
                    database=database,
                    object_name=name,
                    hint="Look at what is kept with --check.",
                )
            progress.emit(f"dropping {name}", database=database)
            _audit(target, "kept_database_dropping", kept, run_id)
            _drop(conn, kept, database, done)
            done.append(name)
            _audit(target, "kept_database_dropped", kept, run_id)
    finally:
        conn.close()
    return done


def _drop(conn: Connection, kept: Kept, database: str, done: Sequence[str]) -> None:
    # Without FORCE: whoever came into it meanwhile is looking for something.
    try:
        execute(conn, sql.SQL("DROP DATABASE {}").format(sql.Identifier(kept.name)))
    except psycopg2.Error as exc:
        raise from_psycopg(
            exc, f"{kept.name} was not dropped (dropped before it: {', '.join(done) or 'none'})", database=database
        ) from None


def _audit(target: Target, event: str, kept: Kept, run_id: str) -> None:
    with closing(connect(target.as_restore(), application_name=locks.application_name(run_id))) as live:
        try:
            if ledger.schema_version(live):
                detail = {"database": kept.name, "since": kept.since, "bytes": kept.bytes, "of_run": kept.run_id}
                ledger.append_audit(live, event, run_id=run_id, detail=detail)
        except psycopg2.Error as exc:
            raise from_psycopg(
                exc,
                f"The audit of {target.database} cannot be written, so nothing is dropped",
                database=target.database,
            ) from None
