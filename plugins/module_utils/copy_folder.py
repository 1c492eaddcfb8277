# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies in a folder of another file system: a mounted share or disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.copy_place import Check, Place
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError


class Folder(Place):
    """A folder of another file system: a mounted share or disk."""

    def __init__(self, path: str, same_file_system: bool) -> None:
        self.shown = path
        self._same_file_system = same_file_system

    def look(self, source: str, check: Check) -> None:
        """:raises PgopsError: it is not there, not writable, or on the disk that the backups are on."""
        if not os.path.isdir(self.shown):
            raise PgopsError(
                f"There is no folder {self.shown} on {socket.gethostname()}.",
                hint="Mount it; it is never made, since a copy would then fill the disk below.",
                extra={"final": True},
            )
        if not self._same_file_system and os.stat(self.shown).st_dev == os.stat(source).st_dev:
            raise PgopsError(
                f"{self.shown} is on the file system of the backups themselves, which is no second place.",
                hint="Is it not mounted? Where it is meant so, say same_file_system: true beside it.",
                extra={"final": True},
            )

    def has(self, below: str, manifest_sha256: str, check: Check) -> bool:
        """As the base says."""
        final = os.path.join(self.shown, below)
        if not os.path.lexists(final):
            return False
        with self._storage():
            manifest = os.path.join(final, backup_store.MANIFEST)
            if os.path.isfile(manifest) and _read_hash(manifest, check) == manifest_sha256:
                return True
        raise self.another(below)

    def send(self, source: str, below: str, names: Sequence[str], check: Check) -> None:
        """Write each file, durable."""
        partial = os.path.join(self.shown, below + backup_store.PARTIAL)
        with self._storage():
            # What an earlier run has left may be half a file.
            if os.path.lexists(partial):
                backup_store.remove_tree(partial)
            backup_store.make_private_folder(partial)
            folders = {partial}
            for name in names:
                folder = os.path.dirname(os.path.join(partial, name))
                backup_store.make_private_folder(folder)
                folders.add(folder)
                _copy_file(os.path.join(source, name), os.path.join(partial, name), check)
            for folder in folders:
                backup_store.sync_folder(folder)

    def read_back(self, below: str, names: Sequence[str], check: Check, *, published: bool = False) -> dict[str, str]:
        """From the medium where the kernel lets us: what it keeps in memory is no proof of what was written."""
        folder = os.path.join(self.shown, below + ("" if published else backup_store.PARTIAL))
        with self._storage():
            return {
                name: _read_hash(os.path.join(folder, name), check)
                for name in names
                if os.path.isfile(os.path.join(folder, name))
            }

    def publish(self, source: str, below: str, check: Check) -> None:
        """By a rename."""
        with self._storage():
            final = os.path.join(self.shown, below)
            if os.path.lexists(final):
                raise self.another(below)
            os.rename(final + backup_store.PARTIAL, final)
            backup_store.sync_folder(os.path.dirname(final))

    def renew(self, source: str, below: str, name: str, check: Check) -> None:
        """By a rename."""
        final = os.path.join(self.shown, below, name)
        with self._storage():
            _copy_file(os.path.join(source, name), final + backup_store.PARTIAL, check)
            os.rename(final + backup_store.PARTIAL, final)
            backup_store.sync_folder(os.path.dirname(final))

    def discard(self, below: str, check: Check) -> None:
        """As the base says."""
        with self._storage():
            backup_store.remove_tree(os.path.join(self.shown, below + backup_store.PARTIAL))

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise PgopsError(
                f"{self.shown} cannot be used: {exc.filename or self.shown}: {exc.strerror or exc}.",
                hint="Free space there, or make it writable for the user that backs up.",
                extra={"errno": exc.errno, "final": True},
            ) from None


def _copy_file(source: str, destination: str, check: Check) -> None:
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(source, "rb", buffering=0) as reading, os.fdopen(descriptor, "wb", buffering=0) as writing:
        os.fchmod(writing.fileno(), 0o600)
        while True:
            block = reading.read(backup_store.READ_BLOCK)
            if not block:
                break
            writing.write(block)
            check()
        os.fsync(writing.fileno())


def _read_hash(path: str, check: Check) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while True:
            block = stream.read(backup_store.READ_BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)
            check()
