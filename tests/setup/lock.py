# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the locks from the direct pins: everything by hash, no package index named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Written by 'make lock' from {0}.txt; install with pip install --require-hashes -r {0}.lock.
"""


def main() -> None:
    for name in ("requirements", "requirements-test", "benchmarks/peer_packages/requirements"):
        lock = ROOT / f"{name}.lock"
        # Where a machine takes its packages from is its own affair and must not be written into the project.
        subprocess.run(
            [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--allow-unsafe",
             "--strip-extras", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host",
             "--no-emit-options", "--no-header", "--output-file", f"{name}.lock", f"{name}.txt"],
            cwd=ROOT, check=True,
        )  # fmt: skip
        text = lock.read_text(encoding="utf-8")
        body = text.removeprefix(HEAD.format(name))
        lock.write_text(HEAD.format(name) + body, encoding="utf-8")
        print(f"wrote {name}.lock")


if __name__ == "__main__":
    main()
