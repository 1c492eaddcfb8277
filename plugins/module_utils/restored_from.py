# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Of which backup the live database was made, where a rollback by restore has made it.

Its rows were all written anew by the restore, so a row's own transaction does not tell when it was written first; and its
ledger is that of the backup, so what was applied last lies before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import database_marks, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    database_oid,
    fetch_one,
    system_identifier,
)

# The audit is carried from database to database: only the row that names this one is of its own making.
_SWAPPED_IN = """
SELECT a.detail FROM pgops.audit AS a
WHERE a.event = 'database_swapped' AND (a.detail -> 'restored' ->> 'oid')::bigint = %(oid)s
  AND a.detail -> 'restored' ->> 'system_identifier' = %(system)s
ORDER BY a.seq LIMIT 1
"""

_APPLIED_SINCE = """
SELECT EXISTS (SELECT FROM pgops.migration AS m WHERE m.started_at > %(at)s::timestamptz) AS applied
"""


@dataclass(frozen=True)
class RestoredFrom:
    """The restore that made a database.

    :ivar at: when it was swapped in, by the server's clock.
    :ivar xid: the first transaction, 64 bits, whose rows are not those of the backup.
    :ivar applied_since: a version was begun in it since.
    """

    backup: str
    manifest_sha256: str
    at: str
    xid: int
    applied_since: bool


def detail(conn: Connection, xid: int, at: str) -> dict[str, Any]:
    """:return: what the audit keeps of a restore that has just been swapped in, and :func:`look` reads."""
    return {
        "oid": database_oid(conn),
        "system_identifier": system_identifier(conn),
        "xid": xid,
        "at": at,
    }


def look(conn: Connection) -> RestoredFrom | None:
    """:param conn: to the live database.
    :return: the restore that made it; None where it is no restore, or nothing in it says so."""
    has_ledger = ledger.schema_version(conn) > 0
    found: dict[str, Any] = {}
    if has_ledger:
        row = fetch_one(conn, _SWAPPED_IN, {"oid": database_oid(conn), "system": system_identifier(conn)})
        if row:
            found = {**row["detail"], **row["detail"]["restored"]}
    if not found:
        # The record of a swap that was cut off is still to be written.
        live = database_marks.database(conn, conn.info.dbname)
        mark = live.mark if live else None
        if mark is None or mark.state != database_marks.SWAPPED or not mark.restored_xid:
            return None
        found = {
            "backup": mark.backup,
            "manifest_sha256": mark.manifest_sha256,
            "at": mark.since,
            "xid": mark.restored_xid,
        }
    applied = fetch_one(conn, _APPLIED_SINCE, {"at": found["at"]}) if has_ledger else None
    return RestoredFrom(
        str(found["backup"]),
        str(found["manifest_sha256"]),
        str(found["at"]),
        int(found["xid"]),
        bool(applied and applied["applied"]),
    )
