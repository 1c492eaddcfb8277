# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rehearsals on disk, beside the backups of a database: one JSON object a run, and a line for each step that was applied afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

FOLDER = "rehearsals"
HISTORY = "history.jsonl"
FORMAT = 1
# A forecast goes by so many of the newest lines: hardware and settings change.
READ_AT_MOST = 1 << 20  # bytes of the end of the file

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def folder_of(backup_path: str) -> str:
    """:return: where the rehearsals of the database lie whose backup this is."""
    return os.path.join(os.path.dirname(os.path.abspath(backup_path)), FOLDER)


def path_of(backup_path: str, run_id: str, host: str | None = None) -> str:
    """:param host: of a run that has several, which may have one store, and databases of the same name.
    :return: the file of a run's rehearsal. :raises PgopsError: that is no run id."""
    if not _RUN_ID.fullmatch(run_id):
        raise PgopsError(f"{run_id!r} is no run id, and a rehearsal is kept under that of its run.")
    whose = f"-{hashlib.sha256(host.encode()).hexdigest()[:8]}" if host else ""
    return os.path.join(folder_of(backup_path), f"{run_id}{whose}.json")


def write(backup_path: str, record: Mapping[str, Any], *, alone: bool = True) -> str:
    """Keep a rehearsal, whole or not at all; mode 0600, and on the disk when this returns.

    :param alone: whether its host is the only one of the run.
    :return: its file.
    :raises PgopsError: it cannot be written.
    """
    path = path_of(backup_path, str(record["id"]), None if alone else str(record.get("host")))
    partial = path + backup_store.PARTIAL
    data = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
    try:
        backup_store.make_private_folder(os.path.dirname(path))
        backup_store.write_private(partial, data)
        os.rename(partial, path)
        backup_store.sync_folder(os.path.dirname(path))
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise PgopsError(
            f"The rehearsal cannot be kept in {path}: {exc.strerror or exc}.",
            database=str(record["database"]),
            hint="Free space in that folder, or make it writable; then type the command again.",
            extra={"errno": exc.errno},
        ) from None
    return path


def read(path: str) -> dict[str, Any]:
    """:return: a rehearsal. :raises PgopsError: there is none, or this version cannot read it."""
    try:
        with open(path, "rb") as stream:
            record: dict[str, Any] = dict(json.loads(stream.read()))
    except (OSError, TypeError, ValueError) as exc:
        raise PgopsError(f"The rehearsal {path} cannot be read: {exc}.") from None
    if record.get("format") != FORMAT:
        raise PgopsError(f"The rehearsal {path} has format {record.get('format')!r}; this version reads {FORMAT}.")
    return record


def note_beside(rehearsal: str, lines: list[dict[str, Any]]) -> None:
    """Add to the history of the database what steps really took, on the disk when this returns.

    :param rehearsal: the file of one of its rehearsals.
    :raises OSError: it cannot be written."""
    path = os.path.join(os.path.dirname(rehearsal), HISTORY)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = b"".join(json.dumps(line, sort_keys=True).encode() + b"\n" for line in lines)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # a line that a crash has torn takes no later one with it
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def history(backup_path: str) -> list[dict[str, Any]]:
    """:return: the lines of :func:`note_beside`, oldest first; what cannot be read is passed over."""
    try:
        with open(os.path.join(folder_of(backup_path), HISTORY), "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - READ_AT_MOST))
            lines = stream.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found
