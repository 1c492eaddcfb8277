# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the application writes, done on a copy and taken back: what is told of it, and that nothing stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, soundness
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.plugin_utils import declared_writes
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_queries import read_queries
from support.backups import PATIENT, back_up, fill, prove
from support.engine import rows, way
from support.podman import ROOT
from support.tree import shipped_chain

INSERT = f"INSERT INTO students (id, name) VALUES (70000, '{PATIENT}')"
VISIT = "INSERT INTO visits (student_id) VALUES ({})"


def writes(*statements: str, versions: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"name": "pupil", "title": "a pupil", "versions": list(versions), "statements": list(statements)}


def looked_at(target: Any, *asked: dict[str, Any]) -> soundness.Soundness:
    return soundness.look(
        target, asked, database=target.database, jobs=1, application_name="test", progress=Progress(), control=Control()
    )


def of_writes(found: soundness.Soundness) -> list[str]:
    """What was not done of them; the role of the tests may not install amcheck either."""
    return [lacking for lacking in found.lacking if not lacking.startswith("amcheck")]


@pytest.fixture
def filled(server: Any, target: Any) -> Any:
    fill(server, target.database)
    return target.with_(user=target.restore_user)


def test_what_is_written_is_taken_back(filled: Any) -> None:
    found = looked_at(filled, writes(INSERT, "UPDATE students SET name = name || '%' WHERE id = 70000", "DELETE FROM students WHERE id = 70000"),
                      writes(INSERT, versions=("20990101000000",)))  # fmt: skip
    assert (found.faults, of_writes(found)) == ([], [])
    assert found.looked[-1] == "1 writes of sql/checks are done and taken back, 1 wait for later versions"
    assert looked_at(filled).looked[-1].endswith("queries of sql/checks pass")
    looked_at(filled, writes(INSERT))
    assert rows(filled, "SELECT count(*) AS n FROM students WHERE id = 70000")[0]["n"] == 0


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ((INSERT, INSERT), "statement 2 fails with SQLSTATE 23505 (students, students_pkey)"),
        ((INSERT, "DELETE FROM students WHERE id = 70001"), "statement 2 finds no row"),
        (("SELECT 1 FROM students WHERE id = 70000",), "statement 1 finds no row"),
        (("UPDATE students SET nobody = 1",), "statement 1 fails with SQLSTATE 42703"),
    ],
)
def test_a_write_that_does_not_work_is_named_and_its_rows_are_not(
    filled: Any, statements: tuple[str, ...], said: str
) -> None:
    found = looked_at(filled, writes(*statements))
    assert found.faults == [f"writes pupil of sql/checks: {said}"]
    assert PATIENT not in json.dumps([found.faults, found.looked])
    assert rows(filled, "SELECT count(*) AS n FROM students WHERE id = 70000")[0]["n"] == 0


def test_a_constraint_that_is_looked_at_late_is_looked_at(server: Any, filled: Any) -> None:
    deferred = "ALTER TABLE visits ALTER CONSTRAINT visits_student_id_fkey DEFERRABLE INITIALLY DEFERRED"
    server.execute(deferred, database=filled.database)
    (fault,) = looked_at(filled, writes(VISIT.format(70001))).faults
    assert (
        fault
        == "writes pupil of sql/checks: a constraint at the end fails with SQLSTATE 23503 (visits, visits_student_id_fkey)"
    )


def test_a_role_that_may_not_write_says_so_and_claims_nothing(server: Any, filled: Any) -> None:
    role = f"{filled.database}_reader"
    server.execute(f"CREATE ROLE {role}; GRANT SELECT ON students TO {role}", database=filled.database)
    found, writing = soundness.Soundness(), writes(INSERT)
    try:
        with closing(connect(filled, application_name="test")) as conn, conn.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            soundness._write(conn, [writing], (), found, Control())
    finally:
        server.execute(f"DROP OWNED BY {role}; DROP ROLE {role}", database=filled.database)
    assert (found.faults, found.ok) == ([], False)
    assert found.lacking == ["writes pupil of sql/checks were not done: the restore role may not"]


def test_a_proof_of_level_five_does_them_on_its_copy(target: Any, filled: Any, tmp_path: Path) -> None:
    backup = back_up(target, tmp_path)
    detail = prove(target, backup, level=5, queries=[writes(INSERT)])["levels"][-1]["detail"]
    assert "1 writes of sql/checks are done and taken back" in detail
    with pytest.raises(PgopsError, match="statement 2 fails with SQLSTATE 23505"):
        prove(target, backup, level=5, queries=[writes(INSERT, INSERT)])


@pytest.mark.parametrize("last", ["20250103000003", None], ids=["the_first_four", "all"])
def test_the_shipped_ones_work_with_the_shipped_schema(target: Any, last: str | None) -> None:
    migrate.apply(target, shipped_chain(), Selection(target=last), way())
    shipped = declared_writes.read_writes(ROOT / "sql")
    assert shipped
    found = looked_at(target.with_(user=target.restore_user), *shipped)
    assert (found.faults, of_writes(found)) == ([], [])
    assert found.looked[-1] == f"{len(shipped)} writes of sql/checks are done and taken back"


FAULTS = {
    "DROP TABLE a": "only INSERT, UPDATE, DELETE and SELECT stand here",
    "SELECT 1 INTO b": "only INSERT, UPDATE, DELETE and SELECT stand here",
    "COMMIT": "only INSERT, UPDATE, DELETE and SELECT stand here",
    "INSERT INTO": "syntax error",
    "-- nothing": "there is no statement in it",
}


@pytest.mark.parametrize("statement", FAULTS)
def test_only_what_can_be_taken_back_stands_in_a_file(tmp_path: Path, statement: str) -> None:
    folder = tmp_path / "checks" / "writes"
    folder.mkdir(parents=True)
    text = f'title: a pupil\nversions: ["20260101000000"]\nstatements: |\n  SELECT 1;\n  {statement}\n'
    (folder / "pupil.yml").write_text(
        text.replace("  SELECT 1;\n", "") if "--" in statement else text, encoding="utf-8"
    )
    findings = declared_writes.scan_writes(tmp_path)[1]
    assert FAULTS[statement] in findings[-1].message
    assert {finding.file for finding in findings} == {"checks/writes/pupil.yml"}


@pytest.mark.parametrize(("folder", "read"), [("writes", declared_writes.read_writes), ("queries", read_queries)])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, folder: str, read: Callable[[Path], Any]) -> None:
    place = tmp_path / "checks" / folder
    assert read(tmp_path) == []
    place.mkdir(parents=True)
    assert read(tmp_path) == []
    for name, content, said in (
        ("pupil.txt", b"", "only files <lower_case_name>.yml stand in checks/"),
        ("pupil.yml", b"\xff\xfe", "the file is not UTF-8"),
        ("pupil.yml", b"title: [", "checks/"),
    ):
        (place / name).write_bytes(content)
        with pytest.raises(PgopsError, match=said):
            read(tmp_path)
        (place / name).unlink()
