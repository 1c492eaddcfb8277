# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What audit_export.yml hands to an auditor, and audit_verify.yml over it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_entry, audit_export, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import audit_hipaa, audit_period
from support.tree import TestTree

V1 = "20260101000001"
FILES = {
    "anchors.jsonl", "audit.jsonl", "audit_verifier.py", "changes.csv", "changes.jsonl", "hipaa.html", "hipaa.md", "rows.jsonl",
}  # fmt: skip
# The platform's handbook names these.
ASKED_FOR = (
    "timestamp", "executor", "migration", "environment", "database", "tables_affected", "phi_impact", "justification",
    "backup_location", "duration_seconds", "status", "verification_status", "rollback_tested", "approvals",
)  # fmt: skip


def test_an_auditor_gets_a_folder_that_checks_itself(playbook: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "own sql")
    tree.add_sql(V1, "create_people", "CREATE TABLE people (id int PRIMARY KEY);\n", "DROP TABLE people;\n")
    playbook.variables.update(
        pgops_sql=str(tree.folder), pgops_phases=["plan", "apply"], audit_justification="add people"
    )
    assert playbook("migrate.yml").rc == 0
    done = playbook("audit_export.yml", audit_export_directory=str(tmp_path / "exports"))
    assert done.rc == 0, done.output
    found = done.json["hosts"]["local-1"][playbook.database]["audit_export"]
    folder = Path(found["folder"])
    assert folder.is_relative_to(tmp_path / "exports")
    assert {file.name for file in folder.iterdir()} == FILES
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir()} == {0}
    assert "the audit holds" in done.stdout
    # As the auditor types it there, who has neither Ansible nor the database.
    alone = subprocess.run(
        [sys.executable, "-I", "-S", "audit_verifier.py", "--export", "audit.jsonl", "--anchors", "anchors.jsonl"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (0, "the audit holds")
    (row,) = csv.DictReader(io.StringIO((folder / "changes.csv").read_text(encoding="utf-8")))
    assert set(ASKED_FOR) <= set(row)
    assert (row["migration"], row["status"], row["justification"], row["database"]) == (
        V1, "applied", "add people", playbook.database
    )  # fmt: skip
    record = json.loads((folder / "changes.jsonl").read_text(encoding="utf-8"))
    assert (record["tables_affected"], len(record["checksum"])) == (["public.people"], 64)
    page = (folder / "hipaa.html").read_text(encoding="utf-8")
    assert "164.312(b)" in page
    assert "NOT signed off by a reviewer" in page
    holds = playbook("audit_verify.yml", limit=None, audit_verify_folder=str(folder))
    assert (holds.rc, holds.json["audit"]["ok"]) == (0, True), holds.output
    chain = folder / "audit.jsonl"
    chain.write_text(chain.read_text(encoding="utf-8").replace("add people", "add pupils"), encoding="utf-8")
    spoiled = playbook("audit_verify.yml", limit=None, audit_verify_folder=str(folder))
    assert (spoiled.rc, spoiled.json["audit"]["exit_code"]) == (2, 1)
    assert f"The audit of {playbook.database} was tampered with: Row" in spoiled.json["error"]["message"]


def test_audit_verify_asks_for_something_to_verify(playbook: Any) -> None:
    done = playbook("audit_verify.yml", limit=None)
    assert done.rc == 2
    assert "Either an export or a database is checked" in done.json["error"]["message"]


@pytest.fixture
def chain(target: Any, tmp_path: Path) -> Any:
    conn = connect(target, application_name="test")
    ledger.ensure(conn)
    yield conn
    conn.close()


def period(chain: Any, tmp_path: Path, since: str = "0001-01-01", until: str = "9999-12-31") -> audit_period.Period:
    audit_export.write(chain, str(tmp_path / "a.jsonl"))
    return audit_period.read(tmp_path / "a.jsonl", since, until)


def run_ended(chain: Any, run: str, **more: Any) -> None:
    version = {
        "version": V1,
        "name": "create_people",
        "status": "applied",
        "duration_seconds": 1.5,
        "checksum": "c" * 64,
        "phi": True,
    }
    detail = {
        "timestamp": "2026-01-01T00:00:00Z", "executor": "ada", "service_account": "migrator", "migrations": [version],
        "status": "complete", "backup_location": "/b", "backup_proved_at": "2026-01-01", "verification_status": "passed",
    }  # fmt: skip
    ledger.append_audit(chain, audit_entry.RUN_ENDED, run_id=run, detail={**detail, **more})


def test_a_run_that_left_no_last_row_is_told_by_its_single_rows(chain: Any, tmp_path: Path) -> None:
    ledger.append_audit(chain, "applied", run_id="old", version="1", detail={"duration_s": 2, "checksum": "d" * 64})
    ledger.append_audit(chain, "applied", run_id="new", version=V1)
    run_ended(chain, "new")
    found = period(chain, tmp_path).records
    assert [(record["run_id"], record["migration"], record["status"]) for record in found] == [
        ("old", "1", "applied"), ("new", V1, "applied"),
    ]  # fmt: skip


def test_a_later_sign_off_belongs_to_its_run(chain: Any, tmp_path: Path) -> None:
    run_ended(chain, "one")
    assert "NOT signed off by a reviewer: one." in page(chain, tmp_path)
    ledger.append_audit(
        chain, audit_entry.SIGNED_OFF, run_id="x", detail={"run": "one", "name": "Grace", "role": "reviewer"}
    )
    (record,) = period(chain, tmp_path).records
    assert record["signed_off_by"] == ["Grace (reviewer)"]
    assert "1 runs are signed off by a reviewer: one." in page(chain, tmp_path)
    assert period(chain, tmp_path, since="9000-01-01").signed_off.keys() == {"one"}  # also of a run before the period


def page(chain: Any, tmp_path: Path) -> str:
    checked = {"rows": 1, "anchors": 1, "exit_code": 0, "findings": []}
    return audit_hipaa.as_markdown(period(chain, tmp_path), checked, {"database": "d"})


def test_the_page_says_where_there_is_no_evidence(chain: Any, tmp_path: Path) -> None:
    empty = page(chain, tmp_path)
    assert empty.count(audit_hipaa.NONE) >= 6
    run_ended(
        chain,
        "one",
        execution_log={"issues": ["disk full"]},
        break_glass={"told": "BREAK GLASS by Ada until noon: pupils without their drugs"},
    )
    told = page(chain, tmp_path)
    assert "1 changes had a backup before them, 1 of these proved" in told
    assert "Run one (complete): disk full" in told
    assert "Run one: BREAK GLASS by Ada until noon: pupils without their drugs." in told
    assert "NO logging of statements is recorded for runs that touched PHI: one." in told
    run_ended(
        chain,
        "two",
        phi_window={"logging": "pgaudit", "opened": "09:00", "closed": "09:05", "encryption_at_rest": "attested"},
    )
    told = page(chain, tmp_path)
    assert "Run two: statements were logged by pgaudit from 09:00 to 09:05." in told
    assert "Run two: attested." in told


def test_the_page_says_what_was_done_to_phi_who_may_read_it_and_what_is_gone(chain: Any, tmp_path: Path) -> None:
    steps = [
        {"step": 1, "kind": "backfill", "name": "names", "rows": 7},
        {"step": 2, "kind": "sql", "name": None, "rows": None},
    ]
    run_ended(
        chain,
        "one",
        migrations=[
            {"version": V1, "name": "create_people", "status": "applied", "phi": True, "transformations": steps}
        ],
        phi_access={"public.people": {"row_security": False, "may_read": ["PUBLIC", "nurse"]}},
        phi_searches={"indexes": ["public.i"], "logged_by": None, "not_logged": ["public.i"], "exceptions": []},
        retention={"compared": True, "fewer": [{"table": "public.people", "before": 9, "after": 7}]},
    )
    told = page(chain, tmp_path)
    for sentence in (
        f"Version {V1} (create_people, run one) did to PHI: names (backfill, 7 rows), 2 (sql).",
        "Run one touched PHI that EVERYBODY may read: public.people.",
        "Run one touched PHI without row-level security: public.people.",
        "Run one touched PHI that these roles may read: nurse.",
        "Queries through indexes of PHI are NOT logged: public.i (run one).",
        "Run one touched PHI; FEWER rows than before: public.people from 9 to 7.",
    ):
        assert sentence in told
    searches = {"indexes": ["public.i"], "logged_by": "pgaudit.log", "not_logged": [], "exceptions": ["app in clinic"]}
    run_ended(chain, "two", phi_searches=searches, retention={"compared": False, "fewer": []})
    told = page(chain, tmp_path)
    assert "Every query through indexes of PHI is logged by pgaudit.log: public.i (run two)." in told
    assert "Set otherwise for app in clinic." in told
    assert "Run two touched PHI; rows before and after were NOT compared." in told


def test_a_period_leaves_out_what_is_outside(chain: Any, tmp_path: Path) -> None:
    run_ended(chain, "one")
    assert period(chain, tmp_path, since="9000-01-01").records == []
    assert period(chain, tmp_path, since="9000-01-01").first is not None
    with pytest.raises(PgopsError, match="31.12.2026 is no day; write it as 2026-01-31"):
        audit_period.day("31.12.2026", "")


def test_a_cell_never_begins_as_a_formula(chain: Any, tmp_path: Path) -> None:
    run_ended(chain, "one", justification='=HYPERLINK("http://x")', executor="-1+1")
    (row,) = csv.DictReader(io.StringIO(audit_period.as_csv(period(chain, tmp_path))))
    assert (row["justification"][0], row["executor"]) == ("'", "'-1+1")


def test_a_file_that_is_no_export_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}\n", encoding="utf-8")
    with pytest.raises(PgopsError, match="is no export of pgops.audit"):
        audit_period.read(tmp_path / "x", "0001-01-01", "9999-12-31")
