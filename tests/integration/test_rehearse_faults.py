# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks with a rehearsal and a gate, disturbed: masked copies, recorded queries, kill -9 in the middle, a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import load_replay
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from support.backups import PATIENT, fill, names
from support.engine import fingerprint, rows, target_of, wait_for
from support.server import OWNER, RESTORE, Server
from support.signers import People
from support.site import Playbook, Result
from support.small_disk import mounted
from support.tree import TestTree

V1 = "20260101000001"
UP = "ALTER TABLE students ADD COLUMN grade integer;"
DOWN = "ALTER TABLE students DROP COLUMN grade;"
SLEEPS = "SELECT pg_catalog.pg_sleep(60);\n"
SLEEPING = (
    "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
)
# A mask makes another letter of each, so none of these names begins with its own first letter afterwards.
FINDS_NAMES = (
    "SELECT 'students' AS object, 'masked' AS expected, 'plain' AS found FROM students WHERE name ~ '^S' LIMIT 1;\n"
)


@pytest.fixture
def site(playbook: Playbook, server: Server, database: str) -> Playbook:
    fill(server, database)
    playbook.variables["pgops_phases"] = ["plan", "backup", "prove", "rehearse", "apply", "report"]
    playbook.variables["pgops_sql"] = str(playbook.folder / "own")
    return playbook


@pytest.fixture
def tree(site: Playbook) -> TestTree:
    return TestTree(site.folder / "own")


def rehearsal_of(result: Result, database: str) -> dict[str, Any]:
    assert result.json is not None, result.output
    return dict(result.json["hosts"]["local-1"][database]["rehearse"]["rehearsal"])


def failed(result: Result, why: str) -> None:
    assert result.rc == 2, result.output
    assert why in result.json["error"]["message"], result.json["error"]["message"]
    assert "Traceback" not in result.output
    assert "Sentinel" not in result.output + json.dumps(result.json)


@pytest.mark.slow
def test_what_is_masked_is_masked_before_the_versions_run_and_told_nowhere(
    site: Playbook, tree: TestTree, target: Any, server: Server, database: str
) -> None:
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "rehearse", "report"]
    files = {"up.sql.j2": UP, "down.sql.j2": DOWN, "verify.sql.j2": FINDS_NAMES}
    tree.add(V1, "add_grade", [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}], files)
    before = fingerprint(target)
    failed(site("migrate.yml"), "in its verification")
    failed(site("migrate.yml", rehearse_mask=True), "masking.yml, which cannot be read")
    masking = tree.folder / "masking.yml"
    masking.write_text("public.students: {name: text, surname: text}\n")
    failed(site("migrate.yml", rehearse_mask=True), "public.students.surname, which is no column of it")
    server.execute(f"SET ROLE {OWNER}; CREATE TABLE old_names AS SELECT name FROM students", database=database)
    masking.write_text("public.students: {name: text, note: empty}\n")
    failed(site("migrate.yml", rehearse_mask=True), "public.old_names.name still holds a value that masking.yml masks")
    server.execute("DROP TABLE old_names", database=database)
    masked = site("migrate.yml", rehearse_mask=True)
    assert masked.rc == 0, masked.output
    record = rehearsal_of(masked, database)
    done = record["masked"]
    assert {name: done[name] for name in ("tables", "columns", "rows", "vectors")} == {
        "tables": 1, "columns": 2, "rows": 500, "vectors": [],
    }  # fmt: skip
    # 500 names and as many notes.
    assert done["looked"]["looked_for"] + done["looked"]["ambiguous"] + done["looked"]["short"] == 1000
    assert record["ok"] and record["down_equal"] and record["resumed"]
    assert "masked 2 columns of 1 tables, 500 rows; " in masked.stdout
    assert "of their 1000 values of text were looked for in" in masked.stdout
    for file in (site.backups / database / "rehearsals").iterdir():
        assert PATIENT not in file.read_text(), file
    # The database itself has its names, and the copies are gone.
    assert rows(target, f"SELECT count(*) AS n FROM students WHERE name LIKE '{PATIENT}%'") == [{"n": 500}]
    assert (fingerprint(target), names(server, database)) == (before, [database])


