# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A backup with a manifest: pg_dump and the counts and hashes of every table out of one exported snapshot.

Counts taken after the dump differ from what it holds as soon as somebody writes (fact 3), and pg_dump is slower than
hashing: so both run side by side, in the same snapshot, and the dump is compressed lightly (fact 8a).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    content,
    database_marks,
    encrypted_dump,
    encryption,
    ledger,
    locks,
    needed_roles,
    open_transactions,
    rate_limit,
    sealed_settings,
    standby_source,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    database_oid,
    execute,
    fetch_all,
    fetch_one,
    server_version,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.encrypted_dump import EncryptedDump
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import (
    Interrupted,
    PgopsError,
    from_psycopg,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.standby_fitness import Wish
from psycopg2 import errorcodes, sql

TOOL = "whitecross.pgops"
# A table lock that is not given in this time has a holder that a backup should not queue behind any longer.
LOCK_TIMEOUT_MS = 30_000
# How often the list of tables may change between reading it and taking the snapshot.
SNAPSHOT_ATTEMPTS = 5
TELL_SECONDS = 1.0
DEFAULT_COMPRESSION = "1"

_RELATIONS = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relpersistence::text AS persistence, pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
       CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                      ELSE has_table_privilege(c.oid, 'SELECT') END AS readable,
       row_security_active(c.oid) AS rows_hidden
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'S', 'f')
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""

_UNREADABLE_LARGE_OBJECTS = """
SELECT count(*)::bigint AS count FROM pg_catalog.pg_largeobject_metadata AS m
WHERE NOT pg_has_role(m.lomowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) AS a WHERE a.privilege_type = 'SELECT'
                  AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
"""

# pg_read_all_data reads none of them, and there is no GRANT for all.
GRANT_LARGE_OBJECTS = (
    "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_catalog.pg_largeobject_metadata LOOP "
    "EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO {role}', o); END LOOP; END $$;"
)
# What pg_read_all_data gives at once.
_COVERED = ("GRANT USAGE ON SCHEMA ", "GRANT SELECT ON TABLE ", "GRANT SELECT ON SEQUENCE ")

_SNAPSHOT = """
SELECT pg_export_snapshot() AS name, pg_catalog.pg_current_snapshot()::text AS visible,
       to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time,
       pg_is_in_recovery() AS standby, current_user::text AS role,
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
       pg_database_size(current_database()) AS bytes, current_setting('server_version') AS server
"""


@dataclass
class Snapshot:
    """A transaction that holds what the whole backup sees, with its tables locked against DDL (ACCESS SHARE)."""

    conn: Connection
    name: str
    xmin: int
    xmax: int
    xip: list[int]
    time: str
    standby: bool
    role: str
    superuser: bool
    database_bytes: int
    server: str
    relations: list[dict[str, Any]] = field(default_factory=list)


def qualified(schema: str, name: str) -> str:
    """:return: ``schema.name``, quoted where it must be."""
    return ".".join(part if _plain(part) else '"' + part.replace('"', '""') + '"' for part in (schema, name))


def _plain(name: str) -> bool:
    return name.isidentifier() and name.isascii() and name == name.lower()


