# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another host, to which backups are copied over SSH: the test image with its sshd, on loopback, one key, one host key."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.podman import IMAGE, environment, podman
from support.server import free_port


@dataclass(frozen=True)
class SshHost:
    """Its container, and the file that tells ssh how to reach it as ``vault``."""

    name: str
    config: Path

    def run(self, script: str, check: bool = True) -> str:
        """:return: what a shell there says."""
        return podman("exec", self.name, "sh", "-c", script, check=check)


@contextmanager
def ssh_host(folder: Path) -> Iterator[SshHost]:
    """A container that is gone at the end of the block; keys and configuration lie in the folder."""
    for key in ("client", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    name, port = f"pgops-test-ssh-{secrets.token_hex(4)}", free_port()
    keys = [
        f"{(folder / key).absolute()}:/etc/ssh/{place}:ro" for key, place in (("host", "own"), ("client.pub", "let_in"))
    ]
    server = (
        f"mkdir -p /run/sshd /srv/backups && exec /usr/sbin/sshd -D -e -f /dev/null -p {port} -o ListenAddress=127.0.0.1 "
        "-o HostKey=/etc/ssh/own -o AuthorizedKeysFile=/etc/ssh/let_in -o StrictModes=no -o PasswordAuthentication=no"
    )
    volumes = [word for key in keys for word in ("--volume", key)]
    podman(
        "run",
        "--detach",
        "--name",
        name,
        "--label",
        "pgops-test=1",
        "--network",
        "host",
        *volumes,
        IMAGE,
        "sh",
        "-c",
        server,
    )
    try:
        public = (folder / "host.pub").read_text(encoding="ascii").strip()
        (folder / "known").write_text(f"[127.0.0.1]:{port} {public}\n", encoding="ascii")
        config = folder / "ssh_config"
        config.write_text(
            f"Host vault\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {folder / 'client'}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known'}\n  StrictHostKeyChecking yes\n",
            encoding="ascii",
        )
        deadline = time.monotonic() + 60
        while subprocess.run(["ssh", "-F", config, "-o", "BatchMode=yes", "vault", "true"], check=False,
                             capture_output=True).returncode:  # fmt: skip
            assert time.monotonic() < deadline, podman("logs", name, check=False)
            time.sleep(0.2)  # until sshd listens
        yield SshHost(name, config)
    finally:
        subprocess.run(
            ["podman", "rm", "--force", "--time", "0", name], env=environment(), check=False, capture_output=True
        )
