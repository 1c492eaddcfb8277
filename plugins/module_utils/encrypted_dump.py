# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A dump that is encrypted between pg_dump and the disk, and decrypted between the disk and pg_restore.

pg_dump's directory format writes its files itself, which would be plain ones; so an encrypted dump is one archive in custom format,
through a pipe, by one session. Both ends of a pipe are looked at: a pg_dump that dies leaves age a stream that simply ends.
"""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from typing import Callable

from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, encryption
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import END_SECONDS, ClientProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import AgeProcess, Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

DUMP = backup_store.DUMP + encryption.SUFFIX
FORMAT = "custom"
MAGIC = b"PGDMP"  # how an archive in custom format begins
# How long age may take to say why it ended, where pg_restore has failed.
LAST_WORD_SECONDS = 1.0


def unlock(backup: Backup, identity: Identity | None) -> Backup:
    """Take the private key to a backup, and see that it opens it; costs the first block of it, and the catalog where the database
    has settings of its own.

    :param identity: the key, None where there is none.
    :return: the backup with the key and the values of its database's settings, or as it is where it is not encrypted.
    :raises PgopsError: it is encrypted and the key is missing or another one, age is not there, or the dump is none.
    """
    if not backup.encrypted:
        return backup
    path = os.path.join(backup.path, DUMP)
    if identity is None:
        raise encryption.missing_identity(backup.path)
    encryption.refuse_missing_tool()
    # A dump that is missing is named by who reads all the files.
    if os.path.isfile(path) and encryption.decrypt(path, identity, first=len(MAGIC)) != MAGIC:
        raise PgopsError(
            f"{path} holds no dump.",
            database=backup.manifest.get("database"),
            hint="Take another backup, or name an older one with -e rollback_backup=PATH.",
            extra={"files": {DUMP: "holds no dump"}},
        )
    backup = replace(backup, identity=identity)
    # As is a catalog.
    there = os.path.isfile(os.path.join(backup.path, backup_store.CATALOG + encryption.SUFFIX))
    return backup_store.with_settings(backup) if there else backup


class EncryptedDump:
    """pg_dump into age into ``dump.age``; waited for and ended as one."""

    def __init__(
        self,
        tool: str,
        arguments: list[str],
        source: Target,
        *,
        folder: str,
        recipients: list[str],
        application_name: str,
        stoppable: bool = False,
    ) -> None:
        """
        :param arguments: pg_dump's, but for format and file.
        :param folder: where ``dump.age`` is written, not published yet.
        :param stoppable: whether :meth:`pause` may be called.
        """
        self._path = os.path.join(folder, DUMP)
        written = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        reading, writing = os.pipe()
        try:
            self._age = encryption.encrypting(recipients, stdin=reading, stdout=written)
            try:
                self._client = ClientProcess(
                    tool, [f"--format={FORMAT}", *arguments], source,
                    application_name=application_name, stdout=writing, stoppable=stoppable,
                )  # fmt: skip
            except BaseException:
                self._age.end()
                raise
        finally:
            # Each has its own end now; as long as we had one too, neither would see the other's end.
            for descriptor in (reading, writing, written):
                os.close(descriptor)

    @property
    def processes(self) -> tuple[int, int]:
        """The process ids of pg_dump and age, for who wants to look."""
        return self._client.process_id, self._age.process_id

    def pause(self) -> None:
        """Stop pg_dump until :meth:`go_on`; age then has nothing to read."""
        self._client.pause()

    def go_on(self) -> None:
        """Let a stopped pg_dump go on."""
        self._client.go_on()

    def wait(self, seconds: float) -> bool:
        """Wait for a while. :return: whether both have ended."""
        return self._client.wait(seconds) and self._age.wait(seconds)

    def end(self) -> None:
        """End both if they still run."""
        self._client.end()
        self._age.end()

    def result(self, doing: str, *, database: str | None = None, hints: Callable[[str], str | None]) -> None:
        """Look at how both ended.

        :raises PgopsError: one of them failed. OSError: age could not write the file.
        """
        failure = self._age.failure()
        if failure is None:
            self._client.result(doing, database=database, hints=hints)
        elif any(words in failure for words in encryption.FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        else:
            # That pg_dump could not write on is what came of it.
            raise PgopsError(f"{doing}: {failure}.", database=database, hint=hints(failure))


class Decryption:
    """``dump.age`` through age, for a pg_restore that reads it from :attr:`reading`."""

    def __init__(self, backup: Backup) -> None:
        """
        :param backup: with its key, from :func:`unlock`.
        """
        self._identity, self.path = _key(backup), os.path.join(backup.path, DUMP)
        self.reading, writing = os.pipe()
        try:
            self._age = encryption.decrypting(self.path, self._identity, stdout=writing)
        except OSError as exc:
            os.close(self.reading)
            raise PgopsError(f"{self.path} cannot be read: {exc.strerror}.") from None
        finally:
            os.close(writing)

    def finish(self, *, whole: bool) -> None:
        """Let age end behind its reader.

        :param whole: whether the reader found all that it needed.
        """
        if whole:
            # age looks at the end of the file last, and pg_restore does not read so far.
            while self.reading >= 0 and os.read(self.reading, backup_store.READ_BLOCK):
                pass
            self._age.wait(END_SECONDS)
        else:
            # It has ended already where that is why pg_restore failed.
            self._age.wait(LAST_WORD_SECONDS)
        self.close()

    def close(self) -> None:
        """End age if it still runs."""
        self._age.end()
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1

    def refuse_failure(self) -> None:
        """:raises PgopsError: age could not decrypt all of it."""
        failure = self._age.failure()
        if failure is not None and "signal 13" not in failure:  # pg_restore went first
            raise encryption.unreadable(self.path, self._identity, failure)


class DecryptedRestore:
    """``dump.age`` into age into pg_restore; waited for and ended as one."""

    def __init__(
        self,
        tool: str,
        arguments: list[str],
        destination: Target,
        *,
        backup: Backup,
        application_name: str,
        options: dict[str, str],
    ) -> None:
        """
        :param arguments: pg_restore's, but for format, jobs and file.
        :param backup: with its key, from :func:`unlock`.
        """
        self._dump = Decryption(backup)
        try:
            self._client = ClientProcess(
                tool, [f"--format={FORMAT}", *arguments], destination,
                application_name=application_name, options=options, stdin=self._dump.reading,
            )  # fmt: skip
        except BaseException:
            self._dump.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait for a while. :return: whether both have ended."""
        if not self._client.wait(seconds):
            return False
        self._dump.finish(whole=self._client.returncode == 0)
        return True

    def end(self) -> None:
        """End both if they still run."""
        self._client.end()
        self._dump.close()

    def result(self, doing: str, *, database: str | None = None, hints: Callable[[str], str | None]) -> None:
        """Look at how both ended.

        :raises PgopsError: one of them failed.
        """
        self._dump.refuse_failure()
        self._client.result(doing, database=database, hints=hints)


def listed(tool: str, backup: Backup, *arguments: str) -> subprocess.CompletedProcess[str]:
    """:return: what ``pg_restore --list`` says of an encrypted dump, with these arguments. It reads the head only."""
    reading, writing = os.pipe()
    try:
        age: AgeProcess = encryption.decrypting(os.path.join(backup.path, DUMP), _key(backup), stdout=writing)
    finally:
        os.close(writing)
    try:
        return subprocess.run([tool, "--list", *arguments], stdin=reading, capture_output=True, text=True, check=False)
    finally:
        os.close(reading)
        age.end()


def _key(backup: Backup) -> Identity:
    if backup.identity is None:
        raise encryption.missing_identity(backup.path)
    return backup.identity
