# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backups of a Molecule host's database, past everything that a playbook says of them."""

from __future__ import annotations

import json
from typing import Any

FOLDER = "/var/backups/pgops/white_cross"


def ids(host: Any) -> list[str]:
    """All that are published, oldest first: an id begins with its time."""
    found = host.run(f"find {FOLDER} -mindepth 1 -maxdepth 1 -type d -not -name '*.partial*' -printf '%f\\n'")
    return sorted(found.stdout.split())


def manifest(host: Any, backup: str) -> dict[str, Any]:
    """What a backup says that it holds."""
    return _read(host, f"{FOLDER}/{backup}/manifest.json")


def proof(host: Any, backup: str) -> dict[str, Any] | None:
    """Its proof, if it has one."""
    path = f"{FOLDER}/{backup}/proof.json"
    return _read(host, path) if host.file(path).exists else None


def _read(host: Any, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(path).content_string)
    return found
