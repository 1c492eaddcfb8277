# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Each way back of a database weighed before anything happens: what it needs, loses and takes, and how it is taken back.

Nothing here writes. What cannot be told is said, and never stops a rollback that could be done all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_choice,
    database_marks,
    disk_forecast,
    lost_writes,
    restore,
    restore_times,
    swap_blockers,
    way_back,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import Database
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.last_change import LastChange
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

DOWN = "down"
RESTORE = "restore"
UNDO_SWAP = "undo_swap"
SWAP = "swap"

# Up to this size every way is counted exactly; above, the one that is taken, right before the question.
EXACT_BYTES = 1 << 30
# Seconds for which clients were kept out on an idle machine, where nothing was measured on this server yet.
SWAP_SECONDS = (0.02, 0.25)


@dataclass(frozen=True)
class Way:
    """One way back.

    :ivar why_not: why it cannot be taken, in a sentence without a full stop; empty where it can.
    :ivar needs: what it needs, each with whether that is there.
    :ivar lost: what it takes away, in a few words.
    :ivar lost_rows: at least, at most; None where nothing is known.
    :ivar outage: for how long clients are kept out, in a few words.
    :ivar seconds: how long it takes before that, None where nobody knows.
    :ivar back: how it is taken back.
    :ivar blockers: what stands in its way and can be taken out of it.
    """

    strategy: str
    why_not: str = ""
    needs: list[str] = field(default_factory=list)
    lost: str = ""
    lost_rows: tuple[int, int] | None = None
    outage: str = ""
    seconds: float | None = None
    back: str = ""
    blockers: list[dict[str, str]] = field(default_factory=list)
    backup: str = ""
    to: str = ""

    @property
    def possible(self) -> bool:
        """Whether it can be taken."""
        return not self.why_not

    def as_dict(self) -> dict[str, Any]:
        """:return: for a module's result."""
        return {**asdict(self), "possible": self.possible}


@dataclass(frozen=True)
class Situation:
    """What all ways have in common.

    :ivar conn: on the maintenance database, as the restore role.
    :ivar change: the last change; None where the ledger cannot be read.
    :ivar unreadable: why the database or its ledger cannot be read, empty where they can.
    :ivar database_bytes: of the live database, None where there is none.
    :ivar rows: about how many rows it has, by its statistics; the most that can be lost.
    :ivar outages_ms: of earlier swaps.
    :ivar takes_backups: whether the way down is preceded by a proved backup here.
    """

    target: Target
    conn: Connection
    work: Work
    change: LastChange | None
    unreadable: str
    database_bytes: int | None
    rows: int
    outages_ms: Sequence[float]
    takes_backups: bool

    @property
    def counts(self) -> bool:
        """Whether the database is small enough to be counted for a table."""
        return not self.unreadable and (self.database_bytes or 0) <= EXACT_BYTES

    def rows_told(
        self, exact: int | None, why: str = "", objects: Mapping[str, Any] | None = None
    ) -> tuple[str, tuple[int, int] | None]:
        """:param objects: the large objects, see :mod:`lost_large_objects`.
        :return: the rows that a way leaves behind, in words, and as bounds; large objects count as one each."""
        if exact is not None:
            most = int(objects["written"]) if objects else 0
            least = int(objects.get("at_least", objects)["written"]) if objects else 0
            parts = [f"{exact:,} rows"] * bool(exact)
            if most:
                parts.append(f"{'at most ' if least != most else ''}{most:,} large objects")
            return (f"{' and '.join(parts)} written since, kept" if parts else "nothing"), (exact + least, exact + most)
        if self.unreadable or why:
            return f"not known: {why or self.unreadable}", None
        return f"up to about {self.rows:,} rows, kept; counted before it asks", (0, self.rows)

    def outage_told(self) -> str:
        """:return: for how long a swap keeps clients out."""
        if self.outages_ms:
            return f"{max(self.outages_ms) / 1000:.2f} s, the worst of {len(self.outages_ms)} here"
        return f"{SWAP_SECONDS[0]:g} to {SWAP_SECONDS[1]:g} s, none measured here"


_REVERSIBLE = "undo_swap, at once"


