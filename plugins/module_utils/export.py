# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A dump to hand on: one file or folder named by database and time, its log and its sha256 beside it.

An export is no backup. It has no manifest, so nothing can prove what a restore of it should hold; no migration and no rollback
takes one, and it lies in a folder of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import IO, Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    dump,
    dump_source,
    locks,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import POLL_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    execute,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

CUSTOM = "custom"
PLAIN = "plain"
DIRECTORY = "directory"
FORMATS = (CUSTOM, PLAIN, DIRECTORY)

LOG = ".log"
_TELL_SECONDS = 1.0
_DEFAULT_COMPRESSION = {CUSTOM: "1", DIRECTORY: "1", PLAIN: "0"}


@dataclass(frozen=True)
class Export:
    """What is asked for.

    :ivar directory: the folder that holds a folder for each database, on this host.
    :ivar form: ``custom``, ``plain`` or ``directory``.
    :ivar compression: pg_dump's ``--compress``; of plain SQL only gzip.
    :ivar jobs: processes of pg_dump, in the directory format.
    """

    directory: str
    run_id: str
    form: str = CUSTOM
    compression: str = ""
    jobs: int = 2
    progress: Progress = field(default_factory=Progress)
    control: Control = field(default_factory=Control)

    @property
    def packing(self) -> str:
        """What pg_dump is told of compression."""
        return self.compression or _DEFAULT_COMPRESSION[self.form]

    @property
    def suffix(self) -> str:
        """How the name of what is made ends."""
        if self.form == PLAIN:
            return ".sql" if self.packing in ("0", "none") else ".sql.gz"
        return {CUSTOM: ".dump", DIRECTORY: ".dir"}[self.form]


def preview(target: Target, asked: Export) -> dict[str, Any]:
    """Look whether an export could be made, and write nothing.

    :return: would_write, client, format.
    :raises PgopsError: as :func:`create_export` would before it begins.
    """
    _refuse_packing(asked, target.database)
    looked = dump.preview(target, directory=asked.directory, run_id=asked.run_id)
    return {"would_write": looked["would_write"], "client": looked["client"], "format": asked.form}


