# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service of a timer has made and proved a backup, left its heartbeat, and told no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
UNIT = "pgops-staging-backup"


def shown(host, unit, *names):
    properties = " ".join(f"--property={name}" for name in names)
    return dict(line.split("=", 1) for line in host.check_output(f"systemctl show {properties} {unit}").splitlines())


def test_both_timers_are_on_and_survive_a_restart(host):
    for name in ("pgops-staging-backup.timer", "pgops-staging-preflight.timer"):
        assert host.service(name).is_enabled and host.service(name).is_running
    assert shown(host, f"{UNIT}.timer", "Persistent") == {"Persistent": "yes"}


def test_its_run_has_made_a_backup_and_proved_it(host):
    (folder,) = host.check_output("ls -d /var/backups/pgops/white_cross/*/proof.json").split()
    manifest = json.loads(host.file(folder.replace("proof.json", "manifest.json")).content_string)
    assert manifest["database"] == "white_cross"


def test_its_heartbeat_says_that_it_succeeded(host):
    heartbeat = json.loads((FOLDER / "state" / "journal" / "staging" / "timers" / "backup.json").read_text())
    assert (heartbeat["result"], heartbeat["exit_code"]) == ("success", 0)
    assert heartbeat["last_success"] == heartbeat["at"]


def test_the_status_that_is_asked_for_elsewhere_knows_it(host):
    document = json.loads((FOLDER / "status.json").read_text())
    found = document["hosts"]["pgops-schedule-18"]["white_cross"]["timers"]
    rows = {row["name"]: row for row in found["timers"]}
    assert found["bad"] == []
    assert (rows["backup"]["state"], rows["backup"]["result"], rows["backup"]["unit"]) == (
        "ok",
        "success",
        f"{UNIT}.service",
    )
    assert rows["preflight"]["state"] == "waiting" and rows["preflight"]["next"]


def test_the_service_was_shut_in(host):
    found = shown(host, f"{UNIT}.service", "ProtectSystem", "NoNewPrivileges", "PrivateTmp", "Result")
    assert found == {"ProtectSystem": "strict", "NoNewPrivileges": "yes", "PrivateTmp": "yes", "Result": "success"}


def test_no_secret_is_in_a_unit_or_in_the_journal(host):
    password = (FOLDER / "password").read_text().split()[0]
    told = host.check_output(
        f"cat /etc/systemd/system/pgops-staging-*; journalctl --no-pager --output=cat --unit={UNIT}.service"
    )
    assert "backup in staging" in told
    assert password not in told
