# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Every row of PHI tells who made it, who changed it last, and when; who is named there cannot be deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, declared, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import InterruptAt, do, way
from support.kept import chain_before, keep
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
AUTHORS = "20251104000002"
WHO = {"createdBy", "updatedBy"}
LACKING = {
    "appointment_waitlist": WHO,
    "appointment_reminders": WHO,
    "witness_statements": WHO,
    "message_deliveries": WHO,
    "medication_logs": WHO | {"updatedAt"},
    "consent_signatures": WHO | {"createdAt", "updatedAt"},
}
PEOPLE = """
    INSERT INTO districts (name, code) VALUES ('North', 'N');
    INSERT INTO schools (name, code, "districtId") SELECT 'Hill', 'H', id FROM districts;
    INSERT INTO users (email, password, "firstName", "lastName", role) VALUES ('nurse@example.org', 'x', 'A', 'B', 'NURSE');
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
        SELECT '1', 'P', 'Q', '2015-01-01', '3', 'OTHER', id FROM schools;
    INSERT INTO medications (name) VALUES ('A');
    INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy")
        SELECT s.id, m.id, '1', 'daily', '2025-01-01', 'Dr' FROM students AS s, medications AS m;
    INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven", "createdAt")
        SELECT p.id, u.id, '2025-01-02', '1', '2025-01-03' FROM student_medications AS p, users AS u, generate_series(1, 30);
    INSERT INTO consent_forms (title, type, description, content)
        VALUES ('signed', 'MEDICAL_TREATMENT', 'd', 'c'), ('withdrawn', 'MEDICAL_TREATMENT', 'd', 'c');
    INSERT INTO consent_signatures ("consentFormId", "studentId", "signedBy", relationship, "signedAt", "withdrawnAt")
        SELECT f.id, s.id, 'G', 'mother', '2025-01-04', CASE f.title WHEN 'withdrawn' THEN timestamptz '2025-02-01' END
        FROM consent_forms AS f, students AS s;
"""
MARKED = """
SELECT c.relname AS name, array(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
       AND NOT a.attisdropped) AS columns
  FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
   AND obj_description(c.oid) LIKE 'PHI:%%' AND obj_description(c.oid) NOT LIKE 'PHI: possible%%'
"""


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


def before_authors(server: Any) -> str:
    """The chain up to the version before, with rows."""
    return keep(server, "before_authors", lambda target: do(target, PEOPLE), begin=chain_before(server, AUTHORS))


pytestmark = pytest.mark.begins(at=before_authors)


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def up_to(target: Any, chain: list[dict[str, Any]], version: str = AUTHORS, **more: Any) -> dict[str, Any]:
    return migrate.apply(target, chain, Selection(target=version), way(**more))


def differences(db: Any, chain: list[dict[str, Any]]) -> list[Any]:
    return [
        found
        for item in chain
        if item["version"] == AUTHORS
        for found in declared.check_statements(db, item, Control())
    ]


def lacking(db: Any) -> dict[str, set[str]]:
    wanted = WHO | {"createdAt", "updatedAt", "deletedAt"}
    found = {row["name"]: wanted - set(row["columns"]) for row in fetch_all(db, MARKED)}
    return {name: columns for name, columns in found.items() if columns}


@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_up_down_up_gives_the_columns_that_lack_and_the_fingerprint_of_before(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    before, after = catalog.inventory(db), None
    assert lacking(db) == LACKING
    for _ in range(2):
        up_to(target, chain)
        assert differences(db, chain) == []
        assert lacking(db) == {}
        found = catalog.inventory(db)
        assert after is None or catalog.compare(after, found, ignore=()) == []
        after = found
        migrate.revert(target, Reverts(), way())
        assert catalog.compare(before, catalog.inventory(db), ignore=()) == []


@pytest.mark.slow
@pytest.mark.majors(15, 18)
def test_rows_of_before_say_when_they_were_written_and_name_nobody(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    up_to(target, chain)
    logs = 'SELECT DISTINCT "updatedAt" = \'2025-01-03\' AS at, "createdBy" AS who FROM medication_logs'
    assert fetch_all(db, logs) == [{"at": True, "who": None}]
    signatures = (
        'SELECT "createdAt" = \'2025-01-04\' AS made, "updatedAt" = coalesce("withdrawnAt", "signedAt") AS changed '
        "FROM consent_signatures"
    )
    assert fetch_all(db, signatures) == [{"made": True, "changed": True}] * 2
    execute(db, 'INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven") '
        'SELECT "studentMedicationId", "nurseId", now(), \'2\' FROM medication_logs LIMIT 1')  # fmt: skip
    assert fetch_all(
        db, 'SELECT "updatedAt" = "createdAt" AS same FROM medication_logs WHERE "dosageGiven" = \'2\''
    ) == [{"same": True}]


@pytest.mark.slow
def test_a_row_that_is_changed_before_its_batch_keeps_its_time(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    control = Control()
    with pytest.raises(Interrupted):
        up_to(target, chain, control=control, progress=InterruptAt(control, 'medication_logs ADD COLUMN "updatedAt"'))
    execute(db, 'UPDATE medication_logs SET "updatedAt" = \'2025-06-01\' WHERE id = (SELECT min(id::text)::uuid FROM medication_logs)')  # fmt: skip
    assert [found.object for found in differences(db, chain)].count("medication_logs.updatedAt") == 1
    up_to(target, chain)
    assert differences(db, chain) == []
    times = 'SELECT "updatedAt"::date::text AS day, count(*) AS n FROM medication_logs GROUP BY 1 ORDER BY 1'
    assert fetch_all(db, times) == [{"day": "2025-01-03", "n": 29}, {"day": "2025-06-01", "n": 1}]


def test_a_column_that_is_there_keeps_its_values_on_both_ways(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    execute(
        db,
        'ALTER TABLE medication_logs ADD COLUMN "updatedAt" timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP; '
        "UPDATE medication_logs SET \"updatedAt\" = '2025-06-01'",
    )
    up_to(target, chain)
    migrate.revert(target, Reverts(), way())
    assert fetch_all(db, 'SELECT DISTINCT "updatedAt"::date::text AS day FROM medication_logs') == [
        {"day": "2025-06-01"}
    ]


@pytest.mark.parametrize("column", sorted(WHO))
def test_who_made_or_changed_a_row_exists_and_cannot_be_deleted(
    target: Any, db: Any, chain: list[dict[str, Any]], column: str
) -> None:
    up_to(target, chain)
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        execute(db, f'UPDATE consent_signatures SET "{column}" = gen_random_uuid()')
    execute(
        db,
        "INSERT INTO users (email, password, \"firstName\", \"lastName\", role) VALUES ('a@b', 'x', 'C', 'D', 'NURSE')",
    )
    execute(db, f"UPDATE consent_signatures SET \"{column}\" = (SELECT id FROM users WHERE email = 'a@b')")
    with pytest.raises(psycopg2.IntegrityError, match=f"consent_signatures_{column}_fkey"):
        execute(db, "DELETE FROM users WHERE email = 'a@b'")
