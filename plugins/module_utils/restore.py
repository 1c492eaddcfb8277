# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restore a backup beside the database it came from: into a scratch database to prove it, or staged, to go back to it.

Either way everything that the manifest says is compared with what was restored. An exit code of 0 and the right row
count do not prove a restore: one flipped bit in an uncompressed dump passes both (fact 2).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    content,
    database_marks,
    database_properties,
    disk_forecast,
    dump_reading,
    encrypted_dump,
    extension_versions,
    ledger,
    locks,
    restore_list,
    restore_times,
    row_versions,
    scratch_roles,
    soundness,
    swap_blockers,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    execute,
    fetch_all,
    fetch_one,
    server_version,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.database_marks import FENCED, VERIFIED, Mark
from ansible_collections.whitecross.pgops.plugins.module_utils.dump import Contents
from ansible_collections.whitecross.pgops.plugins.module_utils.encrypted_dump import DecryptedRestore
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import (
    BACKUP,
    SCRATCH_DATABASE,
    PgopsError,
    as_pgops_error,
    from_psycopg,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.extra_variables import extra_variables_argument
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.proof_ladder import (
    CHECKSUMMED,
    COUNTED,
    ELSEWHERE,
    EQUAL,
    READABLE,
    RESTORES,
    SOUND,
    Ladder,
    refuse_below,
    refuse_no_time,
)
from psycopg2 import sql

TELL_SECONDS = 1.0
TOLD_DIFFERENCES = 5  # in the message; all of them are in the result
KEPT_DIFFERENCES = 200  # in the result
SHOWN = 10
RESTORING = "restoring"

# Sessions of pg_restore. Nothing of a restore is relied on before its last commit, which is synchronous again; index
# builds sort in memory; a role's own defaults must not stop a restore.
_RESTORE_OPTIONS = {
    "synchronous_commit": "off",
    "maintenance_work_mem": "256MB",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "session_replication_role": "origin",
}
_SUPERUSER_OPTIONS = frozenset({"session_replication_role"})

_UNTRUSTED = """
SELECT e.name::text AS name FROM unnest(%(names)s::text[]) AS wanted (name)
JOIN pg_catalog.pg_available_extensions AS e ON e.name = wanted.name
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extension_versions AS v
                  WHERE v.name = e.name AND (v.trusted OR NOT v.superuser))
ORDER BY 1
"""

_WITHOUT_STATISTICS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.reltuples < 0 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1
"""


@dataclass(frozen=True)
class Work:
    """What every part of a restore needs to know of the call it belongs to."""

    run_id: str
    jobs: int = 2
    progress: Progress = field(default_factory=Progress)
    control: Control = field(default_factory=Control)
    # Of a rollback: why a backup is taken that is not proved or too old, and from which age on it is, 0 for never.
    break_glass: str = ""
    max_age_days: float = 0.0

    @property
    def application_name(self) -> str:
        """Shown in pg_stat_activity."""
        return locks.application_name(self.run_id)


@dataclass
class Restorer:
    """What a restore may do on the server where it happens."""

    role: str
    superuser: bool
    same_cluster: bool
    server: tuple[int, int]
    reservations: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def owners(self) -> bool:
        """Whether owners and privileges are restored: only where the roles are surely there and may be given objects."""
        return self.superuser and self.same_cluster


# -- refusals -----------------------------------------------------------------------------------------------------------


def refuse_altered(backup: Backup, manifest_sha256: str | None) -> None:
    """:raises PgopsError: the manifest is not the one that the run or the proof recorded."""
    recorded = manifest_sha256 or (backup.proof or {}).get("manifest_sha256")
    if recorded and recorded != backup.manifest_sha256:
        raise PgopsError(
            f"The manifest of {backup.path} was altered: its sha256 is {backup.manifest_sha256[:12]}…, "
            f"{'the run' if manifest_sha256 else 'the proof'} recorded {recorded[:12]}….",
            database=backup.manifest.get("database"),
            hint="Take another backup; do not trust this one.",
            unusable=BACKUP,
        )


def refuse_unproved(backup: Backup, level: int = EQUAL) -> None:
    """:raises PgopsError: there is no proof, it is of another manifest, or below the level that is needed."""
    if backup.proof is None:
        raise PgopsError(
            f"The backup {backup.path} was never proved.",
            database=backup.manifest.get("database"),
            hint=f"Prove it first, with prove.yml {extra_variables_argument({'backup_path': backup.path})}",
            extra={"reason": "unproved", "path": backup.path, "level_required": level},
        )
    refuse_altered(backup, None)
    refuse_below(level, backup.proof_level, backup.path, backup.manifest["database"])


def let_off(backup: Backup, work: Work, level: int) -> str | None:
    """:return: what a typed reason lets off of a backup; None where there is nothing to let off.
    :raises PgopsError: that reason is missing. An altered manifest is let off by none."""
    if backup.proof is not None:
        refuse_altered(backup, None)
    unproved = "it was never proved" if backup.proof is None else ""
    if backup.proof is not None and backup.proof_level < level:
        unproved = f"it is proved to level {backup.proof_level} and not to {level}"
    age = _age_days(backup)
    old = f"it is {age:.1f} days old" if 0 < work.max_age_days < age else ""
    told = " and ".join(filter(None, [unproved, old])) or None
    if told is None or work.break_glass.strip():
        return told
    if unproved:
        refuse_unproved(backup, level)
    raise PgopsError(
        f"The backup {backup.path} is not restored: {old}, and rollback_max_backup_age_days is {work.max_age_days:g}.",
        database=backup.manifest.get("database"),
        hint="Name a newer one with -e rollback_backup=PATH, or say why this one is to be taken with -e \"rollback_break_glass='WHY'\".",
        unusable=BACKUP,
        extra={"reason": "too_old"},
    )


def break_glass(target: Target, backup: Backup, work: Work, level: int) -> dict[str, Any] | None:
    """Write into the audit, before anything is restored, what a typed reason lets off; a swap carries it along.

    :return: reason, lets_off and audited (False where the ledger cannot be written: the run's journal has it); None for nothing.
    :raises PgopsError: as :func:`let_off`.
    """
    lets_off = let_off(backup, work, level)
    if lets_off is None:
        return None
    told = {"reason": work.break_glass.strip(), "lets_off": lets_off, "backup": backup.path}
    try:
        with contextlib.closing(connect(target.as_restore(), application_name=work.application_name)) as conn:
            audited = ledger.schema_version(conn) > 0
            if audited:
                ledger.append_audit(conn, "break_glass", run_id=work.run_id, detail=told)
    except (PgopsError, psycopg2.Error):
        audited = False
    return {**told, "audited": audited}


def _age_days(backup: Backup) -> float:
    moment = datetime.strptime(str(backup.manifest["snapshot_time"])[:19], "%Y-%m-%dT%H:%M:%S")
    return (datetime.now(timezone.utc) - moment.replace(tzinfo=timezone.utc)).total_seconds() / 86400


def refuse_foreign(backup: Backup, conn: Connection, database: str) -> None:
    """:raises PgopsError: the backup is of another database, another cluster, or a newer server."""
    manifest = backup.manifest
    if manifest["database"] != database:
        raise PgopsError(
            f"{backup.path} is a backup of {manifest['database']}, not of {database}.",
            database=database,
            hint="Name a backup of this database with -e rollback_backup=PATH.",
            unusable=BACKUP,
        )
    found = system_identifier(conn)
    if manifest["system_identifier"] != found:
        raise PgopsError(
            f"{backup.path} comes from another cluster (system identifier {manifest['system_identifier']}, this one is "
            f"{found}).",
            database=database,
            hint="Name a backup of this cluster with -e rollback_backup=PATH.",
            unusable=BACKUP,
        )
    refuse_other_major(backup, conn)


def refuse_other_major(backup: Backup, conn: Connection) -> None:
    """A newer server's dump may not restore, and content hashes are promised within one major only (fact 4).

    :raises PgopsError: the server is of another major than the backup's.
    """
    major, minor = server_version(conn)
    wanted = backup.manifest["server_version"]
    if major != wanted[0]:
        newer = "newer" if wanted[0] > major else "older"
        raise PgopsError(
            f"{backup.path} comes from a {newer} server (PostgreSQL {wanted[0]}.{wanted[1]}); "
            f"{conn.info.host}:{conn.info.port} is {major}.{minor}, and only its own major proves a backup.",
            database=backup.manifest["database"],
            hint=f"Point pgops_scratch_host at a PostgreSQL {wanted[0]}.",
            unusable=BACKUP,
        )


def refuse_unfit(target: Target, backup: Backup, work: Work, level: int = EQUAL) -> None:
    """Refuse, without restoring anything, a backup that :func:`stage` would refuse.

    :param level: to which its proof must have come.
    :raises PgopsError: it is unproved or not far enough, altered, damaged, or of another database, cluster or major version; or
        the database is the maintenance database, in whose place nothing can be swapped.
    """
    conn = connect(target.maintenance(), application_name=work.application_name)
    try:
        swap_blockers.refuse(swap_blockers.maintenance_itself(conn, [target.database]), target.database)
        let_off(backup, work, level)
        refuse_foreign(backup, conn, target.database)
    finally:
        conn.close()
    work.progress.emit("reading every file of the backup", database=target.database)
    backup_store.verify_files(backup, work.control.check)


def refuse_source(conn: Connection, backup: Backup) -> None:
    """Refuse to write into the database that the backup came from, under whatever host name it was reached.

    :raises PgopsError: system identifier and database name are the source's.
    """
    manifest = backup.manifest
    if conn.info.dbname == manifest["database"] and system_identifier(conn) == manifest["system_identifier"]:
        raise PgopsError(
            f"{manifest['database']} on {conn.info.host}:{conn.info.port} is the very database that the backup came "
            "from; nothing was written.",
            database=manifest["database"],
            hint="A restore goes into a new database; leave scratch_database unset.",
            unusable=SCRATCH_DATABASE,
        )


# -- databases to restore into --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch_database(
    target: Target, backup: Backup, *, work: Work, name: str | None = None, keep: bool = False
) -> Iterator[Target]:
    """A new, empty database on the scratch server, gone at the end of the block however that is reached.

    Leftovers of dead runs are removed first: they carry our mark and nobody holds their lock.

    :param target: the source; its scratch host and restore role are used.
    :param name: what to call it, else ``<database>_pgops_scratch_<run>``; it must not exist.
    :param keep: let it stay where the block ends well; see :mod:`kept_scratch`.
    :return: the scratch database, as the restore role.
    """
    database = backup.manifest["database"]
    suffix = re.sub(r"[^a-z0-9]", "", work.run_id.lower())[-12:].rjust(12, "0")
    scratch = name or database_marks.name_for(database, f"pgops_scratch_{suffix}")
    maintenance = target.scratch(target.maintenance_database)
    conn = connect(maintenance, application_name=work.application_name)
    try:
        if scratch == database and system_identifier(conn) == backup.manifest["system_identifier"]:
            raise PgopsError(
                f"{scratch} on {maintenance.host} is the very database that the backup came from; nothing was written.",
                database=database,
                hint="Leave scratch_database unset, or name a database that does not exist.",
                unusable=SCRATCH_DATABASE,
            )
        for leftover in remove_dead(conn, database, database_marks.SCRATCH):
            work.progress.emit(f"removed {leftover}, left by a dead run", database=database)
        if not database_marks.try_lock(conn, f"restore {scratch}"):
            raise PgopsError(f"Another run restores into {scratch} on {maintenance.host}.", database=database)
        mark = Mark(
            database_marks.SCRATCH,
            database,
            work.run_id,
            _now(),
            backup=backup.path,
            manifest_sha256=backup.manifest_sha256,
        )
        create(conn, scratch, backup.manifest["properties"], mark)
        stays = False
        try:
            yield target.scratch(scratch)
            stays = keep
        finally:
            if not stays:
                drop_for_sure(maintenance, scratch, work)
    finally:
        conn.close()


def create(conn: Connection, name: str, properties: dict[str, Any], mark: Mark, *, whole: bool = False) -> None:
    """Create an empty database with the source's encoding and collation, marked as ours and closed to PUBLIC.

    :param properties: the source's, as ``catalog.database_properties`` returns them.
    :param whole: with the source's owner and tablespace.

    :raises PgopsError: it exists, the role may not create databases, or the server lacks the locale.
    """
    if database_marks.database(conn, name) is not None:
        raise PgopsError(
            f"There is a database {name} already; it was not touched.",
            database=mark.database,
            object_name=name,
            unusable=SCRATCH_DATABASE,
        )
    role = fetch_one(
        conn, "SELECT rolname::text AS name, rolsuper OR rolcreatedb AS able FROM pg_catalog.pg_roles "
        "WHERE rolname = current_user"
    )  # fmt: skip
    if role and not role["able"]:
        raise PgopsError(
            f"Role {role['name']} may not create databases on {conn.info.host}; ALTER ROLE {quoted(role['name'])} CREATEDB, or name "
            "another role in pgops_restore_user.",
            sqlstate="42501",
            database=mark.database,
        )
    try:
        execute(conn, database_properties.create_statement(name, properties, server_version(conn), whole=whole))
        database_marks.set_mark(conn, name, mark)
        # Patients' data must not be open to whoever may connect to any new database.
        execute(conn, sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The database {name} cannot be created", database=mark.database) from None


def remove_dead(conn: Connection, database: str, role: str) -> list[str]:
    """Drop what dead runs left: databases with our mark whose lock nobody holds.

    A verified restore whose run died before the swap goes too: it is a whole copy that nobody would ever look for, and the
    next restore makes a newer one. One that a swap has fenced stays for :func:`swap.resume`.

    :param role: ``scratch`` or ``restored``.
    :return: their names.
    """
    removed = []
    for entry in database_marks.databases(conn).values():
        if entry.mark is None:
            if not _unmarked_leftover(conn, entry.name, database, role):
                continue
        elif entry.mark.role != role or entry.mark.database != database or entry.mark.state == FENCED:
            continue
        if not database_marks.try_lock(conn, f"restore {entry.name}"):
            continue  # its run lives
        try:
            drop(conn, entry.name)
        finally:
            database_marks.unlock(conn, f"restore {entry.name}")
        removed.append(entry.name)
    return removed


def _unmarked_leftover(conn: Connection, name: str, database: str, role: str) -> bool:
    """Whether a run died between CREATE DATABASE and the mark: our name, no comment, and nothing in it."""
    prefix = database_marks.name_for(database, "pgops_scratch_" + "#" * 12).partition("#")[0]
    if role != database_marks.SCRATCH or not name.startswith(prefix):
        return False
    row = fetch_one(
        conn,
        "SELECT pg_database_size(d.oid) <= 2 * (SELECT pg_database_size(t.oid) FROM pg_catalog.pg_database AS t "
        "WHERE t.datname = 'template0') AND pg_catalog.shobj_description(d.oid, 'pg_database') IS NULL AS empty "
        "FROM pg_catalog.pg_database AS d WHERE d.datname = %s AND NOT d.datistemplate",
        (name,),
    )
    return bool(row and row["empty"])


def drop(conn: Connection, name: str) -> None:
    """Drop a database of ours and end whoever is in it; one that is gone already is fine."""
    execute(conn, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_for_sure(maintenance: Target, name: str, work: Work) -> None:
    # Over a fresh connection: the old one may be what failed, or may have been cancelled in the middle.
    try:
        conn = connect(maintenance, application_name=work.application_name)
        try:
            found = database_marks.database(conn, name)
            if found and found.mark and found.mark.role in (database_marks.SCRATCH, database_marks.RESTORED):
                drop(conn, name)
        finally:
            conn.close()
    except (PgopsError, psycopg2.Error):
        # The server is gone. What is left carries our mark, and the next run removes it.
        return


# -- pg_restore -------------------------------------------------------------------------------------------------------------


def restorer(conn: Connection, backup: Backup) -> Restorer:
    """:return: what the role of ``conn`` can and cannot recreate on its server; told, never passed over in silence.

    :raises PgopsError: an extension that this role may not create.
    """
    row = fetch_one(
        conn,
        "SELECT current_user::text AS role, rolsuper AS superuser FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    assert row is not None
    same = system_identifier(conn) == backup.manifest["system_identifier"]
    found = Restorer(row["role"], row["superuser"], same, server_version(conn))
    inventory = backup_store.read_catalog(backup)
    if not same:
        found.reservations.append("owners and privileges were not compared: the scratch server has roles of its own")
    elif not found.superuser:
        found.reservations.append(f"owners and privileges were not compared: role {found.role} is no superuser")
    if not found.superuser:
        _refuse_untrusted(conn, inventory, found.role, backup.manifest["database"])
        for key in inventory:
            kind = catalog.kind_of(key)
            if kind in restore_list.SUPERUSER_ENTRIES or (
                kind == "publication" and restore_list.needs_superuser(inventory[key])
            ):
                found.left_out.append(key)
                found.reservations.append(f"{key} was not recreated: only a superuser may")
    for key in inventory:
        if catalog.kind_of(key) == "subscription":
            found.left_out.append(key)
            found.reservations.append(f"{key} was not recreated: a copy must not replicate")
        if _is_invalid_index(key, inventory[key]):
            found.left_out.append(key)
            found.reservations.append(f"{key} was not recreated: it is invalid, and pg_dump leaves it out")
    return found


def session_options(superuser: bool, major: int) -> dict[str, str]:
    """:return: the settings of the sessions that restore, of those that this role may set and a server of that major knows."""
    options = {name: value for name, value in _RESTORE_OPTIONS.items() if superuser or name not in _SUPERUSER_OPTIONS}
    # pg_restore lifts this one itself; psql does not, and the text of an older dump does not know it.
    return {**options, "transaction_timeout": "0"} if major >= 17 else options


def _is_invalid_index(key: str, entry: dict[str, Any]) -> bool:
    """What a concurrent build leaves that was cut off. One of a partitioned table is dumped all the same: it is invalid as
    long as a partition lacks its own (pg_dump: getIndexes)."""
    return catalog.kind_of(key) == "index" and not entry["valid"] and " ON ONLY " not in entry["definition"]


def _refuse_untrusted(conn: Connection, inventory: dict[str, Any], role: str, database: str) -> None:
    names = [catalog.name_of(key) for key in inventory if catalog.kind_of(key) == "extension"]
    untrusted = [row["name"] for row in fetch_all(conn, _UNTRUSTED, {"names": names})]
    if untrusted:
        raise PgopsError(
            f"Role {role} cannot recreate {database}: extension {', '.join(untrusted)} is not trusted, only a superuser "
            "may create it; nothing was restored.",
            database=database,
            object_name=untrusted[0],
            hint="Name a superuser, or the provider's admin role, in pgops_restore_user.",
            extra={"extensions": untrusted},
        )


def restore_into(
    destination: Target,
    backup: Backup,
    able: Restorer,
    work: Work,
) -> float:
    """Run pg_restore into an empty database.

    :return: how long it took, in seconds.
    :raises PgopsError: the destination is the source, or pg_restore failed; its messages are in
        ``extra["client_output"]``, without rows.
    """
    database = backup.manifest["database"]
    conn = connect(destination, application_name=work.application_name)
    try:
        refuse_source(conn, backup)
        tool = client_tool(destination, conn, "pg_restore")
        began = time.monotonic()
        made = _make_extensions(conn, backup, able, work)
    finally:
        conn.close()
    left_out = [*able.left_out, *made]
    arguments = ["--exit-on-error", "--no-subscriptions"]
    if not able.owners:
        arguments += ["--no-owner", "--no-privileges"]
    if not able.same_cluster:
        arguments.append("--no-tablespaces")
    with contextlib.ExitStack() as stack:
        if left_out:
            arguments.append(f"--use-list={stack.enter_context(_reduced_list(tool, backup, left_out))}")
        client = pg_restore(tool, arguments, destination, backup, work, session_options(able.superuser, able.server[0]))
        try:
            _follow(client, destination, backup, work)
        finally:
            client.end()
        client.result(f"The restore of {backup.path} failed", database=database, hints=_hint)
    return time.monotonic() - began


def _make_extensions(conn: Connection, backup: Backup, able: Restorer, work: Work) -> list[str]:
    """:return: keys of the schemas that were made with them."""
    if int(backup.manifest["server_version"][0]) != able.server[0]:
        return []  # What a newer major makes is what it can serve.
    forget = work.control.on_interrupt(conn.cancel)
    try:
        inventory = backup_store.read_catalog(backup)
        return extension_versions.make(conn, inventory, owners=able.owners, check=work.control.check)
    except psycopg2.Error as exc:
        work.control.check()
        raise from_psycopg(
            exc, f"The restore of {backup.path} failed at its extensions", database=backup.manifest["database"]
        ) from None
    finally:
        forget()


def pg_restore(
    tool: str, arguments: list[str], destination: Target, backup: Backup, work: Work, options: dict[str, str]
) -> ClientProcess | DecryptedRestore:
    """:return: pg_restore over the archive of a backup of ours, started; of an encrypted one age before it, by one session."""
    name = f"{work.application_name} restore"
    if backup.encrypted:
        return DecryptedRestore(tool, arguments, destination, backup=backup, application_name=name, options=options)
    folder = os.path.join(backup.path, backup_store.DUMP)
    arguments = [*arguments, "--format=directory", f"--jobs={work.jobs}", folder]
    return ClientProcess(tool, arguments, destination, application_name=name, options=options)


def _follow(client: ClientProcess | DecryptedRestore, destination: Target, backup: Backup, work: Work) -> None:
    told = 0.0
    watcher: Connection | None = None
    try:
        while not client.wait(POLL_SECONDS):
            work.control.check()
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                watcher = watcher or connect(
                    destination.with_(database=destination.maintenance_database), application_name="pgops progress"
                )
                row = fetch_one(watcher, "SELECT pg_database_size(%s) AS bytes", (destination.database,))
                work.progress.emit(
                    "restoring",
                    database=backup.manifest["database"],
                    done=int(row["bytes"]) if row else 0,
                    total=backup.manifest["database_bytes"],
                    unit="bytes",
                )
    finally:
        if watcher:
            watcher.close()


@contextlib.contextmanager
def _reduced_list(tool: str, backup: Backup, left_out: list[str]) -> Iterator[str]:
    """A table of contents without what this role cannot make and what is made already, for ``pg_restore --use-list``."""
    if backup.encrypted:
        listed = encrypted_dump.listed(tool, backup)
    else:
        folder = os.path.join(backup.path, backup_store.DUMP)
        listed = subprocess.run([tool, "--list", folder], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise PgopsError(f"The table of contents of {backup.path} cannot be read.")
    kept = restore_list.without(listed.stdout.splitlines(keepends=True), left_out, backup_store.read_catalog(backup))
    with tempfile.NamedTemporaryFile("w", prefix="pgops-list-", encoding="utf-8") as stream:
        stream.writelines(kept)
        stream.flush()
        yield stream.name


# What is wrong with where it was restored, not with the backup.
_OF_THE_SERVER = (
    ("No space left on device", "Free space on the server; the half-restored database was dropped."),
    ("could not extend file", "Free space on the server; the half-restored database was dropped."),
    ("role \"", "The server lacks a role that the backup's policies or grants name; CREATE ROLE it there (NOLOGIN)."),
    ("tablespace", "The server lacks a tablespace of the source; create it there."),
    ("is not available", "The server lacks an extension of the source; install its package there."),
    ("permission denied", "pgops_restore_user lacks a right; name a superuser or the provider's admin role."),
    ("must be owner", "pgops_restore_user lacks a right; name a superuser or the provider's admin role."),
    ("server closed the connection", "The server or its session ended; see its log, then run it again."),
    ("terminating connection", "The server or its session ended; see its log, then run it again."),
    ("connection to server", "The server or its session ended; see its log, then run it again."),
)  # fmt: skip


def _of_the_server(text: str) -> str | None:
    return next((hint for needle, hint in _OF_THE_SERVER if needle in text), None)


def _hint(text: str) -> str | None:
    if "could not uncompress" in text:
        return "A data file of the dump is damaged; take another backup."
    return _of_the_server(text) or "The backup is not proved; take another one, and see its messages in the report."


def _is_unfit(error: PgopsError) -> bool:
    """:return: whether an error of a proof is the backup's: its files, what pg_restore says of them, or what came of them. A client that was
    killed, a server that has no room, lacks something, or cannot be reached, says nothing of the backup."""
    if error.extra.get("files") or error.extra.get("differences"):
        return True
    output = error.extra.get("client_output")
    return output is not None and error.extra.get("client_exit", 0) >= 0 and _of_the_server("\n".join(output)) is None


# -- comparing --------------------------------------------------------------------------------------------------------------


def differences(
    destination: Target,
    backup: Backup,
    able: Restorer,
    work: Work,
) -> list[dict[str, Any]]:
    """Compare a restored database with the manifest: every table's count and hash, sequences, large objects, catalog.

    :return: object, attribute, expected, found of each difference; none means that the backup is whole.
    """
    manifest = backup.manifest
    contents = Contents(
        destination, workers=work.jobs, application_name=f"{work.application_name} compare", progress=work.progress
    ).start()
    conn = connect(destination, application_name=work.application_name)
    forget = work.control.on_interrupt(lambda: None)
    try:
        work.progress.emit("comparing the catalog", database=manifest["database"])
        found = _sequence_differences(manifest["sequences"], content.sequences(conn))
        objects = content.large_objects(conn)
        if objects != manifest["large_objects"]:
            found += [
                {
                    "object": "large objects",
                    "attribute": name,
                    "expected": manifest["large_objects"][name],
                    "found": value,
                }
                for name, value in objects.items()
                if value != manifest["large_objects"][name]
            ]
        found += _catalog_differences(conn, backup, able)
        head = ledger.read(conn).head
        if head != manifest["ledger_head"]:
            found.append({"object": "ledger", "attribute": "head", "expected": manifest["ledger_head"], "found": head})
        work.control.check()
        restored = contents.result(f"The restored copy of {manifest['database']} cannot be read")
        work.control.check()
        return content.compare_contents(manifest["tables"], restored) + found
    finally:
        forget()
        contents.cancel()
        contents.join()
        conn.close()


def _catalog_differences(conn: Connection, backup: Backup, able: Restorer) -> list[dict[str, Any]]:
    left_out = set(able.left_out)
    expected = {key: value for key, value in backup_store.read_catalog(backup).items() if key not in left_out}
    ignore = set() if able.owners else {"owner", "acl"}
    if not able.same_cluster:
        ignore.add("tablespace")
    if not able.owners:
        expected = {key: value for key, value in expected.items() if catalog.kind_of(key) != "default privileges"}
        # A policy's roles are named in it and restored with it, whoever owns the table.
    restored = catalog.inventory(conn, exclude_schemas=())
    if not able.owners:
        restored = {key: value for key, value in restored.items() if catalog.kind_of(key) != "default privileges"}
    expected, restored, told = extension_versions.compared(expected, restored, backup.manifest["database"])
    able.reservations += told
    return [found.as_dict() for found in catalog.compare(expected, restored, reparse=conn, ignore=ignore)]


def _sequence_differences(expected: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    """A sequence obeys no snapshot: the dump's value lies between those read before and after it."""
    different = []
    for name in sorted(set(expected) | set(found)):
        before, now = expected.get(name), found.get(name)
        if before is None or now is None:
            told = ("absent" if before is None else "present", "absent" if now is None else "present")
            different.append({"object": name, "attribute": "presence", "expected": told[0], "found": told[1]})
            continue
        after = before.get("after", before)
        if before["last_value"] == after["last_value"]:
            fits = now["last_value"] == before["last_value"] and now["is_called"] in (
                before["is_called"],
                after["is_called"],
            )
        else:
            low, high = sorted((before["last_value"], after["last_value"]))
            fits = low <= now["last_value"] <= high
        if not fits:
            wanted = f"{before['last_value']} to {after['last_value']}"
            different.append(
                {"object": name, "attribute": "last_value", "expected": wanted, "found": now["last_value"]}
            )
    return different


def _refuse_differences(found: list[dict[str, Any]], backup: Backup) -> None:
    if not found:
        return
    told = "; ".join(_told(entry) for entry in found[:TOLD_DIFFERENCES])
    more = f"; and {len(found) - TOLD_DIFFERENCES} more" if len(found) > TOLD_DIFFERENCES else ""
    raise PgopsError(
        f"The restore of {backup.path} differs from its manifest: {told}{more}.",
        database=backup.manifest["database"],
        object_name=str(found[0]["object"]),
        hint="The backup cannot be trusted; take another one.",
        unusable=BACKUP,
        extra={"differences": found[:KEPT_DIFFERENCES], "differences_total": len(found)},
    )


def _told(entry: dict[str, Any]) -> str:
    if entry.get("kind") in ("missing", "unexpected", "changed"):
        return f"{entry['object']} is {entry['kind']}"
    if isinstance(entry["expected"], (dict, list)) or isinstance(entry["found"], (dict, list)):
        return f"{entry['object']}: {entry['attribute']} differs"
    return f"{entry['object']}: {entry['attribute']} expected {entry['expected']}, found {entry['found']}"


# -- prove ------------------------------------------------------------------------------------------------------------------


def prove(
    target: Target,
    path: str,
    *,
    work: Work,
    manifest_sha256: str | None = None,
    scratch_name: str | None = None,
    other_cluster_only: bool = False,
    scratch_reason: str = "",
    make_roles: bool = False,
    identity: Identity | None = None,
    level: int = EQUAL,
    needed: int | None = None,
    queries: Sequence[Mapping[str, Any]] = (),
    rto_seconds: float | None = None,
    ladder: Ladder | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Prove a backup as far up the ladder as asked, and write ``proof.json``: read all its files, restore it into a scratch
    database, compare everything, and further up look whether the copy could serve, and where it was restored.

    A proof that was there before is taken back where the backup is found unfit; it stands where the scratch server was, somebody
    ended the run, or it is of a higher level than was climbed now.

    :param manifest_sha256: what the run recorded when it made the backup.
    :param other_cluster_only: refuse to restore on the cluster that the backup came from (production without a reason).
    :param scratch_reason: why it may be that cluster all the same; kept in the proof.
    :param make_roles: make roles that policies need and the scratch server lacks, for as long as the copy is there; else refuse.
    :param identity: the private key, where it is encrypted.
    :param level: how far to climb, 1 to 6.
    :param needed: which level must be reached, where that is less.
    :param queries: the application's own, for level 5.
    :param rto_seconds: until when the copy must be restored and compared, for level 6.
    :param ladder: where the levels are noted, for who wants them of a failure too.
    :param keep: let the scratch database stay where the restore equals the backup, and no roles were made for it.
    :return: the proof, with the backup's path.
    :raises PgopsError: anything that makes the backup unfit, or a level that does not hold; then ``extra["proof"]`` has what was
        proved. The scratch database is dropped whatever happens.
    """
    began = time.monotonic()
    ladder = Ladder() if ladder is None else ladder
    refuse_no_time(rto_seconds)
    backup = backup_store.read_backup(path)
    database = backup.manifest["database"]
    if database != target.database:
        raise PgopsError(
            f"{path} is a backup of {database}, not of {target.database}.", database=target.database, unusable=BACKUP
        )
    refuse_altered(backup, manifest_sha256)
    sound = soundness.Soundness()
    try:
        backup = encrypted_dump.unlock(backup, identity)
        work.progress.emit("reading every file of the backup", database=database)
        with ladder.climbing(CHECKSUMMED) as step:
            backup_store.verify_files(backup, work.control.check)
            step.detail = f"{len(backup.manifest['files'])} files"
        able, lacking = look_at_scratch_server(target, backup, work, other_cluster_only, copies=level >= RESTORES)
        if level >= RESTORES:
            maintenance = target.scratch(target.maintenance_database)
            if not make_roles:
                scratch_roles.refuse(lacking, backup, restore_times.place_of(maintenance))
            with (
                scratch_roles.made(maintenance, lacking, work.application_name),
                scratch_database(target, backup, work=work, name=scratch_name, keep=keep and not lacking) as scratch,
            ):
                work.control.check()
                _restore_and_compare(scratch, backup, able, work, ladder, level)
                if level >= SOUND:
                    sound = _look_at_soundness(scratch, work, ladder, queries, database)
        else:
            work.progress.emit("reading the dump to its end", database=database)
            with ladder.climbing(READABLE):
                dump_reading.read_to_the_end(target, backup, work.control)
    except PgopsError as error:
        if _is_unfit(error):
            error.unusable = BACKUP
            backup_store.remove_proof(backup)
        elif backup.proof_level and backup.proof:
            error.hint = f"{error.hint or ''} The proof of {backup.proof['proved_at']} stands.".strip()
        raise
    ready = ladder.seconds(CHECKSUMMED, RESTORES, COUNTED, EQUAL)
    late = level >= ELSEWHERE and not ladder.judge_elsewhere(able.same_cluster, ready, rto_seconds)
    manifest = backup.manifest
    proof = {
        "proved_at": _now(),
        "run_id": work.run_id,
        "level": ladder.reached,
        "levels": ladder.levels,
        "seconds": round(time.monotonic() - began, 3),
        "restore_seconds": round(ladder.seconds(RESTORES), 3),
        "compare_seconds": round(ladder.seconds(COUNTED, EQUAL), 3),
        "ready_seconds": round(ready, 3),
        "rto_seconds": rto_seconds,
        "tables": sum(1 for entry in manifest["tables"].values() if entry["kind"] == "table"),
        "rows": sum(entry["rows"] or 0 for entry in manifest["tables"].values() if entry["kind"] == "table"),
        "objects": manifest["objects"],
        "manifest_sha256": backup.manifest_sha256,
        "server_version": list(able.server),
        "same_cluster": able.same_cluster,
        "scratch_reason": scratch_reason,
        "reservations": able.reservations,
    }
    if ladder.reached >= EQUAL:
        where = restore_times.place_of(target.scratch(database))
        able.reservations += restore_times.note(backup, proof, where, jobs=work.jobs, run_id=work.run_id)
        proof["forecast"] = restore_times.forecast_for(backup, where)
    if sound.faults or late or ladder.reached >= backup.proof_level:
        backup_store.write_proof(backup, proof)
    try:
        sound.refuse(backup.path, database)
        if late:
            ladder.refuse_late(backup.path, database)
        ladder.refuse_below(level if needed is None else needed, backup.path, database)
    except PgopsError as error:
        error.extra["proof"] = {"path": backup.path, **proof}
        raise
    return {"path": backup.path, **proof}


def _restore_and_compare(
    scratch: Target, backup: Backup, able: Restorer, work: Work, ladder: Ladder, level: int
) -> None:
    """Levels 1 to 4: counts and hashes are taken in one pass, so who asks for 3 has 4 too."""
    with ladder.climbing(RESTORES) as step:
        restored_in = restore_into(scratch, backup, able, work)
        step.detail = f"by pg_restore with {work.jobs} processes in {restored_in:.1f} s"
    ladder.record(READABLE, True, 0.0, "not read apart: the restore of level 2 reads all of it")
    if level < COUNTED:
        return
    began = time.monotonic()
    found = differences(scratch, backup, able, work)
    of_contents = [entry for entry in found if entry.get("attribute") == "hash"]
    told = f"{len(found) - len(of_contents)} differences" if len(found) > len(of_contents) else "no difference"
    ladder.record(COUNTED, len(found) == len(of_contents), time.monotonic() - began, told)
    told = f"{len(of_contents)} tables differ" if of_contents else "in the same pass as level 3, no difference"
    ladder.record(EQUAL, not found, 0.0, told)
    _refuse_differences(found, backup)


def _look_at_soundness(
    scratch: Target, work: Work, ladder: Ladder, queries: Sequence[Mapping[str, Any]], database: str
) -> soundness.Soundness:
    began = time.monotonic()
    sound = soundness.look(
        scratch, queries, database=database, jobs=work.jobs, application_name=f"{work.application_name} check",
        progress=work.progress, control=work.control,
    )  # fmt: skip
    ladder.record(SOUND, sound.ok, time.monotonic() - began, sound.detail())
    return sound


def look_before(
    target: Target,
    backup: Backup,
    *,
    work: Work,
    identity: Identity | None,
    other_cluster_only: bool,
    make_roles: bool,
    level: int,
) -> Backup:
    """What :func:`prove` would refuse before it restores anything: reads every file of the backup, looks at the scratch server, writes nothing.

    :return: the backup, unlocked.
    :raises PgopsError: as :func:`prove` does.
    """
    backup = encrypted_dump.unlock(backup, identity)
    backup_store.verify_files(backup, work.control.check)
    _, lacking = look_at_scratch_server(target, backup, work, other_cluster_only, copies=level >= RESTORES)
    if level >= RESTORES and not make_roles:
        scratch_roles.refuse(lacking, backup, restore_times.place_of(target.scratch(target.maintenance_database)))
    return backup


def look_at_scratch_server(
    target: Target, backup: Backup, work: Work, other_cluster_only: bool, *, copies: bool
) -> tuple[Restorer, list[str]]:
    """:param copies: whether the whole database will be restored there, which takes its size.
    :return: what the role can do there, and the roles that a copy needs and the server lacks."""
    conn = connect(target.scratch(target.maintenance_database), application_name=work.application_name)
    try:
        refuse_other_major(backup, conn)
        able = restorer(conn, backup)
        lacking = scratch_roles.missing(conn, backup, superuser=able.superuser)
        if copies:
            disk_forecast.refuse_full(
                conn, int(backup.manifest["database_bytes"]), f"The scratch copy of {target.database}", database=target.database,
                hint="Free space there, or set pgops_scratch_host to a server that has room, then type the command again.",
            )  # fmt: skip
    finally:
        conn.close()
    if other_cluster_only and able.same_cluster:
        raise PgopsError(
            f"The backup of {target.database} would be restored on the production cluster itself, which sends its whole "
            "size to archive and standbys; nothing was restored.",
            database=target.database,
            hint="Set pgops_scratch_host to another server, or give the reason with -e \"backup_scratch_reason='WHY'\".",
        )
    return able, lacking


# -- staged restore -----------------------------------------------------------------------------------------------------------


def stage(
    target: Target,
    backup: Backup,
    *,
    work: Work,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    level: int = EQUAL,
) -> dict[str, Any]:
    """Restore a proved backup into a new database beside the live one, compared, with statistics, ready for a swap.

    The live database is not touched. On failure the new one is dropped.

    :param level: to which the backup's proof must have come.

    :return: staged (the new database's name), restore_seconds, tables, rows, largest (rows of the ten largest tables),
        ledger (its last ten versions), reservations.
    :raises PgopsError: the backup is unproved, altered, damaged, foreign or of another major, or the restore differs.
    """
    began = time.monotonic()
    database = target.database
    maintenance = target.maintenance()
    refused = True
    conn = connect(maintenance, application_name=work.application_name)
    try:
        refuse_unfit(target, backup, work, level)
        files_read_in = time.monotonic() - began
        able = restorer(conn, backup)
        if not able.owners:
            # A staged restore becomes the live database: it must have its owners and grants.
            able = _with_owners(conn, backup, able)
        for leftover in remove_dead(conn, database, database_marks.RESTORED):
            work.progress.emit(f"removed {leftover}, left by a dead run", database=database)
        staged = database_marks.free_name(conn, database, f"restore_{now().strftime('%Y%m%d_%H%M%S')}")
        if not database_marks.try_lock(conn, f"restore {staged}"):
            raise PgopsError(f"Another run restores into {staged}.", database=database)
        properties = backup.manifest["properties"]
        mark = Mark(
            database_marks.RESTORED, database, work.run_id, _now(), state=RESTORING, backup=backup.path,
            manifest_sha256=backup.manifest_sha256, comment=properties["comment"],
        )  # fmt: skip
        refused = False
        create(conn, staged, properties, mark, whole=True)
        try:
            destination = target.as_restore().with_(database=staged)
            seconds = restore_into(destination, backup, able, work)
            # Whatever is written from here on is no row of the backup.
            mark = replace(mark, restored_xid=row_versions.next_xid(conn))
            compare_began = time.monotonic()
            _refuse_differences(differences(destination, backup, able, work), backup)
            ready = files_read_in + seconds + time.monotonic() - compare_began
            work.control.check()
            work.progress.emit("collecting statistics", database=database)
            analyze(destination, work)
            database_properties.apply(conn, staged, properties)
            _refuse_differences(_property_differences(destination, properties, work), backup)
            # This commit waits for the disk again, and with it everything before it is durable.
            database_marks.set_mark(conn, staged, replace(mark, state=VERIFIED))
        except BaseException:
            drop_for_sure(maintenance, staged, work)
            raise
    except (psycopg2.Error, PgopsError) as exc:
        error = as_pgops_error(exc, f"The staged restore of {database} failed", database=database)
        error.extra["refused"] = refused
        raise error from None
    finally:
        conn.close()
    measured = {
        "level": EQUAL,
        "restore_seconds": seconds,
        "ready_seconds": ready,
        "seconds": time.monotonic() - began,
    }
    able.reservations += restore_times.note(
        backup, measured, restore_times.place_of(maintenance), jobs=work.jobs, run_id=work.run_id
    )
    rows = {name: entry["rows"] for name, entry in backup.manifest["tables"].items() if entry["kind"] == "table"}
    return {
        "staged": staged,
        "backup": backup.path,
        "restore_seconds": round(seconds, 3),
        "tables": len(rows),
        "rows": sum(rows.values()),
        "largest": dict(sorted(rows.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN]),
        "ledger": backup.manifest["ledger"][-SHOWN:],
        "reservations": able.reservations,
    }


def _with_owners(conn: Connection, backup: Backup, able: Restorer) -> Restorer:
    """Without superuser, owners can be given back by a role that is a member of each of them.

    :raises PgopsError: naming the roles that it is not a member of.
    """
    owners = {str(value["owner"]) for value in backup_store.read_catalog(backup).values() if value.get("owner")}
    owners.add(str(backup.manifest["properties"]["owner"]))
    row = fetch_one(
        conn,
        "SELECT coalesce(array_agg(wanted.name ORDER BY 1), '{}') AS names FROM unnest(%s::text[]) AS wanted (name) "
        "LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = wanted.name "
        "WHERE r.oid IS NULL OR NOT pg_has_role(r.oid, 'USAGE')",
        (sorted(owners - {"pg_database_owner"}),),
    )
    foreign = list(row["names"]) if row else []
    if foreign:
        raise PgopsError(
            f"Role {able.role} cannot restore {backup.manifest['database']} with its owners: it is no member of "
            f"{', '.join(foreign)}; nothing was restored.",
            database=backup.manifest["database"],
            object_name=foreign[0],
            hint="; ".join(f"GRANT {quoted(name)} TO {quoted(able.role)}" for name in foreign)
            + "; or name a superuser in pgops_restore_user.",
        )
    kept = [text for text in able.reservations if not text.startswith("owners and privileges")]
    return _WithOwners(able.role, able.superuser, able.same_cluster, able.server, kept, able.left_out)


class _WithOwners(Restorer):
    @property
    def owners(self) -> bool:
        return True


def analyze(destination: Target, work: Work) -> None:
    """Without statistics the first queries after a swap take plans for empty tables."""
    conn = connect(destination, application_name=work.application_name)
    forget = work.control.on_interrupt(conn.cancel)
    try:
        execute(conn, "ANALYZE")
        left = [row["name"] for row in fetch_all(conn, _WITHOUT_STATISTICS)]
        if left:
            # ANALYZE by a role without rights warns and succeeds (fact 20).
            raise PgopsError(
                f"ANALYZE left {', '.join(left[:TOLD_DIFFERENCES])} without statistics: the restore role may not analyze "
                "them.",
                database=destination.database,
                hint="Name a superuser, or a member of the owners, in pgops_restore_user.",
            )
    finally:
        forget()
        conn.close()


def _property_differences(destination: Target, expected: dict[str, Any], work: Work) -> list[dict[str, Any]]:
    conn = connect(destination, application_name=work.application_name)
    try:
        found = catalog.database_properties(conn)
    finally:
        conn.close()
    return database_properties.differences(expected, found)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