@pytest.fixture
def recording(own_server: Server, tmp_path: Path) -> Iterator[Playbook]:
    """A server that records what its clients ask."""
    own_server.execute("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements")
    own_server.stop()
    own_server.start()
    own_server.create_database("t_asked", OWNER)
    fill(own_server, "t_asked", 20000)
    own_server.execute(
        "CREATE EXTENSION pg_stat_statements; GRANT pg_read_all_stats TO white_cross_migrator", database="t_asked"
    )
    site = Playbook(tmp_path / "ops host", own_server, "t_asked")
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "rehearse", "report"]
    site.variables["pgops_sql"] = str(site.folder / "own")
    yield site


@pytest.mark.slow
def test_what_the_tool_itself_asks_is_no_query_of_the_application(recording: Playbook) -> None:
    server, database = recording.server, recording.database
    server.execute("SELECT name FROM students WHERE id = 4711", database=database)
    server.execute("SELECT s.seqstart FROM pg_sequence AS s", database=database)
    with server.session(database, RESTORE) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM visits")
    with closing(connect(target_of(server, database).with_(owner=None), application_name="a test")) as conn:
        found = load_replay.recorded(conn, 50, [RESTORE])
    assert [query.text for query in found] == ["SELECT name FROM students WHERE id = $1"]


@pytest.mark.slow
def test_queries_that_clients_ask_are_planned_before_and_after_and_no_value_is_told(recording: Playbook) -> None:
    site, tree = recording, TestTree(recording.folder / "own")
    server = site.server
    server.execute("CREATE INDEX students_name ON students (name)", database=site.database)
    for number in range(5):
        server.execute(f"SELECT id FROM students WHERE name = '{PATIENT}{number}'", database=site.database)
    server.execute("SELECT count(*) FROM visits WHERE price > 3", database=site.database)
    tree.add_sql(V1, "lose_index", "DROP INDEX students_name;", "CREATE INDEX students_name ON students (name);")
    result = site("migrate.yml", rehearse_queries_recorded=10)
    assert result.rc == 0, result.output
    told = {query["name"]: query for query in rehearsal_of(result, site.database)["queries"]}
    changed = [query for query in told.values() if query["plan_changed"]]
    assert len(told) >= 2 and len(changed) == 1, told
    assert any("students_name" in line for line in changed[0]["lost"])
    assert any("Seq Scan students" in line for line in changed[0]["came"])
    assert changed[0]["ratio"] is None, "nobody knows its parameters, so it was not run"
    assert f"query {changed[0]['name']}: " in result.stdout
    assert "Sentinel" not in result.output + json.dumps(result.json)


def kill_nine(run: subprocess.Popen[str]) -> None:
    """Ansible, its workers and what they started; what runs in sessions of its own is left to find out."""
    for worker in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="ascii").split():
        os.kill(int(worker), signal.SIGKILL)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)


def run_of(site: Playbook) -> str:
    """The id of the newest run."""
    return max(file.stem for file in (site.state / "journal" / "local").glob("*.jsonl"))


def begun(site: Playbook, phase: str) -> bool:
    journals = list((site.state / "journal" / "local").glob("*.jsonl"))
    lines = max(journals, key=lambda file: file.stem).read_text().splitlines() if journals else []
    return any('"phase_started"' in line and f'"phase":"{phase}"' in line for line in lines)


@pytest.mark.slow
def test_a_rehearsal_that_was_killed_leaves_what_the_next_run_removes(
    site: Playbook, tree: TestTree, target: Any, server: Server, database: str
) -> None:
    tree.add_sql(V1, "add_grade", SLEEPS + UP, DOWN)
    before = fingerprint(target)
    run = site.start("migrate.yml")
    wait_for(lambda: server.execute(SLEEPING), 240, "the sleep of the rehearsal")
    killed = run_of(site)
    kill_nine(run)
    assert len(names(server, database)) == 2, "kill -9 gives nobody the time to tidy up"
    wait_for(lambda: not server.execute(SLEEPING), 120, "the end of the orphan's statement")
    assert fingerprint(target) == before
    assert not (site.backups / database / "rehearsals").exists()
    # Under its own id: it has a proved backup and no rehearsal, so all of it is made anew.
    tree.add_sql(V1, "add_grade", UP, DOWN)
    again = site("migrate.yml", pgops_run_id=killed)
    assert again.rc == 0, again.output
    assert names(server, database) == [database]
    assert rows(target, "SELECT run_id, state FROM pgops.migration") == [{"run_id": killed, "state": "applied"}]


