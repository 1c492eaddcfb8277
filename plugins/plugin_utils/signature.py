# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Statements that people and machines sign with their SSH keys, and who may sign as what (``ssh-keygen -Y``).

Who may sign stands in an allowed-signers file (ssh-keygen(1)), one a role. A namespace keeps a signature that somebody gave for something
else, a commit of git say, from counting here. No passphrase is ever asked for: a key that has one is used through an agent.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

PROGRAM = "ssh-keygen"
# An agent may ask its owner to touch a key.
SIGN_TIMEOUT_S = 60
VERIFY_TIMEOUT_S = 10
_GOOD = re.compile(
    r'^Good "(?P<namespace>[^"]+)" signature (?:for (?P<principal>.+) )?with (?P<kind>\S+) key (?P<key>SHA256:\S+)$'
)


@dataclass(frozen=True)
class Signer:
    """:ivar principal: as the allowed-signers file names them. :ivar key: the fingerprint of the key, ``SHA256:…``."""

    principal: str
    key: str


class NotSigned(PgopsError):
    """Nobody who may has signed this; the message is the end of a sentence."""


def canonical(statement: Mapping[str, Any]) -> bytes:
    """:return: the one text of a statement that is signed: JSON, sorted keys, no spaces, UTF-8."""
    return json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sign(data: bytes, key: str, namespace: str) -> str:
    """Sign with a key file, or with a public key whose private one an agent holds.

    :param key: the file's path.
    :return: the armoured signature.
    :raises PgopsError: there is no such key, it has a passphrase, or no agent has it.
    """
    path = os.path.abspath(os.path.expanduser(key))
    if not os.path.isfile(path):
        raise PgopsError(f"The key {key} is no file of this machine", hint="Name the file of an SSH key.")
    done = _run(["-Y", "sign", "-q", "-n", namespace, "-f", path], data, SIGN_TIMEOUT_S)
    signature = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0 and signature.startswith("-----BEGIN SSH SIGNATURE-----"):
        return signature
    told = done.stderr.decode("utf-8", "replace")
    if "UNPROTECTED PRIVATE KEY" in told:
        raise PgopsError(f"The key {key} may be read by others", hint=f"chmod 600 {path}")
    if "passphrase" in told:
        public = path if path.endswith(".pub") else f"{path}.pub"
        raise PgopsError(
            f"The key {key} has a passphrase, which is not asked for here",
            hint=f"Give it to your agent and name its public half: ssh-add {path} and approve_key={public}",
        )
    last = next((line for line in reversed(told.splitlines()) if line.strip()), "it gave no signature")
    raise PgopsError(
        f"{PROGRAM} cannot sign with {key}: {last.strip()}",
        hint="A public key signs where your agent has its private one: ssh-add -l lists what it has.",
    )


def verify(data: bytes, signature: str, signers: str, namespace: str) -> Signer:
    """Who has signed exactly these bytes for this namespace.

    :param signers: the allowed-signers file.
    :raises NotSigned: nobody of that file has, in words that follow on a name.
    :raises PgopsError: the file cannot be read, or others may write it.
    """
    path = allowed(signers)
    with tempfile.TemporaryDirectory(prefix="pgops-signature.") as folder:
        file = Path(folder) / "signature"
        file.write_text(signature, encoding="utf-8")
        found = _run(["-Y", "find-principals", "-s", str(file), "-f", path], b"", VERIFY_TIMEOUT_S)
        principals = found.stdout.decode("utf-8", "replace").splitlines()
        if found.returncode != 0 or not principals:
            raise NotSigned(f"is signed with a key that {signers} does not allow")
        told = ""
        for principal in principals[0].split(","):
            arguments = ["-Y", "verify", "-n", namespace, "-s", str(file), "-f", path, "-I", principal]
            done = _run(arguments, data, VERIFY_TIMEOUT_S)
            good = _GOOD.match(done.stdout.decode("utf-8", "replace").strip())
            if done.returncode == 0 and good and good["namespace"] == namespace:
                return Signer(principal, good["key"])
            told += done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
    if "namespace" in told:
        raise NotSigned(f"is signed for another purpose than {namespace}")
    if "expired" in told or "valid" in told.lower() and "not" in told.lower():
        raise NotSigned(f"is signed with a key whose time in {signers} is not now")
    raise NotSigned("was changed after it was signed")


def allowed(signers: str) -> str:
    """:return: the path of an allowed-signers file. :raises PgopsError: it cannot be read, or others may write it."""
    path = os.path.abspath(os.path.expanduser(signers))
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise PgopsError(f"{signers} is no file")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is no text"
        raise PgopsError(f"The allowed-signers file {signers} cannot be read: {why}") from None
    if found.st_mode & 0o022:
        raise PgopsError(f"Others than its owner may write {signers}", hint=f"chmod go-w {path}")
    if not any(line.strip() and not line.startswith("#") for line in text.splitlines()):
        raise PgopsError(f"The allowed-signers file {signers} names nobody")
    return path


def _run(arguments: list[str], data: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SSH_AUTH_SOCK", "TMPDIR") if name in os.environ}
    # A passphrase would be asked for on the terminal of whoever watches the play, and nobody's answer would arrive.
    environment.update(LC_ALL="C", SSH_ASKPASS="/bin/false", SSH_ASKPASS_REQUIRE="force", DISPLAY=":")
    try:
        return subprocess.run(
            [PROGRAM, *arguments], input=data, capture_output=True, timeout=timeout, env=environment, check=False, start_new_session=True
        )  # fmt: skip
    except FileNotFoundError:
        raise PgopsError(
            f"This machine has no {PROGRAM}, which signs and verifies approvals", hint="apt-get install openssh-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise PgopsError(f"{PROGRAM} has given no answer for {timeout:.0f} s") from None
