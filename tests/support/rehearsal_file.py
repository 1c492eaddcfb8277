# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that a rehearsal leaves beside the backups, as far as the gate reads it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write(
    backups: Path, database: str, pending: Sequence[Mapping[str, Any]], *, environment: str = "local", seconds: float = 2.0,
    blocks: float = 0.01, host: str = "local-1", **keys: Any,
) -> dict[str, Any]:  # fmt: skip
    """Each pending version (as a plan tells it) has one step that took so long, and kept writers out for `blocks` seconds."""
    now = datetime.now(UTC)
    identity = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    versions = [str(item["version"]) for item in pending]
    expected = {"seconds": seconds, "low": seconds, "high": seconds, "blocks_reads": 0.0, "blocks_writes": blocks}
    document = {
        "format": 1,
        "id": identity,
        "at": now.isoformat(timespec="seconds"),
        "environment": environment,
        "host": host,
        "database": database,
        "backup": "20260101_000000_before_migration_x",
        "server_version": 180000,
        "scratch_version": 180000,
        "versions": versions,
        "checksums": {str(item["version"]): item["rendered_checksum"] for item in pending},
        "files": {str(item["version"]): item["checksum"] for item in pending},
        "ok": True,
        "why": None,
        "down_equal": True,
        "resumed": True,
        "steps": [
            {"version": version, "step": "up", "kind": "sql", "direction": "up", "statement": "", "seconds": seconds, "locks": [],
             "rewrites": [], "scans": [], "rows": 0, "wal_bytes": 0, "temp_bytes": 0, "indexes": {}}
            for version in versions
        ],
        "forecast": {"steps": [{"version": version, "step": "up", **expected} for version in versions], **expected},
        "budget": {},
        "over_budget": [],
        **keys,
    }  # fmt: skip
    folder = backups / database / "rehearsals"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{identity}.json").write_text(json.dumps(document))
    return document
