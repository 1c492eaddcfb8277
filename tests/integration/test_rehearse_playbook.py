# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""migrate.yml stops before production is touched where its rehearsal says so; rehearse.yml rehearses by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.backups import fill, names
from support.engine import fingerprint, rows
from support.site import Playbook
from support.tree import TestTree

V1 = "20260101000001"
# The lock is in a DO block, where nobody reads it, and is held while something slow goes on.
LOCKS = """
DO $$ BEGIN
    ALTER TABLE students ADD COLUMN grade integer;
    PERFORM pg_sleep(2.5);
END $$;
"""
SAFE = "ALTER TABLE students ADD COLUMN grade integer;"
DOWN = "ALTER TABLE students DROP COLUMN grade;"
STEP = {
    "version",
    "step",
    "kind",
    "direction",
    "statement",
    "seconds",
    "locks",
    "rewrites",
    "scans",
    "rows",
    "wal_bytes",
    "temp_bytes",
    "indexes",
}
FORECAST = {
    "steps",
    "seconds",
    "low",
    "high",
    "blocks_reads",
    "blocks_writes",
    "disk_bytes",
    "wal_bytes",
    "replica_lag_seconds",
}
RECORD = {
    "format", "id", "at", "environment", "host", "database", "backup", "server_version", "scratch_version", "versions", "checksums", "files", "ok", "why",
    "down_equal", "resumed", "steps", "forecast", "budget", "over_budget",
}  # fmt: skip


@pytest.fixture
def site(playbook: Playbook, server: Any, database: str) -> Playbook:
    fill(server, database)
    playbook.variables["pgops_phases"] = ["plan", "backup", "prove", "rehearse", "apply", "report"]
    playbook.variables["pgops_sql"] = str(playbook.folder / "own")
    return playbook


@pytest.fixture
def tree(site: Playbook) -> TestTree:
    return TestTree(site.folder / "own")


def of(result: Any, database: str) -> dict[str, Any]:
    assert result.json is not None, result.output
    return dict(result.json["hosts"]["local-1"][database])


def test_a_lock_that_would_be_held_too_long_stops_the_run_and_its_safe_rewrite_passes(
    site: Playbook, tree: TestTree, target: Any, server: Any, database: str
) -> None:
    tree.add_sql(V1, "add_grade", LOCKS, DOWN)
    before = fingerprint(target)
    stopped = site("migrate.yml", timeout=1500, rehearse_blocked_reads=2)
    assert stopped.rc != 0
    message = stopped.json["error"]["message"]
    assert "would hold AccessExclusiveLock on public.students for about " in message
    assert "rehearse_blocked_reads allows 2 s" in message
    assert "is untouched" in message
    assert stopped.json["error"]["next"][0].startswith("ansible-playbook migrate.yml -l local")
    assert "apply" not in of(stopped, database)
    assert (fingerprint(target), names(server, database)) == (before, [database])
    assert rows(target, "SELECT to_regnamespace('pgops') AS ledger") == [{"ledger": None}]

    tree.add_sql(V1, "add_grade", SAFE, DOWN)
    passed = site("migrate.yml", timeout=1500, rehearse_blocked_reads=2)
    assert passed.rc == 0, passed.output
    found = of(passed, database)
    assert [item["version"] for item in found["apply"]["applied"]] == [V1]
    record = found["rehearse"]["rehearsal"]
    assert record["ok"] and record["resumed"] and record["down_equal"]
    assert set(record) >= RECORD
    assert set(record["forecast"]) == FORECAST
    assert all(set(entry) >= STEP for entry in record["steps"])
    kept = Path(found["rehearse"]["file"])
    assert kept == site.backups / database / "rehearsals" / f"{passed.json['run_id']}.json"
    assert json.loads(kept.read_text()) == record
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    page = Path(passed.json["report"]).read_text(encoding="utf-8")
    for told in ("by the rehearsal", "<h3>Rehearsal</h3>", "Forecast and locks are those of the rehearsal"):
        assert told in page
    # It went on with the copy of the proof, which is gone now, like that of the run that was stopped.
    assert "scratch" in found["prove"]
    assert names(server, database) == [database]


def test_a_version_is_not_applied_without_its_rehearsal(
    site: Playbook, tree: TestTree, target: Any, server: Any, database: str
) -> None:
    tree.add_sql(V1, "add_grade", SAFE, DOWN)
    result = site("migrate.yml", "--skip-tags", "rehearse")
    assert result.rc != 0
    assert "this run has no rehearsal" in result.output
    assert not (site.backups / database).exists(), "nothing is backed up for a run that will apply nothing"
    assert "--skip-tags" not in result.output.partition("Then: ")[2].splitlines()[0]
    past = site("migrate.yml", "--skip-tags", "backup,prove")
    assert past.rc != 0 and past.json["error"]["phase"] == "plan"
    assert "this run has no backup and no prove (left out by --tags or --skip-tags)" in past.json["error"]["message"]
    assert names(server, database) == [database]


@pytest.mark.slow
def test_rehearse_by_itself_takes_the_newest_proved_backup(
    site: Playbook, tree: TestTree, target: Any, server: Any, database: str
) -> None:
    tree.add_sql(V1, "add_grade", SAFE, DOWN)
    nothing = site("rehearse.yml")
    assert nothing.rc != 0
    assert "There is no backup of" in nothing.output
    assert site("backup.yml").rc == 0
    looked = site("rehearse.yml", "--check")
    assert looked.rc == 0, looked.output
    assert "would rehearse what is pending on" in looked.stdout
    assert not (site.backups / database / "rehearsals").exists()
    before = fingerprint(target)
    done = site("rehearse.yml")
    assert done.rc == 0, done.output
    assert of(done, database)["rehearse"]["rehearsal"]["versions"] == [V1]
    assert (fingerprint(target), names(server, database)) == (before, [database])
    assert "REHEARSED: up, verified, down, as before, up again, cut off once and gone on with" in done.stdout