@pytest.mark.slow
def test_a_gate_that_was_killed_is_asked_again_and_lets_nothing_through(
    site: Playbook, tree: TestTree, target: Any, server: Server, database: str, tmp_path: Path
) -> None:
    people = People(tmp_path / "people")
    tree.add_sql(V1, "add_grade", UP, DOWN)
    site.variables["pgops_phases"] = ["plan", "backup", "prove", "rehearse", "gate", "apply", "report"]
    site.variables |= {
        "gate_required": True,
        "gate_signers": {"database_admin": people.signers("database_admin", "dana")},
    }
    before = fingerprint(target)
    run = site.start("migrate.yml")
    wait_for(lambda: begun(site, "backup"), 120, "the beginning of the backup")
    # An approval that is being read for ever holds the gate where it can be killed.
    folder = site.state / "approvals" / "local"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "database_admin-0123456789abcdef.json")
    wait_for(lambda: begun(site, "gate"), 240, "the gate")
    killed = run_of(site)
    kill_nine(run)
    shutil.rmtree(folder)
    assert (fingerprint(target), names(server, database)) == (before, [database])
    shut = site("migrate.yml", pgops_run_id=killed)
    failed(shut, "there is missing the approval of database_admin")
    assert f"run {killed} goes on with its proved backup" in shut.stdout
    assert fingerprint(target) == before
    approved = site("approve.yml", approve_as="database_admin", approve_key=people.key("dana"))
    assert approved.rc == 0 and "as rehearsed in " in approved.stdout, approved.output
    done = site("migrate.yml", pgops_run_id=killed)
    assert done.rc == 0, done.output
    assert rows(target, "SELECT run_id, state FROM pgops.migration") == [{"run_id": killed, "state": "applied"}]
    assert len(list((site.backups / database / "rehearsals").glob("*.json"))) == 1, "it was rehearsed once"


@pytest.mark.slow
def test_a_rehearsal_that_cannot_be_kept_ends_the_run_before_the_apply(
    site: Playbook, tree: TestTree, target: Any, server: Server, database: str
) -> None:
    tree.add_sql(V1, "add_grade", UP, DOWN)
    before = fingerprint(target)
    assert site("backup.yml").rc == 0
    with mounted(site.backups / database / "rehearsals", "16k") as full:
        (full / "filler").write_bytes(b"x" * 16384)
        failed(site("migrate.yml"), f"The rehearsal cannot be kept in {full}")
        assert [file.name for file in full.iterdir()] == ["filler"]
        assert (fingerprint(target), names(server, database)) == (before, [database])
    (site.backups / database / "rehearsals").rmdir()
    assert site("migrate.yml").rc == 0
    assert names(server, database) == [database]


@pytest.mark.slow
def test_what_staging_has_applied_without_a_rehearsal_is_rehearsed_on_the_backup_of_before(
    site: Playbook, tree: TestTree, server: Server, database: str, tmp_path: Path
) -> None:
    people = People(tmp_path / "people")
    site.variables["pgops_phases"] = ["preflight", "plan", "backup", "prove", "apply", "verify", "report"]
    site.variables["verify_compare_schema"] = False
    server.execute("CREATE INDEX visits_student_id ON visits (student_id)", database=database)
    tree.add_sql(V1, "add_grade", UP, DOWN)
    applied = site("migrate.yml", limit="staging", verify_evidence_key=people.key("staging"))
    assert applied.rc == 0, applied.output
    site.variables |= {"gate_soak_hours": 0, "gate_signers": {"evidence": people.signers("evidence", "staging")}}
    other = f"{database}_production"
    server.create_database(other, OWNER)
    fill(server, other)
    site.hosts["production"] = {"production-1": {"pgops_database": other, "gate_required": True}}

    def lacking() -> list[str]:
        told = site("gate.yml", limit="production")
        found = told.json["hosts"]["production-1"][other]["gate"]["gate"]
        return [lack["kind"] for lack in found["promotion"]["lacking"]]

    assert lacking() == ["rehearsal"]
    backup = applied.json["hosts"]["staging-1"][database]["backup"]["path"]
    rehearsed = site("rehearse.yml", limit="staging", rehearse_backup=backup, verify_evidence_key=people.key("staging"))
    assert rehearsed.rc == 0, rehearsed.output
    assert "evidence of staging" in rehearsed.stdout
    assert lacking() == []


@pytest.mark.slow
def test_statistics_of_clients_that_nobody_may_read_are_told_and_stop_nothing(site: Playbook, tree: TestTree) -> None:
    tree.add_sql(V1, "add_grade", UP, DOWN)
    result = site("migrate.yml", rehearse_queries_recorded=5)
    assert result.rc == 0, result.output
    assert "no query was taken from pg_stat_statements" in result.stdout
