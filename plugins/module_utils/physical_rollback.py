# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Back to a restore point or a moment: restored beside, stopped at the target and looked at, promoted, compared, changed over."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    cluster_company,
    cluster_comparison,
    cluster_layout,
    cluster_resume,
    locks,
    physical_backup,
    point_in_time,
    wal_archive,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside, discard
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_change import Change
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_comparison import Live
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.point_in_time import Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.wal_archive import Physical

# pgBackRest's errors for a file that is not what it was: the checksum, its format, gone.
_DAMAGED = ("026", "029", "055")
RECOVERY_SECONDS = 24 * 3600
# Databases are looked at one after the other.
LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    run_id: str
    name: str | None = None
    time: str | None = None
    kept: str | None = None
    whole_cluster: bool = False
    archive_seconds: float = 60.0
    reason: str | None = None
    # Of the proof of the backup that is restored: where it is kept, to which level it must have come, why one is taken that has not.
    directory: str | None = None
    level: int = 0
    break_glass: str = ""


@dataclass
class Work:
    """One call on one cluster: the databases that were named, pgBackRest, the answer to what was asked for."""

    targets: dict[str, Target]
    tool: PgBackRest
    request: Request
    after: cluster_change.Step = field(default=lambda step: None)

    @property
    def target(self) -> Target:
        """:return: any of the databases; the cluster is the same."""
        return next(iter(self.targets.values()))

    @property
    def application_name(self) -> str:
        """:return: the name of the sessions."""
        return locks.application_name(self.request.run_id)

    @contextlib.contextmanager
    def live(self) -> Iterator[tuple[Connection, Layout]]:
        """A session on the live cluster, as the role that restores, and how it lies."""
        conn = connect(self.target.maintenance(), application_name=self.application_name)
        try:
            yield conn, cluster_layout.read_layout(conn, self.target)
        finally:
            conn.close()


def disclose(work: Work) -> dict[str, Any]:
    """Look at all that can be known before anything is touched.

    :return: the plan, what it takes back, and how much room it needs.
    :raises PgopsError: whatever would stop it.
    """
    with work.live() as (conn, layout):
        cluster_resume.refuse_cut_off(layout.data_directory)
        others = _refuse_unfit(work, conn, layout)
        company = cluster_company.of(conn)
        if work.request.kept:
            told = cluster_change.refuse_unkept(layout, work.request.kept)
            kept = {"kept": work.request.kept, "since": told["since"], "target": told["target"]}
            return {**kept, "others": others, **company}
        found, let_off = _plan(work, conn, layout, pretend=True)
        Beside(layout, cluster_change.names(layout.data_directory, work.request.run_id, cluster_change.now())[0],
               work.tool.user, work.target, application_name=work.application_name).refuse_full(found.backup_size + found.wal_bytes)  # fmt: skip
        return {
            "plan": asdict(found),
            "proof_level": _proof_level(work, found),
            "lets_off": let_off,
            "unreadable": _unreadable(work),
            "target": found.told,
            "others": others,
            **company,
        }


def _plan(work: Work, conn: Connection, layout: Layout, *, pretend: bool) -> tuple[Plan, str | None]:
    """:return: the recovery, and what a typed reason lets off of the backup's proof, None where there is nothing to let off."""
    request = work.request
    plan = functools.partial(
        point_in_time.plan, work.tool, layout, conn,
        name=request.name, time=request.time, seconds=request.archive_seconds, pretend=pretend,
    )  # fmt: skip

    def refuse_unproved(backup: Physical) -> None:
        if request.level:
            physical_backup.refuse_unproved(
                request.directory or "", work.tool.stanza, backup, request.level, layout.system_identifier
            )

    try:
        return plan(accept=refuse_unproved), None
    except PgopsError as error:
        if error.extra.get("reason") != "level" or not request.break_glass.strip():
            raise
        return plan(), error.message.partition(", and level")[0]


def _unreadable(work: Work) -> list[str]:
    """:return: the databases of which nothing can be read: what was lost and which numbers their sequences have given out is not known."""
    found = []
    for name, target in work.targets.items():
        try:
            connect(target.as_restore(), application_name=work.application_name).close()
        except PgopsError:
            found.append(name)
    return found


