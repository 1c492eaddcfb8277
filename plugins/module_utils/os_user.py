# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands and files of the operating-system user that PostgreSQL runs as, on the host where it runs."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from typing import Any, Callable

from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

KEPT_LINES = 400
END_SECONDS = 30.0


@dataclass(frozen=True)
class Output:
    """How a command ended, and what it said, both streams in one, the last lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """:return: the lines, joined."""
        return "\n".join(self.lines)


class OsUser:
    """The user that PostgreSQL runs as. Root acts as that user command by command; any other user is refused."""

    def __init__(self, name: str) -> None:
        """
        :param name: of the operating system.
        :raises PgopsError: no such user, or this process may not act as it.
        """
        self.name = name
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise PgopsError(
                f"There is no user {name} on {os.uname().nodename}.",
                hint="Name the one that PostgreSQL runs as in backup_os_user, and run this on the host where it runs.",
            ) from None
        self.uid, self.gid, self.home = entry.pw_uid, entry.pw_gid, entry.pw_dir
        if os.geteuid() not in (0, self.uid):
            raise PgopsError(
                f"The user with the id {os.geteuid()} may not act as {name} on {os.uname().nodename}.",
                hint=f"Give ansible_become=true, or ansible_become_user={name}, to the host.",
            )

    def _child(self) -> dict[str, Any]:
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": os.getgrouplist(self.name, self.gid)}

    def _environment(self) -> dict[str, str]:
        # Nothing of ours: a PGBACKREST_* or PG* of the caller would be taken for an option.
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": self.home, "LC_ALL": "C", "USER": self.name}

    def run(
        self,
        command: list[str],
        *,
        tell: Callable[[str], None] = lambda line: None,
        control: Control | None = None,
    ) -> Output:
        """Run a command as this user and wait for its end.

        :param tell: is given each line as it comes.
        :param control: ends the command when the job has to end.
        :raises PgopsError: it cannot be started.
        """
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
                env=self._environment(), text=True, encoding="utf-8", errors="replace", umask=0o077, **self._child(),
            )  # fmt: skip
        except OSError as exc:
            raise PgopsError(f"{command[0]} cannot be started: {exc.strerror}.") from None
        forget = control.on_interrupt(process.terminate) if control else lambda: None
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                line = line.rstrip("\n")
                lines.append(line)
                del lines[:-KEPT_LINES]
                tell(line)
            code = process.wait()
        finally:
            forget()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if control:
            control.check()
        return Output(code, tuple(lines))

    def own(self, path: str) -> None:
        """Give a file or folder of ours to this user."""
        if os.geteuid() != self.uid:
            os.chown(path, self.uid, self.gid)

    def make_folder(self, path: str) -> None:
        """Make a folder of mode 0700 for this user; its parent has to be there."""
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
        self.own(path)

    def write(self, path: str, text: str) -> None:
        """Write a file of mode 0600 for this user; a reader sees the old one or the new one."""
        partial = path + ".partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self.own(partial)
        os.rename(partial, path)
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_UNIT = re.compile(r"/([^/]+\.service)$", re.MULTILINE)


def unit_of(pid: int) -> str | None:
    """:return: the systemd unit that a process belongs to, where it is a service of a running systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            found = _UNIT.search(stream.read())
    except OSError:
        return None
    # A session of ssh or of a test is a unit too, and none that could be started again.
    name = found.group(1) if found else ""
    return name if name.startswith(("postgres", "patroni")) else None
