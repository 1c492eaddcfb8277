# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman on machines that differ: a plain host, a CI runner, a sandbox without CAP_SYS_RESOURCE."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Another one, for who changes the recipe while others test with the old.
IMAGE = os.environ.get("PGTEST_IMAGE", "localhost/pgtest:bookworm")

SANDBOX_CONF = """\
# Written by tests/support/podman.py: this machine may not raise its limits, or has hybrid cgroups (crun refuses both).
[containers]
default_ulimits=["nofile=20000:20000","nproc=32768:32768"]
[engine]
runtime="runc"
"""


def _needs_sandbox_conf() -> bool:
    """True where crun fails: limits cannot be raised, or cgroups are hybrid (both seen in sandboxes)."""
    if Path("/sys/fs/cgroup/unified").is_dir():
        return True
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1048576, 1048576))
            resource.setrlimit(resource.RLIMIT_NPROC, (1048576, 1048576))
        except (ValueError, OSError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@functools.cache
def containers_conf() -> str | None:
    """Path of the CONTAINERS_CONF that every podman call needs here, or None on a normal host."""
    if os.environ.get("CONTAINERS_CONF"):
        return os.environ["CONTAINERS_CONF"]
    if not _needs_sandbox_conf():
        return None
    path = ROOT / ".local" / "containers.conf"
    if not path.exists() or path.read_text(encoding="utf-8") != SANDBOX_CONF:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(SANDBOX_CONF, encoding="utf-8")
        partial.replace(path)
    return str(path)


def environment() -> dict[str, str]:
    """The environment for podman and for anything that calls it (Ansible, Molecule)."""
    conf = containers_conf()
    return dict(os.environ) if conf is None else {**os.environ, "CONTAINERS_CONF": conf}


def podman(*arguments: str, timeout: float = 120, check: bool = True) -> str:
    """Run podman and return its output without the last newline; timeout in seconds."""
    done = subprocess.run(
        ["podman", *arguments], env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")