def down(situation: Situation, selection: way_back.Reverts) -> Way:
    """:return: the way down of the versions that the selection means."""
    target, work = situation.target, situation.work
    if situation.unreadable:
        return Way(DOWN, why_not=situation.unreadable)
    try:
        found = way_back.preview_revert(target, selection, run_id=work.run_id)
    except PgopsError as error:
        return Way(DOWN, why_not=error.message.rstrip("."))
    if not found["versions"]:
        return Way(DOWN, why_not="nothing is applied, so there is nothing to revert")
    rows = sum(entry["rows"] or 0 for entry in found["loss"])
    values = sum(count for entry in found["loss"] for count in entry["columns"].values())
    some = any(entry["some_rows"] for entry in found["loss"])
    parts = [f"{rows:,} rows"] * bool(rows) + [f"{values:,} values"] * bool(values) + ["rows that it deletes"] * some
    stays = [item["version"] for item in found["versions"] if item["safety"] != "complete"]
    needs = [
        f"role {target.user}: there",
        "a proved backup, taken first" if situation.takes_backups else "no backup in this environment",
    ]
    if stays:
        needs.append(f"what stays of {', '.join(stays)} is told below")
    if found["unlooked"]:
        needs.append(
            f"{', '.join(entry['version'] for entry in found['unlooked'])} cannot be looked at before, and may stop"
        )
    return Way(
        DOWN,
        needs=needs,
        lost=f"{' and '.join(parts)}, destroyed" if parts else "nothing",
        lost_rows=None if some else (rows + values, rows + values),
        outage="none, locks are held briefly",
        back="migrate.yml, without those" if parts else "migrate.yml",
    )


def to_a_backup(situation: Situation, directory: str, path: str | None, level: int) -> Way:
    """:param level: to which the backup must be proved.
    :return: the restore of the backup that is named, or would be chosen."""
    target, work = situation.target, situation.work
    try:
        backup, why = backup_choice.choose(target, directory, path, application_name=work.application_name, level=level)
    except PgopsError as error:
        if error.extra.get("reason") == backup_choice.RESTORED_BEFORE:
            return Way(
                RESTORE,
                why_not="the last change was a restore, and a backup goes further back; rollback_backup names one all the same",
            )
        return Way(RESTORE, why_not=f"proved backup: missing ({error.message.rstrip('.')})")
    named = Way(RESTORE, backup=backup.path)
    try:
        lacking = restore.let_off(backup, work, level)
        restore.refuse_foreign(backup, situation.conn, target.database)
    except PgopsError as error:
        return Way(RESTORE, why_not=f"proved backup: missing ({error.message.rstrip('.')})", backup=backup.path)
    size = int(backup.manifest["database_bytes"])
    free = disk_forecast.free_bytes(situation.conn, database=target.database)
    blockers = [
        *swap_blockers.blockers(
            situation.conn, [target.database], sessions=swap_blockers.SWAP_SESSIONS + 2 * work.jobs
        ),
        *swap_blockers.low_disk(target.database, size, free),
    ]
    lost, bounds = _lost_since(situation, backup)
    took, measured = _forecast(backup, target)
    room = f"{disk_forecast.mb(free)} free" if free is not None else "what is free is not known from here"
    there = f"NO, {lacking}, let off by rollback_break_glass" if lacking else "there"
    return Way(
        RESTORE,
        why_not=_first(blockers),
        needs=[
            f"proved backup: {there}, {backup.path} of {backup.manifest['snapshot_time']} ({why})",
            f"role {target.restore_user or target.user}: {'there' if not _of(blockers, 'missing right') else 'lacks a right'}",
            f"disk: {disk_forecast.mb(size)}, {room}",
            f"time: {took:.1f} s of restore beside the clients, {measured}",
        ],
        lost=lost,
        lost_rows=bounds,
        outage=situation.outage_told(),
        seconds=took,
        back=_REVERSIBLE,
        blockers=blockers,
        backup=named.backup,
    )


def _forecast(backup: Backup, target: Target) -> tuple[float, str]:
    """:return: how long its restore takes on the server of the target, and by what that is known. Measured restores know it better than the
    proof of this backup, which may be of another host."""
    found = restore_times.forecast_for(backup, restore_times.place_of(target))
    if found is None:
        proof = backup.proof or {}
        return float(proof.get("restore_seconds") or 0) + float(proof.get("compare_seconds") or 0), "as its proof took"
    where = f" on {found['host']}" if found["host"] else ""
    if found["measured"] == 1:
        return float(found["seconds"]), f"by the one that was measured{where}"
    bounds = f"{found['low']:.1f} to {found['high']:.1f} s"
    return float(found["seconds"]), f"by {found['measured']} that were measured{where} ({bounds})"


