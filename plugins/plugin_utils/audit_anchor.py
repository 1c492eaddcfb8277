# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The head of each database's audit, kept on the ops host at every run: what nobody with the database alone can rewrite.

Two files a database, each only ever added to: ``anchors.jsonl``, a line a run, each with the hash of the line before; and
``rows.jsonl``, a copy of the rows themselves, in which a branch that a restore has ended stays.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import make_private_folder, sync_folder

ANCHORS, ROWS = "anchors.jsonl", "rows.jsonl"
# Of the newest so many are looked for in the database: a restore may take back more than one run.
LOOKED_FOR = 50
_TAIL_BYTES = 1 << 20
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


class NotAnchored(Exception):
    """The head is not where it should be kept; one sentence without a full stop."""


@dataclass(frozen=True)
class Place:
    """Where the anchors of one database lie."""

    folder: Path

    @classmethod
    def of(cls, state_directory: str | Path, environment: str, host: str, database: str) -> Place:
        """:return: the place below the state directory; no name leaves the folder."""
        parts = [quote(name, safe="").replace(".", "%2E") for name in (environment, host, database)]
        return cls(Path(state_directory).expanduser().joinpath("audit", *parts))

    @property
    def anchors(self) -> Path:
        """:return: the file of anchors."""
        return self.folder / ANCHORS

    @property
    def rows(self) -> Path:
        """:return: the copy of the rows."""
        return self.folder / ROWS


def heads(place: Place) -> list[dict[str, Any]]:
    """:return: the newest anchors that have a row, newest first."""
    found = []
    for line in reversed(_last_lines(place.anchors)):
        anchor = _parsed(line)
        if anchor and anchor.get("seq") and anchor.get("hash"):
            found.append(anchor)
        if len(found) == LOOKED_FOR:
            break
    return found


def last_until(place: Place, seq: int) -> str | None:
    """:return: the hash of the newest line of an anchor of this row or of one before it, None where there is none."""
    try:
        lines = place.anchors.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        anchor = _parsed(line)
        if anchor and anchor.get("seq") and int(anchor["seq"]) <= seq:
            return audit_verifier.line_hash(line)
    return None


def kept_to(place: Place) -> dict[str, Any] | None:
    """:return: ``seq`` and ``hash`` of the row that was copied last."""
    for line in reversed(_last_lines(place.rows)):
        row = _parsed(line)
        if row and "seq" in row and "hash" in row:
            return {"seq": row["seq"], "hash": row["hash"]}
    return None


def append(
    place: Place, anchor: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], sign: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """Add an anchor, and before it the rows that are new since the last one; on the disk when this returns.

    :param sign: makes a signature of the text of the anchor.
    :return: the line as written.
    :raises OSError: it cannot be written. :raises NotAnchored: it cannot be signed.
    """
    make_private_folder(place.folder)
    with _open(place.anchors) as descriptor:
        # Under the lock of the anchors: two runs of one database copy its rows one after the other.
        lines = [_ENCODE(dict(row)) for row in rows]
        if lines:
            with _open(place.rows) as copy:
                _write(copy, lines)
        last = next((line for line in reversed(_last_lines(place.anchors)) if _parsed(line)), None)
        written = {
            "format": 1,
            **anchor,
            "previous": audit_verifier.line_hash(last) if last else audit_verifier.GENESIS,
        }
        if sign:
            written["signature"] = sign(audit_verifier.signed_text(written))
        _write(descriptor, [_ENCODE(written)])
    sync_folder(place.folder)
    return written


def signer(key: str) -> Callable[[str], str]:
    """:param key: an SSH private key of this host, or a public one whose private half an agent holds.
    :return: what signs a text with it. :raises NotAnchored: by what it returns: ssh-keygen refuses."""
    return lambda text: sign(key, text, audit_verifier.ANCHOR_NAMESPACE)


def sign(key: str, text: str, namespace: str) -> str:
    """:return: the armoured signature. :raises NotAnchored: there is no ssh-keygen, or it refuses the key."""
    path = str(Path(key).expanduser())
    # A passphrase is for an agent: there is nobody to type it.
    environment = {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-f", path, "-n", namespace], input=text, capture_output=True, text=True,
            env=environment, start_new_session=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise NotAnchored("ssh-keygen is not installed on the ops host") from None
    except subprocess.TimeoutExpired:
        raise NotAnchored(f"ssh-keygen did not answer within 60 s for the key {path}") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotAnchored(f"ssh-keygen refuses the key {path}: {told}")
    return done.stdout


def hand_over(command: Sequence[str], anchor: Mapping[str, Any], seconds: float = 60) -> None:
    """Give an anchor to a command of the site, a line on its standard input, to be kept on yet another host.

    :param seconds: after which it is ended.
    :raises NotAnchored: it cannot be started, ends with another code than 0, or not in time.
    """
    try:
        done = subprocess.run(
            [str(word) for word in command], input=_ENCODE(dict(anchor)) + "\n", capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise NotAnchored(f"the command {command[0]} did not take the anchor: {_why(fault)}") from None
    if done.returncode:
        raise NotAnchored(f"the command {command[0]} did not take the anchor: it ended with {done.returncode}")


def _why(fault: Exception) -> str:
    return str(getattr(fault, "strerror", None) or "it did not end in time")


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, lines: Sequence[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data  # a line that a crash has torn takes no later one with it
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return []


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