def _proof_level(work: Work, found: Plan) -> int | None:
    proof = physical_backup.read_proof(work.request.directory or "", work.tool.stanza, found.backup)
    return int(proof.get("level") or 0) if proof else None


def _refuse_unfit(work: Work, conn: Connection, layout: Layout) -> list[str]:
    """:return: the databases of the cluster that were not named, and go back with it."""
    cluster_change.refuse_unmovable(layout)
    cluster_layout.Server(layout, work.tool.user)
    others = _others(work, conn)
    if others and not work.request.whole_cluster:
        raise PgopsError(
            f"The whole cluster goes back, and {', '.join(others[:5])} would go with {', '.join(work.targets)}; nothing was touched.",
            hint="Add -e rollback_whole_cluster=true if that is meant; else go back by rollback_strategy=restore, a database alone.",
            extra={"others": others},
        )
    return others


def _others(work: Work, conn: Connection) -> list[str]:
    rows = fetch_all(
        conn,
        "SELECT datname::text AS name FROM pg_catalog.pg_database WHERE NOT datistemplate AND datname <> ALL (%s) ORDER BY 1",
        ([*work.targets, work.target.maintenance_database, "postgres"],),
    )
    return [row["name"] for row in rows]


def roll_back(work: Work) -> dict[str, Any]:
    """The whole way. Until the live server is stopped nothing of it is touched, and a run that dies leaves only a folder beside.

    Takes the runner lock of each live database that can be connected to before it restores, and keeps it to the stop.

    :return: what was compared, ``outage_ms``, ``kept``; ``others``, the databases of either cluster that were not named.
    :raises RunnerBusy: another run is at work on one of the databases.
    :raises PgopsError: nothing was touched, or the live cluster is the one it was.
    """
    user = work.tool.user
    with contextlib.ExitStack() as alone:
        conn, layout = alone.enter_context(work.live())
        alone.enter_context(cluster_change.locked(layout.data_directory))
        cluster_resume.refuse_cut_off(layout.data_directory)
        _sweep(layout, work)
        others = _refuse_unfit(work, conn, layout)
        incoming, kept = cluster_change.names(layout.data_directory, work.request.run_id, cluster_change.now())
        since = cluster_change.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        change = Change(
            work.request.run_id, cluster_change.RESTORING, layout, incoming, kept, "", tuple(work.targets), since
        )
        if work.request.kept:
            cluster_change.refuse_unkept(layout, work.request.kept)
            change = replace(change, incoming=work.request.kept, target=cluster_resume.kept_in(work.request.kept))
            done = _change_over(work, change, conn, {"others": others})
            record = cluster_comparison.Record(work.request.run_id, change.target, work.request.reason)
            return {**done, "databases": cluster_comparison.record_return(work.targets.values(), record)}
        # A run that is at work now would be told of after hours of restoring.
        lives = [_locked(work, target, alone) for target in work.targets.values()]
        found, let_off = _plan(work, conn, layout, pretend=False)
        change = cluster_change.write(replace(change, target=found.told), user)
        beside = Beside(
            layout, incoming, user, work.target, application_name=work.application_name,
            progress=work.tool.progress, control=work.tool.control,
        )  # fmt: skip
        beside.refuse_full(found.backup_size + found.wal_bytes)
        began = time.monotonic()
        try:
            compared = _restore(work, conn, found, beside, lives, let_off)
            # Whoever goes forth again meets those that were there then.
            compared["others"] = sorted({*others, *compared["others"]})
            compared["restore_seconds"] = round(time.monotonic() - began, 1)
            work.after("restored")
            return _change_over(work, change, conn, compared)
        except BaseException:
            there = cluster_change.read(layout.data_directory)
            if there and there.step == cluster_change.RESTORING:
                beside.remove()
                cluster_change.forget(there)
            raise


def _locked(work: Work, target: Target, held: contextlib.ExitStack) -> Live:
    live = Live(target, application_name=work.application_name, progress=work.tool.progress, control=work.tool.control)
    held.callback(live.close)
    live.lock_if_it_can_be()
    return live


