# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups on disk: where they lie, how they are published whole or not at all, how they are read and trusted.

``<directory>/<database>/<YYYYMMDD_HHMMSS>_<purpose>_<run id>/`` holds ``dump/`` (pg_dump, directory format),
``catalog.json.gz``, ``globals.json.gz``, ``manifest.json`` and, once it has been proved, ``proof.json``. Folders are 0700, files 0600.
An encrypted one holds ``dump.age``, ``catalog.json.gz.age`` and ``globals.json.gz.age`` in their place; only its manifest and proof can
be read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Callable
from urllib.parse import quote

from ansible_collections.whitecross.pgops.plugins.module_utils import encryption, physical_folder, sealed_settings
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, PgopsError

MANIFEST_FORMAT = 1
MANIFEST = "manifest.json"
PROOF = "proof.json"
PINS = "pins.json"
# Where the backup was copied to.
COPIES = "copies.json"
CATALOG = "catalog.json.gz"
# Roles and tablespaces, which belong to the server; see needed_roles.
GLOBALS = "globals.json.gz"
DUMP = "dump"
PARTIAL = ".partial"
LOCK = ".lock"
# Of the ladder's levels the one at which everything was restored and compared, and the last.
PROVED = 4
HIGHEST = 6
READ_BLOCK = 1 << 20  # bytes; sha256 releases the interpreter for blocks of this size
# What a file is called while it is written; a kill leaves it behind.
_NEW = ".new"
# Files that are written after the manifest and so are not in its list.
_UNLISTED = frozenset({MANIFEST, PROOF, PROOF + _NEW, PINS, PINS + _NEW, COPIES, COPIES + _NEW})
_SAFE_WORD = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Backup:
    """One published backup: its folder, its manifest and what is known of its proof."""

    path: str
    manifest: dict[str, Any]
    manifest_sha256: str
    proof: dict[str, Any] | None
    # What opens an encrypted one, from ``encrypted_dump.unlock``.
    identity: encryption.Identity | None = field(default=None, compare=False, repr=False)

    @property
    def encrypted(self) -> bool:
        """Dump and catalog can only be read with a private key."""
        return bool(self.manifest.get("encryption"))

    def was(self, manifest_sha256: str) -> bool:
        """:return: whether it is the backup of that manifest, be it encrypted to other keys since."""
        before = [str(line.get("manifest_sha256")) for line in self.manifest.get("rekeyed") or []]
        return manifest_sha256 in (self.manifest_sha256, *before)

    @property
    def proof_level(self) -> int:
        """The level of the ladder that the proof of this very manifest has reached, 0 where there is none; see proof_ladder."""
        if self.proof is None or self.proof.get("manifest_sha256") != self.manifest_sha256:
            return 0
        # A proof without a level is of a version that knew one kind only, and that compared everything.
        level = self.proof.get("level", PROVED)
        return level if isinstance(level, int) and 0 <= level <= HIGHEST else 0

    @property
    def proved(self) -> bool:
        """A proof is there, it is of this very manifest, and everything was restored and compared for it."""
        return self.proof_level >= PROVED


def database_folder(directory: str, database: str) -> str:
    """:return: where a database's backups lie; a name with ``/`` or a leading dot stays one plain folder."""
    name = quote(database, safe="")
    return os.path.join(directory, "%2E" + name[1:] if name.startswith(".") else name)


def folder_name(moment: datetime, purpose: str, run_id: str) -> str:
    """:return: ``YYYYMMDD_HHMMSS_<purpose>_<run id>``, UTC."""
    words = [_SAFE_WORD.sub("-", word).strip("-.") or "none" for word in (purpose, run_id)]
    return "_".join([moment.astimezone(timezone.utc).strftime("%Y%m%d_%H%M%S"), *words])


