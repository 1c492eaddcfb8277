# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deletes a backup so that no kill leaves a half that looks whole, no link leads elsewhere, and each deletion is written down.

Everything goes by the descriptor of the open folder, so nobody can put a link in the place of what was looked at.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_pins, backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_catalogue import DELETIONS, HALF_WRITTEN, Entry
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Told after each step, by a name; tests kill the process there.
Step = Callable[[str], None]

DELETING = "deleting"
DELETED = "deleted"
AUDITED = "audited"

_FULL = (errno.ENOSPC, errno.EDQUOT)


def refuse_strange_folder(folder: str, database: str) -> None:
    """Refuse a database's folder that is a link or somebody else's.

    :raises PgopsError: nothing may be deleted there.
    """
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise PgopsError(
            f"{folder} is a link or no folder; nothing of {database} was deleted.",
            database=database,
            hint="Name the folder that it leads to with -e backup_directory=FOLDER.",
        )
    refuse_other_owner(folder, status.st_uid, database)


def refuse_other_owner(path: str, owner: int, database: str) -> None:
    """:raises PgopsError: a folder belongs to another user than the one that this runs as."""
    if owner != os.geteuid():
        raise PgopsError(
            f"{path} belongs to user {owner} and this runs as {os.geteuid()}; nothing of {database} was deleted.",
            database=database,
            hint="Run it as the user that makes the backups.",
        )


