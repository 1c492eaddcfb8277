# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Deleting somebody or something never takes records of pupils along, and a row of PHI can be marked as deleted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, locks, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import InterruptAt, Told, do, way
from support.kept import chain_before, keep
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
RESTRICT, DELETED_AT = "20251104000000", "20251104000001"
EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))

# The six in which the histories differ come first; the others are CASCADE in both.
KEYS = {
    "schools_districtId_fkey": "schools",
    "appointments_nurseId_fkey": "appointments",
    "student_medications_medicationId_fkey": "student_medications",
    "medication_logs_studentMedicationId_fkey": "medication_logs",
    "medication_logs_nurseId_fkey": "medication_logs",
    "incident_reports_reportedById_fkey": "incident_reports",
    "students_schoolId_fkey": "students",
    "students_districtId_fkey": "students",
    **{f"{table}_studentId_fkey": table for table in (
        "health_records", "allergies", "chronic_conditions", "vaccinations", "screenings", "growth_measurements",
        "vital_signs", "student_medications", "appointments", "appointment_waitlist", "incident_reports",
        "emergency_contacts",
    )},
    "appointment_reminders_appointmentId_fkey": "appointment_reminders",
    "witness_statements_incidentReportId_fkey": "witness_statements",
    "follow_up_actions_incidentReportId_fkey": "follow_up_actions",
    "document_signatures_documentId_fkey": "document_signatures",
}  # fmt: skip
MARKED = {
    "appointments", "student_medications", "medication_logs", "incident_reports", "emergency_contacts", "vaccinations",
    "screenings", "growth_measurements", "vital_signs", "appointment_waitlist", "appointment_reminders",
    "witness_statements", "consent_signatures", "message_deliveries",
}  # fmt: skip
PEOPLE = """
    INSERT INTO districts (name, code) VALUES ('North', 'N');
    INSERT INTO schools (name, code, "districtId") SELECT 'Hill', 'H', id FROM districts;
    INSERT INTO users (email, password, "firstName", "lastName", role)
        VALUES ('nurse@example.org', 'x', 'A', 'B', 'NURSE'), ('other@example.org', 'x', 'C', 'D', 'NURSE');
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
        SELECT '1', 'P', 'Q', '2015-01-01', '3', 'OTHER', id FROM schools;
    INSERT INTO medications (name) VALUES ('A'), ('B');
    INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy")
        SELECT s.id, m.id, '1', 'daily', '2025-01-01', 'Dr' FROM students AS s, medications AS m WHERE m.name = 'A';
    INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven")
        SELECT p.id, u.id, '2025-01-02', '1' FROM student_medications AS p, users AS u WHERE u.email ~ 'nurse';
    INSERT INTO appointments ("studentId", "nurseId", "scheduledAt", reason)
        SELECT s.id, u.id, '2025-01-02', 'r' FROM students AS s, users AS u WHERE u.email ~ 'nurse';
    INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description)
        SELECT s.id, u.id, 'INJURY', 'LOW', '2025-01-02', 'd' FROM students AS s, users AS u WHERE u.email ~ 'nurse';
"""
RULES = """
SELECT k.conname AS name, k.confdeltype::text AS rule, k.convalidated AS valid, obj_description(k.oid) AS reason
  FROM pg_constraint AS k WHERE k.contype = 'f' AND k.conname = ANY (%s)
"""


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def up_to(target: Any, chain: list[dict[str, Any]], version: str, **more: Any) -> dict[str, Any]:
    return migrate.apply(target, chain, Selection(target=version), way(**more))


def ready(server: Any, version: str) -> str:
    """The chain up to the version before this one, with rows."""
    return keep(
        server, f"to_delete_before_{version}", lambda target: do(target, PEOPLE), begin=chain_before(server, version)
    )


def restricted(server: Any) -> str:
    """The same rows, and the version that restricts."""
    begin = ready(server, RESTRICT)
    return keep(server, "restricted", lambda target: up_to(target, shipped_chain(), RESTRICT), begin=begin)


def rules(db: Any) -> dict[str, str]:
    return {row["name"]: row["rule"] for row in fetch_all(db, RULES, (list(KEYS),))}


def differences(db: Any, chain: list[dict[str, Any]], *versions: str) -> list[Any]:
    return [
        row
        for item in chain
        if item["version"] in versions
        for statement in item["verify"]
        for row in fetch_all(db, statement["sql"])
    ]


