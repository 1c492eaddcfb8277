# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The restored copy that a rehearsal works on: that of the proof, kept open for it, or one restored anew.

Between the two modules nobody holds its lock. A run that dies there leaves it to the next one, which removes it like any other that a
dead run left; so a rehearsal that does not find it restores the backup again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    cluster_backups,
    database_marks,
    encrypted_dump,
    restore,
    restore_times,
    scratch_roles,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import EQUAL
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Work
from psycopg2 import sql


@dataclass(frozen=True)
class Copy:
    """A restored copy of a database.

    :ivar target: as the role that migrates, where its objects belong to whom they belong in the source; else as the restore role.
    :ivar admin: the same database as the restore role.
    :ivar kept: whether it is the one of the proof.
    :ivar reservations: what is other than in the source, in words.
    """

    target: Target
    admin: Target
    kept: bool
    reservations: list[str] = field(default_factory=list)


def prove(target: Target, path: str, *, work: Work, **settings: Any) -> dict[str, Any]:
    """:func:`restore.prove`, and the scratch database stays for the rehearsal of this run, where the proof holds.

    :return: the proof, with ``scratch``, the name of the database; None where roles were made for it, and so nothing could stay.
    :raises PgopsError: as that does; the scratch database is gone then.
    """
    try:
        proof = restore.prove(target, path, work=work, keep=True, **settings)
    except BaseException:
        with contextlib.suppress(PgopsError):
            for name in _of_backup(target, backup_store.read_backup(path), work):
                restore.drop_for_sure(_maintenance(target), name, work)
        raise
    return {**proof, "scratch": next(iter(_of_backup(target, backup_store.read_backup(path), work)), None)}


def drop(target: Target, name: str, work: Work) -> bool:
    """Drop what the proof of this run has kept. :return: whether it was there still."""
    with closing(connect(_maintenance(target), application_name=work.application_name)) as conn:
        found = database_marks.database(conn, name)
    if not found or not found.mark or (found.mark.role, found.mark.run_id) != (database_marks.SCRATCH, work.run_id):
        return False
    restore.drop_for_sure(_maintenance(target), name, work)
    return True


def _of_backup(target: Target, backup: Backup, work: Work) -> list[str]:
    with closing(connect(_maintenance(target), application_name=work.application_name)) as conn:
        return _names(conn, backup, work)


def choose(target: Target, directory: str, path: str | None, level: int = EQUAL, *, application_name: str) -> Backup:
    """:param path: the backup that was named, None for the newest that is proved.
    :return: the backup to rehearse on; where none is named, one of the target's own cluster.
    :raises PgopsError: there is none, or it is not proved to that level."""
    if path:
        backup = backup_store.read_backup(path)
        restore.refuse_unproved(backup, level)
        return backup
    return cluster_backups.newest_own(
        target,
        directory,
        application_name=application_name,
        hint="Make and prove one with backup.yml, or name one with -e rehearse_backup=PATH.",
        fits=lambda backup: backup.proof_level >= level,
        fitting=f" that is proved to level {level}",
    )


@contextlib.contextmanager
def opened(
    target: Target,
    backup: Backup,
    *,
    work: Work,
    identity: Identity | None = None,
    make_roles: bool = False,
    other_cluster_only: bool = False,
    name: str | None = None,
) -> Iterator[Copy]:
    """The copy, for the length of the block; it is dropped at its end however that is reached.

    :param make_roles: as :func:`restore.prove`; so are the others.
    :raises PgopsError: the backup is another database's, damaged or of another major, or cannot be restored.
    """
    database = backup.manifest["database"]
    if database != target.database:
        raise PgopsError(
            f"{backup.path} is a backup of {database}, not of {target.database}.", database=target.database
        )
    maintenance = _maintenance(target)
    with closing(connect(maintenance, application_name=work.application_name)) as conn:
        kept = next(iter(_names(conn, backup, work)), None)
        if kept is not None and database_marks.try_lock(conn, f"restore {kept}"):
            try:
                yield as_migrator(target, target.scratch(kept), backup, conn, kept=True)
            finally:
                restore.drop_for_sure(maintenance, kept, work)
            return
    backup = encrypted_dump.unlock(backup, identity)
    work.progress.emit("reading every file of the backup", database=database)
    backup_store.verify_files(backup, work.control.check)
    able, lacking = restore.look_at_scratch_server(target, backup, work, other_cluster_only, copies=True)
    if not make_roles:
        scratch_roles.refuse(lacking, backup, restore_times.place_of(maintenance))
    with (
        scratch_roles.made(maintenance, lacking, work.application_name),
        restore.scratch_database(target, backup, work=work, name=name) as scratch,
    ):
        restore.restore_into(scratch, backup, able, work)
        with closing(connect(maintenance, application_name=work.application_name)) as conn:
            copy = as_migrator(target, scratch, backup, conn, kept=False)
        yield copy


def _maintenance(target: Target) -> Target:
    return target.scratch(target.maintenance_database)


def _names(conn: Connection, backup: Backup, work: Work) -> list[str]:
    """:return: the scratch databases that this run has made of that backup; those of another host's database of that name are not."""
    wanted = (database_marks.SCRATCH, work.run_id, backup.manifest_sha256)
    return [
        entry.name
        for entry in database_marks.databases(conn).values()
        if entry.mark and (entry.mark.role, entry.mark.run_id, entry.mark.manifest_sha256) == wanted
    ]


def as_migrator(target: Target, scratch: Target, backup: Backup, conn: Connection, *, kept: bool = False) -> Copy:
    """The versions run as the role that will run them, where it owns there what it owns in the source: then a right that it lacks
    stops the rehearsal and not the run.

    :param conn: to the scratch server's maintenance database, as the restore role."""
    row = fetch_one(conn, "SELECT rolsuper AS superuser FROM pg_catalog.pg_roles WHERE rolname = current_user")
    same = system_identifier(conn) == backup.manifest["system_identifier"]
    owner = target.owner or target.user
    if not (same and row and row["superuser"] and owner):
        told = f"the versions ran as {scratch.user} and not as {owner}: a right that {owner} lacks would not have been seen"
        return Copy(scratch, scratch, kept, [told])
    name = sql.Identifier(scratch.database)
    execute(conn, sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(owner)))
    if target.user:
        execute(
            conn, sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(name, sql.Identifier(target.user))
        )
    migrator = scratch.with_(user=target.user, owner=target.owner)
    return Copy(migrator, scratch, kept)
