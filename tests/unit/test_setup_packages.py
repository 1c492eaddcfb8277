# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make test` without root says exactly which system packages are missing and the one command that installs them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "setup" / "packages.sh"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that stand before the machine's own: an ordinary user, every package there but two."""
    programs = {
        "id": "echo 1000",
        "dpkg-query": 'for package; do :; done; case "$package" in podman|runc) exit 1;; esac; printf installed',
        "apt-get": "echo apt-get must not run >&2; exit 99",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run(machine: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    path = path or f"{machine}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run([SCRIPT, *words], env={"PATH": path}, capture_output=True, text=True, check=False)


def test_an_ordinary_user_is_told_the_packages_and_the_command(machine: Path) -> None:
    done = run(machine)
    assert done.returncode == 1
    assert "system packages are missing: podman runc\n" in done.stderr
    assert "\n  sudo apt-get update && sudo apt-get install -y --no-install-recommends podman runc\n" in done.stderr


def test_with_everything_there_nothing_is_said(machine: Path) -> None:
    (machine / "dpkg-query").write_text("#!/bin/sh\nprintf installed\n", encoding="utf-8")
    done = run(machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_long_tests_need_node_and_npm_from_wherever(machine: Path) -> None:
    (machine / "dpkg-query").write_text(
        '#!/bin/sh\nfor package; do :; done; case "$package" in nodejs|npm) exit 1;; esac; printf installed\n',
        encoding="utf-8",
    )
    # A PATH without a node: only the folder of programs, and the shell.
    (machine / "sh").symlink_to("/bin/sh")
    without = run(machine, "all", path=str(machine))
    assert without.returncode == 1
    assert "make test-all: system packages are missing: nodejs npm\n" in without.stderr
    assert "apt-get install -y --no-install-recommends nodejs npm\n" in without.stderr
    assert run(machine, path=str(machine)).returncode == 0
    for program in ("node", "npm"):
        (machine / program).write_text("#!/bin/sh\n", encoding="utf-8")
        (machine / program).chmod(0o755)
    assert run(machine, "all", path=str(machine)).returncode == 0


def test_the_long_tests_need_a_browser_whichever_it_is(machine: Path) -> None:
    (machine / "dpkg-query").write_text(
        '#!/bin/sh\nfor package; do :; done; case "$package" in chromium*) exit 1;; esac; printf installed\n',
        encoding="utf-8",
    )
    (machine / "sh").symlink_to("/bin/sh")
    without = run(machine, "all", path=str(machine))
    assert without.returncode == 1
    assert re.search(r"system packages are missing: chromium-(headless-shell|browser)\n", without.stderr)
    assert run(machine, path=str(machine)).returncode == 0
    (machine / "google-chrome").write_text("#!/bin/sh\n", encoding="utf-8")
    (machine / "google-chrome").chmod(0o755)
    assert run(machine, "all", path=str(machine)).returncode == 0