def make_private_folder(path: str) -> None:
    """Make a folder and its parents, 0700 whatever the umask says, durable as what is written into them.

    :raises PgopsError: it cannot be made or written.
    """
    try:
        missing = []
        parent = path
        while not os.path.isdir(parent):
            missing.append(parent)
            parent = os.path.dirname(parent) or "."
        for folder in reversed(missing):
            if os.path.isdir(folder):  # "new/.." is there as soon as "new" is
                continue
            os.mkdir(folder, 0o700)
            os.chmod(folder, 0o700)
            sync_folder(os.path.dirname(folder) or ".")
    except OSError as exc:
        raise PgopsError(
            f"The backup folder {path} cannot be made: {exc.strerror}.",
            hint="Set backup_directory to a folder that the connecting user may write, or make it.",
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise PgopsError(
            f"The backup folder {path} cannot be written by this user.",
            hint="Set backup_directory to a folder that the connecting user may write.",
        )


@contextlib.contextmanager
def locked(directory: str, database: str, purpose: str) -> Iterator[str]:
    """Hold the lock of a database's backup folder; it is free again as soon as its process is gone, however it went.

    :return: the folder.
    :raises PgopsError: another process of this host holds it; it says which and since when.
    """
    folder = database_folder(directory, database)
    make_private_folder(folder)
    descriptor = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise locked_by(descriptor, folder, database) from None
        since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{purpose} (process {os.getpid()} on {socket.gethostname()} since {since})".encode(), 0)
        yield folder
    finally:
        os.close(descriptor)


def locked_by(descriptor: int, folder: str, database: str) -> PgopsError:
    """:param descriptor: of the file that :func:`locked` locks. :return: the refusal, with who holds it and since when."""
    holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip() or "another process"
    return PgopsError(
        f"The backups of {database} in {folder} are locked by {holder}; nothing was done.",
        database=database,
        hint="Wait until it has ended, then run the same command again.",
        extra={"locked": True},
    )


def remove_partials(folder: str) -> list[str]:
    """Remove what dead runs left half-written. Call it under :func:`locked`: then no living run owns one.

    :return: the names removed.
    """
    removed = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(PARTIAL):
            remove_tree(os.path.join(folder, name))
            removed.append(name)
    return removed


def remove_tree(path: str) -> None:
    """Remove a folder, also while a dying pg_dump still writes its last file into it."""
    for attempt in range(5):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.1 * (attempt + 1))  # what is killed writes for some tenths of a second at most
    shutil.rmtree(path)


def sync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: str, data: bytes) -> str:
    """Write a file of mode 0600, durable when this returns.

    :return: its sha256.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(data).hexdigest()


def write_json(path: str, value: Any) -> str:
    """Write JSON so that a reader sees the old file or the new one, never a half of it.

    :return: the sha256 of the file.
    """
    data = (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    temporary = path + _NEW
    try:
        digest = write_private(temporary, data)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(os.path.dirname(path))
    return digest


def write_catalog(folder: str, inventory: dict[str, Any], recipients: list[str]) -> None:
    """Keep the whole catalog beside the dump, compressed; its fingerprint stands in the manifest.

    :param recipients: who alone may read it, since defaults and checks may hold values; everybody where there is none.
    """
    write_beside(folder, CATALOG, inventory, recipients)


def write_beside(folder: str, name: str, value: dict[str, Any], recipients: list[str]) -> None:
    """Keep something beside the dump, compressed.

    :param name: of the file; an encrypted one gets a suffix.
    :param recipients: who alone may read it; everybody where there is none.
    """
    data = gzip.compress(json.dumps(value, sort_keys=True, ensure_ascii=False).encode(), 6, mtime=0)
    if recipients:
        write_private(os.path.join(folder, name + encryption.SUFFIX), encryption.encrypt(data, recipients))
    else:
        write_private(os.path.join(folder, name), data)


def read_catalog(backup: Backup) -> dict[str, Any]:
    """:return: the catalog as it was in the dump's snapshot. :raises PgopsError: it cannot be read, or its key is missing."""
    found = read_beside(backup, CATALOG)
    found.pop(sealed_settings.KEY, None)
    return found


def with_settings(backup: Backup) -> Backup:
    """Join the values of the database's settings, where the manifest has their names only.

    :param backup: with its key.
    :raises PgopsError: the catalog cannot be read, or is another backup's.
    """
    if not backup.encrypted or not sealed_settings.withheld(backup.manifest["properties"]):
        return backup
    kept = read_beside(backup, CATALOG).get(sealed_settings.KEY)
    if kept is None:
        raise PgopsError(
            f"The catalog of {backup.path} does not hold the settings that its manifest names.",
            hint=_TAKE_ANOTHER,
            unusable=BACKUP,
        )
    return replace(backup, manifest=sealed_settings.joined(backup.manifest, kept))


