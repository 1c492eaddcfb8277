# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every lint, all of them even when one fails; ends with 1 when any did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

CHECKS = {
    "ruff": ["ruff", "check", "--quiet", "."],
    "mypy": ["mypy", "--no-error-summary", "-p", "ansible_collections.whitecross.pgops.plugins.module_utils"],
    "mypy-demo": ["mypy", "--no-error-summary", "demo/run.py", "demo/embedded_server.py"],
    "yamllint": ["yamllint", "--strict", "."],
    "ansible-lint": ["ansible-lint", "--offline", "--nocolor", "-q"],
}


def main() -> int:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}", "NO_COLOR": "1"}
    failed = []
    for name, command in CHECKS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        begun = time.monotonic()
        done = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT, env=environment, check=False)
        told = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
        print(f"lint: {name} {told}, {time.monotonic() - begun:.0f} s", flush=True)
        if done.returncode != 0:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
