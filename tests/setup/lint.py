# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every lint, all of them even when one fails; ends with 1 when any did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

# The longest first: two run at a time.
CHECKS = {
    "ansible-lint": ["ansible-lint", "--offline", "--nocolor", "-q"],
    "mypy": ["mypy", "--no-error-summary", "-p", "ansible_collections.whitecross.pgops.plugins"],
    "yamllint": ["yamllint", "--strict", "."],
    # Of its own, since the two run at once.
    "mypy-demo": [
        "mypy",
        "--cache-dir",
        ".mypy_cache/demo",
        "--no-error-summary",
        "demo/run.py",
        "demo/embedded_server.py",
    ],
    "ruff": ["ruff", "check", "--quiet", "."],
    # A review that is overdue is a warning and fails nothing.
    "pages": ["python", "tests/setup/page_reviews.py"],
}
AT_ONCE = 2


def done(name: str) -> subprocess.CompletedProcess[str]:
    """Run one check. :return: how it ended, and what it said."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}", "NO_COLOR": "1"}
    return subprocess.run(
        [str(BIN / CHECKS[name][0]), *CHECKS[name][1:]], cwd=ROOT, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(name: str) -> bool:
    """Run one check and print what it said. :return: whether it passed."""
    begun = time.monotonic()
    ended = done(name)
    told = "ok" if ended.returncode == 0 else f"FAILED ({ended.returncode})"
    print(f"{ended.stdout}lint: {name} {told}, {time.monotonic() - begun:.0f} s", flush=True)
    return ended.returncode == 0


def main() -> int:
    """Run those that are named, all where none is."""
    names = [name for name in CHECKS if len(sys.argv) < 2 or name in sys.argv[1:]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return 0 if all(list(pool.map(run, names))) else 1


if __name__ == "__main__":
    sys.exit(main())