def read_beside(backup: Backup, name: str) -> dict[str, Any]:
    """:return: what :func:`write_beside` has kept. :raises PgopsError: it cannot be read, or its key is missing."""
    path = os.path.join(backup.path, name)
    try:
        if backup.encrypted:
            path += encryption.SUFFIX
            return dict(json.loads(gzip.decompress(encryption.decrypt(path, backup.identity))))
        with gzip.open(path, "rb") as stream:
            return dict(json.loads(stream.read()))
    except (OSError, EOFError, TypeError, ValueError, zlib.error) as exc:
        what = "catalog" if name == CATALOG else "file"
        raise PgopsError(
            f"The backup's {what} {path} cannot be read: {exc}.", hint=_TAKE_ANOTHER, unusable=BACKUP
        ) from None


_TAKE_ANOTHER = "Take another backup, or name an older one with -e rollback_backup=PATH."


def list_files(path: str) -> tuple[dict[str, int], list[str]]:
    """:return: the size of each regular file below a folder by its relative name, and what is no regular file."""
    sizes: dict[str, int] = {}
    strange = []
    for folder, folders, files in os.walk(path):
        for name in files + [entry for entry in folders if os.path.islink(os.path.join(folder, entry))]:
            whole = os.path.join(folder, name)
            found = os.lstat(whole)
            relative = os.path.relpath(whole, path)
            if stat.S_ISREG(found.st_mode):
                sizes[relative] = found.st_size
            else:
                strange.append(relative)
    return sizes, strange


def differing_files(backup: Backup) -> dict[str, str]:
    """Compare names and sizes of a backup's files with its manifest, without reading them.

    :return: what is wrong, by name; missing and further files too.
    """
    listed: dict[str, dict[str, Any]] = backup.manifest["files"]
    sizes, strange = list_files(backup.path)
    wrong = {name: "is no plain file" for name in strange}
    for name in sizes:
        if name not in listed and name not in _UNLISTED:
            wrong[name] = "is not in the manifest"
    for name, entry in listed.items():
        if name not in sizes:
            wrong.setdefault(name, "is missing")
        elif sizes[name] != entry["bytes"]:
            wrong[name] = f"has {sizes[name]} bytes, the manifest says {entry['bytes']}"
    return wrong


