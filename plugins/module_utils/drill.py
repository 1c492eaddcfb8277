# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restore drill: the whole ladder with one backup, and evidence of it whatever came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    cluster_backups,
    restore,
    restore_times,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, as_pgops_error
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import ELSEWHERE, Ladder
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

PASSED, FAILED = "passed", "failed"
LOGICAL = "logical"
# Of the history, for the evidence.
SHOWN = 10


def choose(target: Target, directory: str, path: str | None, *, application_name: str) -> Backup:
    """:param path: the backup that was named, None for the newest logical one, proved or not.
    :return: the backup to drill, of the target's own cluster.
    :raises PgopsError: there is none."""
    if path:
        return backup_store.read_backup(path)
    return cluster_backups.newest_own(
        target,
        directory,
        application_name=application_name,
        hint="Make one with backup.yml, or name one with -e drill_backup=PATH.",
        fits=lambda backup: _kind(backup) == LOGICAL,
    )


def _kind(backup: Backup) -> str:
    return str(backup.manifest.get("kind", LOGICAL))


def refuse_point_in_time(backup: Backup, moment: str | None) -> None:
    """:raises PgopsError: a moment is asked for that this kind of backup does not have, or it is of a kind that is drilled elsewhere."""
    if _kind(backup) != LOGICAL:
        raise PgopsError(
            f"{backup.path} is a {_kind(backup)} backup, and this drill restores logical ones; nothing was restored.",
            database=backup.manifest["database"],
            hint="Name a logical backup with -e drill_backup=PATH.",
        )
    if moment:
        raise PgopsError(
            f"{backup.path} is a logical backup: it holds the moment of its snapshot, {backup.manifest['snapshot_time']}, and no other, so "
            f"{moment} cannot be restored from it; nothing was restored.",
            database=backup.manifest["database"],
            hint="Leave drill_point_in_time out to drill that moment. Any other one needs a physical backup with its WAL archive.",
        )


def drill(
    target: Target,
    backup: Backup,
    *,
    work: Work,
    least: int,
    queries: Sequence[Mapping[str, Any]] = (),
    rto_seconds: float | None = None,
    scratch_name: str | None = None,
    scratch_reason: str = "",
    other_cluster_only: bool = False,
    make_roles: bool = False,
    identity: Identity | None = None,
) -> dict[str, Any]:
    """Restore a backup on the scratch server, climb the whole ladder, drop the copy.

    :param least: the level below which the drill has failed.
    :param queries: the application's own, as :func:`restore.prove` takes them; so are the other arguments.
    :return: the evidence: ``verdict`` (passed or failed), ``level``, ``levels``, ``backup`` with what it is, times, ``history``, and of a
        failure ``error``, ``hint``, ``sqlstate``, ``unusable`` and, where the run was asked to stop, ``interrupted``.
    """
    began, moment = time.monotonic(), datetime.now(timezone.utc)
    ladder = Ladder()
    error: PgopsError | None = None
    proof: dict[str, Any] = {}
    try:
        proof = restore.prove(
            target, backup.path, work=work, level=ELSEWHERE, needed=least, queries=queries, rto_seconds=rto_seconds,
            scratch_name=scratch_name, scratch_reason=scratch_reason, other_cluster_only=other_cluster_only,
            make_roles=make_roles, identity=identity, ladder=ladder,
        )  # fmt: skip
    except (PgopsError, psycopg2.Error) as exc:
        error = as_pgops_error(exc, f"The drill of {backup.path} failed", database=target.database)
        proof = dict(error.extra.get("proof") or {})
    manifest = backup.manifest
    where = restore_times.place_of(target.scratch(target.database))
    evidence = {
        "verdict": FAILED if error else PASSED,
        "backup": backup.path,
        "kind": _kind(backup),
        "purpose": manifest.get("purpose"),
        "snapshot_time": manifest["snapshot_time"],
        "database_bytes": manifest["database_bytes"],
        "manifest_sha256": backup.manifest_sha256,
        "scratch_server": where,
        "same_cluster": proof.get("same_cluster"),
        "server_version": proof.get("server_version"),
        "began": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(time.monotonic() - began, 3),
        "level": ladder.reached,
        "level_required": least,
        "levels": sorted(ladder.levels, key=lambda entry: int(entry["level"])),
        "tables": proof.get("tables"),
        "rows": proof.get("rows"),
        "restore_seconds": proof.get("restore_seconds"),
        "ready_seconds": proof.get("ready_seconds"),
        "rto_seconds": rto_seconds,
        "forecast": proof.get("forecast") or restore_times.forecast_for(backup, where),
        "history": restore_times.read(backup.path)[-SHOWN:],
        "reservations": proof.get("reservations") or [],
        "error": error.message if error else None,
    }
    if error:
        evidence.update(
            hint=error.hint,
            sqlstate=error.sqlstate,
            unusable=error.unusable,
            interrupted=isinstance(error, Interrupted),
        )
    return evidence
