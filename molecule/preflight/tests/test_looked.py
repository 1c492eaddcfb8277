# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight saw on the server's own host, and that it left nothing in the database."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.hosts import databases, value


def seen(host, name):
    """The checks of one host in a run's file."""
    document = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / name).read_text())
    found = document["hosts"][host.backend.name]["white_cross"]["preflight"]
    return {check["check"]: check for check in found["checks"]}


def test_the_fault_and_nothing_else_stops(host):
    checks = seen(host, "stopped.json")
    assert [name for name, check in checks.items() if check["level"] == "stop"] == ["ownership"]
    assert seen(host, "waived.json")["ownership"]["waived"] == "of the audit team (until 2099-12-31)"


def test_nothing_is_hidden_on_the_servers_own_host(host):
    checks = seen(host, "waived.json")
    assert [name for name, check in checks.items() if check.get("unknown")] == []
    assert "free at /var/lib/postgresql" in checks["disk_data"]["evidence"]
    assert {name for name, check in checks.items() if check["level"] == "warn"} == {
        "unsafe_settings", "backup_age", "backup_proof", "timers",
    }  # fmt: skip


def test_nothing_was_written(host):
    assert databases(host) == ["postgres", "white_cross"]
    assert value(host, "SELECT to_regnamespace('pgops') IS NULL") is True