def refuse_missing_rights(conn: Connection, relations: list[dict[str, Any]], role: str, database: str) -> None:
    """Refuse before anything is written when the role would read less than everything.

    pg_dump by a role with pg_read_all_data still fails on row-level security, and with --enable-row-security it exits 0
    and dumps no rows (fact 5).

    :raises PgopsError: naming the first object and the statement that gives the right; all are in ``extra["missing"]``.
    """
    missing: list[dict[str, str]] = []
    quoted = qualified(role, "")[:-3] if not _plain(role) else role
    for relation in relations:
        name = qualified(relation["schema"], relation["name"])
        schema = qualified(relation["schema"], "x")[:-2]
        if not relation["schema_usable"]:
            missing.append({"object": f"schema {schema}", "fix": f"GRANT USAGE ON SCHEMA {schema} TO {quoted}"})
        elif not relation["readable"] and relation["kind"] != "f":
            what = "SEQUENCE" if relation["kind"] == "S" else "TABLE"
            missing.append({"object": name, "fix": f"GRANT SELECT ON {what} {name} TO {quoted}"})
        elif relation["rows_hidden"]:
            missing.append({"object": name, "fix": f"ALTER ROLE {quoted} BYPASSRLS"})
    unreadable = fetch_one(conn, _UNREADABLE_LARGE_OBJECTS)
    if unreadable and unreadable["count"]:
        missing.append(
            {
                "object": f"{unreadable['count']} large objects",
                "fix": GRANT_LARGE_OBJECTS.format(role=quoted).rstrip(";"),
            }
        )
    missing = [entry for place, entry in enumerate(missing) if entry not in missing[:place]]
    if missing:
        first = missing[0]
        why = "row-level security hides rows of" if "BYPASSRLS" in first["fix"] else "may not read"
        subject = f"{why} {first['object']}" if why.startswith("row") else f"role {role} may not read {first['object']}"
        more = f" ({len(missing) - 1} more objects likewise)" if len(missing) > 1 else ""
        suffix = f" from role {role}" if why.startswith("row") else ""
        fixes = list(dict.fromkeys(entry["fix"] for entry in missing[:10]))
        if sum(fix.startswith(_COVERED) for fix in (entry["fix"] for entry in missing)) > 1:
            # One right for all of them, and for what is made tomorrow.
            fixes = [f"GRANT pg_read_all_data TO {quoted}", *(fix for fix in fixes if not fix.startswith(_COVERED))]
        told = fixes[0] if first["fix"].startswith(_COVERED) else first["fix"]
        raise PgopsError(
            f"No backup of {database}: {subject}{suffix}{more}; nothing was written. {told};",
            sqlstate="42501",
            database=database,
            object_name=first["object"],
            hint="; ".join(fixes) + ";",
            extra={"missing": missing},
        )


def open_snapshot(target: Target, conn: Connection) -> Snapshot:
    """Lock every table, then take and export the snapshot, so that neither TRUNCATE nor a rewrite can empty it.

    TRUNCATE and a rewriting ALTER TABLE are not MVCC-safe: an older snapshot sees an empty table afterwards, and the dump
    would hold 0 rows with exit code 0. LOCK TABLE takes no snapshot, so the snapshot comes after the locks.

    Takes ACCESS SHARE on every table, until the transaction of ``conn`` ends.

    :raises PgopsError: a lock is not given within 30 s, rights are missing, or the tables change all the time.
    """
    known: list[dict[str, Any]] = fetch_all(conn, _RELATIONS)
    for _attempt in range(SNAPSHOT_ATTEMPTS):
        before = open_transactions.just_now(conn)
        execute(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            execute(conn, sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT_MS)))
            _lock(conn, known, target.database)
            row = fetch_one(conn, _SNAPSHOT) or {}
            seen = fetch_all(conn, _RELATIONS)
        except psycopg2.errors.UndefinedTable:
            seen, row = [], {}
        if row and {r["oid"] for r in _lockable(seen)} <= {r["oid"] for r in _lockable(known)}:
            refuse_missing_rights(conn, seen, row["role"], target.database)
            visible = row["visible"].split(":")
            xmax, xip = int(visible[1]), [int(x) for x in visible[2].split(",") if x]
            if before is not None:
                xmax, xip = before.unseen(xmax)
            return Snapshot(
                conn,
                name=row["name"],
                xmin=int(visible[0]),
                xmax=xmax,
                xip=xip,
                time=row["time"],
                standby=row["standby"],
                role=row["role"],
                superuser=row["superuser"],
                database_bytes=row["bytes"],
                server=row["server"],
                relations=seen,
            )
        execute(conn, "ROLLBACK")
        known = fetch_all(conn, _RELATIONS)
    raise PgopsError(
        f"No backup of {target.database}: its tables changed at each of {SNAPSHOT_ATTEMPTS} attempts to take a snapshot.",
        database=target.database,
        hint="Run the backup again when no schema change is running.",
    )


