# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""age, started so that no plain text reaches a disk, no key an argument or a terminal, and nothing ever asks.

Public keys encrypt, and are no secret. The private key is read once, into memory that has no name in any file system.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from typing import IO, Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import END_SECONDS, HeardProcess
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

TOOL = "age"
SUFFIX = ".age"
# A file of private keys; more than this is something else.
IDENTITY_BYTES = 64 << 10
CHECK_SECONDS = 20.0
PIPE_BLOCK = 1 << 16  # what a pipe holds
FULL = ("no space left on device", "disk quota exceeded")  # in what age says

_X25519 = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_ED25519 = re.compile(r"ssh-ed25519 AAAA[A-Za-z0-9+/]{60,}={0,2}( [^\r\n]*)?")
_PRIVATE = re.compile(r"AGE-(SECRET-KEY|PLUGIN)-|PRIVATE KEY", re.IGNORECASE)
_OPENSSH = re.compile(r"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", re.DOTALL)
_MAKE_ONE = "Make one on the ops host with age-keygen -o FILE, and name its public key."


def refuse_recipients(recipients: Any) -> list[str]:
    """Look at public keys before anything else sees them; a private one among them is never repeated.

    :param recipients: what ``backup_encrypt_to`` holds; a string has commas between them.
    :return: them, without blanks around.
    :raises PgopsError: one is no public key of a kind that never asks for anything (age's own, ssh-ed25519).
    """
    if isinstance(recipients, str):  # as it comes from a command line
        recipients = recipients.split(",")
    if not isinstance(recipients, (list, tuple)):
        raise PgopsError("backup_encrypt_to is no list of public keys.", hint=_MAKE_ONE)
    found = []
    for number, recipient in enumerate(recipients, 1):
        text = str(recipient).strip()
        if _PRIVATE.search(text):
            raise PgopsError(
                f"Recipient {number} of backup_encrypt_to is a private key; nothing was done with it.",
                hint="Name its public key (age-keygen -y FILE prints it), and take the private one out of the variable: whoever "
                "reads the inventory could read the backups. Make another key if it was committed.",
            )
        if not _X25519.fullmatch(text) and not _ED25519.fullmatch(text):
            shown = f" ({text[:16]}…)" if text.startswith(("age1", "ssh-")) else ""
            raise PgopsError(
                f"Recipient {number} of backup_encrypt_to{shown} is neither a public key of age (age1…) nor an ssh-ed25519 one.",
                hint=_MAKE_ONE,
            )
        found.append(text)
    return found


