# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backup a rollback goes back to: the one that is named, or the last known good one."""

from __future__ import annotations

import shlex
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    cluster_backups,
    database_marks,
    ledger,
    restored_from,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.restored_from import RestoredFrom

RESTORED_BEFORE = "restored_before"
NONE_FITS = "none_fits"

# The last apply, whatever became of it: a failed one is what somebody wants to get away from. A row keeps the time at
# which it was applied when it is reverted, but not the run.
_LAST_APPLY = """
WITH last AS (SELECT max(m.started_at) AS began FROM pgops.migration AS m),
     run AS (SELECT r.id, r.started_at, r.backup FROM pgops.run AS r, last AS l WHERE r.started_at <= l.began
             ORDER BY r.started_at DESC LIMIT 1)
SELECT r.id AS run_id, r.backup,
       to_char(least(min(m.started_at), min(l.began)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS began
FROM last AS l LEFT JOIN run AS r ON true LEFT JOIN pgops.migration AS m ON m.started_at >= r.started_at
WHERE l.began IS NOT NULL GROUP BY r.id, r.backup
"""

# The whole cluster was taken back behind the last apply that its ledger still has.
_CLUSTER_RESTORED = """
SELECT a.run_id, to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at FROM pgops.audit AS a
WHERE a.event = 'cluster_restored'
  AND a.at > coalesce((SELECT max(m.started_at) FROM pgops.migration AS m), '-infinity'::timestamptz)
ORDER BY a.seq DESC LIMIT 1
"""


def last_apply(target: Target, application_name: str) -> dict[str, Any] | None:
    """:return: run_id, began (server time) and backup of the last apply; None where nothing was ever applied.
    :raises PgopsError: the database, or its whole cluster, came out of a restore and nothing was applied since: the last apply lies before it."""
    conn = connect(target.as_restore(), application_name=application_name)
    try:
        restored = restored_from.look(conn)
        if restored and not restored.applied_since:
            raise _restored_before(target.database, restored, _last_aside(conn, target.database))
        if ledger.schema_version(conn) == 0:
            return None
        cluster = fetch_one(conn, _CLUSTER_RESTORED)
        if cluster:
            raise _cluster_restored_before(target.database, cluster)
        return fetch_one(conn, _LAST_APPLY)
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The ledger of {target.database} cannot be read", database=target.database) from None
    finally:
        conn.close()


def _last_aside(conn: Connection, database: str) -> str | None:
    found = database_marks.set_aside(conn, database)
    return found[0].name if found else None


def _restored_before(database: str, restored: RestoredFrom, aside: str | None) -> PgopsError:
    # Its ledger is that of the backup: the last apply in it lies further back than anybody asked for.
    return PgopsError(
        f"{database} was restored from {restored.backup} and swapped in at {restored.at}, and nothing was applied to it since: "
        "any choice would go further back than that, so none is made; nothing was changed.",
        database=database,
        hint="Swap back to the database that was put aside, or name the backup to go to with -e rollback_backup=PATH.",
        extra={"reason": RESTORED_BEFORE, "backup": restored.backup, "aside": aside},
    )


def _cluster_restored_before(database: str, restored: dict[str, Any]) -> PgopsError:
    return PgopsError(
        f"The whole cluster of {database} was taken back by run {restored['run_id']} at {restored['at']}, and nothing was applied to it "
        "since: any choice would go further back than that, so none is made; nothing was changed.",
        database=database,
        hint="Go forth again with the command that that run has printed, or name the backup to go to with -e rollback_backup=PATH.",
        extra={"reason": RESTORED_BEFORE, "backup": None, "aside": None},
    )


def choose(
    target: Target, directory: str, path: str | None, *, application_name: str, level: int = backup_store.PROVED
) -> tuple[Backup, str]:
    """Find the backup to go back to.

    :param directory: where the backups lie on this host.
    :param path: the backup that the user named; nothing else is looked at then.
    :param level: to which its proof must have come. Above that of a restore that was compared it makes no older one be taken:
        whoever uses the backup refuses it then.
    :return: the backup and why it was chosen. It is proved, unless it was named: whoever uses it looks again.
    :raises PgopsError: none fits; says what is there. Or none is to be chosen: the database came out of a restore itself.
    """
    database = target.database
    if path:
        return backup_store.read_backup(path), "named by rollback_backup"
    try:
        last = last_apply(target, application_name)
    except PgopsError as error:
        if error.extra.get("reason") == RESTORED_BEFORE:
            raise
        raise PgopsError(
            f"Which backup of {database} was taken before its last change cannot be told, since its ledger cannot be "
            f"read ({error.message.rstrip('.')}).",
            database=database,
            # A right that is missing is given; the restore needs the same one.
            hint=error.hint or "Name one with -e rollback_backup=PATH.",
            extra={name: error.extra[name] for name in ("statements",) if name in error.extra},
        ) from None
    there = backup_store.backups_of(directory, database)
    found = cluster_backups.own(target, there, application_name=application_name)
    proved = [backup for backup in found if backup.proof_level >= min(level, backup_store.PROVED)]
    if last is None:
        fitting, why = proved, "the newest proved backup; nothing was ever applied"
    else:
        fitting = [backup for backup in proved if str(backup.manifest["snapshot_time"]) <= last["began"]]
        why = f"the newest proved backup from before the last apply, run {last['run_id']} at {last['began']}"
        own = _own_backup(last)
        if own:
            for backup in there:  # one of another cluster is refused with its reason by whoever uses it
                if backup.path == own:
                    _refuse_unproved(backup, last, level)
                    return backup, f"the backup that the last apply, run {last['run_id']}, made before it began"
            why += f"; {own}, which it made itself, is not there any more"
    if not fitting:
        others = f", and {len(there) - len(found)} of another cluster" if len(there) != len(found) else ""
        before = f" from before the last apply (run {last['run_id']}, {last['began']})" if last else ""
        raise PgopsError(
            f"There is no proved backup of {database}{before} in {backup_store.database_folder(directory, database)}: "
            f"{len(found)} backups are there, {len(proved)} of them proved{others}.",
            database=database,
            hint="Prove one with prove.yml -e backup_path=PATH, or name a proved one with -e rollback_backup=PATH.",
            extra={"reason": NONE_FITS},
        )
    return fitting[0], why


def _refuse_unproved(backup: Backup, last: dict[str, Any], level: int) -> None:
    # An older one loses more, and nobody asked for that.
    if not backup.proof_level:
        raise PgopsError(
            f"{backup.path}, the backup that the last apply, run {last['run_id']}, made before it began, has no proof that holds, and none "
            "from before it is taken in its place without being named.",
            database=str(backup.manifest["database"]),
            hint=f"Prove it with prove.yml -e backup_path={shlex.quote(backup.path)}, or name another one with -e rollback_backup=PATH.",
            extra={"reason": "unproved", "path": backup.path, "level_required": level},
        )


def _own_backup(last: dict[str, Any]) -> str | None:
    recorded = last.get("backup")
    return str(recorded["path"]) if isinstance(recorded, dict) and recorded.get("path") else None
