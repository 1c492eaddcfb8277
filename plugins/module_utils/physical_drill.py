# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A drill of a physical backup: recovered to a restore point or a moment in a cluster of its own beside the live one, read, thrown away."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    cluster_change,
    physical_proof,
    point_in_time,
    restore_times,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_beside import Beside, discard
from ansible_collections.whitecross.pgops.plugins.module_utils.cluster_layout import Layout
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.drill import FAILED, PASSED
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import PgBackRest
from ansible_collections.whitecross.pgops.plugins.module_utils.physical_rollback import copy_beside, replay
from ansible_collections.whitecross.pgops.plugins.module_utils.point_in_time import Plan
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import (
    CHECKSUMMED,
    PHYSICAL,
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
    *,
    run_id: str,
    seconds: float,
    application_name: str,
    rto_seconds: float | None = None,
) -> dict[str, Any]:
    """Recover to ``to`` beside the live cluster, read every row, page and index of these databases, throw it away.

    Takes the lock of a change of clusters: no proof and no rollback of the cluster goes on beside it.

    :param targets: the databases that are read; a recovery brings back all of the cluster.
    :param rto_seconds: in how many it must stand where it was asked to.
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
        return _Drill(tool, layout, found, beside, rto_seconds).of(list(targets))


class _Drill:
    """One recovery and what was seen of it."""

    def __init__(
        self, tool: PgBackRest, layout: Layout, found: Plan, beside: Beside, rto_seconds: float | None
    ) -> None:
        self._tool, self._layout, self._found, self._beside = tool, layout, found, beside
        self._rto_seconds = rto_seconds
        self._ladder = Ladder()
        self._reached: dict[str, Any] = {}
        self._seen: dict[str, dict[str, int]] = {}
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
            beside.promote()
            self._restore_seconds = round(time.monotonic() - restoring, 3)
            self._refuse_late()
            for name in databases:
                self._seen[name] = self._read(name)
            tool.progress.emit("reading pages and indexes (pg_amcheck)")
            physical_proof.refuse_damaged(tool, self._layout, beside, databases)
            rows = sum(found["rows"] for found in self._seen.values())
            step.detail = (
                f"stood still at {self._found.told}, {self._reached['lsn']}; {rows} rows read, pages and indexes sound"
            )

    def _read(self, database: str) -> dict[str, int]:
        """:return: what a database holds, each row of it read. :raises PgopsError: it was not there at that moment."""
        self._tool.progress.emit("reading every table", database=database)
        with contextlib.closing(self._beside.connect(database)) as conn:
            found = physical_proof.counts_of(conn, self._beside.control)
            size = fetch_one(conn, _SIZE)
        assert size is not None
        return {"tables": len(found), "rows": sum(found.values()), "database_bytes": int(size["bytes"])}

    def _refuse_late(self) -> None:
        took, limit = self._restore_seconds, self._rto_seconds
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
            "level_required": PHYSICAL,
            "levels": self._ladder.levels,
            "tables": None,
            "rows": None,
            "restore_seconds": took,
            "ready_seconds": took,
            "rto_seconds": self._rto_seconds,
            "forecast": restore_times.forecast([{"ready_seconds": took, "bytes": 1, "host": where}], 1)
            if took
            else None,
            "history": [],
            "reservations": [_NOT_COMPARED],
            "error": error.message if error else None,
        }
        if error:
            evidence.update(hint=error.hint, sqlstate=error.sqlstate, interrupted=isinstance(error, Interrupted))
        return evidence


def _of_a_drill(error: PgopsError) -> PgopsError:
    """:return: the error of a recovery, with the variables of a drill in what it says to type."""
    for theirs, own in _VARIABLES.items():
        error.message = error.message.replace(theirs, own)
        error.hint = error.hint.replace(theirs, own) if error.hint else error.hint
    return error
