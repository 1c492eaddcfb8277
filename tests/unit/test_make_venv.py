# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make venv` takes no Python that is too old, and makes `.venv` anew for another Python or folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with a blank in its name, and nothing to install."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").touch()
    return folder


def make(clone: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    # The suite itself is run by make, which tells another make to say where it is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"PATH": path} if path else {}
    return subprocess.run(
        ["make", "venv", *arguments], check=False, cwd=clone, env=environment, capture_output=True, text=True
    )


def old_pythons(folder: Path) -> str:
    """:return: a PATH whose Pythons all say that they are too old."""
    folder.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (folder / name).write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1;; esac\necho /old/python\n')
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_where_every_python_is_too_old_it_says_so_and_makes_nothing(clone: Path, tmp_path: Path) -> None:
    path = old_pythons(tmp_path / "bin")
    for arguments in ((), (f"PYTHON={tmp_path / 'bin' / 'python3'}",)):
        done = make(clone, *arguments, path=path)
        assert done.returncode == 2
        assert "Python 3.11 or later with venv is needed" in done.stderr
    assert not (clone / ".venv").exists()


def test_another_python_makes_it_anew_and_the_same_does_not(clone: Path) -> None:
    python = f"PYTHON={sys._base_executable}"  # type: ignore[attr-defined]
    assert make(clone, python).returncode == 0
    left = clone / ".venv" / "left"
    left.touch()
    assert make(clone, python).stdout == ""
    assert left.exists()
    made = clone / ".venv" / "made"
    made.write_text(made.read_text().replace(sys.version.split()[0], "3.10.1"))
    assert "Installing requirements.lock" in make(clone, python).stdout
    assert not left.exists()
