# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every place that backups are copied to can do, and the programs with which it is done."""

from __future__ import annotations

import abc
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.client_process import start_with_us
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Between two looks whether the job has to end; the end of the program wakes us by itself.
POLL_SECONDS = 0.2
LINE_LIMIT = 300

Check = Callable[[], None]


class Place(abc.ABC):
    """What a place can do; ``below`` is a backup's path below it, ``check`` raises when the work has to end."""

    shown = ""

    def whole(self, below: str) -> str:
        """:return: where a backup is, with the place."""
        return f"{self.shown}{'' if self.shown.endswith((':', '/')) else '/'}{below}"

    @abc.abstractmethod
    def look(self, source: str, check: Check) -> None:
        """:raises PgopsError: nothing can be copied there."""

    @abc.abstractmethod
    def has(self, below: str, manifest_sha256: str, check: Check) -> bool:
        """:return: whether the backup is published there. :raises PgopsError: another one is under its name."""

    def before(self, names: Sequence[str]) -> list[str]:
        """:return: what is sent and read back before it is published; the rest is published with it."""
        return list(names)

    @abc.abstractmethod
    def send(self, source: str, below: str, names: Sequence[str], check: Check) -> None:
        """Bring the files there, not published yet."""

    @abc.abstractmethod
    def read_back(self, below: str, names: Sequence[str], check: Check, *, published: bool = False) -> dict[str, str]:
        """:return: the sha256 of each file as it is read there."""

    @abc.abstractmethod
    def publish(self, source: str, below: str, check: Check) -> None:
        """Make it a backup there, by one step."""

    @abc.abstractmethod
    def renew(self, source: str, below: str, name: str, check: Check) -> None:
        """Put one file of a published copy there anew."""

    @abc.abstractmethod
    def discard(self, below: str, check: Check) -> None:
        """Remove what was sent and not published."""

    def another(self, below: str) -> PgopsError:
        """:return: the refusal to write over another backup."""
        return PgopsError(
            f"There is another backup in {self.whole(below)} already; it is left as it is.",
            extra={"final": True, "differs": {"manifest.json": "is another one"}},
        )


def run(
    arguments: list[str], check: Check, *, names: Sequence[str] = (), behind: str = "\0", fine: Sequence[int] = (0,)
) -> tuple[int, str]:
    """Run a program to its end; it ends when we do, and when ``check`` raises.

    :param names: given to it on its standard input.
    :param behind: what ends each of them.
    :param fine: exit codes that are no failure.
    :return: its exit code and what it wrote.
    :raises PgopsError: it is not on this host, or it failed.
    """
    tool = shutil.which(arguments[0], path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/bin", "/usr/bin"]))
    if tool is None:
        raise PgopsError(
            f"There is no {arguments[0]} on {socket.gethostname()}.",
            hint=f"apt-get install {'openssh-client' if arguments[0] == 'ssh' else arguments[0]}, on that host.",
            extra={"final": True},
        )
    process = start_with_us(
        [tool, *arguments[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    given: Any = "".join(f"{name}{behind}" for name in names).encode()
    try:
        while True:
            try:
                out, errors = process.communicate(given, timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                given = None
                check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode not in fine:
        said = errors.decode("utf-8", "replace").strip().splitlines()
        told = next(
            (line for line in said if "rror" in line or "denied" in line or "refused" in line), (said or [""])[-1]
        )
        raise PgopsError(
            f"{arguments[0]} ended with {process.returncode}: {told.strip()[:LINE_LIMIT] or 'it said nothing'}.",
            extra={"output": [line[:LINE_LIMIT] for line in said[-10:]]},
        )
    return process.returncode, out.decode("utf-8", "replace")


def hashes(text: str) -> dict[str, str]:
    """:return: what sha256sum and rclone print, by name."""
    return {line[64:].lstrip(" *"): line[:64] for line in text.splitlines() if re.match(r"[0-9a-f]{64}[ *]", line)}
