# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The procedure of staging: the platform's chain on tables with rows, all phases, clients at work, and the audit checked behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.audit import verifier
from support.clients import Clients, let_in, load_sample_data
from support.engine import rows

SETTINGS, GRANTS = "20250103000003", "20251107000000"
# 17 rows a pupil: 68,500 in all.
STUDENTS = 4_000
# Each run rehearses thirty versions up, down and up.
PATIENCE_S = 1800


@pytest.mark.slow
def test_staging_is_migrated_whole_under_load_and_its_audit_holds(
    playbook: Any, server: Any, target: Any, tmp_path: Path
) -> None:
    # The environment before it and the people who approve are other tests'.
    playbook.variables.update(
        pgops_phases=["preflight", "plan", "backup", "prove", "rehearse", "apply", "analyze", "verify"],
        audit_justification="the procedure of staging",
    )
    runs = [playbook("migrate.yml", limit="staging", migrate_target=SETTINGS, timeout=PATIENCE_S)]
    assert runs[0].rc == 0, runs[0].output
    load_sample_data(server, target.database, STUDENTS)
    let_in(server, target.database)
    with Clients(server, target.database, count=4) as clients:
        runs.append(playbook("migrate.yml", limit="staging", migrate_target=GRANTS, timeout=PATIENCE_S))
        assert runs[1].rc == 0, runs[1].output
        # The application is deployed between the version that lets it take a role and the one that asks for one.
        clients.act_as("white_cross_admin")
        runs.append(playbook("migrate.yml", limit="staging", timeout=PATIENCE_S))
        assert runs[2].rc == 0, runs[2].output
    assert clients.faults == []
    assert len(clients.statements) > 100
    for run in runs:
        applied = {item["version"] for item in run.json["hosts"]["staging-1"][target.database]["apply"]["applied"]}
        found = rows(
            target, f"SELECT event, version, detail FROM pgops.audit WHERE run_id = '{run.json['run_id']}' ORDER BY seq"
        )
        assert {row["version"] for row in found if row["event"] == "applied"} == applied != set()
        (ended,) = [row["detail"] for row in found if row["event"] == "run_ended"]
        assert ({item["version"] for item in ended["migrations"]}, ended["status"], ended["verification_status"]) == (
            applied, "complete", "passed",
        )  # fmt: skip
        assert ended["rollback_tested"] is True
    done = playbook("audit_export.yml", limit="staging", audit_export_directory=str(tmp_path / "exports"))
    assert done.rc == 0, done.output
    folder = Path(done.json["hosts"]["staging-1"][target.database]["audit_export"]["folder"])
    files = [str(folder / f"{name}.jsonl") for name in ("audit", "anchors", "rows")]
    checked = verifier(tmp_path, "--export", files[0], "--anchors", files[1], "--rows", files[2])
    assert (checked.rc, checked.document["anchors"]) == (0, 3), checked.told