def create_export(
    target: Target, asked: Export, *, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> dict[str, Any]:
    """Dump one database in one snapshot, read it back, and publish it whole or not at all; earlier exports are never touched.

    :return: path, log, format, client, bytes, seconds, sha256 (of one file; of a folder of its list), snapshot_time, not_included.
    :raises PgopsError: with the cause and the log; then nothing but the log is left.

    Takes ACCESS SHARE on every table for as long as it runs.
    """
    _refuse_packing(asked, target.database)
    source = target.as_backup()
    try:
        with closing(connect(source, application_name=f"{locks.application_name(asked.run_id)} export")) as conn:
            tool = client_tool(source, conn, "pg_dump")
            with backup_store.locked(asked.directory, target.database, f"export {asked.run_id}") as folder:
                _remove_leftovers(folder)
                base = os.path.basename(folder) + now().astimezone(timezone.utc).strftime("_%Y%m%d_%H%M%S")
                return _Run(source, conn, tool, asked, folder, base).work()
    except psycopg2.Error as exc:
        raise from_psycopg(exc, f"The export of {target.database} failed", database=target.database) from None


def _refuse_packing(asked: Export, database: str) -> None:
    if asked.form not in FORMATS:
        raise PgopsError(f"export_format is {asked.form}; it is one of {', '.join(FORMATS)}.", database=database)
    if asked.form == PLAIN and not re.fullmatch(r"none|\d|gzip(:\d)?", asked.packing):
        raise PgopsError(
            f"A plain export is packed by gzip alone, not by {asked.packing}: restore.yml and psql read nothing else.",
            database=database,
            hint="Set export_compression to 0, to 1 … 9, or leave it out.",
        )


def _remove_leftovers(folder: str) -> None:
    """What runs have left that were killed: half-written dumps, and the sums of dumps that never got their name. Logs stay."""
    for name in os.listdir(folder):
        if name.endswith(backup_store.PARTIAL):
            _remove(os.path.join(folder, name))
        elif name.endswith(dump_source.SHA256) and not os.path.lexists(
            os.path.join(folder, name[: -len(dump_source.SHA256)])
        ):
            os.unlink(os.path.join(folder, name))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        backup_store.remove_tree(path)
    else:
        with suppress(FileNotFoundError):
            os.unlink(path)


class _Run:
    """One export from the snapshot to its name."""

    def __init__(self, source: Target, conn: Connection, tool: str, asked: Export, folder: str, base: str) -> None:
        self._source = source
        self._conn = conn
        self._tool = tool
        self._asked = asked
        self._final = os.path.join(folder, base + asked.suffix)
        self._partial = self._final + backup_store.PARTIAL
        self._log = os.path.join(folder, base + LOG)

    def work(self) -> dict[str, Any]:
        database = self._source.database
        began = time.monotonic()
        self._refuse_taken()
        try:
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as log:
                told = self._dump(log)
            self._asked.progress.emit("reading the export back", database=database)
            digest = self._seal()
            self._read_back()
            os.rename(self._partial, self._final)
            backup_store.sync_folder(os.path.dirname(self._final))
        except BaseException as error:
            removed = self._undo()
            if isinstance(error, OSError):
                raise self._storage_error(error, removed) from None
            if isinstance(error, PgopsError):
                error.extra.setdefault("log", self._log)
            raise
        sizes = [os.path.getsize(self._final)]
        if self._asked.form == DIRECTORY:
            sizes = list(backup_store.list_files(self._final)[0].values())
        return {
            "path": self._final,
            "log": self._log,
            "format": self._asked.form,
            "client": self._tool,
            "bytes": sum(sizes),
            "seconds": round(time.monotonic() - began, 3),
            "sha256": digest,
            **told,
        }

    def _refuse_taken(self) -> None:
        for path in (self._final, self._log):
            if os.path.lexists(path):
                raise PgopsError(
                    f"There is a {path} already, made in this very second; it is left as it is.",
                    database=self._source.database,
                    hint="Type the command again.",
                )

    def _dump(self, log: IO[str]) -> dict[str, Any]:
        database = self._source.database
        forget = self._asked.control.on_interrupt(self._conn.cancel)
        try:
            snapshot = dump.open_snapshot(self._source, self._conn)
            inventory = catalog.inventory(self._conn, exclude_schemas=())
            client = ClientProcess(
                self._tool, self._arguments(snapshot.name), self._source,
                application_name=f"{locks.application_name(self._asked.run_id)} export", log=log,
            )  # fmt: skip
            try:
                self._follow(client)
            finally:
                client.end()
            client.result(f"The export of {database} failed", database=database, hints=self._hint)
            execute(self._conn, "COMMIT")
        finally:
            forget()
        return {"snapshot_time": snapshot.time, "not_included": dump.not_included(snapshot, inventory)}

    def _arguments(self, snapshot: str) -> list[str]:
        arguments = [
            f"--format={self._asked.form}",
            # Also where a schema or a table is chosen one day: without it they would be left out then.
            "-b",
            "--verbose",
            f"--compress={self._asked.packing}",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={dump.LOCK_TIMEOUT_MS}",
            f"--file={self._partial}",
        ]
        if self._asked.form == DIRECTORY:
            arguments.append(f"--jobs={self._asked.jobs}")
        if self._asked.form == PLAIN and has_restrict_key(self._tool):
            arguments.append(f"--restrict-key={self._restrict_key()}")
        return arguments

    def _restrict_key(self) -> str:
        # Drawn anew at each dump, it would make two dumps of the same data differ.
        text = f"{system_identifier(self._conn)} {self._source.database}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _follow(self, client: ClientProcess) -> None:
        told = time.monotonic()
        while not client.wait(POLL_SECONDS):
            self._asked.control.check()
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                self._asked.progress.emit(
                    "writing the export", database=self._source.database, done=_size(self._partial), unit="bytes"
                )

    def _seal(self) -> str:
        """Modes, durability and sums. The sums get their name before the dump gets its own: no dump lies there without them."""
        name = os.path.basename(self._final)
        if self._asked.form == DIRECTORY:
            files = backup_store.seal(self._partial, self._asked.jobs, self._asked.control.check)
            lines = [f"{entry['sha256']}  {name}/{file}\n" for file, entry in files.items()]
        else:
            os.chmod(self._partial, 0o600)
            descriptor = os.open(self._partial, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            lines = [f"{backup_store.hash_file(self._partial)}  {name}\n"]
        listed = backup_store.write_private(self._final + dump_source.SHA256, "".join(lines).encode())
        return listed if self._asked.form == DIRECTORY else lines[0].split()[0]

    def _read_back(self) -> None:
        """pg_dump may end with 0 and what it wrote still not be readable; nothing is published that was not read."""
        kind = {CUSTOM: dump_source.CUSTOM, DIRECTORY: dump_source.DIRECTORY}.get(self._asked.form, dump_source.PLAIN)
        source = dump_source.Source(self._partial, kind, self._final.endswith(".gz"))
        tool = "" if kind == dump_source.PLAIN else client_tool(self._source, self._conn, "pg_restore")
        dump_source.refuse_cut_off(source, tool)

    def _undo(self) -> bool:
        """:return: whether all of it could be removed; where not, the next export does that."""
        try:
            for path in (self._partial, self._final + dump_source.SHA256):
                _remove(path)
        except OSError:
            return False
        return True

    def _storage_error(self, error: OSError, removed: bool) -> PgopsError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = os.path.dirname(self._final) if full else error.filename or os.path.dirname(self._final)
        told = f"the file system of {where} is full" if full else f"{where}: {error.strerror or error}"
        half = "what was half-written was removed" if removed else "the next export removes what is half-written"
        return PgopsError(
            f"No export of {self._source.database}: {told}; {half}, earlier exports are as they were.",
            database=self._source.database,
            hint="Free space there, or set export_directory to another file system." if full else None,
            extra={"errno": error.errno, "log": self._log},
        )

    def _hint(self, text: str) -> str:
        if "No space left on device" in text or "Disk quota exceeded" in text:
            return "Free space in export_directory; the half-written export was removed."
        return f"Nothing of this export was kept and earlier ones are as they were; its log is {self._log}."


def has_restrict_key(tool: str) -> bool:
    """:return: whether a pg_dump lets the key of ``\\restrict`` be given; older minors do not know the line at all."""
    done = subprocess.run([tool, "--help"], capture_output=True, text=True, check=False)
    return "--restrict-key" in done.stdout


def _size(path: str) -> int:
    if os.path.isdir(path):
        return sum(backup_store.list_files(path)[0].values())
    return os.path.getsize(path) if os.path.exists(path) else 0
