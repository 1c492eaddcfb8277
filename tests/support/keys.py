# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of age and of ssh, made for one test each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.whitecross.pgops.plugins.module_utils import encryption


@dataclass(frozen=True)
class Key:
    """The file of a private key, and its public half."""

    file: Path
    public: str

    @property
    def identity(self) -> encryption.Identity:
        found = encryption.open_identity(str(self.file))
        assert found is not None
        return found


def age_key(folder: Path, name: str = "key") -> Key:
    file = folder / name
    subprocess.run(["age-keygen", "-o", file], capture_output=True, check=True)
    public = subprocess.run(["age-keygen", "-y", file], capture_output=True, text=True, check=True).stdout.strip()
    return Key(file, public)


def ssh_key(folder: Path, name: str = "ssh_key", passphrase: str = "", kind: str = "ed25519") -> Key:
    file = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "vault", "-f", file], check=True)
    return Key(file, file.with_name(f"{name}.pub").read_text(encoding="ascii").strip())
