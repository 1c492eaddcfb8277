# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which backups a rollback needs, as the server tells it: one that is restored now, and the one that it would go back to."""

from __future__ import annotations

import os

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_choice, database_marks
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import (
    FENCED,
    RESTORED,
    SCRATCH,
    SWAPPED,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg


def restored_now(target: Target, *, application_name: str) -> dict[str, str]:
    """Ask the server, and that of scratch restores, what is restored at this moment.

    :return: id -> why.
    :raises PgopsError: one cannot be asked; then nobody knows.
    """
    found = _marked(target.maintenance(), application_name)
    if target.scratch_host or target.scratch_port:
        found.update(_marked(target.scratch(target.maintenance_database), application_name))
    return found


def _marked(maintenance: Target, application_name: str) -> dict[str, str]:
    """What the marks of databases name: a staged restore, a scratch restore, a swap that has not come to its end."""
    conn = connect(maintenance, application_name=application_name)
    try:
        marks = {entry.name: entry.mark for entry in database_marks.databases(conn).values() if entry.mark}
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The databases of {maintenance.host} cannot be listed") from None
    finally:
        conn.close()
    return {
        os.path.basename(mark.backup): f"restored into {name} by run {mark.run_id}"
        for name, mark in marks.items()
        if mark.backup and (mark.role in (SCRATCH, RESTORED) or mark.state in (FENCED, SWAPPED))
    }


def gone_back_to(target: Target, directory: str, *, application_name: str) -> dict[str, str]:
    """Ask the ledger what ``rollback_strategy=restore`` would take now, be it not proved yet.

    :param directory: where the backups lie on this host.
    :return: id -> why.
    :raises PgopsError: the ledger cannot be read.
    """
    try:
        backup, why = backup_choice.choose(target, directory, None, application_name=application_name)
    except PgopsError as error:
        if error.extra.get("reason") == backup_choice.RESTORED_BEFORE:
            if not error.extra["backup"]:  # of the whole cluster, which no logical backup stands for
                return {}
            return {os.path.basename(str(error.extra["backup"])): "the database was restored from it"}
        if error.extra.get("reason") == "unproved":
            return {os.path.basename(str(error.extra["path"])): "the backup of the last apply"}
        if error.extra.get("reason") == backup_choice.NONE_FITS:
            return {}
        raise
    return {os.path.basename(backup.path): f"a rollback goes back to it: {why}"}
