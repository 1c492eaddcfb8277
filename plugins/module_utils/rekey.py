# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encrypt backups that are there already to other public keys: decrypted and encrypted again through pipes, never plain on a disk.

Each is made anew beside itself and takes its own name by one exchange of the two folders. What comes out of it is compared, byte
by byte in a hash, with what was in it before: so its proof holds on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_catalogue,
    backup_pins,
    backup_store,
    copies,
    disk_forecast,
    encrypted_dump,
    encryption,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_catalogue import WHOLE, Entry
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress

ALL = "all"
NEW = ".rekeyed" + backup_store.PARTIAL
_PROBES = (".exchange-a" + backup_store.PARTIAL, ".exchange-b" + backup_store.PARTIAL)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

# Told after each step, by a name; tests kill the process there.
Step = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What a change of keys was typed for.

    :ivar recipients: the public keys, as ``encryption.usable_recipients`` gives them.
    :ivar identity: opens what is there, and what it is encrypted to anew.
    :ivar names: ids of backups, or ``all``.
    :ivar environment: the backups of another one are left.
    """

    recipients: list[str]
    identity: Identity | None
    names: Sequence[str] = (ALL,)
    environment: str = ""
    run_id: str = "by-hand"


def rekey(
    directory: str,
    database: str,
    asked: Asked,
    *,
    check_only: bool = False,
    progress: Progress | None = None,
    control: Control | None = None,
    after: Step = lambda step: None,
) -> dict[str, Any]:
    """Encrypt the backups of a database to the recipients that are given, where they are encrypted to others.

    Reaches no database. Takes the lock of the database's backups.

    :param directory: the folder that holds a folder for each database, on this host.
    :param check_only: only say which, and whether the key opens them.
    :return: folder, ``rekeyed`` (each id, path, bytes, seconds, recipients before, level of its proof, copies that are as they were),
        ``same`` (ids that are encrypted to these keys already) and ``left`` (id, told why).
    :raises PgopsError: no key, one that does not open all of them or not what it is encrypted to anew, no room, a name that is none;
        what was done until then is in ``extra["databases"]``.
    """
    progress, control = progress or Progress(None), control or Control(None)
    if not asked.recipients:
        raise PgopsError(
            "backup_encrypt_to names no public key, so nothing can be encrypted to another one; nothing was done.",
            database=database,
            hint="Name the public keys that the backups are to be encrypted to.",
        )
    folder = backup_store.database_folder(directory, database)
    result: dict[str, Any] = {"folder": folder, "rekeyed": [], "same": [], "left": []}
    with contextlib.ExitStack() as held:
        if os.path.isdir(folder) and not check_only:
            held.enter_context(backup_store.locked(directory, database, f"rekey {asked.run_id}"))
            backup_store.remove_partials(folder)
        going = _opened(_going(directory, database, asked, result), asked, result)
        if not going:
            return result
        _refuse_wrong_key(asked, database)
        if check_only:
            result["rekeyed"] = [_told(entry, 0.0, entry.level) for entry in going]
            return result
        refuse_no_exchange(folder)
        for number, entry in enumerate(going, 1):
            control.check()
            progress.emit("encrypting anew", database=database, done=number, total=len(going), unit="backups")
            try:
                result["rekeyed"].append(_Rekey(entry, asked, control, after).work())
            except (OSError, PgopsError) as error:
                if isinstance(error, PgopsError) and error.extra.get("left"):
                    result["left"].append({"id": entry.id, "told": error.message.rstrip(".")})
                    continue
                raise _broken_off(error, database, entry, result) from None
    return result


# -- which ---------------------------------------------------------------------------------------------------------------


def _going(directory: str, database: str, asked: Asked, result: dict[str, Any]) -> list[Entry]:
    """:return: those that are to be encrypted anew, newest first; the others come into the result."""
    found = [
        entry for entry in backup_catalogue.entries(directory, database) if not entry.id.endswith(backup_store.PARTIAL)
    ]
    if ALL not in asked.names:
        missing = sorted({*asked.names} - {entry.id for entry in found})
        if missing:
            raise PgopsError(
                f"There is no backup {missing[0]} in {result['folder']}; nothing was done.",
                database=database,
                hint="backup_list.yml lists the ids.",
            )
        found = [entry for entry in found if entry.id in asked.names]
    going = []
    for entry in found:
        environment = str(entry.manifest.get("environment") or "")
        if entry.state != WHOLE:
            result["left"].append({"id": entry.id, "told": f"{entry.state}: {entry.told}"})
        elif asked.environment and environment not in ("", asked.environment):
            result["left"].append({"id": entry.id, "told": f"of environment {environment}"})
        elif not (entry.backup and entry.backup.encrypted):
            result["left"].append(
                {"id": entry.id, "told": "not encrypted; a new backup is, and this one can then be deleted"}
            )
        elif {*_recipients(entry)} == {*asked.recipients}:
            result["same"].append(entry.id)
        else:
            going.append(entry)
    return going


def _recipients(entry: Entry) -> list[str]:
    return [str(key) for key in (entry.manifest.get("encryption") or {}).get("recipients") or []]


def _opened(going: list[Entry], asked: Asked, result: dict[str, Any]) -> list[Entry]:
    """:return: those that are sound, as far as the key shows at once; the others come into the result.
    :raises PgopsError: there is no key, or it does not open one of them."""
    sound = []
    for entry in going:
        assert entry.backup is not None
        try:
            encrypted_dump.unlock(entry.backup, asked.identity)
            sound.append(entry)
        except PgopsError as error:
            if error.extra.get("reason") or "files" not in error.extra:
                raise
            result["left"].append({"id": entry.id, "told": error.message.rstrip(".")})
    return sound


def _refuse_wrong_key(asked: Asked, database: str) -> None:
    """:raises PgopsError: before anything is done: nobody here could open them any more."""
    assert asked.identity is not None
    sample = encryption.encrypt(encrypted_dump.MAGIC, asked.recipients)
    if not encryption.opens(sample, asked.identity):
        raise PgopsError(
            f"The private key {asked.identity.shown} opens none of the public keys that the backups are to be encrypted to, so that "
            "nobody could see whether they can be read; nothing was done.",
            database=database,
            hint="Name a file that holds the old key and the new one: (umask 077 && cat OLD NEW > BOTH).",
            extra={"reason": "wrong_identity"},
        )


# -- one of them ---------------------------------------------------------------------------------------------------------


class _Rekey:
    """One backup, from its files to its name."""

    def __init__(self, entry: Entry, asked: Asked, control: Control, after: Step) -> None:
        assert entry.backup is not None and asked.identity is not None
        self.entry = entry
        self.backup: Backup = entry.backup
        self.identity: Identity = asked.identity
        self.asked = asked
        self.control = control
        self.after = after
        self.new = entry.path + NEW

    def work(self) -> dict[str, Any]:
        """:return: what the result tells of it. :raises PgopsError: with ``left`` where it is damaged: then it is as it was."""
        began = time.monotonic()
        with copies.only_one(self.backup):
            self._refuse_damaged()
            self._refuse_full()
            try:
                backup_store.make_private_folder(self.new)
                manifest = self._encrypt_anew()
                digest = backup_store.write_json(os.path.join(self.new, backup_store.MANIFEST), manifest)
                level = self._take_along(digest)
                self.after("written")
                # A pin that is placed meanwhile is not lost.
                with backup_pins.held(os.path.dirname(self.entry.path)):
                    self._take_pins()
                    backup_store.sync_folder(self.new)
                    exchange(self.new, self.entry.path)
                self.after("exchanged")
            finally:
                # Before the exchange it is the new one, afterwards the old one. What stays, the next run or backup removes.
                with contextlib.suppress(OSError):
                    backup_store.remove_tree(self.new)
        backup_store.sync_folder(os.path.dirname(self.entry.path))
        return _told(self.entry, time.monotonic() - began, level)

    def _refuse_damaged(self) -> None:
        try:
            backup_store.verify_files(self.backup, self.control.check)
        except PgopsError as error:
            error.extra["left"] = True
            raise

    def _refuse_full(self) -> None:
        found = os.statvfs(self.entry.path)
        free, needed = found.f_bavail * found.f_frsize, int(self.backup.manifest["bytes"])
        if free < needed:
            raise PgopsError(
                f"{self.entry.path} takes {disk_forecast.mb(needed)} once more while it is encrypted anew, and "
                f"{disk_forecast.mb(free)} are free there",
                hint="Free space there; the old one goes as soon as the new one has its name.",
                extra={"reason": "disk"},
            )

    def _encrypt_anew(self) -> dict[str, Any]:
        """:return: the new manifest."""
        manifest = dict(self.backup.manifest)
        for name in sorted(manifest["files"]):
            if not name.endswith(encryption.SUFFIX):
                raise PgopsError(f"{self.entry.path} holds {name}, which is not encrypted", extra={"left": True})
            self._encrypt_file(name)
        files = backup_store.seal(self.new, check=self.control.check)
        before = {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "run_id": self.asked.run_id,
            "manifest_sha256": self.backup.manifest_sha256,
            "recipients": _recipients(self.entry),
        }
        return {
            **manifest,
            "files": files,
            "bytes": sum(entry["bytes"] for entry in files.values()),
            "encryption": {**manifest["encryption"], "recipients": self.asked.recipients},
            "rekeyed": [*manifest.get("rekeyed", []), before],
        }

    def _encrypt_file(self, name: str) -> None:
        source, destination = os.path.join(self.entry.path, name), os.path.join(self.new, name)
        was = hashlib.sha256()
        descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with (
            os.fdopen(descriptor, "wb") as file,
            encryption.encrypted_file(file, self.asked.recipients, destination) as plain,
        ):
            for block in self._plain(source):
                was.update(block)
                plain.write(block)
        self.after(name)
        now = hashlib.sha256()
        for block in self._plain(destination):
            now.update(block)
        if now.digest() != was.digest():
            raise PgopsError(f"{destination} does not hold what {source} holds")

    def _plain(self, path: str) -> Iterator[bytes]:
        for block in encryption.decrypted(path, self.identity):
            self.control.check()
            yield block

    def _take_along(self, digest: str) -> int:
        """What lies beside the files: the proof, and where copies are. :return: the level of the proof."""
        level = self.backup.proof_level
        if level:
            # It was of these very bytes; only the manifest that it is bound to is another one.
            proof = {**(self.backup.proof or {}), "manifest_sha256": digest, "proved_manifest_sha256": self._first()}
            backup_store.write_json(os.path.join(self.new, backup_store.PROOF), proof)
        known = [{"recipients": _recipients(self.entry), **copy} for copy in copies.read(self.entry.path)]
        if known:
            backup_store.write_json(os.path.join(self.new, backup_store.COPIES), known)
        return level

    def _first(self) -> str:
        """:return: the manifest that was proved."""
        return str((self.backup.proof or {}).get("proved_manifest_sha256") or self.backup.manifest_sha256)

    def _take_pins(self) -> None:
        try:
            with open(os.path.join(self.entry.path, backup_store.PINS), "rb") as stream:
                backup_store.write_private(os.path.join(self.new, backup_store.PINS), stream.read())
        except FileNotFoundError:
            pass


def _told(entry: Entry, seconds: float, level: int) -> dict[str, Any]:
    return {
        "id": entry.id,
        "path": entry.path,
        "bytes": entry.bytes,
        "seconds": round(seconds, 3),
        "recipients_before": _recipients(entry),
        "level": level,
        "copies": [str(copy["path"]) for copy in copies.read(entry.path)],
    }


def _broken_off(error: OSError | PgopsError, database: str, entry: Entry, result: dict[str, Any]) -> PgopsError:
    done = {"databases": {database: result}}
    if isinstance(error, Interrupted):
        error.extra.update(done)
        return error
    if isinstance(error, PgopsError):
        told, hint, extra = error.message.rstrip("."), error.hint, {**error.extra, **done}
    else:
        told, hint, extra = error.strerror or str(error), None, {"errno": error.errno, **done}
    return PgopsError(
        f"The backup {entry.path} was not encrypted anew, and is as it was: {told}; {len(result['rekeyed'])} were done before it.",
        database=database,
        hint=hint or "Mend that, then run the same command again.",
        extra=extra,
    )


# -- the exchange of two folders -----------------------------------------------------------------------------------------


def exchange(first: str, second: str) -> None:
    """Give two folders each other's names, in one step of the file system.

    :raises OSError: it cannot; both are as they were.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), first)
    names = [ctypes.c_char_p(os.fsencode(path)) for path in (first, second)]
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), first)


def refuse_no_exchange(folder: str) -> None:
    """Try it with two empty folders, before hours of work.

    :raises PgopsError: the file system cannot exchange two folders.
    """
    paths = [os.path.join(folder, name) for name in _PROBES]
    try:
        for path in paths:
            os.mkdir(path, 0o700)
        exchange(*paths)
    except OSError as exc:
        raise PgopsError(
            f"The file system of {folder} cannot exchange two folders in one step ({exc.strerror}), so a backup would have no name for a "
            "moment; nothing was done.",
            hint="Do it where the backups lie on a local disk, or keep the old private key until the last of them has expired.",
        ) from None
    finally:
        for path in paths:
            with contextlib.suppress(OSError):
                os.rmdir(path)
