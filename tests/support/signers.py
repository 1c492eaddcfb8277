# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""People with SSH keys, and the files that say who may sign as what."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path


class People:
    """`people.key("carol")` is her private key; `people.signers("cto", "carol")` the allowed-signers file in which she stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def key(self, name: str, passphrase: str = "") -> str:
        path = self.folder / name
        if not path.exists():
            asked = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(path)]
            subprocess.run(asked, check=True, capture_output=True)
        return str(path)

    def public(self, name: str) -> str:
        self.key(name)
        return f"{self.folder / name}.pub"

    def signers(self, role: str, *names: str, options: str = "") -> str:
        """Writes the file anew, with these people and nobody else."""
        path = self.folder / f"{role}.signers"
        lines = []
        for name in names:
            kind, text = Path(self.public(name)).read_text().split()[:2]
            lines.append(" ".join(part for part in (f"{name}@hospital.org", options, kind, text) if part))
        path.write_text("# who may sign\n" + "\n".join(lines) + "\n")
        path.chmod(0o600)
        return str(path)

    def agent(self) -> subprocess.Popen[bytes]:
        """An agent of its own that listens; `SSH_AUTH_SOCK` is `socket`. Ends when its process is killed."""
        process = subprocess.Popen(["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL)
        # 2 is "no agent", 1 "an agent without keys".
        while subprocess.run(["ssh-add", "-l"], capture_output=True, check=False, env=self._asking()).returncode == 2:
            time.sleep(0.05)  # between two looks whether it listens
        return process

    def _asking(self) -> dict[str, str]:
        return {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}

    @property
    def socket(self) -> Path:
        return self.folder / "agent"

    def add(self, name: str) -> None:
        subprocess.run(["ssh-add", "-q", self.key(name)], check=True, capture_output=True, env=self._asking())
