# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The encryption of pgBackRest's repositories: each that has no cipher of its own gets that of the host, and none is changed that is there."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import pgbackrest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgbackrest import FIRST, PgBackRest

_CIPHER = "aes-256-cbc"
# What says where a repository is: another place is another repository.
_PLACE = re.compile(
    r"repo\d+-(type|path|host.*|s3-bucket|s3-endpoint|azure-account|azure-container|azure-endpoint|gcs-bucket|gcs-endpoint|sftp-host.*)$"
)
# Of `info`: no folder of the stanza, none of its files, and what it could not find out, a wrong passphrase among that.
_NOT_READ = (1, 3, 99)


def secrets(passfile: str | None, repository: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """
    :param passfile: a file of this host with the passphrase, for each repository whose ``repoN-cipher-type`` is not declared.
    :param repository: the declared options.
    :param given: those of them that are secrets; a further repository may have a passphrase of its own there.
    :return: the options that encrypt; none without a file.
    :raises PgopsError: the file cannot be read, is read by others, or holds no passphrase.
    """
    if not passfile:
        return {}
    passphrase = _passphrase(passfile)
    declared = {str(name) for name in (*repository, *given)}
    found = {}
    for number in sorted({FIRST, *pgbackrest.repositories(declared)}):
        kind, key = f"repo{number}-cipher-type", f"repo{number}-cipher-pass"
        if kind not in declared and (number == FIRST or key not in declared):
            found.update({kind: _CIPHER, key: passphrase})
    return found


def _passphrase(passfile: str) -> str:
    try:
        found = os.stat(passfile)
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            raise PgopsError(f"The passphrase file {passfile} is no plain file.")
        with open(passfile, encoding="utf-8") as stream:
            text = stream.read().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise PgopsError(f"The passphrase file {passfile} cannot be read: {exc}.") from None
    if found.st_mode & 0o077:
        raise PgopsError(
            f"The passphrase file {passfile} can be read by others.",
            hint=f"Give it the mode 0600: chmod 600 {passfile}",
        )
    if not text or "\n" in text:
        raise PgopsError(f"The passphrase file {passfile} holds no passphrase of one line.")
    return text


def refuse_changed(tool: PgBackRest, text: str) -> None:
    """Look whether a configuration changes the cipher of a repository that was made with another: the server could archive no more to it.

    :param tool: with the configuration that is there.
    :param text: the one that would take its place.
    :raises PgopsError: it does; nothing was written.
    """
    old = pgbackrest.options(tool.config, tool.stanza)
    new = pgbackrest.options_in(text.splitlines(), tool.stanza)
    numbers = set(pgbackrest.repositories(old)) & set(pgbackrest.repositories(new))
    changed = [n for n in sorted(numbers) if _place(old, n) == _place(new, n) and _cipher(old, n) != _cipher(new, n)]
    there = _made(tool) if changed else set()
    for number in changed:
        if number in there:
            _refuse(tool, number, _cipher(old, number), _cipher(new, number))


def _place(options: Mapping[str, str], number: int) -> dict[str, str]:
    begin = f"repo{number}-"
    return {name: value for name, value in options.items() if name.startswith(begin) and _PLACE.match(name)}


def _cipher(options: Mapping[str, str], number: int) -> tuple[str, str]:
    kind = options.get(f"repo{number}-cipher-type", "none")
    return kind, options.get(f"repo{number}-cipher-pass", "") if kind != "none" else ""


def _made(tool: PgBackRest) -> set[int]:
    """:return: the numbers of the repositories that the configuration that is there can read the stanza of."""
    try:
        found = tool.info()
    except Interrupted:
        raise
    except PgopsError:
        return set()
    states = {int(entry["key"]): int(entry["status"]["code"]) for entry in found.get("repo") or []}
    return {number for number, code in states.items() if code not in _NOT_READ}


def _refuse(tool: PgBackRest, number: int, old: tuple[str, str], new: tuple[str, str]) -> None:
    which = f"Repository {number} of stanza {tool.stanza}"
    if old[0] == "none":
        raise PgopsError(
            f"{which} was made without encryption, and is to be encrypted now, which pgBackRest does from its beginning only; nothing was "
            "written, and WAL is archived into it as before, in the clear.",
            hint=f"Name another place in backup_repository (repo{number}-path), where the next backup makes an encrypted one, and remove the "
            f"old one once it is not needed; or go on in the clear with repo{number}-cipher-type: none there.",
            extra={"repository": number},
        )
    asked = "without encryption" if new[0] == "none" else "with another passphrase"
    raise PgopsError(
        f"{which} is encrypted, and is to be used {asked} now; nothing was written.",
        hint=f"Give back the passphrase that it was made with, or name another place in backup_repository (repo{number}-path).",
        extra={"repository": number},
    )
