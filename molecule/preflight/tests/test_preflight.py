# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight saw on the server's own host before, during and after the faults, and that it left nothing in the database."""

from __future__ import annotations

import json
import os
from pathlib import Path

from support.hosts import databases, value

# Each fault that was made, with the level and a part of what is said of it.
STOPPING = {
    "ownership": "public.loose belongs to postgres",
    "prepared_transactions": "'forgotten'",
    "sequences": "public.counted has given out",
    "disk_backup": "/var/backups/small",
}
WARNING = {
    "primary_keys": "public.notes",
    "duplicate_indexes": "public.twice",
    "invalid_indexes": "public.half_built",
    "foreign_key_indexes": "public.visits",
    "unvalidated_constraints": "is_named",
    "autovacuum_off": "public.visits",
    "public_rights": "public.rooms",
    "role_settings": "lock_timeout = 2s",
    "md5_passwords": "bygone",
    "superusers": "almighty",
    "hba_trust": "203.0.113.0 trust",
    "pending_restart": "max_worker_processes",
    "archiver": "",
    "waiting_locks": "loose",
}


def seen(host, name):
    """The checks of one host in a run's file."""
    document = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / name).read_text())
    found = document["hosts"][host.backend.name]["white_cross"]["preflight"]
    return {check["check"]: check for check in found["checks"]}


def red(host, name):
    return {check: found["level"] for check, found in seen(host, name).items() if found["level"] != "ok"}


def test_a_server_of_tests_without_backups_is_told_as_such_and_nothing_else_is(host):
    # Its fsync is off, and nobody has made a backup or a timer yet.
    assert red(host, "sound.json") == dict.fromkeys(("unsafe_settings", "backup_age", "backup_proof", "timers"), "warn")


def test_each_fault_is_told_by_its_own_check_and_nothing_else_is(host):
    made = dict.fromkeys(STOPPING, "stop") | dict.fromkeys(WARNING, "warn")
    assert red(host, "stopped.json") == red(host, "sound.json") | made
    checks = seen(host, "stopped.json")
    assert {
        name: checks[name]["evidence"]
        for name, part in (STOPPING | WARNING).items()
        if part not in checks[name]["evidence"]
    } == {}


def test_a_waiver_lets_off_what_stops_and_says_why(host):
    checks = seen(host, "waived.json")
    # It is told as what it is, and the run has ended well all the same.
    assert red(host, "waived.json") == red(host, "stopped.json")
    assert checks["ownership"]["waived"] == "of the audit team (until 2099-12-31)"
    assert [name for name, check in checks.items() if check.get("waived")] == [
        name for name in checks if name in STOPPING
    ]


def test_what_is_mended_as_it_is_told_is_told_no_more(host):
    assert red(host, "mended.json") == red(host, "sound.json")


def test_nothing_is_hidden_on_the_servers_own_host(host):
    checks = seen(host, "stopped.json")
    assert [name for name, check in checks.items() if check.get("unknown")] == []
    assert "free at /var/lib/postgresql" in checks["disk_data"]["evidence"]


def test_nothing_was_written(host):
    assert databases(host) == ["postgres", "white_cross"]
    assert value(host, "SELECT to_regnamespace('pgops') IS NULL") is True
