# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The proof of a physical backup: restored beside to a restore point whose rows were hashed when it was made, compared, looked at."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    moment_comparison,
    physical_backup,
    point_in_time,
    recorded_moment,
    restore_point,
    soundness,
    wal_archive,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside, discard
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_comparison import counts
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.moment_comparison import Differences
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.physical_rollback import copy_beside, replay
from ansible_collections.whitecross.pgops.plugins.module_utils.point_in_time import Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import (
    CHECKSUMMED,
    COUNTED,
    EQUAL,
    NAMES,
    PHYSICAL,
    READABLE,
    RESTORES,
    SOUND,
    Ladder,
)

# What a folder of a proof is called behind the name of the data directory.
PROOF = ".pgops_proof_"
TOLD_DIFFERENCES = 5  # in the message
KEPT_DIFFERENCES = 200  # in the result


@dataclass(frozen=True)
class Asked:
    """How far a proof is to climb.

    :ivar level: 2 to 5; less is 2, since a restore is what a physical backup is read by.
    :ivar needed: the level that must be reached, where that is less.
    :ivar queries: the application's own, for level 5.
    :ivar workers: sessions that count and hash.
    :ivar directory: the folder that holds the proofs.
    """

    directory: str
    level: int = EQUAL
    needed: int | None = None
    queries: Sequence[Mapping[str, Any]] = ()
    workers: int = 2


def refuse_below(needed: int | None) -> None:
    """:raises PgopsError: a physical proof does not reach that level of the ladder; nothing was restored."""
    if needed is not None and needed > PHYSICAL:
        raise PgopsError(
            f"A physical proof reaches level {PHYSICAL} ({NAMES[PHYSICAL]}) and level {needed} ({NAMES[needed]}) is needed; nothing was restored.",
            hint="Take a logical backup for it: backup_engine=logical. The physical one stays for point-in-time recovery.",
        )


def prove(
    tool: PgBackRest,
    layout: Layout,
    conn: Connection,
    targets: Mapping[str, Target],
    asked: Asked,
    *,
    run_id: str,
    seconds: float,
    application_name: str,
) -> dict[str, Any]:
    """Restore the newest backup to a restore point made for it, beside the live cluster, compare, and throw it away.

    :param conn: on the live cluster, as a superuser.
    :param targets: the databases that are read in the snapshot of the restore point.
    :param seconds: how long the archiver may take.
    :return: label, restore_point, level, levels, databases, seconds, restore_seconds, proof (the file that tells it).
    :raises PgopsError: anything that would make a rollback from it fail; nothing of the proof is left. A backup that is damaged or
        differs loses the proof that it had.
    """
    refuse_below(asked.needed)
    with cluster_change.locked(layout.data_directory):
        for name in dead_proofs(layout.data_directory):
            discard(layout.bindir, name, tool.user)
        return _Proof(tool, layout, conn, targets, asked, run_id, application_name).climb(seconds)


def dead_proofs(data_directory: str) -> list[str]:
    """:return: the folders that killed proofs and drills have left beside a data directory."""
    place, begin = os.path.split(data_directory)
    names = [name for name in os.listdir(place) if name.startswith(begin + PROOF) and not name.endswith(".log")]
    return [os.path.join(place, name) for name in names]


