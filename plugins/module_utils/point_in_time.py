# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a recovery may go: a restore point or a moment, the backup from which, and the WAL between; all looked at before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import wal_archive
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.restore_point import archive_through, refuse_name
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical, Wal

Accept = Callable[[Physical], None]
# How a target begins in words.
TO_NAME = "restore point "
TO_MOMENT = "the moment "


@dataclass(frozen=True)
class Plan:
    """A recovery that can be done: from which backup, to what, on which timeline, through how much WAL."""

    backup: str
    backup_size: int
    name: str | None
    time: str | None
    lsn: str | None
    timeline: int
    last_segment: str
    wal_bytes: int
    repository: int = 1

    def arguments(self) -> list[str]:
        """:return: pgBackRest's options for it; it stands still at the target, so that it can be looked at."""
        # In decimal: PostgreSQL reads it as C does, and takes the A of timeline 10 for 0.
        target = ["--type=name", f"--target={self.name}"] if self.name else ["--type=time", f"--target={self.time}"]
        # In decimal, though the names of segments have it in hexadecimal: PostgreSQL takes A for no number, and says that timeline 0
        # does not exist.
        return [f"--set={self.backup}", *target, f"--target-timeline={self.timeline}", "--target-action=pause"]

    @property
    def told(self) -> str:
        """:return: the target in words."""
        return told_target(self.name, self.time)


def told_target(name: str | None, time: str | None) -> str:
    """:param time: as :func:`told_moment` tells it. :return: a target in words."""
    return f"{TO_NAME}{name}" if name else f"{TO_MOMENT}{time}"


def told_moment(at: datetime) -> str:
    """:return: a moment as PostgreSQL reads it."""
    return at.strftime("%Y-%m-%d %H:%M:%S.%f+00")


def moment(text: str) -> datetime:
    """:return: a moment with its offset. :raises PgopsError: no ISO moment, or one without an offset."""
    try:
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError:
        raise PgopsError(f"{text!r} is no moment; write it as 2026-11-22T14:05:00+00:00.") from None
    if found.tzinfo is None:
        raise PgopsError(
            f"{text!r} has no offset, and whose clock it means cannot be told; write 2026-11-22T14:05:00+00:00."
        )
    return found.astimezone(timezone.utc)


def plan(
    tool: PgBackRest,
    layout: Layout,
    conn: Connection,
    *,
    name: str | None,
    time: str | None,
    seconds: float,
    pretend: bool = False,
    accept: Accept = lambda backup: None,
) -> Plan:
    """Choose the backup and look at everything on the way to the target.

    Of each repository the newest backup before the target that is accepted; of several repositories the first whose way is whole.

    :param conn: on the live cluster, as a superuser.
    :param name: of a restore point; or
    :param time: a moment, with its offset.
    :param seconds: how long the archiver may take for what is not archived yet.
    :param pretend: do not make the live cluster let go of its WAL; then the newest of it may be missing.
    :param accept: raises PgopsError for a backup that is not to be taken, whatever is on the way from it.
    :raises PgopsError: an unknown restore point, a moment without a backup before it or that is not yet, a broken chain, a gap.
    """
    if bool(name) == bool(time):
        raise PgopsError(
            "A recovery needs one target: rollback_restore_point=NAME or rollback_to_time=MOMENT.",
            hint="A migration with backup_engine=physical names its restore point; rollback_to_time takes 2026-11-22T14:05:00+00:00.",
        )
    info = tool.info()
    kept = wal_archive.backups(info, layout.system_identifier)
    if not kept:
        raise PgopsError(
            f"Stanza {tool.stanza} holds no backup of this cluster; there is nothing to restore.",
            hint="Take one with backup.yml -e backup_engine=physical.",
        )
    now = _now(conn)
    if not pretend:
        _seal(conn, seconds)
    wal = Wal(tool, wal_archive.archives(info, layout.system_identifier), layout.wal_segment_bytes)
    if name:
        return _to_name(tool, layout, wal, kept, name, accept)
    assert time is not None
    return _to_time(tool, layout, wal, kept, moment(time), now, accept)


def _now(conn: Connection) -> datetime:
    row = fetch_one(conn, "SELECT clock_timestamp() AS now")
    assert row is not None
    return datetime.fromisoformat(str(row["now"])).astimezone(timezone.utc)


def _seal(conn: Connection, seconds: float) -> None:
    """Archive what there is. A commit behind it: a recovery to a moment ends at the first one after it, and without any it dies."""
    execute(conn, "SELECT pg_catalog.pg_current_xact_id()")
    row = fetch_one(conn, "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) AS segment")
    assert row is not None
    archive_through(conn, row["segment"], seconds=seconds)


