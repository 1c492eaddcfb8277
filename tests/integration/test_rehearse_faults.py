# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not be told of a rehearsal, through the playbook: what a masked copy held, and what clients have asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import load_replay
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from support.backups import PATIENT, fill, names
from support.engine import fingerprint, rows, target_of
from support.server import OWNER, RESTORE, Server
from support.site import Playbook, Result
from support.tree import TestTree

V1 = "20260101000001"
UP = "ALTER TABLE students ADD COLUMN grade integer;"
DOWN = "ALTER TABLE students DROP COLUMN grade;"
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
