# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of the checkout in which `make demo` runs, and a shell in it as a reader of the documents has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.podman import ROOT

# What a fresh clone has not.
NOT_CLONED = {
    ".git",
    ".venv",
    ".local",
    ".ansible",
    "build",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
}


def clone(folder: Path) -> Path:
    """Copy the working tree to `folder`, with a .venv that counts as installed there, and return it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT, folder, symlinks=True, ignore=_not_cloned)
    # The installed packages are the checkout's own, or each copy would ask the package index again; what 'make' looks at
    # before it installs (the folder and the lock's checksum) says that they are right.
    installed = Path(sys.executable).parent.parent
    (folder / ".venv").mkdir()
    for entry in installed.iterdir():
        if entry.name != "folder" and not entry.name.endswith(".installed"):
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / "folder").write_text(f"{folder}\n", encoding="utf-8")
    for lock in ("requirements.lock", "requirements-test.lock"):
        checksum = subprocess.run(["cksum", lock], cwd=folder, check=True, capture_output=True, text=True).stdout
        (folder / ".venv" / f"{lock}.installed").write_text(checksum, encoding="utf-8")
    return folder


def _not_cloned(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or (Path(folder) == ROOT and name in NOT_CLONED)}


@contextmanager
def place(prefix: str) -> Iterator[Path]:
    """A temporary folder that the server's user can reach, since root's own is closed to it; servers in it are ended."""
    parent = Path(tempfile.mkdtemp(prefix=f"pgops {prefix} "))
    parent.chmod(0o755)
    try:
        yield parent
    finally:
        for run in parent.glob("*/demo/run.py"):
            subprocess.run([sys.executable, str(run), "--clean"], check=False, capture_output=True, timeout=120)
        shutil.rmtree(parent, ignore_errors=True)


def environment() -> dict[str, str]:
    """What a person's login shell has: nothing of this test run's Ansible, PostgreSQL, make or virtual environment."""
    foreign = ("ANSIBLE_", "PG", "PYTHON", "PYTEST_", "MAKE", "MFLAGS", "VIRTUAL_ENV")
    values = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = str(Path(sys.executable).parent)
    values["PATH"] = os.pathsep.join(part for part in values.get("PATH", os.defpath).split(os.pathsep) if part != own)
    for name in ("ENV", "ROWS"):
        values.pop(name, None)
    return values


@dataclass
class Answer:
    """What one typed command printed, both streams together, and its exit code."""

    rc: int
    output: str


class Shell:
    """One /bin/sh in a folder: a variable set by one command is there for the next."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh"], cwd=folder, env=environment(), text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __call__(self, command: str, timeout: float = 300) -> Answer:
        """Type one command (it may span lines); it gets no terminal and an empty standard input."""
        mark = "--- the command has ended: "
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s%s\\n' '{mark}' \"$?\"\n")
        self._process.stdin.flush()
        alarm = threading.Timer(timeout, self._process.kill)
        alarm.start()
        lines: list[str] = []
        try:
            for line in self._process.stdout:
                if line.startswith(mark):
                    return Answer(int(line.removeprefix(mark)), "".join(lines).rstrip("\n"))
                lines.append(line)
        finally:
            alarm.cancel()
        raise TimeoutError(
            f"{command!r} did not end in {timeout:.0f} s or closed the shell; it printed:\n{''.join(lines)}"
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