def _to_name(tool: PgBackRest, layout: Layout, wal: Wal, kept: list[Physical], name: str, accept: Accept) -> Plan:
    refuse_name(name)
    found, others = wal.find(name, kept[0].last_wal, f"{layout.bindir}/pg_waldump")
    if found is None:
        last = max((s for s in wal.segments if int(s[:8], 16) == layout.timeline), key=wal.number, default=None)
        gap = wal.missing(kept[-1].first_wal, last) if last and wal.is_on_the_way(kept[-1], layout.timeline) else None
        unseen = f", and WAL segment {gap} is missing there, in which it may have been" if gap else ""
        raise PgopsError(
            f"There is no restore point {name} in the archived WAL since backup {kept[0].label}{unseen}; nothing was touched.",
            object_name=name,
            hint=f"Those that are there, newest first: {wal_archive.told(others)}.",
            extra={"restore_points": [{"name": other.name, "lsn": other.lsn} for other in others], "missing": gap},
        )
    at = wal_archive.lsn_number(found.lsn)
    fit = [b for b in kept if b.stop_lsn <= at and wal.is_on_the_way(b, found.timeline)]
    if not fit:
        raise PgopsError(
            f"No backup that is kept lies before restore point {name} on its timeline; nothing was touched.",
            hint=f"The oldest is {kept[0].label}.",
        )
    way = _Way(tool, layout, wal, found.segment, found.timeline)
    return way.choose(fit, accept, name=name, time=None, lsn=found.lsn)


def _to_time(
    tool: PgBackRest, layout: Layout, wal: Wal, kept: list[Physical], at: datetime, now: datetime, accept: Accept
) -> Plan:
    told = told_moment(at)
    if at >= now:
        raise PgopsError(
            f"{told} is in the future; it is {now:%Y-%m-%d %H:%M:%S}+00 on the server. Nothing was touched."
        )
    timeline = layout.timeline
    fit = [b for b in kept if b.stop <= at and wal.is_on_the_way(b, timeline)]
    if not fit:
        raise PgopsError(
            f"{told} is before the end of the oldest backup that leads here ({kept[0].label}, {kept[0].stop:%Y-%m-%d %H:%M:%S}+00); "
            "nothing was touched.",
            hint="Name a moment after it; older ones are gone with the retention of the repository.",
        )
    last = max((s for s in wal.segments if int(s[:8], 16) == timeline), key=wal.number, default=fit[-1].last_wal)
    way = _Way(tool, layout, wal, last, timeline)
    return way.choose(fit, accept, name=None, time=told, lsn=None)


@dataclass(frozen=True)
class _Way:
    """Up to which segment of which timeline a recovery reads."""

    tool: PgBackRest
    layout: Layout
    wal: Wal
    segment: str
    timeline: int

    def choose(self, fit: list[Physical], accept: Accept, **target: Any) -> Plan:
        """:param fit: backups before the target, oldest first.
        :raises PgopsError: none of them can be taken; why the first repository's cannot."""
        refused: PgopsError | None = None
        for number in sorted({backup.repository for backup in fit}):
            try:
                found = _accepted([backup for backup in fit if backup.repository == number], accept)
                plan = self._from(found, **target)
            except Interrupted:
                raise
            except PgopsError as error:
                refused = refused or error
                continue
            if refused:
                self.tool.progress.emit(f"{refused.message} Taking {found.label} of repository {number}")
            return plan
        assert refused is not None
        raise refused

    def _from(self, backup: Physical, **target: Any) -> Plan:
        wal_archive.refuse_broken_chain(self.tool, backup)
        wal_archive.refuse_other_checksums(self.tool, backup, self.layout.data_checksums)
        self.wal.refuse_gap(backup, self.segment)
        segments = self.wal.number(self.segment) - self.wal.number(backup.first_wal) + 1
        return Plan(
            backup=backup.label, backup_size=backup.size, timeline=self.timeline, last_segment=self.segment,
            wal_bytes=segments * self.wal.segment_bytes, repository=backup.repository, **target,
        )  # fmt: skip


def _accepted(fit: list[Physical], accept: Accept) -> Physical:
    """:return: the newest that is accepted. :raises PgopsError: none is; why the newest is not."""
    refused: PgopsError | None = None
    for backup in reversed(fit):
        try:
            accept(backup)
        except PgopsError as error:
            refused = refused or error
        else:
            return backup
    assert refused is not None
    raise refused
