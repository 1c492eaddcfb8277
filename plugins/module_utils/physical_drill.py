# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A drill of a physical backup: recovered to a restore point or a moment in a cluster of its own beside the live one, read, thrown away."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    physical_proof,
    point_in_time,
    recorded_moment,
    restore_times,
    soundness,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside, discard
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.drill import FAILED, PASSED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.moment_comparison import Differences
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.physical_rollback import copy_beside, replay
from ansible_collections.whitecross.pgops.plugins.module_utils.point_in_time import Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import (
    CHECKSUMMED,
    EQUAL,
    READABLE,
    RESTORES,
    Ladder,
)

KIND = "physical"
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\d[T ]")
# What tells a rollback what to type is told to a drill.
_VARIABLES = {"rollback_to_time": "drill_point_in_time", "rollback_restore_point": "drill_point_in_time"}
_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes"
_NOT_COMPARED = "rows are counted and not compared: at that moment nobody has counted or hashed them"


@dataclass(frozen=True)
class Asked:
    """What a drill goes by.

    :ivar rto_seconds: in how many seconds the cluster must stand where it was asked to.
    :ivar directory: the folder that holds the proofs, and what restore points hold.
    :ivar queries: the application's own, put to what was compared.
    :ivar workers: sessions that count and hash.
    """

    rto_seconds: float | None = None
    directory: str | None = None
    queries: Sequence[Mapping[str, Any]] = ()
    workers: int = 2


def plan(tool: PgBackRest, layout: Layout, conn: Connection, to: str, *, seconds: float, pretend: bool = False) -> Plan:
    """:param conn: on the live cluster, as a superuser.
    :param to: a restore point, or a moment with its offset.
    :param seconds: how long the archiver may take; :param pretend: do not make the live cluster let go of its WAL.
    :return: the recovery, all of whose way was looked at
    :raises PgopsError: there is no such restore point, no backup before it, a gap, a broken chain; nothing was restored."""
    moment = to if _MOMENT.match(to) else None
    try:
        return point_in_time.plan(
            tool, layout, conn, name=None if moment else to, time=moment, seconds=seconds, pretend=pretend
        )
    except PgopsError as error:
        raise _of_a_drill(error) from None


def drill(
    tool: PgBackRest,
    layout: Layout,
    conn: Connection,
    targets: Mapping[str, Target],
    to: str,
    asked: Asked = Asked(),
    *,
    run_id: str,
    seconds: float,
    application_name: str,
) -> dict[str, Any]:
    """Recover to ``to`` beside the live cluster, read every row, page and index of these databases, throw it away.

    Where it was recorded what the restore point holds, all of that is compared, and constraints and queries are looked at.

    Takes the lock of a change of clusters: no proof and no rollback of the cluster goes on beside it.

    :param targets: the databases that are read; a recovery brings back all of the cluster.
    :return: the evidence of each database, as ``drill.drill`` makes it
    :raises PgopsError: it is refused before anything is restored.
    """
    with cluster_change.locked(layout.data_directory):
        for name in physical_proof.dead_proofs(layout.data_directory):
            discard(layout.bindir, name, tool.user)
        found = plan(tool, layout, conn, to, seconds=seconds)
        folder, _kept = cluster_change.names(layout.data_directory, run_id, cluster_change.now())
        beside = Beside(
            layout, folder.replace(".pgops_new_", physical_proof.PROOF), tool.user, next(iter(targets.values())),
            application_name=application_name, progress=tool.progress, control=tool.control,
        )  # fmt: skip
        beside.refuse_full(found.backup_size + found.wal_bytes)
        moment = recorded_moment.kept(asked.directory, tool.stanza, found.name)
        if moment and not set(targets) <= set(moment["databases"]):
            moment = None  # a level is one of all databases
        return _Drill(tool, layout, found, beside, asked, moment).of(list(targets))


