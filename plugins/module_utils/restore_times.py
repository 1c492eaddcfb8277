# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long restores took, and so how long the next one will: ``restores.jsonl`` beside the backups of a database.

A line each measured restore. ``ready_seconds`` is what an emergency waits for: files read, restored and compared, so that
the copy could take the database's name. It is the measured recovery time that an RTO is held against.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import statistics
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target

FILE = "restores.jsonl"
# A forecast goes by so many of the newest: hardware and settings change.
TAKEN = 10
READ_AT_MOST = 1 << 20  # bytes of the end of the file


def path_of(backup_path: str) -> str:
    """:return: the history of the database whose backup this is."""
    return os.path.join(os.path.dirname(os.path.abspath(backup_path)), FILE)


def place_of(target: Target) -> str:
    """:return: a server as the history names it."""
    return f"{target.host}:{target.port or 5432}"


def note(backup: backup_store.Backup, measured: Mapping[str, Any], where: str, *, jobs: int, run_id: str) -> list[str]:
    """Add a measured restore, on the disk when this returns.

    A restore is worth more than its record: one that cannot be written is told and stops nothing.

    :param measured: ``level``, ``restore_seconds``, ``ready_seconds`` and ``seconds`` (all of it).
    :param where: as :func:`place_of` names it.
    :return: why it could not be written, in one sentence, or nothing.
    """
    restored, ready = float(measured["restore_seconds"]), float(measured["ready_seconds"])
    line = {
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "backup": os.path.basename(backup.path),
        "bytes": int(backup.manifest["database_bytes"]),
        "restore_seconds": round(restored, 3),
        "check_seconds": round(ready - restored, 3),
        "ready_seconds": round(ready, 3),
        "seconds": round(float(measured["seconds"]), 3),
        "level": measured["level"],
        "host": where,
        "jobs": jobs,
        "run_id": run_id,
    }
    path = path_of(backup.path)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = json.dumps(line, sort_keys=True).encode() + b"\n"
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a line that a crash has torn takes no later one with it
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        return [f"the time of this restore could not be noted in {path}: {exc.strerror}"]
    return []


def read(backup_path: str) -> list[dict[str, Any]]:
    """:return: the measured restores of a database, oldest first; lines that cannot be read are passed over."""
    lines = _last_lines(path_of(backup_path))
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["bytes"] > 0 and entry["ready_seconds"] > 0:
                found.append(entry)
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _last_lines(path: str) -> list[bytes]:
    try:
        # A pipe would not open, and a device has no end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return []
        stream.seek(max(0, found.st_size - READ_AT_MOST))
        return stream.read(READ_AT_MOST).splitlines()


def forecast_for(backup: backup_store.Backup, where: str) -> dict[str, Any] | None:
    """:return: :func:`forecast` of a restore of this backup on that server."""
    return forecast(read(backup.path), int(backup.manifest["database_bytes"]), where)


def forecast(entries: list[dict[str, Any]], size: int, host: str | None = None) -> dict[str, Any] | None:
    """Say how long a restore of a backup will take, by the rates of those that were measured.

    :param entries: as :func:`read` gives them.
    :param size: bytes of the database that is in the backup.
    :param host: where it will be restored; the restores that were measured there count alone, where there are any.
    :return: ``seconds``, ``low`` and ``high`` (the fastest and the slowest rate), ``measured`` (how many restores it goes by),
        ``host`` (None where they are of several), ``last`` (when the newest was), ``trend`` (by how much of itself the newest rate is
        above the median of those before it, None for the first); None where none was measured.
    """
    there = [entry for entry in entries if entry.get("host") == host]
    taken = (there or entries)[-TAKEN:]
    if not taken:
        return None
    rates = [float(entry["ready_seconds"]) / int(entry["bytes"]) for entry in taken]
    hosts = {entry.get("host") for entry in taken}
    before = statistics.median(rates[:-1]) if len(rates) > 1 else None
    return {
        "seconds": round(statistics.median(rates) * size, 1),
        "low": round(min(rates) * size, 1),
        "high": round(max(rates) * size, 1),
        "measured": len(taken),
        "host": hosts.pop() if len(hosts) == 1 else None,
        "last": taken[-1].get("time"),
        "trend": round(rates[-1] / before - 1, 3) if before else None,
    }
