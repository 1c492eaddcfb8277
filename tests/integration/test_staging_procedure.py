# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The platform's procedure for staging in one scenario: a volume like production's, clients at work, every phase, the audit checked."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.clients import Clients, let_in, load_sample_data
from support.server import Server

SETTINGS, GRANTS = "20250103000003", "20251107000000"
PHASES = ["preflight", "plan", "backup", "prove", "rehearse", "apply", "analyze", "verify", "report"]
STUDENTS = 40_000
# What a client of a hospital takes for an answer.
PATIENCE_S = 5
LONGEST_S = 2400


@pytest.mark.slow
def test_staging_migrates_at_volume_under_load_and_its_audit_holds(
    playbook: Any, server: Server, tmp_path: Path
) -> None:
    playbook.variables |= {
        "pgops_phases": PHASES, "migrate_watch": 0, "audit_justification_required": True,
        "audit_justification": "the procedure for staging",
    }  # fmt: skip
    begin = playbook("migrate.yml", limit="staging", migrate_target=SETTINGS, pgops_phases=["plan", "apply"])
    assert begin.rc == 0, begin.output
    load_sample_data(server, playbook.database, STUDENTS)
    let_in(server, playbook.database)
    with Clients(server, playbook.database, patience_s=PATIENCE_S) as clients:
        clients.act_as(None)
        through_grants = playbook("migrate.yml", limit="staging", timeout=LONGEST_S, migrate_target=GRANTS)
        assert through_grants.rc == 0, through_grants.output
        # The application is deployed between this version, which lets it take a role, and the next, which asks for one.
        clients.act_as("white_cross_admin")
        to_the_end = playbook("migrate.yml", limit="staging", timeout=LONGEST_S)
        assert to_the_end.rc == 0, to_the_end.output
    assert clients.faults == []
    assert {one.kind for one in clients.statements} >= {"read", "write", "insert"}
    for run in (through_grants, to_the_end):
        found = run.json["hosts"]["staging-1"][playbook.database]
        assert set(PHASES) <= set(found) | {"report"}
        assert found["prove"]["level"] >= 4
        assert found["rehearse"]["rehearsal"]["ok"] is True
        assert found["verify"]["passed"] is True
        assert found["rehearse"]["rehearsal"]["backup"] == Path(found["backup"]["path"]).name
    audit_holds(playbook, tmp_path / "exports", [begin, through_grants, to_the_end])


def audit_holds(playbook: Any, folder: Path, runs: list[Any]) -> None:
    """What an auditor gets holds without Ansible, and has each version that these runs applied, with the reason and the backup."""
    done = playbook("audit_export.yml", limit="staging", audit_export_directory=str(folder))
    assert done.rc == 0, done.output
    export = Path(done.json["hosts"]["staging-1"][playbook.database]["audit_export"]["folder"])
    alone = subprocess.run(
        [sys.executable, "-I", "-S", "audit_verifier.py", "--export", "audit.jsonl", "--anchors", "anchors.jsonl"],
        cwd=export, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (0, "the audit holds")
    rows = list(csv.DictReader((export / "changes.csv").read_text(encoding="utf-8").splitlines()))
    applied = {row["migration"]: row for row in rows if row["status"] == "applied"}
    for run in runs:
        found = run.json["hosts"]["staging-1"][playbook.database]
        for one in found["apply"]["applied"]:
            row = applied.pop(one["version"])
            assert (row["justification"], row["environment"]) == ("the procedure for staging", "staging")
            assert row["backup_location"] == (found["backup"]["path"] if "backup" in found else "")
    assert applied == {}