class _Drill:
    """One recovery and what was seen of it."""

    def __init__(
        self,
        tool: PgBackRest,
        layout: Layout,
        found: Plan,
        beside: Beside,
        asked: Asked,
        moment: dict[str, Any] | None,
    ) -> None:
        self._tool, self._layout, self._found, self._beside = tool, layout, found, beside
        self._asked, self._moment = asked, moment
        self._ladder = Ladder()
        self._reached: dict[str, Any] = {}
        self._compared: dict[str, Differences] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self._restore_seconds: float | None = None

    def of(self, databases: list[str]) -> dict[str, Any]:
        """:return: the evidence of each database; whatever came of it, nothing of the recovery is left."""
        began, moment = time.monotonic(), datetime.now(timezone.utc)
        error: PgopsError | None = None
        try:
            try:
                self._climb(databases)
            finally:
                self._beside.remove()
        except (PgopsError, psycopg2.Error, OSError) as exc:
            if isinstance(exc, OSError):
                exc = PgopsError(f"The drill of backup {self._found.backup} failed: {exc.strerror}.")
            error = _of_a_drill(as_pgops_error(exc, f"The drill of backup {self._found.backup} failed"))
        shared = self._evidence(moment, round(time.monotonic() - began, 3), error)
        return {name: {**shared, **self._seen.get(name, {})} for name in databases}

    def _climb(self, databases: list[str]) -> None:
        tool, beside = self._tool, self._beside
        with self._ladder.climbing(CHECKSUMMED) as step:
            tool.verify()
            step.detail = "pgBackRest has verified each file of the repository"
        restoring = time.monotonic()
        with self._ladder.climbing(READABLE) as step:
            copy_beside(tool, self._found, beside)
            step.detail = f"backup {self._found.backup} was restored, each file compared with its checksum"
        with self._ladder.climbing(RESTORES) as step:
            self._reached = replay(self._found, beside, archiving=False)
            self._restore_seconds = round(time.monotonic() - restoring, 3)
            self._refuse_late()
            self._compared = physical_proof.compare_beside(
                beside, databases, self._moment, workers=self._asked.workers, application_name=beside.application_name
            )
            self._seen = {name: self._read(name) for name in databases}
            tool.progress.emit("reading pages and indexes (pg_amcheck)")
            physical_proof.refuse_damaged(tool, self._layout, beside, databases)
            rows = sum(found["rows"] for found in self._seen.values())
            step.detail = (
                f"stood still at {self._found.told}, {self._reached['lsn']}; {rows} rows read, pages and indexes sound"
            )
        if self._moment:
            physical_proof.note_differences(self._ladder, self._compared)
            physical_proof.refuse_differences(self._compared, f"the source held at {self._found.told}")
            faults = physical_proof.look(
                beside, databases, self._asked.queries, self._ladder, workers=self._asked.workers
            )
            if faults:
                raise PgopsError(
                    f"What was recovered to {self._found.told} equals its source, and is not sound: {self._ladder.levels[-1]['detail']}.",
                    hint="Look at the live database with pg_amcheck, before the backups without the damage expire.",
                    extra={"reason": "unsound", "faults": faults[: soundness.KEPT]},
                )

    def _read(self, database: str) -> dict[str, Any]:
        """:return: what a database holds. :raises PgopsError: it was not there at that moment."""
        found = self._compared[database]
        with contextlib.closing(self._beside.connect(database)) as conn:
            size = fetch_one(conn, _SIZE)
        assert size is not None
        return {
            "tables": found.tables,
            "rows": found.rows,
            "database_bytes": int(size["bytes"]),
            "reservations": _reservations(found, self._moment is not None),
        }

    def _refuse_late(self) -> None:
        took, limit = self._restore_seconds, self._asked.rto_seconds
        if limit and took is not None and took > limit:
            raise PgopsError(
                f"The recovery to {self._found.told} took too long: it stood there after {took:.1f} s, and backup_rto_seconds is {limit:g}.",
                hint="Take backups more often, so that less WAL is replayed, or agree on another RTO.",
                extra={"reason": "late"},
            )

    def _evidence(self, moment: datetime, seconds: float, error: PgopsError | None) -> dict[str, Any]:
        found, took = self._found, self._restore_seconds
        where = f"{os.uname().nodename}:{self._beside.folder}"
        evidence: dict[str, Any] = {
            "verdict": FAILED if error else PASSED,
            "backup": f"pgbackrest:{self._tool.stanza}/{found.backup}",
            "kind": KIND,
            "purpose": found.told,
            "snapshot_time": self._reached.get("time") or found.time or "not reached",
            "recovered_to": {"target": found.told, "lsn": self._reached.get("lsn"), "timeline": found.timeline},
            "database_bytes": None,
            "manifest_sha256": None,
            "scratch_server": where,
            "same_cluster": True,
            "server_version": [self._layout.major],
            "began": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": seconds,
            "level": self._ladder.reached,
            "level_required": EQUAL if self._moment else RESTORES,
            "levels": self._ladder.levels,
            "tables": None,
            "rows": None,
            "restore_seconds": took,
            "ready_seconds": took,
            "rto_seconds": self._asked.rto_seconds,
            "forecast": restore_times.forecast([{"ready_seconds": took, "bytes": 1, "host": where}], 1)
            if took
            else None,
            "history": [],
            "reservations": [] if self._moment else [_NOT_COMPARED],
            "error": error.message if error else None,
        }
        if error:
            evidence.update(hint=error.hint, sqlstate=error.sqlstate, interrupted=isinstance(error, Interrupted))
        return evidence


def _reservations(found: Differences, compared: bool) -> list[str]:
    if not compared:
        return [_NOT_COMPARED]
    told = []
    if found.moving:
        told.append(f"written to in the moment of the restore point, so not compared: {', '.join(found.moving)}")
    if found.unlogged:
        told.append(f"unlogged, so empty after every recovery: {', '.join(found.unlogged)}")
    return told


def _of_a_drill(error: PgopsError) -> PgopsError:
    """:return: the error of a recovery, with the variables of a drill in what it says to type."""
    for theirs, own in _VARIABLES.items():
        error.message = error.message.replace(theirs, own)
        error.hint = error.hint.replace(theirs, own) if error.hint else error.hint
    return error
