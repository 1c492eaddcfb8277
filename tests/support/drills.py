# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the last drill of a Molecule host has left on the ops host, and what it may have left elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from support.hosts import databases, query


def evidence(host: Any) -> tuple[dict[str, Any], str]:
    """The newest evidence of a host: the data, and the page."""
    name = host.run("hostname").stdout.strip()
    reports = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "state" / "reports"
    # A run's id begins with its time.
    found = max(reports.glob(f"*/*.drill.{name}.white_cross.json"), key=lambda file: file.name)
    page = found.with_suffix(".html")
    assert [file.stat().st_mode & 0o777 for file in (found, page)] == [0o600, 0o600]
    return json.loads(found.read_text(encoding="utf-8")), page.read_text(encoding="utf-8")


def left_behind(host: Any) -> list[Any]:
    """Databases, sessions, processes and files of drills, of which there should be none when no drill is under way."""
    sessions = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pgops%'"
    return [
        *set(databases(host)) - {"postgres", "white_cross"},
        *set(databases(host, "scratch")) - {"postgres"},
        *query(host, sessions, "postgres"),
        *query(host, sessions, "postgres", "scratch"),
        *host.run("pgrep --list-full 'pg_restore|pg_dump'").stdout.splitlines(),
        *host.run("find /var/backups /tmp /dev/shm -name '*.partial*' -o -name 'pgops*' -not -path /var/backups/pgops")
        .stdout.splitlines(),
    ]  # fmt: skip