@dataclass
class _Proof:
    """One climb and what was seen on it."""

    tool: PgBackRest
    layout: Layout
    conn: Connection
    targets: Mapping[str, Target]
    asked: Asked
    run_id: str
    application_name: str
    ladder: Ladder = field(default_factory=Ladder)
    found: Plan | None = None
    seen: dict[str, Differences] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    restored: float = 0.0

    def climb(self, seconds: float) -> dict[str, Any]:
        """:param seconds: how long the archiver may take. :return: the proof, kept in its file."""
        began = time.monotonic()
        with self.ladder.climbing(CHECKSUMMED) as step:
            try:
                self.tool.verify()
            except PgopsError as error:
                self._take_back_all(error)
                raise
            numbers = self.tool.repositories()
            step.detail = f"pgBackRest has verified each file of {'its repository' if len(numbers) == 1 else f'{len(numbers)} repositories'}"
        point, moment = self._mark(seconds)
        found = point_in_time.plan(self.tool, self.layout, self.conn, name=point["name"], time=None, seconds=seconds)
        self.found = found
        folder, _kept = cluster_change.names(self.layout.data_directory, self.run_id, cluster_change.now())
        beside = Beside(
            self.layout, folder.replace(".pgops_new_", PROOF), self.tool.user, next(iter(self.targets.values())),
            application_name=self.application_name, progress=self.tool.progress, control=self.tool.control,
        )  # fmt: skip
        beside.refuse_full(found.backup_size + found.wal_bytes)
        try:
            try:
                self._restore(found, beside, moment)
                self._judge(point)
                if self.asked.level >= SOUND:
                    self.faults = look(
                        beside, list(self.targets), self.asked.queries, self.ladder, workers=self.asked.workers
                    )
            finally:
                beside.remove()
        except PgopsError as error:
            if error.extra.get("differences") or error.extra.get("damage") or error.extra.get("reason") == "damaged":
                physical_backup.remove_proof(self.asked.directory, self.tool.stanza, found.backup)
            raise
        if moment:
            self._keep(moment)
        return self._kept(point, round(time.monotonic() - began, 1))

    def _keep(self, moment: dict[str, Any]) -> None:
        """Keep what the restore point holds, for a drill to it. The proof does not stand on that."""
        directory, stanza = self.asked.directory, self.tool.stanza
        try:
            recorded_moment.keep(directory, stanza, moment)
            kept = wal_archive.backups(self.tool.info(), self.layout.system_identifier)
            recorded_moment.forget_before(directory, stanza, kept[0].stop)
        except Interrupted:
            raise
        except PgopsError as error:
            self.tool.progress.emit(error.message)

    def _mark(self, seconds: float) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """:return: the restore point, and what the databases hold at it, where they are to be compared."""
        name = restore_point.name_of(f"proof_{self.run_id}_{int(time.time())}")
        if self.asked.level < COUNTED:
            return restore_point.create(self.conn, name, seconds=seconds, control=self.tool.control), None
        moment = recorded_moment.record(
            self.conn, self.targets, name, seconds=seconds, workers=self.asked.workers,
            application_name=self.application_name, progress=self.tool.progress, control=self.tool.control,
        )  # fmt: skip
        return moment, moment

    def _restore(self, found: Plan, beside: Beside, moment: dict[str, Any] | None) -> None:
        """Levels 1 and 2, and what levels 3 and 4 are judged by: pg_amcheck installs an extension, and so comes behind the comparison."""
        restoring = time.monotonic()
        with self.ladder.climbing(READABLE) as step:
            copy_beside(self.tool, found, beside)
            step.detail = f"backup {found.backup} was restored, each file compared with its checksum"
        with self.ladder.climbing(RESTORES) as step:
            reached = replay(found, beside, archiving=False)
            self.restored = round(time.monotonic() - restoring, 1)
            self.seen = compare_beside(
                beside, list(self.targets), moment, workers=self.asked.workers, application_name=self.application_name
            )
            self.tool.progress.emit("reading pages and indexes (pg_amcheck)")
            refuse_damaged(self.tool, self.layout, beside, list(self.targets))
            step.detail = f"stood still at {found.told}, {reached['lsn']}; pages sound"

    def _judge(self, point: Mapping[str, Any]) -> None:
        """Levels 3 and 4, of all databases together."""
        if self.asked.level < COUNTED:
            return
        note_differences(self.ladder, self.seen)
        refuse_differences(self.seen, f"the source held at restore point {point['name']}")

    def _kept(self, point: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Write the proof and hold it to what is needed. :return: it. :raises PgopsError: it is too low, or the copy is not sound."""
        assert self.found is not None
        level, label = self.ladder.reached, self.found.backup
        proof = {
            "level": level,
            "levels": self.ladder.levels,
            "label": label,
            "stanza": self.tool.stanza,
            "repository": self.found.repository,
            "restore_point": point["name"],
            "lsn": point["lsn"],
            "system_identifier": self.layout.system_identifier,
            "run_id": self.run_id,
            "proved_at": cluster_change.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "restore_seconds": self.restored,
            "seconds": seconds,
            "databases": {name: _told(found, level) for name, found in self.seen.items()},
        }
        before = physical_backup.read_proof(self.asked.directory, self.tool.stanza, label)
        path = physical_backup.proof_path(self.asked.directory, self.tool.stanza, label)
        if self.faults or level >= int((before or {}).get("level") or 0):
            path = physical_backup.write_proof(self.asked.directory, self.tool.stanza, proof)
        if self.faults:
            raise PgopsError(
                f"The cluster restored from backup {label} equals its source, and is not sound: {self.ladder.levels[-1]['detail']}.",
                hint="A physical backup has the pages of its source: look at the live database with pg_amcheck, before the backups without "
                f"the damage expire. The backup is proved to level {level}.",
                extra={"reason": "unsound", "faults": self.faults[: soundness.KEPT], "proof": {"path": path, **proof}},
            )
        self.ladder.refuse_below(
            self.asked.needed or 0, f"pgbackrest:{self.tool.stanza}/{label}", next(iter(self.targets))
        )
        return {**proof, "proof": path}

    def _take_back_all(self, error: PgopsError) -> None:
        """Damage of a repository may be of any backup in it; whose it is stands in the lines."""
        directory, stanza = self.asked.directory, self.tool.stanza
        for line in error.extra.get("damage") or []:
            for label in physical_backup.proved(directory, stanza):
                if label in line:
                    physical_backup.remove_proof(directory, stanza, label)


# -- the same for a proof and a drill ---------------------------------------------------------------------------------


def compare_beside(
    beside: Beside, databases: Sequence[str], moment: Mapping[str, Any] | None, *, workers: int, application_name: str
) -> dict[str, Differences]:
    """Promote a cluster that stands still at a restore point, and compare it with what was recorded there.

    :param moment: what :func:`recorded_moment.record` has returned; None where nothing was, and then rows are counted only.
    :return: by database.
    :raises PgopsError: a database is not there, or cannot be read.
    """
    beyond: dict[str, list[int]] = {}
    if moment:
        with contextlib.closing(beside.connect()) as conn:
            beyond = moment_comparison.committed_beyond(conn, moment)
    beside.promote()
    found = {}
    for name in databases:
        described = (moment or {"databases": {}})["databases"].get(name)
        if described is not None:
            found[name] = moment_comparison.compare(
                beside.target(name), described, beyond.get(name, []), workers=workers,
                application_name=application_name, progress=beside.progress, control=beside.control,
            )  # fmt: skip
            continue
        beside.progress.emit("reading every table", database=name)
        with contextlib.closing(beside.connect(name)) as conn:
            rows = counts_of(conn, beside.control)
        found[name] = Differences(compared=0, rows=sum(rows.values()), tables=len(rows))
    return found


def note_differences(ladder: Ladder, seen: Mapping[str, Differences]) -> None:
    """Note levels 3 and 4; the counts and the hashes were taken in one pass."""
    counted = sum(len(found.counted) for found in seen.values())
    hashed = sum(len(found.hashed) for found in seen.values())
    tables = sum(found.compared for found in seen.values())
    told = f"{counted} differences" if counted else f"{tables} tables, catalog and large objects: no difference"
    ladder.record(COUNTED, not counted, 0.0, told)
    told = f"{hashed} tables differ" if hashed else "in the same pass as level 3, no difference"
    ladder.record(EQUAL, not counted and not hashed, 0.0, told)


def refuse_differences(seen: Mapping[str, Differences], source: str) -> None:
    """:param source: what the restored databases were compared with. :raises PgopsError: one of them differs; the objects are named."""
    for database, found in seen.items():
        if not found.all:
            continue
        told = "; ".join(_difference(entry) for entry in found.all[:TOLD_DIFFERENCES])
        more = f"; and {len(found.all) - TOLD_DIFFERENCES} more" if len(found.all) > TOLD_DIFFERENCES else ""
        raise PgopsError(
            f"The restored {database} is not what {source}: {told}{more}; the backup is not proved.",
            database=database,
            object_name=str(found.all[0]["object"]),
            hint="The backup cannot be trusted; take a full one: backup.yml -e backup_physical_type=full.",
            extra={"differences": found.all[:KEPT_DIFFERENCES], "differences_total": len(found.all)},
        )


def look(
    beside: Beside, databases: Sequence[str], queries: Sequence[Mapping[str, Any]], ladder: Ladder, *, workers: int
) -> list[str]:
    """Look whether what was restored could serve, and note level 5, of all databases together.

    :param queries: the application's own.
    :return: what is wrong.
    """
    began = time.monotonic()
    found = {
        name: soundness.look(
            beside.target(name), queries, database=name, jobs=workers,
            application_name=f"{beside.application_name} check", progress=beside.progress, control=beside.control,
        )
        for name in databases
    }  # fmt: skip
    told = [one.detail() if len(found) == 1 else f"{name}: {one.detail()}" for name, one in found.items()]
    ladder.record(SOUND, all(one.ok for one in found.values()), time.monotonic() - began, "; ".join(told))
    return [fault for one in found.values() for fault in one.faults]


def _difference(entry: Mapping[str, Any]) -> str:
    if entry.get("kind") in ("missing", "unexpected"):
        return f"{entry['object']} is {entry['kind']}"
    if isinstance(entry["expected"], (dict, list)) or isinstance(entry["found"], (dict, list)):
        return f"{entry['object']}: {entry['attribute']} differs"
    return f"{entry['object']}: {entry['attribute']} expected {entry['expected']}, found {entry['found']}"


def _told(found: Differences, level: int) -> dict[str, Any]:
    if level < EQUAL:
        detail = "restores, pages sound"
    else:
        detail = f"contents of {found.compared} of {found.tables} tables and the catalog equal, pages sound"
    return {
        "tables": found.tables,
        "rows": found.rows,
        "level": level,
        "detail": detail + (", constraints and queries hold" if level >= SOUND else ""),
        "compared": found.compared,
        "moving": found.moving,
        "unlogged": found.unlogged,
    }


def counts_of(conn: Connection, control: Control | None) -> dict[str, int]:
    """:return: the rows of each table. :raises PgopsError: the job has to end; the statement in hand is cancelled."""
    control = control or Control(None)
    forget = control.on_interrupt(conn.cancel)
    try:
        return counts(conn, control)
    finally:
        forget()


def refuse_damaged(tool: PgBackRest, layout: Layout, beside: Beside, databases: list[str]) -> None:
    """:raises PgopsError: pg_amcheck finds a page or an index of one of these that is damaged."""
    role = beside.target(databases[0]).user
    for name in databases:
        done = tool.user.run(
            [
                f"{layout.bindir}/pg_amcheck", "--install-missing=pg_catalog", f"--host={beside.private}",
                f"--port={layout.port}", f"--username={role}", "--no-password", f"--database={name}",
            ],
            control=tool.control,
        )  # fmt: skip
        if done.code:
            # What it says names relations and blocks, no rows.
            told = next((line for line in done.lines if line.strip()), f"it ended with {done.code}")
            raise PgopsError(
                f"The restored {name} is damaged, says pg_amcheck: {told.strip()[:300]}.",
                database=name,
                hint="The live database may be so too: run pg_amcheck there, before the backups without the damage expire.",
                extra={"reason": "damaged"},
            )
