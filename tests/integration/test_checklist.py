# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checklist that migrate.yml leaves: ticked by what they have measured on a server, and by nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.site import Playbook, Result
from support.tree import NO_DIFFERENCE, TestTree

V1, V2, V3 = "20260101000000", "20260101000001", "20260101000002"
INDEXES = [{"name": "rooms_name", "table": "rooms", "columns": ["name"], "why": "a test"}]
MEASURED = {
    "Before": ["Backup made", "Backup verified", "Rollback documented", "Approval given"],
    "Details": ["Tables", "Estimated minutes", "PHI", "Executor", "Reviewers", "Date"],
    "Execution": ["Backup made", "Backup verified", "Migration executed", "Verification queries run", "Metrics normal"],
    "After": ["Foreign keys", "Row counts", "Audit log"],
    "Deployment to production": ["Backup", "Order verified", "Rollback plan", "ANALYZE of every changed table"],
}


@pytest.fixture
def site(playbook: Playbook) -> Playbook:
    """An operator's folder with a tree of a table and an index."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    up = (
        "CREATE TABLE public.rooms (\n    id integer PRIMARY KEY,\n    name text,\n"
        "    next integer REFERENCES public.rooms (id) ON UPDATE RESTRICT ON DELETE RESTRICT\n);\n"
        "CREATE INDEX rooms_next ON public.rooms (next);\n"
    )
    tree.add_sql(V1, "rooms", up, "DROP TABLE public.rooms;\n", expected_seconds=6)
    files = {"indexes.yml": INDEXES, "verify.sql.j2": NO_DIFFERENCE}
    tree.add(V2, "faster", [{"indexes": "indexes.yml"}], files, expected_seconds=6)
    playbook.variables["verify_compare_schema"] = False
    return playbook


def lines(done: Result) -> dict[str, dict[str, str]]:
    """:return: by part and line of the checklist that the result names, its mark and text."""
    assert done.json is not None, done.output
    file = Path(done.json["checklist"])
    assert file == Path(done.json["report"]).with_suffix(".checklist.md")
    assert file.stat().st_mode & 0o777 == 0o600
    page = file.read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = {}
    for title, part in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        found[title] = {
            what: f"{mark} {told}" for mark, what, told in re.findall(r"^- \[(.)\] (.*?): (.*)$", part, re.MULTILINE)
        }
    return found


def test_migrate_yml_ticks_what_it_has_measured(site: Playbook) -> None:
    site.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "apply", "analyze", "verify", "report"]
    done = site("migrate.yml", migrate_reviewed_by="grace")
    assert done.rc == 0, done.output
    found = lines(done)
    assert f"checklist: {done.json['checklist']}" in done.output
    told = {part: {what: found[part][what] for what in whats} for part, whats in MEASURED.items()}
    open_lines = {what: one for part in told.values() for what, one in part.items() if not one.startswith("x ")}
    assert open_lines == {}, found
    assert found["Details"]["Estimated minutes"] == "x 0.2 (plan)"
    assert found["Execution"]["Migration executed"].startswith("x 2 versions in ")
    assert done.json["hosts"]["local-1"][site.database]["backup"]["path"] in found["Before"]["Backup made"]
    assert found["Execution"]["Application healthy"].startswith("  not by this run: ")
    assert found["After"]["Stakeholders told"] == "  not by this run: a person tells them"
    assert set(found["Rollback"].values()) == {
        "  not by this run: nothing was rolled back",
        "  not by this run: a person",
    }


@pytest.mark.slow
def test_a_migration_that_fails_is_marked_where_it_failed_and_a_check_leaves_none(site: Playbook) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "apply", "verify", "report"]
    TestTree(site.folder / "sql").add_sql(
        V3, "broken", "INSERT INTO public.nowhere VALUES (1);\n", "DELETE FROM public.nowhere;\n"
    )
    looked = site("migrate.yml", "--check")
    assert "checklist" not in looked.json
    assert not list(site.state.rglob("*.checklist.md"))
    done = site("migrate.yml")
    assert done.rc == 2, done.output
    found = lines(done)
    assert re.match(r"! .*20260101000002", found["Execution"]["Migration executed"])
    assert found["Before"]["Backup verified"].startswith("x proved at level 4 of 6")
    after: dict[str, Any] = found["After"]
    assert after["Foreign keys"] == "  not by this run: the run ended before it (the phase verify)"
    assert found["Rollback"]["Reason"].startswith("  not by this run: nothing was rolled back")