def _lockable(relations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [relation for relation in relations if relation["kind"] in ("r", "p")]


def _lock(conn: Connection, relations: list[dict[str, Any]], database: str) -> None:
    names = [sql.Identifier(r["schema"], r["name"]) for r in _lockable(relations)]
    if not names:
        return
    statement = sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(sql.SQL(", ONLY ").join(names))
    try:
        execute(conn, statement)
    except psycopg2.errors.LockNotAvailable as exc:
        raise PgopsError(
            f"No backup of {database}: a table stayed locked for {LOCK_TIMEOUT_MS // 1000} s by another session "
            "(a schema change?); nothing was written.",
            sqlstate=exc.pgcode,
            database=database,
            hint="See pg_stat_activity and pg_locks for an ACCESS EXCLUSIVE lock, then run the backup again.",
        ) from None
    except psycopg2.errors.UndefinedTable:
        raise
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"No backup of {database}: its tables cannot be locked", database=database) from None


# -- what the manifest says of the contents ---------------------------------------------------------------------------


class Contents:
    """Counts and hashes every table beside other work: in threads, by sessions of its own, on one snapshot."""

    def __init__(
        self,
        target: Target,
        *,
        workers: int,
        application_name: str,
        snapshot: str | None = None,
        tables: list[str] | None = None,
        progress: Progress | None = None,
        bytes_s: float = 0,
    ) -> None:
        """
        :param workers: sessions; each keeps one core of the server busy.
        :param snapshot: an exported snapshot; None reads what is there now.
        :param tables: quoted names; all by default.
        :param bytes_s: of tables that all of them read in a second at most; 0 for any number.
        """
        self._target = target
        self._bytes_s = bytes_s
        self._workers = max(1, workers)
        self._application_name = application_name
        self._snapshot = snapshot
        self._tables = tables
        self._progress = progress or Progress(None)
        self._told = 0.0
        self._stop = threading.Event()
        self._connections: list[Connection] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pgops-contents")
        self._work: Future[dict[str, dict[str, Any]]] | None = None
        self.seconds = 0.0

    def start(self) -> Contents:
        """Begin. :return: itself."""
        self._work = self._pool.submit(self._read)
        return self

    @property
    def running(self) -> bool:
        """Whether it is still at it."""
        return self._work is not None and not self._work.done()

    def cancel(self) -> None:
        """End it: the statements in hand are cancelled."""
        self._stop.set()
        for conn in list(self._connections):
            with contextlib.suppress(psycopg2.Error):
                conn.cancel()

    def join(self) -> None:
        """Wait until it has ended, and its sessions with it."""
        self._pool.shutdown(wait=True)

    @property
    def failed(self) -> bool:
        """Whether it has ended by an error."""
        return self._work is not None and self._work.done() and self._work.exception() is not None

    def result(self, doing: str) -> dict[str, dict[str, Any]]:
        """Wait for the end.

        :param doing: the start of the sentence, should it have failed.
        :return: as ``content.table_contents``.
        :raises PgopsError: what ended it.
        """
        if self._work is None:
            return {}
        try:
            return self._work.result()
        except psycopg2.Error as exc:
            raise from_psycopg(exc, doing, database=self._target.database) from None

    def _read(self) -> dict[str, dict[str, Any]]:
        began = time.monotonic()
        try:
            for _number in range(self._workers):
                conn = connect(self._target, application_name=self._application_name)
                self._connections.append(conn)
                # A backup is not meant to take every core of a production server: one core a session.
                execute(conn, "SET max_parallel_workers_per_gather = 0")
            first, *others = self._connections
            pace = rate_limit.Pace(first, self._bytes_s, self._stop.wait) if self._bytes_s else None
            return content.table_contents(
                first,
                self._tables,
                connections=others,
                snapshot=self._snapshot,
                check=self._check,
                progress=self._show,
                pace=pace,
            )
        finally:
            for conn in self._connections:
                conn.close()
            self.seconds = time.monotonic() - began

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted("The counting was ended.")

    def _show(self, done: int, total: int) -> None:
        if time.monotonic() - self._told >= TELL_SECONDS:
            self._told = time.monotonic()
            self._progress.emit(
                "counting and hashing tables", database=self._target.database, done=done, total=total, unit="pages"
            )