def _lost_since(situation: Situation, backup: Backup) -> tuple[str, tuple[int, int] | None]:
    if not situation.counts:
        return situation.rows_told(None)
    try:
        found = lost_writes.lost_writes(
            situation.target,
            backup,
            application_name=situation.work.application_name,
            progress=situation.work.progress,
            control=situation.work.control,
        )
    except PgopsError as error:
        return situation.rows_told(None, error.message.rstrip("."))
    return situation.rows_told(int(found["rows_written"]), objects=found["large_objects"])


def to_a_kept_one(situation: Situation, kept: Database | None, why_none: str, *, strategy: str = UNDO_SWAP) -> Way:
    """:param kept: the database that a swap has put aside.
    :return: the swap back to it."""
    target = situation.target
    if kept is None or kept.mark is None:
        return Way(strategy, why_not=why_none)
    blockers = swap_blockers.blockers(situation.conn, [target.database, kept.name])
    lost, bounds = _lost_since_the_swap(situation, kept.mark.xid)
    return Way(
        strategy,
        why_not=_first(blockers),
        needs=[
            f"kept database: there, {kept.name} of {kept.mark.since}",
            f"role {target.restore_user or target.user}: {'there' if not _of(blockers, 'missing right') else 'lacks a right'}",
            "no disk, no backup",
        ],
        lost=lost,
        lost_rows=bounds,
        outage=situation.outage_told(),
        seconds=0.0,
        back=_REVERSIBLE,
        blockers=blockers,
        to=kept.name,
    )


def _lost_since_the_swap(situation: Situation, xid: int) -> tuple[str, tuple[int, int] | None]:
    if not situation.counts or not xid:
        return situation.rows_told(None)
    try:
        found = lost_writes.written_since(
            situation.target, xid, application_name=situation.work.application_name, control=situation.work.control
        )
    except PgopsError as error:
        return situation.rows_told(None, error.message.rstrip("."))
    return situation.rows_told(int(found["rows_written"]), objects=found["large_objects"])


def last_kept(conn: Connection, database: str, aside: str) -> tuple[Database | None, str]:
    """The database that the last swap has put aside.

    :param aside: its name as the audit has it; empty where no audit says so, then the newest is taken.
    :return: the database, or None and why there is none. An older one is never taken in its place.
    """
    kept = sorted(
        database_marks.set_aside(conn, database), key=lambda entry: entry.mark.xid if entry.mark else 0, reverse=True
    )
    if not kept:
        return None, "no database is kept that a swap has put aside"
    if not aside or kept[0].name == aside:
        return kept[0], ""
    found = next((entry for entry in kept if entry.name == aside), None)
    if found:
        return found, ""
    return None, (
        f"{aside}, which the last swap has put aside, is gone; older ones are kept ({', '.join(entry.name for entry in kept)}), "
        "and rollback_strategy=swap takes one by its name"
    )


def about_rows(conn: Connection) -> int:
    """:return: about how many rows the connected database has, by its statistics."""
    rows = fetch_all(
        conn,
        "SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)), 0)::bigint AS n FROM pg_catalog.pg_class AS c "
        "JOIN pg_catalog.pg_stat_user_tables AS s ON s.relid = c.oid WHERE s.schemaname <> 'pgops'",
    )
    return int(rows[0]["n"])


def size_of(conn: Connection, database: str) -> int | None:
    """:return: bytes of a database, None where it is not there or may not be asked for."""
    try:
        rows = fetch_all(
            conn,
            "SELECT pg_catalog.pg_database_size(oid) AS n FROM pg_catalog.pg_database WHERE datname = %s",
            (database,),
        )
    except psycopg2.Error:
        return None
    return int(rows[0]["n"]) if rows else None


def _first(blockers: Sequence[dict[str, str]]) -> str:
    if not blockers:
        return ""
    more = f", and {len(blockers) - 1} more" if len(blockers) > 1 else ""
    where = f" in {blockers[0]['database']}" if blockers[0]["database"] else ""
    return f"{blockers[0]['kind']} {blockers[0]['name']}{where}{more}: {blockers[0]['fix']}"


def _of(blockers: Sequence[dict[str, str]], kind: str) -> list[dict[str, str]]:
    return [entry for entry in blockers if entry["kind"] == kind]