def refuse_missing_tool() -> str:
    """:return: the path of age. :raises PgopsError: it is not on this host."""
    found = shutil.which(TOOL, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/bin", "/usr/bin"]))
    if found is None:
        raise PgopsError(
            f"There is no {TOOL} on {socket.gethostname()}, with which backups are encrypted.",
            hint="apt-get install age, or dnf install age, on that host.",
        )
    return found


def usable_recipients(recipients: Any) -> list[str]:
    """Ask age itself about public keys: a mistyped letter breaks their own checksum.

    :return: them.
    :raises PgopsError: age is missing, or takes one of them for no key.
    """
    found = refuse_recipients(recipients)
    tool = refuse_missing_tool()
    for number, recipient in enumerate(found, 1):
        tried = subprocess.run(
            [tool, "-r", recipient], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, timeout=CHECK_SECONDS, check=False,
        )  # fmt: skip
        if tried.returncode != 0:
            raise PgopsError(
                f"Recipient {number} of backup_encrypt_to ({recipient[:16]}…) is no key: {TOOL} finds it malformed.",
                hint="Copy the public key again, whole. " + _MAKE_ONE,
            )
    return found


# -- the private key --------------------------------------------------------------------------------------------------


class Identity:
    """A private key in the memory of this process; age reads it there, and it is gone with the process."""

    def __init__(self, data: bytes, shown: str) -> None:
        """
        :param shown: what to call it in messages, the path that it came from.
        """
        self.shown = shown
        self.descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
        os.write(self.descriptor, data)

    @property
    def path(self) -> str:
        """Where a child that inherits :attr:`descriptor` finds it."""
        return f"/proc/self/fd/{self.descriptor}"


def open_identity(path: str | None, *, once: bool = False) -> Identity | None:
    """Take a private key into memory.

    :param path: its file; None where there is none.
    :param once: the file was handed over for this call only: it is removed as soon as it is read.
    :return: the key.
    :raises PgopsError: as :func:`read_identity`.
    """
    if not path:
        return None
    try:
        data = read_identity(path)
    finally:
        if once:
            with contextlib.suppress(OSError):
                os.unlink(path)
    if not hasattr(os, "memfd_create"):
        raise PgopsError(f"A private key cannot be held in memory on {socket.gethostname()}: that takes Linux.")
    return Identity(data, "that was handed over" if once else path)


def read_identity(path: str) -> bytes:
    """Read a private key, and refuse one with which age would ask somebody something.

    :raises PgopsError: no file, not a private one, no key in it, or one behind a passphrase or a plugin.
    """
    name = f"The private key {path}"
    try:
        # A pipe that nobody writes to would be waited for when it is opened.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            found = os.fstat(stream.fileno())
            data = stream.read(IDENTITY_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
    except OSError as exc:
        raise PgopsError(
            f"{name} cannot be read on {socket.gethostname()}: {exc.strerror}.",
            hint="Set backup_identity_file to the file of the private key.",
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise PgopsError(f"{name} is no plain file.", hint="Name the file that age-keygen has made.")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise PgopsError(
            f"{name} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}).", hint=f"chmod 600 {path}"
        )
    _refuse_what_asks(data, name)
    return data


def _refuse_what_asks(data: bytes, name: str) -> None:
    text = data[:IDENTITY_BYTES].decode("utf-8", "replace")
    if text.startswith(("age-encryption.org/", "-----BEGIN AGE ENCRYPTED FILE-----")) or _has_passphrase(text):
        raise PgopsError(
            f"{name} is protected by a passphrase, which a run without a person cannot type.",
            hint="Open it into a file of mode 0600 in memory (age -d FILE > /dev/shm/key) for as long as the restore takes; "
            "of an ssh key make a copy without one (ssh-keygen -p).",
        )
    if "AGE-PLUGIN-" in text:
        raise PgopsError(
            f"{name} is a plugin's, which may ask for a PIN or a touch.",
            hint="Encrypt to a second recipient whose key is a plain file.",
        )
    if len(data) > IDENTITY_BYTES or ("AGE-SECRET-KEY-1" not in text and "PRIVATE KEY-----" not in text):
        raise PgopsError(
            f"{name} holds no private key of age or ssh-ed25519.", hint="Name the file that age-keygen has made."
        )


def _has_passphrase(text: str) -> bool:
    if "ENCRYPTED" in text:  # PEM
        return True
    found = _OPENSSH.search(text)
    if not found:
        return False
    try:
        body = base64.b64decode("".join(found[1].split()))
    except (binascii.Error, ValueError):
        return False
    # Magic, then the cipher's name behind its length.
    magic = b"openssh-key-v1\0"
    length = int.from_bytes(body[len(magic) : len(magic) + 4], "big")
    return body.startswith(magic) and body[len(magic) + 4 : len(magic) + 4 + length] != b"none"


# -- the process ------------------------------------------------------------------------------------------------------


class AgeProcess(HeardProcess):
    """A running age between two descriptors."""

    def __init__(self, arguments: list[str], *, stdin: int, stdout: int, keep: tuple[int, ...] = ()) -> None:
        """
        :param arguments: no secret among them.
        :param keep: descriptors that it needs beside its streams.
        """
        self._said = ""
        self._ended = False
        # A session of its own has no terminal: where age would ask, it fails.
        super().__init__(
            [refuse_missing_tool(), *arguments], stdin=stdin, stdout=stdout, pass_fds=keep, start_new_session=True
        )

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            if not self._said and line.startswith("age: error: "):
                self._said = line.removeprefix("age: error: ").strip()

    def end(self) -> None:
        """End it if it still runs; how it ended says nothing then."""
        if self._process.poll() is None:
            self._ended = True
            self._process.kill()
            self._process.wait()

    def failure(self) -> str | None:
        """:return: why it ended before its work was done, None where it did not."""
        code = self._process.poll()
        if not code or self._ended:
            return None
        if code < 0:
            return f"{TOOL} was killed by signal {-code}"
        return self._said or f"{TOOL} ended with {code} and said nothing"


def encrypting(recipients: list[str], *, stdin: int, stdout: int) -> AgeProcess:
    """:return: age from one descriptor to the other, to each of the recipients."""
    arguments = [word for recipient in recipients for word in ("-r", recipient)]
    return AgeProcess(arguments, stdin=stdin, stdout=stdout)


@contextlib.contextmanager
def encrypted_file(file: IO[bytes], recipients: list[str], path: str) -> Iterator[IO[bytes]]:
    """What is written in the block goes through age into an open file; all of it is there when the block ends.

    :param path: of the file, for messages.
    :return: where the plain bytes are written to, a pipe.
    :raises PgopsError: age failed. OSError: it could not write the file.
    """
    reading, writing = os.pipe()
    try:
        age = encrypting(recipients, stdin=reading, stdout=file.fileno())
    except BaseException:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    try:
        # Where age has ended before its input, it says why.
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as stream:
            yield stream
        while not age.wait(END_SECONDS):
            pass
        failure = age.failure()
    finally:
        age.end()
    if failure and any(words in failure for words in FULL):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    if failure:
        raise PgopsError(f"{path} was not written: {failure}.")


def decrypting(path: str, identity: Identity, *, stdout: int) -> AgeProcess:
    """:return: age from a file to the descriptor. :raises OSError: the file cannot be opened."""
    stdin = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return AgeProcess(
            ["-d", "-i", identity.path], stdin=stdin, stdout=stdout, keep=(identity.descriptor,)
        )  # fmt: skip
    finally:
        os.close(stdin)


def encrypt(data: bytes, recipients: list[str]) -> bytes:
    """:return: what is small enough for memory, encrypted. :raises PgopsError: age fails."""
    arguments = [word for recipient in recipients for word in ("-r", recipient)]
    done = subprocess.run(
        [refuse_missing_tool(), *arguments], input=data, capture_output=True, start_new_session=True, check=False
    )
    if done.returncode != 0:
        raise PgopsError(f"{TOOL} ended with {done.returncode}; nothing was encrypted.")
    return done.stdout


@contextlib.contextmanager
def _plain(path: str, identity: Identity) -> Iterator[tuple[int, Callable[[], None]]]:
    """Start the decryption of a file.

    :return: the descriptor that gives what is in it, and what is called behind its end: it raises where that is no whole.
    :raises PgopsError: the file cannot be read.
    """
    reading, writing = os.pipe()
    try:
        try:
            process = decrypting(path, identity, stdout=writing)
        except OSError as exc:
            raise PgopsError(f"{path} cannot be read: {exc.strerror}.") from None
        finally:
            os.close(writing)

        def refuse_broken() -> None:
            while not process.wait(END_SECONDS):
                pass
            failure = process.failure()
            if failure:
                raise unreadable(path, identity, failure)

        try:
            yield reading, refuse_broken
        finally:
            process.end()
    finally:
        os.close(reading)


def decrypted(path: str, identity: Identity) -> Iterator[bytes]:
    """Decrypt a file through a pipe, block by block.

    :raises PgopsError: another key is needed, or the file is damaged; at its end, so what came until then is no whole.
    """
    with _plain(path, identity) as (reading, refuse_broken):
        while block := os.read(reading, PIPE_BLOCK):
            yield block
        refuse_broken()


def opens(data: bytes, identity: Identity) -> bool:
    """:param data: a few bytes, encrypted. :return: whether the key opens them."""
    done = subprocess.run(
        [refuse_missing_tool(), "-d", "-i", identity.path], input=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=(identity.descriptor,), start_new_session=True, timeout=CHECK_SECONDS, check=False,
    )  # fmt: skip
    return done.returncode == 0


def decrypt(path: str, identity: Identity | None, *, first: int | None = None) -> bytes:
    """Decrypt a file into memory.

    :param first: only so many bytes of it; then neither its end nor its whole was looked at.
    :raises PgopsError: there is no key, another one is needed, or the file is damaged.
    """
    if identity is None:
        raise missing_identity(path)
    with _plain(path, identity) as (reading, refuse_broken), open(reading, "rb", closefd=False) as stream:
        data = stream.read() if first is None else stream.read(first)
        if first is None or len(data) < first:
            refuse_broken()
        return data


def missing_identity(path: str) -> PgopsError:
    """:return: the refusal to read what is encrypted without a key."""
    return PgopsError(
        f"{path} is encrypted and no private key was given; nothing was restored.",
        hint="Name the file of a private key that it is encrypted to with -e backup_identity_file=FILE.",
        extra={"reason": "no_identity"},
    )


def unreadable(path: str, identity: Identity, failure: str) -> PgopsError:
    """:return: what it means that age could not decrypt a file."""
    if "no identity matched" in failure:
        return PgopsError(
            f"{path} is not encrypted to the private key {identity.shown}; nothing was restored.",
            hint="Name the key of one of the recipients in its manifest.json (encryption) with -e backup_identity_file=FILE.",
            extra={"reason": "wrong_identity"},
        )
    if "killed by signal" in failure:
        return PgopsError(f"{path} was not decrypted: {failure}.")
    if failure.startswith('reading "'):
        # What age says of a key file that it cannot read may quote it.
        return PgopsError(f"{path} was not decrypted: the private key {identity.shown} is malformed.")
    return PgopsError(
        f"{path} is damaged: {TOOL} says {failure.rstrip('.')}.",
        hint="Take another backup, or name an older one with -e rollback_backup=PATH.",
        extra={"files": {os.path.basename(path): failure}},
    )