def not_included(snapshot: Snapshot, inventory: dict[str, Any]) -> list[dict[str, str]]:
    """:return: what a pg_dump leaves out, with the reason; told to the user, never passed over in silence."""
    told = []
    for relation in snapshot.relations:
        name = qualified(relation["schema"], relation["name"])
        if relation["kind"] == "f":
            told.append({"object": name, "why": "foreign table: its rows live on another server"})
        elif relation["kind"] == "r" and relation["persistence"] == "u" and snapshot.standby:
            told.append({"object": name, "why": "unlogged table: it has no rows on a standby"})
        elif relation["kind"] == "m":
            told.append({"object": name, "why": "materialized view: the restore computes its rows again"})
    for key in inventory:
        kind = catalog.kind_of(key)
        if kind == "subscription":
            told.append({"object": key, "why": "a restored copy must not replicate"})
        elif kind == "user mapping" and not snapshot.superuser:
            told.append({"object": key, "why": "its options are shown to superusers only"})
    return told


# -- the backup ------------------------------------------------------------------------------------------------------


def create_backup(
    target: Target,
    *,
    directory: str,
    run_id: str,
    purpose: str = "manual",
    environment: str = "",
    phi: bool | None = None,
    jobs: int = 2,
    compression: str | None = None,
    encrypt_to: list[str] | None = None,
    role_passwords: bool = False,
    tool_version: str = "",
    standby: Wish | None = None,
    rate_limit_mb: float = 0,
    progress: Progress | None = None,
    control: Control | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> dict[str, Any]:
    """Back up one database with its manifest; published whole or not at all, earlier backups are never touched.

    :param directory: the folder that holds a folder for each database, on this host.
    :param purpose: why, in the folder's name: ``before_migration``, ``before_rollback``, ``emergency``, ``manual``.
    :param phi: whether the schema change that it is made for touches protected health information; None where there is none or
        nobody has said. Retention goes by it.
    :param jobs: processes of pg_dump, and as many sessions that count and hash.
    :param compression: pg_dump's ``--compress``; light gzip by default.
    :param encrypt_to: public keys; the dump is encrypted to all of them, and nothing of it is ever written plain.
    :param role_passwords: keep the password hashes of the roles that the database needs, too.
    :param standby: read one that is fit in the place of the target itself; see standby_source.
    :param rate_limit_mb: MB a second that the dump writes at most, and that the hashes read of the tables; 0 for any number.
    :return: path, manifest_sha256, started, finished, seconds, bytes, files, tables, rows, ledger_head,
        catalog_fingerprint, snapshot, not_included, standby, removed (leftovers of dead runs).
    :raises PgopsError: with the cause; then nothing of this backup is left. standby_source.Unfit where no standby was read to the end.

    Takes ACCESS SHARE on every table for as long as it runs.
    """
    progress = progress or Progress(None)
    control = control or Control(None)
    source = target.as_backup()
    application_name = f"{locks.application_name(run_id)} backup"
    recipients = encryption.usable_recipients(encrypt_to) if encrypt_to else []
    rate_limit.refuse_nonsense(rate_limit_mb)
    conn = connect(source, application_name=application_name)
    forget = control.on_interrupt(conn.cancel)
    try:
        control.check()
        tool = _look(source, conn, role_passwords, application_name)
        with backup_store.locked(directory, target.database, f"backup {run_id}") as folder:
            removed = backup_store.remove_partials(folder)
            started = now()
            final = os.path.join(folder, backup_store.folder_name(started, purpose, run_id))
            partial = final + backup_store.PARTIAL
            try:
                with standby_source.reading(
                    source, conn, standby, application_name=application_name, progress=progress, control=control
                ) as reads:
                    if reads.is_standby:  # may be of another minor
                        tool = client_tool(reads.target, reads.conn, "pg_dump")
                    backup_store.make_private_folder(partial)
                    manifest = _Run(
                        reads, tool, partial, jobs, compression, recipients, role_passwords, application_name,
                        rate_limit_mb * rate_limit.MB, progress, control,
                    ).work()  # fmt: skip
                control.check()
                manifest.update(
                    {
                        "format": backup_store.MANIFEST_FORMAT,
                        "tool": f"{TOOL} {tool_version}".strip(),
                        "run_id": run_id,
                        "purpose": purpose,
                        "environment": environment,
                        "started": started.isoformat(timespec="seconds"),
                        "finished": now().isoformat(timespec="seconds"),
                    }
                )
                if phi is not None:
                    manifest["phi"] = phi
                digest = backup_store.write_json(os.path.join(partial, backup_store.MANIFEST), manifest)
                backup_store.publish(partial, final)
            except BaseException as error:
                # Where it cannot be removed either, the next backup does that; what is told is why there is none.
                with contextlib.suppress(OSError):
                    backup_store.remove_tree(partial)
                if isinstance(error, OSError):
                    raise _storage_error(error, folder, target.database) from None
                raise
    except psycopg2.Error as exc:
        control.check()
        raise from_psycopg(exc, f"The backup of {target.database} failed", database=target.database) from None
    except PgopsError as error:
        # The statement in hand was cancelled since the backup was to stop.
        if error.sqlstate == errorcodes.QUERY_CANCELED:
            control.check()
        raise
    finally:
        forget()
        conn.close()
    return summary(backup_store.Backup(final, manifest, digest, None), removed)


def _look(source: Target, conn: Connection, role_passwords: bool, application_name: str) -> str:
    """Refuse what can be refused before anything is written. :return: the pg_dump to use."""
    role = fetch_one(conn, "SELECT current_user::text AS role")
    refuse_missing_rights(conn, fetch_all(conn, _RELATIONS), str(role["role"]) if role else "", source.database)
    if role_passwords:
        needed_roles.refuse_unreadable_passwords(source, application_name)
    return client_tool(source, conn, "pg_dump")


def preview(
    target: Target,
    *,
    directory: str,
    run_id: str,
    purpose: str = "manual",
    encrypt_to: list[str] | None = None,
    role_passwords: bool = False,
    standby: Wish | None = None,
) -> dict[str, Any]:
    """Look whether a backup could be made, and write nothing.

    :return: would_write (the folder that holds the backups of this database), client; with a wish for one also standby and unfit,
        as ``standby_source.look``.
    :raises PgopsError: as :func:`create_backup` would, before it begins.
    """
    source = target.as_backup()
    if encrypt_to:
        encryption.usable_recipients(encrypt_to)
    application_name = f"{locks.application_name(run_id)} backup"
    conn = connect(source, application_name=application_name)
    try:
        tool = _look(source, conn, role_passwords, application_name)
        return {
            "would_write": backup_store.database_folder(directory, target.database),
            "client": tool,
            "purpose": purpose,
            **(standby_source.look(source, conn, standby, application_name=application_name) if standby else {}),
        }
    finally:
        conn.close()


def summary(backup: backup_store.Backup, removed: list[str] | None = None) -> dict[str, Any]:
    """:return: what a module's result says of a backup."""
    manifest = backup.manifest
    return {
        "path": backup.path,
        "manifest_sha256": backup.manifest_sha256,
        "started": manifest["started"],
        "finished": manifest["finished"],
        "seconds": manifest["seconds"],
        "bytes": manifest["bytes"],
        "database_bytes": manifest["database_bytes"],
        "files": len(manifest["files"]),
        "tables": sum(1 for entry in manifest["tables"].values() if entry["kind"] == "table"),
        "rows": sum(entry["rows"] or 0 for entry in manifest["tables"].values() if entry["kind"] == "table"),
        "large_objects": manifest["large_objects"]["count"],
        "ledger_head": manifest["ledger_head"],
        "catalog_fingerprint": manifest["catalog_fingerprint"],
        "snapshot": manifest["snapshot"],
        "snapshot_time": manifest["snapshot_time"],
        "encryption": manifest.get("encryption"),
        "globals": manifest.get("globals"),
        "not_included": manifest["not_included"],
        "standby": manifest.get("standby"),
        "removed": removed or [],
    }


def _storage_error(error: OSError, folder: str, database: str) -> PgopsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PgopsError(
            f"No backup of {database}: the file system of {folder} is full; "
            "the half-written backup was removed, earlier ones are as they were.",
            database=database,
            hint="Free space there, or set backup_directory to a larger file system.",
            extra={"errno": error.errno},
        )
    where = error.filename or folder
    return PgopsError(
        f"No backup of {database}: {where}: {error.strerror or error}; earlier backups are as they were.",
        database=database,
        extra={"errno": error.errno},
    )


class _Run:
    """One backup from the snapshot to the sealed folder."""

    def __init__(
        self,
        reads: standby_source.Reading,
        tool: str,
        partial: str,
        jobs: int,
        compression: str | None,
        recipients: list[str],
        role_passwords: bool,
        application_name: str,
        bytes_s: float,
        progress: Progress,
        control: Control,
    ) -> None:
        self.bytes_s = bytes_s
        self.reads = reads
        self.source = reads.target
        self.conn = reads.conn
        self.tool = tool
        self.partial = partial
        self.jobs = jobs
        self.compression = compression or DEFAULT_COMPRESSION
        self.recipients = recipients
        self.role_passwords = role_passwords
        self.application_name = application_name
        self.progress = progress
        self.control = control

    def work(self) -> dict[str, Any]:
        """:return: the manifest, but for who and when."""
        began = time.monotonic()
        database = self.source.database
        self.progress.emit("taking the snapshot", database=database)
        snapshot = open_snapshot(self.source, self.conn)
        snapshot.time = self.reads.moment() or snapshot.time
        self.control.check()
        # Before pg_dump reads them: a position can only move on from here, and the one after it bounds the other side.
        sequences = content.sequences(self.conn)
        workers = self._contents(snapshot)
        dump = self._pg_dump(snapshot)
        try:
            workers.start()
            described = self._describe(snapshot)
            tables = self._follow(dump, workers)
            positions = content.sequences(self.conn)
        finally:
            dump.end()
            workers.cancel()
            workers.join()
        execute(self.conn, "COMMIT")
        for name, position in sequences.items():
            position["after"] = positions.get(name, position)
        inventory = described.pop("inventory")
        needed = self._keep_globals(described.pop("needed"))
        kept = dict(inventory)
        if self.recipients:
            kept[sealed_settings.KEY] = sealed_settings.values(described["properties"])
            described["properties"] = sealed_settings.without_values(described["properties"])
        backup_store.write_catalog(self.partial, kept, self.recipients)
        self.progress.emit("reading the dump back for its checksums", database=database)
        files = backup_store.seal(self.partial, self.jobs, self.control.check)
        major, minor = server_version(self.conn)
        return {
            "database": database,
            "system_identifier": system_identifier(self.conn),
            "database_oid": database_oid(self.conn),
            "server_version": [major, minor],
            "server": snapshot.server,
            "client": os.path.basename(self.tool),
            "snapshot": {"xmin": snapshot.xmin, "xmax": snapshot.xmax, "xip": snapshot.xip},
            "snapshot_time": snapshot.time,
            "from_standby": snapshot.standby,
            "standby": self.reads.told(),
            "role": snapshot.role,
            "tables": tables,
            "hash": content.ALGORITHM,
            "sequences": sequences,
            "database_bytes": snapshot.database_bytes,
            "not_included": not_included(snapshot, inventory),
            "files": files,
            "bytes": sum(entry["bytes"] for entry in files.values()),
            "jobs": self.jobs,
            "compression": self.compression,
            "rate_limit_mb": self.bytes_s / rate_limit.MB or None,
            "dump_format": encrypted_dump.FORMAT if self.recipients else "directory",
            "encryption": {"tool": encryption.TOOL, "recipients": self.recipients} if self.recipients else None,
            "seconds": round(time.monotonic() - began, 3),
            "globals": needed.told(),
            **described,
        }

    def _contents(self, snapshot: Snapshot) -> Contents:
        tables = None
        if snapshot.standby:  # an unlogged table cannot be read there
            tables = [table.quoted for table in content.user_tables(self.conn) if table.persistence != "unlogged"]
        return Contents(
            self.source,
            workers=self.jobs,
            application_name=self.application_name,
            snapshot=snapshot.name,
            tables=tables,
            progress=self.progress,
            bytes_s=self.bytes_s,
        )

    def _pg_dump(self, snapshot: Snapshot) -> ClientProcess | EncryptedDump:
        arguments = [
            f"--compress={self.compression}",
            f"--snapshot={snapshot.name}",
            f"--lock-wait-timeout={LOCK_TIMEOUT_MS}",
        ]
        if self.recipients:
            return EncryptedDump(
                self.tool, arguments, self.source,
                folder=self.partial, recipients=self.recipients, application_name=self.application_name,
                stoppable=self.bytes_s > 0,
            )  # fmt: skip
        arguments += [
            "--format=directory",
            f"--jobs={self.jobs}",
            f"--file={os.path.join(self.partial, backup_store.DUMP)}",
        ]
        return ClientProcess(
            self.tool, arguments, self.source, application_name=self.application_name, stoppable=self.bytes_s > 0
        )

    def _keep_globals(self, needed: needed_roles.NeededRoles) -> needed_roles.NeededRoles:
        if self.role_passwords:
            needed = needed_roles.read_passwords(self.source, needed, self.application_name)
        backup_store.write_beside(self.partial, backup_store.GLOBALS, needed.as_dict(), self.recipients)
        return needed

    def _describe(self, snapshot: Snapshot) -> dict[str, Any]:
        inventory = catalog.inventory(self.conn, exclude_schemas=())
        properties = _own_properties(self.conn)
        # What plan and apply carry leaves the ledger's own schema out: the ledger changes while it is applied.
        carried = catalog.inventory(self.conn)
        history = ledger.read(self.conn)
        return {
            "inventory": inventory,
            "needed": needed_roles.read(self.conn, inventory, properties),
            "catalog_fingerprint": catalog.fingerprint(carried),
            "objects": len(inventory),
            "properties": properties,
            "large_objects": content.large_objects(self.conn),
            "ledger_head": history.head,
            "ledger": [
                {"version": row.version, "state": row.state, "checksum": row.checksum} for row in history.migrations
            ],
        }

    def _follow(self, dump: ClientProcess | EncryptedDump, workers: Contents) -> dict[str, dict[str, Any]]:
        """Wait for both; the first failure of either ends the other. :return: counts and hashes."""
        database = self.source.database
        dumping = True
        told = time.monotonic()
        brake = rate_limit.Brake(dump, rate_limit.Allowance(self.bytes_s), self._written) if self.bytes_s else None
        while dumping or workers.running:
            if dumping and dump.wait(POLL_SECONDS):
                dumping = False
                dump.result(f"The backup of {database} failed", database=database, hints=_hint)
            elif not dumping:
                time.sleep(POLL_SECONDS)
            if workers.failed:
                break
            self.control.check()
            if dumping and brake:
                brake.look()
            if dumping and time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                self.progress.emit("writing the dump", database=database, done=self._written(), unit="bytes")
        return workers.result(f"The backup of {database} failed while its tables were hashed")

    def _written(self) -> int:
        return sum(backup_store.list_files(self.partial)[0].values())


def _own_properties(conn: Connection) -> dict[str, Any]:
    properties = catalog.database_properties(conn)
    mark = database_marks.read_mark(properties["comment"])
    if mark is not None:  # a swap's last step has not been done yet
        properties["comment"] = mark.comment
    return properties


_HINTS = (
    ("No space left on device", "Free space in backup_directory; the half-written backup was removed."),
    ("Disk quota exceeded", "Free space in backup_directory; the half-written backup was removed."),
    ("row-level security", "ALTER ROLE <pgops_backup_user> BYPASSRLS;"),
    ("permission denied", "Give pgops_backup_user the right named above, e.g. GRANT pg_read_all_data."),
    ("canceling statement due to lock timeout", "A schema change holds a table; run the backup again when it has ended."),
    ("could not obtain lock on relation", "A schema change asked for a table meanwhile; run the backup again."),
    ("server closed the connection", "The server or its session ended; see the server's log, then run the backup again."),
    ("server version", "Install the client of the server's own major version, or set pgops_bindir."),
)  # fmt: skip


def _hint(text: str) -> str | None:
    for needle, hint in _HINTS:
        if needle in text:
            return hint
    return "Nothing of this backup was kept and earlier ones are as they were; run it again when the cause is gone."