def rows(db: Any) -> dict[str, int]:
    tables = sorted({*KEYS.values(), "students", "users", "districts", "medications"})
    return {table: fetch_all(db, f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in tables}


@pytest.mark.slow
@pytest.mark.begins(at=ready)
@EVERY_MAJOR
@pytest.mark.parametrize("version", [RESTRICT, DELETED_AT])
def test_up_down_up_gives_the_fingerprint_and_the_rows_of_before(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    before, data, after = catalog.inventory(db), rows(db), None
    for _ in range(2):
        up_to(target, chain, version)
        assert differences(db, chain, version) == []
        found = catalog.inventory(db)
        assert catalog.compare(before, found) != []
        assert after is None or catalog.compare(after, found, ignore=()) == []
        after = found
        migrate.revert(target, Reverts(), way())
        assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
        assert rows(db) == data


@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
def test_the_keys_are_restrict_valid_and_say_why(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    assert rules(db) == dict.fromkeys(KEYS, "c")
    up_to(target, chain, RESTRICT)
    found = fetch_all(db, RULES, (list(KEYS),))
    assert rules(db) == dict.fromkeys(KEYS, "r")
    assert all(row["valid"] and "cannot be deleted" in row["reason"] for row in found)
    # The verification of the versions that made them accepts either rule.
    assert differences(db, chain, *[item["version"] for item in chain if item["version"] <= RESTRICT]) == []


@pytest.mark.begins()
def test_every_restrict_key_of_the_chain_says_why(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    silent = fetch_all(
        db,
        "SELECT conname AS name FROM pg_constraint WHERE contype = 'f' AND confdeltype IN ('r', 'a') "
        "AND connamespace = 'public'::regnamespace AND obj_description(oid, 'pg_constraint') IS NULL",
    )
    assert [row["name"] for row in silent] == [], "say why with COMMENT ON CONSTRAINT"


@pytest.mark.begins(at=restricted)
@pytest.mark.parametrize(
    ("delete", "key"),
    [
        ("DELETE FROM districts", "schools_districtId_fkey"),
        ("DELETE FROM medications WHERE name = 'A'", "student_medications_medicationId_fkey"),
        ("DELETE FROM student_medications", "medication_logs_studentMedicationId_fkey"),
        ("DELETE FROM users WHERE email ~ 'nurse'", "nurseId_fkey|incident_reports_reportedById_fkey"),
        ("DELETE FROM students", "_studentId_fkey"),
        ("DELETE FROM schools", "students_schoolId_fkey"),
    ],
)
def test_a_delete_that_would_take_records_along_is_refused(
    target: Any, db: Any, chain: list[dict[str, Any]], delete: str, key: str
) -> None:
    data = rows(db)
    with pytest.raises(psycopg2.IntegrityError, match=key):
        execute(db, delete)
    assert rows(db) == data


ROW_OF_A_PUPIL = {
    "health_records": ('"recordType", title, description, "recordDate"', "'CHECKUP', 't', 'd', now()"),
    "allergies": ('allergen, "allergyType"', "'nuts', 'FOOD'"),
    "chronic_conditions": ('"conditionName", "diagnosedDate"', "'asthma', now()"),
    "vaccinations": ('"vaccineName", "administrationDate", "administeredBy"', "'v', now(), 'x'"),
    "screenings": ('"screeningType", "screeningDate", "screenedBy"', "'VISION', now(), 'x'"),
    "growth_measurements": ('"measurementDate", "measuredBy"', "now(), 'x'"),
    "vital_signs": ('"measurementDate", "measuredBy"', "now(), 'x'"),
    "student_medications": (
        '"medicationId", dosage, frequency, "startDate", "prescribedBy"',
        "(SELECT id FROM medications LIMIT 1), '1', 'daily', now(), 'Dr'",
    ),
    "appointments": ('"nurseId", "scheduledAt", reason', "(SELECT id FROM users LIMIT 1), now(), 'r'"),
    "appointment_waitlist": ("type, reason", "'ROUTINE_CHECKUP', 'r'"),
    "incident_reports": (
        '"reportedById", type, severity, "occurredAt", description',
        "(SELECT id FROM users LIMIT 1), 'INJURY', 'LOW', now(), 'd'",
    ),
    "emergency_contacts": ('name, relationship, "primaryPhone"', "'n', 'mother', '1'"),
}
PUPIL = """
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender)
        VALUES ('only', 'P', 'Q', '2015-01-01', '3', 'OTHER')
"""


@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
def test_a_pupil_with_one_record_of_any_kind_stays(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    assert {f"{table}_studentId_fkey" for table in ROW_OF_A_PUPIL} == {name for name in KEYS if "_studentId_" in name}
    delete = "DELETE FROM students WHERE \"studentNumber\" = 'only'"
    for applied in (False, True):
        if applied:
            up_to(target, chain, RESTRICT)
        for table, (columns, values) in ROW_OF_A_PUPIL.items():
            execute(db, PUPIL)
            execute(
                db,
                f'INSERT INTO {table} ("studentId", {columns}) '
                f"SELECT id, {values} FROM students WHERE \"studentNumber\" = 'only'",
            )
            if applied:
                with pytest.raises(psycopg2.IntegrityError, match=f"{table}_studentId_fkey"):
                    execute(db, delete)
                execute(db, f"DELETE FROM {table} USING students AS s WHERE s.id = \"studentId\" AND s.grade = '3' "
                            "AND s.\"studentNumber\" = 'only'")  # fmt: skip
            execute(db, delete)


@pytest.mark.begins()
def test_no_key_of_the_chain_takes_phi_along(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    along = fetch_all(
        db,
        "SELECT k.conname AS name FROM pg_constraint AS k WHERE k.contype = 'f' AND k.confdeltype = 'c' AND EXISTS ("
        "SELECT FROM pg_description AS d WHERE d.classoid = 'pg_class'::regclass AND d.objoid = k.conrelid "
        "AND d.description ~ '^PHI\\y')",
    )
    assert [row["name"] for row in along] == []


@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
def test_before_it_the_same_delete_took_the_records_along_and_after_it_the_others_still_go(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    execute(db, "BEGIN; DELETE FROM users WHERE email ~ 'nurse'")
    assert rows(db)["medication_logs"] == rows(db)["incident_reports"] == 0
    execute(db, "ROLLBACK")
    up_to(target, chain, RESTRICT)
    execute(db, "DELETE FROM users WHERE email ~ 'other'; DELETE FROM medications WHERE name = 'B'")
    assert (rows(db)["users"], rows(db)["medications"]) == (1, 1)


@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
def test_a_key_that_was_restrict_before_stays_so_on_the_way_back(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    execute(
        db,
        'ALTER TABLE appointments DROP CONSTRAINT "appointments_nurseId_fkey", ADD CONSTRAINT "appointments_nurseId_fkey" '
        'FOREIGN KEY ("nurseId") REFERENCES users (id) ON UPDATE CASCADE ON DELETE RESTRICT',
    )
    before = catalog.inventory(db)
    up_to(target, chain, RESTRICT)
    assert differences(db, chain, RESTRICT) == []
    migrate.revert(target, Reverts(), way())
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []


class AfterStatements(InterruptAt):
    """Asks the job to end after so many statements, steps and validations."""

    def __init__(self, control: Control, number: int) -> None:
        super().__init__(control, "")
        self.left = number

    def emit(self, text: str, **fields: Any) -> None:
        Told.emit(self, text, **fields)
        self.left -= 1
        if self.left == 0:
            asking = threading.Thread(target=self.control.request, args=("a test asked for it",))
            asking.start()
            asking.join()


@pytest.mark.few(1)
@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
@pytest.mark.parametrize("number", [2, 33, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 9, 26, 60, 90))])
def test_broken_off_anywhere_it_goes_on_and_it_goes_back(
    target: Any, db: Any, chain: list[dict[str, Any]], number: int
) -> None:
    before = catalog.inventory(db)
    for go_on in (False, True):
        control = Control()
        with pytest.raises(Interrupted):
            up_to(target, chain, RESTRICT, control=control, progress=AfterStatements(control, number))
        if not go_on:
            migrate.revert(target, Reverts(), way())
            assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
    up_to(target, chain, RESTRICT)
    assert rules(db) == dict.fromkeys(KEYS, "r")
    assert differences(db, chain, RESTRICT) == []
    migrate.revert(target, Reverts(), way())
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []


@pytest.mark.begins(at=lambda server: ready(server, RESTRICT))
def test_a_reader_holds_up_one_table_and_the_step_gives_way(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    with connection.connect(target, application_name="reader") as reader:
        execute(reader, "BEGIN; SELECT count(*) FROM document_signatures")
        hurried = [
            {**item, "budgets": {**item["budgets"], "lock_budget_s": 1}} if item["version"] == RESTRICT else item
            for item in chain
        ]
        with pytest.raises(locks.LockWaitExhausted):
            up_to(target, hurried, RESTRICT)
        assert {table for name, table in KEYS.items() if rules(db)[name] == "c"} == {"document_signatures"}
        execute(reader, "ROLLBACK")
    reader.close()
    up_to(target, chain, RESTRICT)
    assert rules(db) == dict.fromkeys(KEYS, "r")


@pytest.mark.begins(at=lambda server: ready(server, DELETED_AT))
def test_every_table_that_certainly_holds_phi_has_deleted_at(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    lacking = (
        "SELECT c.relname AS name FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace "
        "AND obj_description(c.oid) LIKE 'PHI:%%' AND obj_description(c.oid) NOT LIKE 'PHI: possible%%' AND NOT EXISTS "
        "(SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'deletedAt')"
    )
    assert {row["name"] for row in fetch_all(db, lacking)} == MARKED
    up_to(target, chain, DELETED_AT)
    assert fetch_all(db, lacking) == []
    added = fetch_all(
        db,
        "SELECT attrelid::regclass::text AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required, "
        "atthasdef AS has_default FROM pg_attribute WHERE attname = 'deletedAt' AND attrelid::regclass::text = ANY (%s)",
        (sorted(MARKED),),
    )
    assert {row["name"] for row in added} == MARKED
    assert {(row["type"], row["required"], row["has_default"]) for row in added} == {
        ("timestamp with time zone", False, False)
    }