def hash_file(path: str) -> str:
    """:return: the sha256 of a file's contents."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while True:
            block = stream.read(READ_BLOCK)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def hash_files(
    path: str, names: list[str], workers: int = 2, check: Callable[[], None] | None = None
) -> dict[str, str]:
    """Read files whole.

    :param check: called before each file; raises when the job has to end.
    :return: the sha256 of each.
    """

    def one(name: str) -> str:
        if check:
            check()
        return hash_file(os.path.join(path, name))

    # Here: what writes a run's record when Python already ends imports this module too, and this import is refused then.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=workers) as pool:
        return dict(zip(names, pool.map(one, names)))


def seal(path: str, workers: int = 2, check: Callable[[], None] | None = None) -> dict[str, dict[str, Any]]:
    """Give every file of a finished dump its mode, make it durable and take its sha256.

    :return: ``{relative name: {"bytes", "sha256"}}``, as the manifest keeps it.
    """
    sizes, strange = list_files(path)
    if strange:
        raise PgopsError(f"The dump in {path} holds something that is no plain file: {strange[0]}.")
    for folder, _folders, files in os.walk(path):
        os.chmod(folder, 0o700)
        for name in files:
            whole = os.path.join(folder, name)
            os.chmod(whole, 0o600)
            descriptor = os.open(whole, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(folder)
    digests = hash_files(path, sorted(sizes, key=lambda name: -sizes[name]), workers, check)
    return {name: {"bytes": sizes[name], "sha256": digests[name]} for name in sorted(sizes)}


def publish(partial: str, final: str) -> None:
    """Rename a sealed ``.partial`` folder to its name; from here on it is a backup."""
    if os.path.lexists(final):
        raise PgopsError(f"There is a backup of that name already: {final}; it is left as it is.")
    sync_folder(partial)
    os.rename(partial, final)
    sync_folder(os.path.dirname(final))


def read_backup(path: str) -> Backup:
    """Read a backup's manifest and proof; its other files are only read by :func:`verify_files`.

    :raises PgopsError: no folder, no manifest, or one that this version cannot read.
    """
    path = os.path.abspath(path)
    manifest_path = os.path.join(path, MANIFEST)
    if not os.path.isdir(path):
        raise PgopsError(
            f"There is no backup {path} on this host.", hint="Name a folder that backup.yml has made.", unusable=BACKUP
        )
    if path.endswith(PARTIAL):
        raise PgopsError(f"{path} is a backup that was never finished.", hint=_TAKE_ANOTHER, unusable=BACKUP)
    if not os.path.exists(manifest_path):
        physical_folder.refuse(path)
    try:
        with open(manifest_path, "rb") as stream:
            data = stream.read()
        manifest: dict[str, Any] = dict(json.loads(data))
    except OSError as exc:
        raise PgopsError(
            f"The manifest {manifest_path} cannot be read: {exc.strerror}.", hint=_TAKE_ANOTHER, unusable=BACKUP
        ) from None
    except (TypeError, ValueError):
        raise PgopsError(
            f"The manifest {manifest_path} is damaged: it is no JSON object.", hint=_TAKE_ANOTHER, unusable=BACKUP
        ) from None
    if manifest.get("format") != MANIFEST_FORMAT:
        raise PgopsError(
            f"The manifest {manifest_path} has format {manifest.get('format')!r}; this version reads {MANIFEST_FORMAT}.",
            hint="Use the version of whitecross.pgops that made the backup.",
            unusable=BACKUP,
        )
    return Backup(path, manifest, hashlib.sha256(data).hexdigest(), _read_proof(path))


def _read_proof(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, PROOF), "rb") as stream:
            proof = json.loads(stream.read())
    except (OSError, ValueError):
        return None  # no proof, or none that can be read: then it is not proved
    return proof if isinstance(proof, dict) else None


def write_proof(backup: Backup, proof: dict[str, Any]) -> Backup:
    """Put the proof into the backup's folder. :return: the backup with it. :raises PgopsError: it cannot be written there, or it is
    of another manifest than the one that is there by now."""
    try:
        if hash_file(os.path.join(backup.path, MANIFEST)) != backup.manifest_sha256:
            raise PgopsError(
                f"The backup {backup.path} was encrypted anew or altered while it was proved; the proof was not written.",
                database=backup.manifest.get("database"),
                hint="Prove it again with prove.yml.",
            )
        write_json(os.path.join(backup.path, PROOF), proof)
    except OSError as exc:
        raise PgopsError(
            f"The backup {backup.path} was restored and is whole, and its proof cannot be written there: {exc.strerror or exc}.",
            database=backup.manifest.get("database"),
            hint="Free space in that folder, or make it writable; then prove it again with prove.yml.",
            extra={"errno": exc.errno},
        ) from None
    return replace(backup, proof=proof)


def remove_proof(backup: Backup) -> None:
    """Take back a proof that no longer holds."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(backup.path, PROOF))
        sync_folder(backup.path)


def verify_files(backup: Backup, check: Callable[[], None] | None = None) -> None:
    """Read every file of a backup and compare size and sha256 with the manifest; missing and further files are told.

    pg_restore --list is no test: it returns 0 on a dump cut to 20 % and on one with data files deleted (fact 1).

    :raises PgopsError: naming the first file that differs, with all of them in ``extra["files"]``.
    """
    listed: dict[str, dict[str, Any]] = backup.manifest["files"]
    wrong = differing_files(backup)
    whole = sorted((name for name in listed if name not in wrong), key=lambda name: -listed[name]["bytes"])
    for name, digest in hash_files(backup.path, whole, check=check).items():
        if digest != listed[name]["sha256"]:
            wrong[name] = "has other contents than the manifest says (sha256)"
    if wrong:
        first = min(wrong)
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise PgopsError(
            f"The backup {backup.path} is damaged: {first} {wrong[first]}{more}.",
            database=backup.manifest.get("database"),
            object_name=first,
            hint=_TAKE_ANOTHER,
            unusable=BACKUP,
            extra={"files": wrong},
        )


def backups_of(directory: str, database: str) -> list[Backup]:
    """:return: the published backups of a database that can be read, newest snapshot first."""
    folder = database_folder(directory, database)
    found = []
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            if name.endswith(PARTIAL) or name.startswith("."):
                continue
            with contextlib.suppress(PgopsError):
                found.append(read_backup(os.path.join(folder, name)))
    return sorted(found, key=lambda backup: (str(backup.manifest.get("snapshot_time")), backup.path), reverse=True)
