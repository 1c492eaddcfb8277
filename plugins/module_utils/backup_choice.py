# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backup a rollback goes back to: the one that is named, or the last known good one."""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg

# The run that changed the schema last, when it began with that, and the backup that it made. A failed run counts: what it
# left is what somebody wants to get away from.
_LAST_APPLY = """
WITH last AS (
    SELECT m.run_id FROM pgops.migration AS m WHERE m.run_id IS NOT NULL ORDER BY m.started_at DESC, m.version DESC LIMIT 1
)
SELECT l.run_id, to_char(min(m.started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS began,
       (SELECT r.backup FROM pgops.run AS r WHERE r.id = l.run_id) AS backup
FROM last AS l JOIN pgops.migration AS m ON m.run_id = l.run_id GROUP BY l.run_id
"""


def last_apply(target: Target, application_name: str) -> dict[str, Any] | None:
    """:return: run_id, began (server time) and backup of the run that changed the schema last; None without a ledger."""
    conn = connect(target.as_restore(), application_name=application_name)
    try:
        if ledger.schema_version(conn) == 0:
            return None
        return fetch_one(conn, _LAST_APPLY)
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The ledger of {target.database} cannot be read", database=target.database) from None
    finally:
        conn.close()


def choose(target: Target, directory: str, path: str | None, *, application_name: str) -> tuple[Backup, str]:
    """Find the backup to go back to.

    :param directory: where the backups lie on this host.
    :param path: the backup that the user named; nothing else is looked at then.
    :return: the backup and why it was chosen. It is proved, unless it was named: whoever uses it looks again.
    :raises PgopsError: none fits; says what is there.
    """
    database = target.database
    if path:
        return backup_store.read_backup(path), "named by rollback_backup"
    try:
        last = last_apply(target, application_name)
    except PgopsError as error:
        raise PgopsError(
            f"Which backup of {database} was taken before its last change cannot be told, since its ledger cannot be "
            f"read ({error.message.rstrip('.')}).",
            database=database,
            hint="Name one with -e rollback_backup=PATH.",
        ) from None
    found = backup_store.backups_of(directory, database)
    proved = [backup for backup in found if backup.proved]
    if last is None:
        fitting, why = proved, "the newest proved backup; there is no ledger"
    else:
        fitting = [backup for backup in proved if str(backup.manifest["snapshot_time"]) <= last["began"]]
        why = f"the newest proved backup from before run {last['run_id']}, which began to change it at {last['began']}"
        own = _own_backup(last)
        for backup in fitting:
            if own and backup.path == own:
                return backup, f"the backup that run {last['run_id']} made before it changed the database"
    if not fitting:
        before = f" from before run {last['run_id']} ({last['began']})" if last else ""
        raise PgopsError(
            f"There is no proved backup of {database}{before} in {backup_store.database_folder(directory, database)}: "
            f"{len(found)} backups are there, {len(proved)} of them proved.",
            database=database,
            hint="Prove one with prove.yml -e backup_path=PATH, or name a proved one with -e rollback_backup=PATH.",
        )
    return fitting[0], why


def _own_backup(last: dict[str, Any]) -> str | None:
    recorded = last.get("backup")
    return str(recorded["path"]) if isinstance(recorded, dict) and recorded.get("path") else None
