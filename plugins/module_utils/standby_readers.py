# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who reads a database on a hot standby when another one takes its name.

A rename is replayed there without a conflict, and nothing that the primary does ends a session of another server: each stays in the
replaced database, by its identity, and reads it on under its new name.
"""

from __future__ import annotations

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# What receives WAL and lets nobody read is no standby; a logical one has a slot of its own kind.
_STANDBYS = """
SELECT coalesce(nullif(r.application_name, ''), 'of server process ' || r.pid) AS name,
       coalesce(host(r.client_addr), '') AS address,
       (SELECT d.oid::bigint FROM pg_catalog.pg_database AS d WHERE d.datname = %(database)s) AS oid
FROM pg_catalog.pg_stat_replication AS r
WHERE r.state IS DISTINCT FROM 'backup' AND coalesce(r.application_name, '') NOT IN ('pg_basebackup', 'pg_receivewal')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
ORDER BY 1, 2
"""


def look(conn: Connection, database: str) -> list[str]:
    """:param conn: on the maintenance database; without pg_monitor it does not see the standbys' names.
    :param database: that is to be replaced.
    :return: for each standby that is connected a sentence, without a full stop, with what ends its readers; none where none is."""
    try:
        found = fetch_all(conn, _STANDBYS, {"database": database})
    except psycopg2.Error:
        return [
            "the standbys could not be asked for; sessions on one stay in the replaced database and go on reading it"
        ]
    return [
        f"sessions on standby {row['name']}{' (' + row['address'] + ')' if row['address'] else ''}, and on those behind it, stay in the "
        "replaced database and go on reading it; after the swap end them there: SELECT pg_catalog.pg_terminate_backend(pid) FROM "
        f"pg_catalog.pg_stat_activity WHERE datid = {row['oid']};"
        for row in found
        if row["oid"] is not None
    ]
