# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a database's replication does not come along when another one takes its name, and who reads it on a standby.

A logical slot belongs to the database that it was made in, by that one's identity and not by its name: it stays with the
replaced one. Publications are in a dump; a subscription is not restored, for a copy must not replicate.
"""

from __future__ import annotations

from contextlib import closing

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    restore,
    standby_readers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work

_SLOTS = """
SELECT s.slot_name::text AS name, s.plugin::text AS plugin, s.active FROM pg_catalog.pg_replication_slots AS s
WHERE s.database = %s AND s.slot_type = 'logical' AND NOT s.temporary ORDER BY 1
"""
_PUBLICATIONS = "SELECT pg_catalog.quote_ident(p.pubname) AS name FROM pg_catalog.pg_publication AS p ORDER BY 1"


def look(target: Target, conn: Connection, backup: str, work: Work) -> list[str]:
    """:param conn: on the maintenance database, as the restore role.
    :param backup: what is restored; empty where a kept database is swapped in.
    :return: a sentence, without a full stop, for each thing that does not move, with what its consumer does then."""
    told = [
        f"logical slot {row['name']} ({row['plugin']}) stays with the replaced database: its consumer has to make a new one in the new "
        f"{target.database} and to copy its tables again"
        for row in fetch_all(conn, _SLOTS, (target.database,))
    ]
    told += standby_readers.look(conn, target.database)
    return told + (_publications(target, conn, backup, work) if backup else [])


def _publications(target: Target, conn: Connection, path: str, work: Work) -> list[str]:
    try:
        backup = backup_store.read_backup(path)
        inventory = backup_store.read_catalog(backup)
        left_out = restore.restorer(conn, backup).left_out
    except PgopsError as error:
        if error.extra.get("reason") == "no_identity":
            return ["publications could not be looked at: the backup is encrypted"]
        return []  # the restore itself refuses it, with its reason
    told = [
        f"{key} is not recreated: role {target.restore_user or target.user} is no superuser; CREATE it again as one, its "
        "subscribers then refresh"
        for key in left_out
        if catalog.kind_of(key) == "publication"
    ]
    there = {catalog.name_of(key) for key in inventory if catalog.kind_of(key) == "publication"}
    return told + [
        f"publication {name} is younger than the backup and stays with the replaced database: CREATE PUBLICATION it again, its "
        "subscribers then refresh"
        for name in _publications_now(target, work)
        if name not in there
    ]


def _publications_now(target: Target, work: Work) -> list[str]:
    try:
        with closing(connect(target.as_restore(), application_name=work.application_name)) as live:
            return [str(row["name"]) for row in fetch_all(live, _PUBLICATIONS)]
    except (PgopsError, psycopg2.Error):
        return []  # a database that cannot be read is told by itself