def _sweep(layout: Layout, work: Work) -> None:
    """Throw away what a run that was killed while it restored has left."""
    there = cluster_change.read(layout.data_directory)
    if there:
        work.tool.progress.emit("removing what a run that was killed has left")
        if cluster_change.NEW in there.incoming:
            discard(layout.bindir, there.incoming, work.tool.user)
        cluster_change.forget(there)


def restore_beside(tool: PgBackRest, found: Plan, beside: Beside, *, archiving: bool) -> dict[str, Any]:
    """Restore, start, and stand still at the target.

    :return: ``lsn`` and ``time`` of what was replayed last.
    :raises PgopsError: a damaged repository, by the file; a target that was not reached.
    """
    copy_beside(tool, found, beside)
    return replay(found, beside, archiving=archiving)


def copy_beside(tool: PgBackRest, found: Plan, beside: Beside) -> None:
    """Restore the files of the backup, each compared with its checksum. :raises PgopsError: a damaged repository, by the file."""
    tool.user.make_folder(beside.folder)
    try:
        tool.restore([f"--pg1-path={beside.folder}", *found.arguments()])
    except PgopsError as error:
        if error.extra.get("pgbackrest_error") in _DAMAGED:
            tool.progress.emit("looking for what is damaged in the repository")
            tool.verify()
        raise


def replay(found: Plan, beside: Beside, *, archiving: bool) -> dict[str, Any]:
    """Start what was copied, and let it replay WAL until it stands still at the target.

    :return: ``lsn`` and ``time`` of what was replayed last.
    :raises PgopsError: a target that was not reached.
    """
    beside.start(archiving=archiving)
    reached = beside.wait_until_paused(RECOVERY_SECONDS)
    if found.lsn and wal_archive.lsn_number(reached["lsn"]) < wal_archive.lsn_number(found.lsn):
        raise PgopsError(
            f"The recovery stood still at {reached['lsn']}, before restore point {found.name} at {found.lsn}: there is another of that name.",
            hint="Name a moment with rollback_to_time.",
        )
    return reached


def _restore(
    work: Work, conn: Connection, found: Plan, beside: Beside, lives: Sequence[Live], let_off: str | None
) -> dict[str, Any]:
    reached = restore_beside(work.tool, found, beside, archiving=True)
    beside.promote()
    glass = {"reason": work.request.break_glass.strip(), "lets_off": let_off} if let_off else None
    record = cluster_comparison.Record(work.request.run_id, _target(work.request), work.request.reason, glass)
    databases = {
        live.target.database: cluster_comparison.compare(
            live, functools.partial(beside.connect, live.target.database), record
        )
        for live in lives
    }
    with contextlib.closing(beside.connect()) as restored:
        others = _others(work, restored)
    # What the stop writes is written now, so that it comes soon after the sequences were looked at.
    execute(conn, "CHECKPOINT")
    until = cluster_resume.STOP_WITHIN_SECONDS + LOOK_SECONDS * len(lives)
    for live in lives:
        name = live.target.database
        databases[name]["sequences"] = cluster_comparison.keep_sequences_ahead(
            live, functools.partial(beside.connect, name), until
        )
    beside.stop()
    if not cluster_layout.is_shut_down(beside.layout, beside.folder, work.tool.user):
        raise PgopsError("The restored cluster did not shut down cleanly; it was thrown away and nothing was touched.")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside.log)
    return {"reached": reached, "backup": found.backup, "break_glass": glass, "databases": databases, "others": others}


def _target(request: Request) -> str:
    return request.name or request.time or request.kept or ""


def _change_over(work: Work, change: Change, conn: Connection, compared: dict[str, Any]) -> dict[str, Any]:
    work.tool.control.check()
    work.tool.progress.emit("changing over: stop, rename, start")
    execute(conn, "CHECKPOINT")  # the stop writes one too, and clients wait for that
    conn.close()
    change = cluster_change.write(replace(change, step=cluster_change.FENCING), work.tool.user)
    work.after(cluster_change.FENCING)
    done = cluster_change.finish(change, work.tool.user, work.after)
    awaited = cluster_company.awaited(work.target, work.application_name)
    return {**compared, **done, "target": change.target, "synchronous": awaited}