def refuse_locked(folder: str, database: str) -> None:
    """Look, without writing, whether :func:`backup_store.locked` would refuse.

    :raises PgopsError: another process holds the lock of the folder.
    """
    try:
        descriptor = os.open(os.path.join(folder, backup_store.LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # What is open for reading only cannot be locked otherwise on NFS.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise backup_store.locked_by(descriptor, folder, database) from None
    finally:
        os.close(descriptor)


@dataclass
class Deletions:
    """The deletions of one database's folder, under its lock.

    :ivar shared: what each line of the record tells besides: who, run_id, and the like.
    :ivar now: the time of a line, ISO 8601 in UTC.
    """

    folder: str
    database: str
    shared: Mapping[str, Any]
    now: Callable[[], str]
    after: Step = field(default=lambda step: None)

    def delete(self, entry: Entry, why: str) -> dict[str, Any]:
        """Delete one backup, or what is left of one.

        First a line says that it goes, then its name says that it is no backup any more, then its files go, the manifest last.
        On a full file system there is no room for the first line: the manifest stays until freed space has taken the second.

        :param why: for the record.
        :return: the line of the record.
        :raises PgopsError: it is pinned now, is no folder of ours, holds a link or another file system, or cannot be removed.
        """
        with _opened(self.folder) as folder, _opened(entry.path) as inside:
            line = self._say_that_it_goes(entry, why, folder, inside)
            for name in os.listdir(inside):
                if name != backup_store.MANIFEST:
                    _remove(name, inside)
            self.after("emptied")
            self.note({**line, "event": DELETED})
            self.after("written")
            for name in os.listdir(inside):
                _remove(name, inside)
            os.rmdir(_id(entry) + backup_store.PARTIAL, dir_fd=folder)
            os.fsync(folder)
            self.after("gone")
        return line

    def _say_that_it_goes(self, entry: Entry, why: str, folder: int, inside: int) -> dict[str, Any]:
        """Look once more, write the line, and take its name; from here on no pin finds it.

        :param folder: descriptor of the database's folder. :param inside: of the backup's.
        """
        with backup_pins.held(self.folder):
            if not _is_still(entry.path, inside):
                raise PgopsError(f"{entry.path} is not the folder any more that was looked at.", database=self.database)
            if entry.state != HALF_WRITTEN:
                _refuse_pinned(entry)
            self._refuse_strange(entry, inside)
            before = self._of_before(entry)
            line = {**self._line(entry), "why": why} if before is None else before
            try:
                self.note({**line, "event": DELETING})
            except OSError as exc:
                if exc.errno not in _FULL:
                    raise
            self.after("noted")
            if entry.state != HALF_WRITTEN:
                os.rename(entry.id, entry.id + backup_store.PARTIAL, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            self.after("renamed")
        return line

    def _of_before(self, entry: Entry) -> dict[str, Any] | None:
        """:return: of a backup whose deletion was cut off the line that said that it goes; None of any other."""
        if entry.state != HALF_WRITTEN:
            return None
        lines = [line for line in recorded(self.folder) if line.get("id") == _id(entry)]
        return {**lines[-1], **self.shared} if lines and lines[-1].get("event") in (DELETING, DELETED) else None

    def _line(self, entry: Entry) -> dict[str, Any]:
        manifest = entry.manifest
        told = {name: manifest.get(name) for name in ("purpose", "environment", "snapshot_time", "phi")}
        return {
            "id": _id(entry),
            "database": self.database,
            "bytes": entry.bytes,
            "state": entry.state,
            **told,
            "made_by_run": manifest.get("run_id"),
            "manifest_sha256": entry.backup.manifest_sha256 if entry.backup else None,
            "level": entry.level,
            **self.shared,
        }

    def _refuse_strange(self, entry: Entry, held: int) -> None:
        status = os.fstat(held)
        refuse_other_owner(entry.path, status.st_uid, self.database)
        strange = _strange(held, status.st_dev)
        if strange:
            raise PgopsError(
                f"{entry.path} holds {strange}; it was left as it is.", database=self.database, extra={"left": True}
            )

    # -- the record ----------------------------------------------------------------------------------------------------

    def note(self, line: Mapping[str, Any]) -> None:
        """Append a line to the record, durable when this returns; a line that a crash has torn takes no other with it.

        :raises OSError: it cannot be written.
        """
        data = json.dumps({**line, "time": self.now()}, ensure_ascii=False, sort_keys=True).encode() + b"\n"
        path = os.path.join(self.folder, DELETIONS)
        is_new = not os.path.lexists(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            if is_new:
                os.fchmod(descriptor, 0o600)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            backup_store.sync_folder(self.folder)

    def unaudited(self) -> list[dict[str, Any]]:
        """:return: the deletions that the ledger's audit does not have yet, oldest first."""
        waiting: dict[str, dict[str, Any]] = {}
        for line in recorded(self.folder):
            if line.get("event") in (DELETING, DELETED):
                waiting[str(line.get("id"))] = line
            elif line.get("event") == AUDITED:
                for name in line.get("ids") or []:
                    waiting.pop(str(name), None)
        # What a killed run has left half deleted, the next backup may have removed.
        return [line for name, line in waiting.items() if not self._is_there(name)]

    def _is_there(self, name: str) -> bool:
        path = os.path.join(self.folder, name)
        return os.path.lexists(path) or os.path.lexists(path + backup_store.PARTIAL)


def _id(entry: Entry) -> str:
    return entry.id[: -len(backup_store.PARTIAL)] if entry.state == HALF_WRITTEN else entry.id


def recorded(folder: str) -> list[dict[str, Any]]:
    """:return: the lines of a folder's record of deletions, without torn ones."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(os.path.join(folder, DELETIONS), "rb") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _refuse_pinned(entry: Entry) -> None:
    pins = backup_pins.read(entry.path)["pins"]
    if pins:
        raise PgopsError(
            f"The backup {entry.path} was pinned a moment ago by {pins[0]['who']}; it stays.", extra={"left": True}
        )


@contextlib.contextmanager
def _opened(path: str, within: int | None = None) -> Iterator[int]:
    """:return: the descriptor of a folder, which is no link.

    :param within: descriptor of the folder that a relative path begins in.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_still(path: str, descriptor: int) -> bool:
    there, opened = os.lstat(path), os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def _strange(folder: int, device: int) -> str:
    """:return: the first thing below an open folder that is neither file nor folder of its file system; empty where none is."""
    for name in os.listdir(folder):
        status = os.lstat(name, dir_fd=folder)
        if stat.S_ISDIR(status.st_mode):
            if status.st_dev != device:
                return f"{name}, where another file system is mounted"
            with _opened(name, folder) as below:
                found = _strange(below, device)
            if found:
                return found
        elif not stat.S_ISREG(status.st_mode):
            return f"{name}, which is a link or no plain file"
    return ""


def _remove(name: str, folder: int) -> None:
    """Remove a file, or a folder with all that is in it, below an open folder; no link is followed."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
        os.unlink(name, dir_fd=folder)
        return
    with _opened(name, folder) as below:
        for inside in os.listdir(below):
            _remove(inside, below)
    os.rmdir(name, dir_fd=folder)
