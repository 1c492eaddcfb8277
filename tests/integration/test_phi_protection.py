# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Row-level security, privileges and audit of the PHI tables: who sees what, who writes what, what is written down."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, checks, connection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from ansible_collections.whitecross.pgops.plugins.plugin_utils.named_checks import read_checks
from support.backups import back_up, prove
from support.engine import as_it_was, do, rows, target_of, way
from support.kept import chain_before, chain_through
from support.server import APP, GROUPS, MIGRATOR, OWNER, Server
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
BOUND, GRANTS, ROWS, AUDIT = "20251106100000", "20251107000000", "20251107000001", "20251107000002"
MAJORS = pytest.mark.majors(15, 18, slow=(15,))
BEFORE_GRANTS = pytest.mark.begins(at=lambda server: chain_before(server, GRANTS))

# Two schools in one district, one in another; an account of each role, and two pupils with records in each school.
PEOPLE = """
    INSERT INTO districts (id, name, code) SELECT d::uuid, code, code FROM (VALUES
        ('00000000-0000-0000-0000-0000000000d1', 'NORTH'), ('00000000-0000-0000-0000-0000000000d2', 'SOUTH')) AS v (d, code);
    INSERT INTO schools (id, name, code, "districtId") SELECT s::uuid, code, code, d::uuid FROM (VALUES
        ('00000000-0000-0000-0000-00000000000a', 'A', '00000000-0000-0000-0000-0000000000d1'),
        ('00000000-0000-0000-0000-00000000000b', 'B', '00000000-0000-0000-0000-0000000000d1'),
        ('00000000-0000-0000-0000-00000000000c', 'C', '00000000-0000-0000-0000-0000000000d2')) AS v (s, code, d);
    INSERT INTO users (email, password, "firstName", "lastName", role, "schoolId", "districtId")
        SELECT lower(r || '.' || s.code) || '@example.org', 'secret', r, s.code, r::"UserRole", s.id, NULL
        FROM schools AS s, unnest(ARRAY['SCHOOL_ADMIN', 'NURSE', 'COUNSELOR', 'VIEWER']) AS r
        UNION ALL SELECT 'district.' || lower(d.code) || '@example.org', 'secret', 'D', d.code, 'DISTRICT_ADMIN', NULL, d.id
        FROM districts AS d
        UNION ALL SELECT 'admin@example.org', 'secret', 'A', 'A', 'ADMIN', NULL, NULL;
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId", "districtId")
        SELECT s.code || n, 'P' || n, s.code, '2015-01-01', '3', 'OTHER', s.id, s."districtId"
        FROM schools AS s, generate_series(1, 2) AS n;
    INSERT INTO health_records ("studentId", "recordType", title, description, "recordDate", "isConfidential")
        SELECT id, 'CHECKUP', 't', 'd', now(), "studentNumber" LIKE '%2' FROM students;
    INSERT INTO allergies ("studentId", allergen, reaction, "allergyType") SELECT id, 'nuts', 'rash', 'FOOD' FROM students;
    INSERT INTO medications (name) VALUES ('Ibuprofen');
    INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy")
        SELECT s.id, m.id, '1', '1', now(), 'Dr' FROM students AS s, medications AS m;
    INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven")
        SELECT p.id, u.id, now(), '1' FROM student_medications AS p JOIN students AS s ON s.id = p."studentId"
        JOIN users AS u ON u."schoolId" = s."schoolId" AND u.role = 'NURSE';
    INSERT INTO appointments ("studentId", "nurseId", "scheduledAt", reason)
        SELECT s.id, u.id, now(), 'r' FROM students AS s JOIN users AS u ON u."schoolId" = s."schoolId" AND u.role = 'NURSE';
    INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description)
        SELECT "studentId", "nurseId", 'OTHER', 'LOW', now(), 'd' FROM appointments;
    INSERT INTO witness_statements ("incidentReportId", "witnessName", "witnessType", statement)
        SELECT id, 'w', 'STAFF', 's' FROM incident_reports;
    INSERT INTO contacts ("firstName", "lastName", type, "relationTo") SELECT 'G', 'G', 'GUARDIAN', id FROM students;
    INSERT INTO contacts ("firstName", "lastName", type) VALUES ('V', 'V', 'VENDOR'), ('G', 'lost', 'GUARDIAN');
    INSERT INTO documents ("studentId", title, category, "fileType", "fileName", "fileSize", "fileUrl", "uploadedBy")
        SELECT id, 't', 'OTHER', 'pdf', 'f', 1, 'u', 'x' FROM students;
    INSERT INTO messages ("senderId", content, priority, category)
        SELECT id, 'c', 'LOW', 'GENERAL' FROM users WHERE role = 'NURSE';
"""


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


@pytest.fixture(scope="module")
def protected_once(server: Server) -> Iterator[str]:
    name = f"t_phi_{secrets.token_hex(4)}"
    server.create_database(name, template=chain_through(server))
    with server.session(name, MIGRATOR) as conn:
        execute(conn, f"SET ROLE {OWNER}")
        execute(conn, PEOPLE)
        execute(conn, "ANALYZE")
    yield name
    server.drop_databases(name)


@pytest.fixture
def world(server: Server, protected_once: str) -> Iterator[World]:
    name = f"t_{secrets.token_hex(4)}"
    server.create_database(name, template=protected_once)
    yield World(server, name)
    server.drop_databases(name)


class World:
    """A protected database and how its people reach it."""

    def __init__(self, server: Server, database: str) -> None:
        self.server, self.database = server, database
        self.target = target_of(server, database)

    def owner(self, query: str) -> list[dict[str, Any]]:
        with self.server.session(self.database, MIGRATOR) as conn:
            execute(conn, f"SET ROLE {OWNER}")
            return (
                fetch_all(conn, query)
                if query.lstrip().upper().startswith(("SELECT", "EXPLAIN"))
                else self.do(conn, query)
            )

    @staticmethod
    def do(conn: Any, query: str) -> list[dict[str, Any]]:
        execute(conn, query)
        return []

    def id_of(self, email: str) -> str:
        return str(self.owner(f"SELECT id FROM users WHERE email = '{email}@example.org'")[0]["id"])

    @contextmanager
    def acting(self, group: str, email: str | None) -> Iterator[Any]:
        """The application's session, in a transaction for one account."""
        with self.server.session(self.database, APP) as conn:
            execute(conn, "BEGIN")
            execute(conn, f"SET LOCAL ROLE white_cross_{group}")
            if email is not None:
                execute(conn, f"SET LOCAL app.user_id = '{self.id_of(email)}'")
            yield conn
            if conn.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
                execute(conn, "ROLLBACK")

    def seen(self, group: str, email: str | None, query: str) -> list[Any]:
        with self.acting(group, email) as conn:
            return [next(iter(row.values())) for row in fetch_all(conn, query)]


NUMBERS = 'SELECT "studentNumber" AS n FROM students ORDER BY 1'


# --- who sees what ----------------------------------------------------------------------------------------------------


@MAJORS
def test_a_nurse_of_one_school_sees_none_of_another(world: World) -> None:
    assert world.seen("nurse", "nurse.a", NUMBERS) == ["A1", "A2"]
    assert world.seen("nurse", "nurse.b", NUMBERS) == ["B1", "B2"]
    for table, count in {
        "health_records": 2, "allergies": 2, "student_medications": 2, "medication_logs": 2, "appointments": 2,
        "incident_reports": 2, "witness_statements": 2, "documents": 2, "messages": 1, "contacts": 3,
    }.items():  # fmt: skip
        assert world.seen("nurse", "nurse.a", f"SELECT count(*) FROM {table}") == [count], table
        # Of both sets together nobody is seen twice, but for the vendor who belongs to no pupil.
        both = [set(world.seen("nurse", f"nurse.{school}", f"SELECT id::text FROM {table}")) for school in "ab"]
        assert len(both[0] & both[1]) == (1 if table == "contacts" else 0), table


@MAJORS
def test_a_session_without_an_account_sees_nothing(world: World) -> None:
    tables = [row["t"] for row in world.owner("SELECT relname AS t FROM pg_class WHERE relrowsecurity ORDER BY 1")]
    assert len(tables) == 31
    for table in tables:
        for group in GROUPS:
            if world.owner(f"SELECT has_table_privilege('{group}', '{table}', 'SELECT') AS may")[0]["may"]:
                assert world.seen(group.removeprefix("white_cross_"), None, f"SELECT count(*) FROM {table}") == [0], (
                    table
                )


def test_an_account_cannot_be_used_with_another_role_nor_when_it_is_closed(world: World) -> None:
    assert world.seen("admin", "nurse.a", NUMBERS) == []
    assert world.seen("district_admin", "nurse.a", NUMBERS) == []
    assert world.seen("school_admin", "nurse.a", NUMBERS) == []
    world.owner("UPDATE users SET \"isActive\" = false WHERE email = 'nurse.a@example.org'")
    world.owner("UPDATE users SET \"deletedAt\" = now() WHERE email = 'nurse.b@example.org'")
    assert world.seen("nurse", "nurse.a", NUMBERS) == []
    assert world.seen("nurse", "nurse.b", NUMBERS) == []


@pytest.mark.parametrize("claimed", ["", "nobody", "' OR true --", "00000000-0000-0000-0000-000000000000"])
def test_what_names_no_account_is_nobody_and_no_error(world: World, claimed: str) -> None:
    with world.acting("nurse", None) as conn:
        fetch_all(conn, "SELECT set_config('app.user_id', %s, true)", (claimed,))
        assert fetch_all(conn, NUMBERS) == []


def test_the_account_ends_with_its_transaction(world: World) -> None:
    with world.acting("nurse", "nurse.a") as conn:
        assert len(fetch_all(conn, NUMBERS)) == 2
        execute(conn, "COMMIT; BEGIN; SET LOCAL ROLE white_cross_nurse")
        assert fetch_all(conn, NUMBERS) == []


@MAJORS
def test_a_district_sees_its_schools_and_the_platform_sees_all(world: World) -> None:
    assert world.seen("district_admin", "district.north", NUMBERS) == ["A1", "A2", "B1", "B2"]
    assert world.seen("district_admin", "district.south", NUMBERS) == ["C1", "C2"]
    assert world.seen("district_admin", "district.north", "SELECT count(*) FROM medication_logs") == [4]
    assert world.seen("district_admin", "district.north", "SELECT count(*) FROM messages") == [2]
    assert len(world.seen("admin", "admin", NUMBERS)) == 6
    assert world.seen("admin", "admin", "SELECT count(*) FROM medication_logs") == [6]


def test_a_pupil_without_a_school_belongs_to_the_district(world: World) -> None:
    world.owner('UPDATE students SET "schoolId" = NULL WHERE "studentNumber" = \'A1\'')
    assert world.seen("nurse", "nurse.a", NUMBERS) == ["A2"]
    assert "A1" in world.seen("district_admin", "district.north", NUMBERS)
    assert "A1" not in world.seen("district_admin", "district.south", NUMBERS)


def test_the_school_counts_where_the_district_of_a_pupil_says_otherwise(world: World) -> None:
    world.owner(
        "UPDATE students SET \"districtId\" = (SELECT id FROM districts WHERE code = 'SOUTH') WHERE \"studentNumber\" = 'A1'"
    )
    assert "A1" in world.seen("district_admin", "district.north", NUMBERS)
    assert "A1" not in world.seen("district_admin", "district.south", NUMBERS)


def test_a_confidential_record_is_the_nurses(world: World) -> None:
    count = "SELECT count(*) FROM health_records"
    assert world.seen("nurse", "nurse.a", count) == [2]
    assert world.seen("counselor", "counselor.a", count) == [1]
    assert world.seen("school_admin", "school_admin.a", count) == [1]


@MAJORS
def test_accounts_are_seen_by_school_and_district(world: World) -> None:
    emails = "SELECT split_part(email, '@', 1) FROM users ORDER BY 1"
    of_school = {
        letter: [f"{role}.{letter}" for role in ("counselor", "nurse", "school_admin", "viewer")] for letter in "abc"
    }
    for role in ("nurse", "counselor", "school_admin"):
        assert world.seen(role, f"{role}.a", emails) == of_school["a"], role
        assert world.seen(role, f"{role}.c", emails) == of_school["c"], role
    # A viewer reads no addresses.
    assert world.seen("viewer", "viewer.b", 'SELECT DISTINCT "lastName" FROM users') == ["B"]
    assert world.seen("viewer", "viewer.b", "SELECT count(*) FROM users") == [4]
    north = sorted(["district.north", *of_school["a"], *of_school["b"]])
    assert world.seen("district_admin", "district.north", emails) == north
    assert len(world.seen("admin", "admin", emails)) == 15
    # Whoever belongs to no school yet sees himself.
    world.owner("UPDATE users SET \"schoolId\" = NULL WHERE email = 'nurse.a@example.org'")
    assert world.seen("nurse", "nurse.a", emails) == ["nurse.a"]
    assert "nurse.a" not in world.seen("school_admin", "school_admin.a", emails)


# --- who writes what --------------------------------------------------------------------------------------------------


@MAJORS
def test_a_viewer_writes_nothing_and_reads_the_columns_of_its_work(world: World) -> None:
    assert world.seen("viewer", "viewer.a", 'SELECT "firstName" FROM students ORDER BY 1') == ["P1", "P2"]
    tables = [row["t"] for row in world.owner("SELECT relname AS t FROM pg_class WHERE relrowsecurity ORDER BY 1")]
    for table in tables:
        for statement in (f"UPDATE {table} SET id = id", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), world.acting("viewer", "viewer.a") as conn:
                execute(conn, statement)
        if table != "audit_logs":
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), world.acting("viewer", "viewer.a") as conn:
                execute(conn, f"INSERT INTO {table} DEFAULT VALUES")
    for query in ('SELECT "dateOfBirth" FROM students', 'SELECT "medicalRecordNum" FROM students', "SELECT notes FROM allergies",
                  "SELECT id FROM health_records", "SELECT * FROM students"):  # fmt: skip
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            world.seen("viewer", "viewer.a", query)


def test_secrets_of_accounts_are_nobodys_but_the_administrators(world: World) -> None:
    for group, email in (
        ("nurse", "nurse.a"),
        ("school_admin", "school_admin.a"),
        ("district_admin", "district.north"),
    ):
        assert len(world.seen(group, email, "SELECT email FROM users")) > 0
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            world.seen(group, email, "SELECT password FROM users")


@MAJORS
def test_nobody_writes_into_another_school(world: World) -> None:
    other = world.owner("SELECT id FROM students WHERE \"studentNumber\" = 'B1'")[0]["id"]
    own = world.owner("SELECT id FROM students WHERE \"studentNumber\" = 'A1'")[0]["id"]
    insert = "INSERT INTO allergies (\"studentId\", allergen, \"allergyType\") VALUES ('{}', 'milk', 'FOOD')"
    with world.acting("nurse", "nurse.a") as conn:
        execute(conn, insert.format(own))
    with (
        pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"),
        world.acting("nurse", "nurse.a") as conn,
    ):
        execute(conn, insert.format(other))
    with world.acting("nurse", "nurse.a") as conn, conn.cursor() as cursor:
        cursor.execute(f"UPDATE allergies SET notes = 'x' WHERE \"studentId\" = '{other}'")
        assert cursor.rowcount == 0
    # Nor is an own row given away.
    with (
        pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"),
        world.acting("nurse", "nurse.a") as conn,
    ):
        execute(conn, f"UPDATE allergies SET \"studentId\" = '{other}'")
    with (
        pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"),
        world.acting("nurse", "nurse.a") as conn,
    ):
        execute(conn, "UPDATE students SET \"schoolId\" = '00000000-0000-0000-0000-00000000000b'")


SCHOOL_A, SCHOOL_B, SCHOOL_C = (f"00000000-0000-0000-0000-00000000000{letter}" for letter in "abc")
NORTH, SOUTH = (f"00000000-0000-0000-0000-0000000000d{number}" for number in (1, 2))


def done(world: World, group: str, email: str | None, statement: str) -> int:
    """:return: how many rows the statement reached; its transaction is rolled back."""
    with world.acting(group, email) as conn, conn.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.rowcount)


def is_refused(world: World, group: str, email: str | None, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        done(world, group, email, statement)


@MAJORS
@pytest.mark.parametrize(
    ("group", "email"),
    [("district_admin", "district.north"), ("school_admin", "school_admin.a"), ("nurse", "nurse.a")],
)
def test_nobody_widens_his_scope_by_moving_a_school_or_an_account(world: World, group: str, email: str) -> None:
    for statement in (
        f"UPDATE schools SET \"districtId\" = '{NORTH}' WHERE id = '{SCHOOL_C}'",
        f"UPDATE schools SET \"districtId\" = '{SOUTH}' WHERE id = '{SCHOOL_A}'",
        f"UPDATE schools SET id = gen_random_uuid() WHERE id = '{SCHOOL_A}'",
        # A contact and a consent name the pupil's id without a foreign key: they would be left behind.
        "UPDATE students SET id = gen_random_uuid()",
        f"UPDATE districts SET id = gen_random_uuid() WHERE id = '{NORTH}'",
        f"INSERT INTO schools (name, code, \"districtId\") VALUES ('X', 'X', '{SOUTH}')",
        "DELETE FROM schools",
        "DELETE FROM districts",
        *(
            f"UPDATE users SET {change} WHERE id = '{world.id_of(email)}'"
            for change in ("role = 'ADMIN'", f"\"schoolId\" = '{SCHOOL_C}'", f"\"districtId\" = '{SOUTH}'",
                           "\"isActive\" = true", "id = gen_random_uuid()", "\"firstName\" = 'x'")
        ),
        "INSERT INTO users (email, password, \"firstName\", \"lastName\", role) VALUES ('x', 'x', 'x', 'x', 'ADMIN')",
        "DELETE FROM users",
    ):  # fmt: skip
        is_refused(world, group, email, statement)


@MAJORS
def test_each_writes_the_schools_of_his_own_and_reads_the_names_of_all(world: World) -> None:
    rename = "UPDATE schools SET name = 'x'"
    assert done(world, "district_admin", "district.north", rename) == 2
    assert done(world, "district_admin", "district.north", f"{rename} WHERE id = '{SCHOOL_C}'") == 0
    assert done(world, "school_admin", "school_admin.a", rename) == 1
    assert done(world, "school_admin", "school_admin.a", f"{rename} WHERE id = '{SCHOOL_C}'") == 0
    is_refused(world, "nurse", "nurse.a", rename)
    assert done(world, "district_admin", "district.north", "UPDATE districts SET name = 'x'") == 1
    is_refused(world, "school_admin", "school_admin.a", "UPDATE districts SET name = 'x'")
    new = f"INSERT INTO schools (name, code, \"districtId\") VALUES ('X', 'X', '{NORTH}')"
    assert done(world, "district_admin", "district.north", new) == 1
    is_refused(world, "school_admin", "school_admin.a", new)
    for group, email in (("viewer", "viewer.a"), ("school_admin", "school_admin.a"), ("admin", "admin")):
        assert world.seen(group, email, "SELECT name FROM schools ORDER BY 1") == ["A", "B", "C"]
    move = f"UPDATE schools SET \"districtId\" = '{NORTH}' WHERE id = '{SCHOOL_C}'"
    assert done(world, "admin", "admin", move) == 1


@MAJORS
def test_what_says_who_sees_what_is_written_down(world: World) -> None:
    with world.acting("admin", "admin") as conn:
        execute(conn, f"UPDATE schools SET \"districtId\" = '{NORTH}' WHERE id = '{SCHOOL_C}'")
        execute(conn, f"UPDATE districts SET name = 'x' WHERE id = '{NORTH}'")
        execute(conn, "UPDATE users SET role = 'ADMIN' WHERE email = 'nurse.a@example.org'")
        execute(conn, "UPDATE users SET \"lastLogin\" = now() WHERE email = 'nurse.b@example.org'")
        execute(conn, "COMMIT")
    for table, columns in {"schools": ["districtId"], "districts": ["name"], "users": ["role"]}.items():
        written = [(w["who"], w["columns"]) for w in audit(world, table) if w["action"] == "UPDATE"]
        assert written == [(world.id_of("admin"), columns)], table


PUBLIC_ROWS = """
    INSERT INTO documents (title, category, "fileType", "fileName", "fileSize", "fileUrl", "uploadedBy", "accessLevel")
        VALUES ('everybody', 'OTHER', 'pdf', 'f', 1, 'u', 'x', 'PUBLIC')
"""


@MAJORS
def test_no_row_of_a_pupil_is_made_everybodys_and_none_of_everybodys_is_taken(world: World) -> None:
    world.owner(PUBLIC_ROWS)
    own = world.owner("SELECT id FROM students WHERE \"studentNumber\" = 'A1'")[0]["id"]
    for group, email in (
        ("nurse", "nurse.a"),
        ("school_admin", "school_admin.a"),
        ("district_admin", "district.north"),
    ):
        assert done(world, group, email, "UPDATE contacts SET notes = 'x' WHERE type = 'GUARDIAN'") > 0
        assert world.seen(group, email, "SELECT count(*) FROM contacts WHERE type = 'VENDOR'") == [1]
        is_refused(
            world, group, email, "UPDATE contacts SET \"relationTo\" = NULL, type = 'VENDOR' WHERE type = 'GUARDIAN'"
        )
        taken = f"UPDATE contacts SET \"relationTo\" = '{own}' WHERE type = 'VENDOR'"
        assert done(world, group, email, taken) == 0
        assert done(world, group, email, "UPDATE contacts SET notes = 'x' WHERE type = 'VENDOR'") == 0
        is_refused(
            world, group, email, "INSERT INTO contacts (\"firstName\", \"lastName\", type) VALUES ('a', 'b', 'VENDOR')"
        )
    for group, email in (
        ("counselor", "counselor.a"),
        ("nurse", "nurse.a"),
        ("school_admin", "school_admin.a"),
        ("district_admin", "district.north"),
    ):
        assert done(world, group, email, "UPDATE documents SET tags = tags") > 0
        assert world.seen(group, email, 'SELECT title FROM documents WHERE "studentId" IS NULL') == ["everybody"]
        is_refused(world, group, email, 'UPDATE documents SET "studentId" = NULL, "accessLevel" = \'PUBLIC\'')
        taken = f'UPDATE documents SET "studentId" = \'{own}\' WHERE "studentId" IS NULL'
        assert done(world, group, email, taken) == 0
        is_refused(world, group, email, PUBLIC_ROWS)
    assert done(world, "admin", "admin", "UPDATE documents SET title = 'x' WHERE \"studentId\" IS NULL") == 1
    assert done(world, "admin", "admin", "UPDATE contacts SET notes = 'x' WHERE type = 'VENDOR'") == 1


CLOSED_LEVELS = ("ADMIN_ONLY", "RESTRICTED")


def close_a_document(world: World, level: str) -> None:
    """One of the two documents of school A's pupils, with a signature and a line of its trail."""
    world.owner(
        f"UPDATE documents SET \"accessLevel\" = '{level}', title = 'custody' WHERE \"studentId\" = "
        "(SELECT id FROM students WHERE \"studentNumber\" = 'A1')"
    )
    for insert in (
        'document_signatures ("documentId", "signedBy", "signedByRole")',
        'document_audit_trail ("documentId", "performedBy", action)',
    ):
        last = "'VIEWED'::\"DocumentAction\"" if "action" in insert else "'x'"
        world.owner(f"INSERT INTO {insert} SELECT id, 'x', {last} FROM documents")


@MAJORS
@pytest.mark.parametrize("level", CLOSED_LEVELS)
def test_a_pupils_document_of_a_closed_level_is_the_administrators(world: World, level: str) -> None:
    close_a_document(world, level)
    for group, email in (("counselor", "counselor.a"), ("nurse", "nurse.a")):
        assert world.seen(group, email, "SELECT title FROM documents") == ["t"], group
        for table in ("document_signatures", "document_audit_trail"):
            assert world.seen(group, email, f"SELECT count(*) FROM {table}") == [1], (group, table)
    for group, email, all_of in (
        ("school_admin", "school_admin.a", 2),
        ("district_admin", "district.north", 4),
        ("admin", "admin", 6),
    ):
        assert world.seen(group, email, "SELECT title FROM documents WHERE title = 'custody'") == ["custody"], group
        for table in ("documents", "document_signatures", "document_audit_trail"):
            assert world.seen(group, email, f"SELECT count(*) FROM {table}") == [all_of], (group, table)
    assert world.seen("school_admin", "school_admin.b", "SELECT count(*) FROM documents") == [2]


@MAJORS
@pytest.mark.parametrize("level", CLOSED_LEVELS)
def test_only_administrators_close_a_pupils_document_or_open_it_again(world: World, level: str) -> None:
    close_a_document(world, level)
    pupil = world.owner("SELECT id FROM students WHERE \"studentNumber\" = 'A1'")[0]["id"]
    opened = "UPDATE documents SET \"accessLevel\" = 'PUBLIC' WHERE title = 'custody'"
    closed = f"UPDATE documents SET \"accessLevel\" = '{level}' WHERE title = 't'"
    new = PUBLIC_ROWS.replace("(title", '("studentId", title').replace("('everybody'", f"('{pupil}', 'new'")
    for group, email in (("counselor", "counselor.a"), ("nurse", "nurse.a")):
        assert done(world, group, email, opened) == 0
        assert done(world, group, email, "UPDATE documents SET tags = tags") == 1
        is_refused(world, group, email, closed)
        assert done(world, group, email, new) == 1
        is_refused(world, group, email, new.replace("PUBLIC", level))
    assert done(world, "school_admin", "school_admin.a", opened) == 1
    assert done(world, "school_admin", "school_admin.a", closed) == 1
    assert done(world, "school_admin", "school_admin.a", new.replace("PUBLIC", level)) == 1
    assert done(world, "school_admin", "school_admin.b", opened) == 0


GONE = "00000000-0000-0000-0000-0000000000ee"


def new_pupil(number: str, school: str, pupil: str = GONE) -> str:
    return (
        'INSERT INTO students (id, "studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId") '
        f"VALUES ('{pupil}', '{number}', 'N', 'N', '2015-01-01', '3', 'OTHER', '{school}')"
    )


@pytest.fixture
def gone(world: World) -> World:
    """A pupil of school C was there and is not; a contact who names the id stayed."""
    contact = f"INSERT INTO contacts (\"firstName\", \"lastName\", type, \"relationTo\") VALUES ('K', 'left', 'GUARDIAN', '{GONE}')"
    with world.acting("admin", "admin") as conn:
        for statement in (new_pupil("C9", SCHOOL_C), contact, f"DELETE FROM students WHERE id = '{GONE}'", "COMMIT"):
            execute(conn, statement)
    return world


@MAJORS
@pytest.mark.parametrize(("group", "email"), [("school_admin", "school_admin.a"), ("district_admin", "district.north")])
def test_the_id_of_a_pupil_who_is_gone_comes_back_by_the_platform_only(gone: World, group: str, email: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match=f'row-level security policy "{group}_new_id"'):
        done(gone, group, email, new_pupil("A9", SCHOOL_A))
    assert done(gone, group, email, new_pupil("A9", SCHOOL_A, "00000000-0000-0000-0000-0000000000ef")) == 1
    assert done(gone, "admin", "admin", new_pupil("A9", SCHOOL_A)) == 1
    # What is restored is put back by the owner.
    gone.owner(new_pupil("A9", SCHOOL_A))
    # An id that is in use is no matter of this: an upsert changes the row that is there.
    upsert = f"{new_pupil('A9', SCHOOL_A)} ON CONFLICT (id) DO UPDATE SET grade = '4'"
    assert done(gone, group, email, upsert) == 1


def test_with_such_an_id_what_is_left_of_another_schools_pupil_would_be_seen(gone: World) -> None:
    """What the policy is for, once it is taken away."""
    gone.owner("DROP POLICY school_admin_new_id ON students")
    left = 'SELECT "firstName" FROM contacts WHERE "lastName" = \'left\''
    with gone.acting("school_admin", "school_admin.a") as conn:
        assert fetch_all(conn, left) == []
        execute(conn, new_pupil("A9", SCHOOL_A))
        assert fetch_all(conn, left) == [{"firstName": "K"}]


def test_an_id_that_the_platform_took_from_a_pupil_is_a_former_one_too(world: World) -> None:
    with world.acting("admin", "admin") as conn:
        execute(conn, new_pupil("C9", SCHOOL_C))
        execute(conn, f"UPDATE students SET id = '00000000-0000-0000-0000-0000000000ef' WHERE id = '{GONE}'")
        execute(conn, "COMMIT")
    is_refused(world, "school_admin", "school_admin.a", new_pupil("A9", SCHOOL_A))


def test_an_application_may_write_down_a_new_pupil_before_it_adds_him(world: World) -> None:
    with world.acting("school_admin", "school_admin.a") as conn:
        execute(
            conn,
            'INSERT INTO audit_logs ("userId", action, "entityType", "entityId") '
            f"VALUES (current_setting('app.user_id')::uuid, 'CREATE', 'students', '{GONE}')",
        )
        execute(conn, new_pupil("A9", SCHOOL_A))


def test_what_an_application_writes_down_takes_no_id_from_a_new_pupil(world: World) -> None:
    """Anybody may write of himself that he deleted a pupil of whatever id; only what the trigger wrote is believed."""
    with world.acting("viewer", "viewer.c") as conn:
        execute(
            conn,
            'INSERT INTO audit_logs ("userId", action, "entityType", "entityId", changes) '
            f"SELECT current_setting('app.user_id')::uuid, 'DELETE', 'students', '{GONE}', changes "
            """FROM unnest(ARRAY[NULL, '{}', '{"columns": ["trigger"]}']::jsonb[]) AS changes""",
        )
        execute(conn, "COMMIT")
    assert done(world, "school_admin", "school_admin.a", new_pupil("A9", SCHOOL_A)) == 1
    assert done(world, "district_admin", "district.north", new_pupil("A9", SCHOOL_A)) == 1


@MAJORS
def test_no_row_of_any_table_leaves_the_scope_of_who_writes_it(world: World) -> None:
    """Each column that says to whom a row belongs, set to nobody and to what lies outside, in whatever table."""
    other = {
        "students": world.owner("SELECT id FROM students WHERE \"studentNumber\" = 'C1'")[0]["id"],
        "schools": SCHOOL_C,
    }
    tried = 0
    for table, column, parent in (
        ("students", "schoolId", "schools"),
        ("contacts", "relationTo", "students"),
        ("emergency_contacts", "studentId", "students"),
        ("health_records", "studentId", "students"),
        ("allergies", "studentId", "students"),
        ("student_medications", "studentId", "students"),
        ("appointments", "studentId", "students"),
        ("incident_reports", "studentId", "students"),
        ("documents", "studentId", "students"),
    ):
        for group, email in (("nurse", "nurse.a"), ("district_admin", "district.north")):
            if not world.owner(f"SELECT has_any_column_privilege('white_cross_{group}', '{table}', 'UPDATE') AS may")[
                0
            ]["may"]:
                continue
            if world.seen(group, email, f"SELECT count(*) FROM {table}") == [0]:
                continue
            tried += 1
            for value in (f"'{other[parent]}'", "NULL"):
                if value == "NULL" and (table, group) == ("students", "district_admin"):
                    # A pupil without a school is still the district's.
                    continue
                with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
                    done(world, group, email, f'UPDATE {table} SET "{column}" = {value} WHERE "{column}" IS NOT NULL')
    assert tried >= 11


SENT = "INSERT INTO messages (\"senderId\", content, priority, category{}) VALUES ('{}', '{}', 'LOW', 'GENERAL'{})"
DELIVERED = (
    'INSERT INTO message_deliveries ("messageId", "recipientType", "recipientId", channel, status) '
    "SELECT id, 'PARENT', gen_random_uuid(), 'EMAIL', 'SENT' FROM messages WHERE content = '{}'"
)
REPORTED = (
    'INSERT INTO compliance_reports ("reportType", title, status, period, "createdById") '
    "VALUES ('HIPAA', '{}', 'PENDING', '2026', '{}')"
)
ASTHMA = "SELECT count(*) FROM messages WHERE content = 'asthma'"
DELIVERIES = "SELECT count(*) FROM message_deliveries"
REPORTS = "SELECT title FROM compliance_reports ORDER BY 1"


def act(world: World, group: str, email: str, *statements: str) -> None:
    with world.acting(group, email) as conn:
        for statement in (*statements, "COMMIT"):
            execute(conn, statement)


def move(world: World, email: str, school: str) -> None:
    act(world, "admin", "admin", f"UPDATE users SET \"schoolId\" = {school} WHERE email = '{email}@example.org'")


@MAJORS
def test_what_was_written_in_a_school_stays_there_when_its_author_moves(world: World) -> None:
    nurse, head = world.id_of("nurse.a"), world.id_of("school_admin.a")
    act(world, "nurse", "nurse.a", SENT.format("", nurse, "asthma", ""), DELIVERED.format("asthma"))
    act(world, "school_admin", "school_admin.a", REPORTED.format("of A", head))
    for email in ("nurse.a", "school_admin.a"):
        move(world, email, f"'{SCHOOL_B}'")
    for group, email in (
        ("nurse", "nurse.b"),
        ("school_admin", "school_admin.b"),
        # Nor do those who wrote it: of the pupils that it is about they see nothing any more.
        ("nurse", "nurse.a"),
        ("school_admin", "school_admin.a"),
        ("district_admin", "district.south"),
    ):
        assert world.seen(group, email, ASTHMA) == [0], email
        assert world.seen(group, email, DELIVERIES) == [0], email
        assert done(world, group, email, "UPDATE messages SET subject = 'x' WHERE content = 'asthma'") == 0
        if group != "nurse":
            assert world.seen(group, email, REPORTS) == [], email
    for group, email in (("counselor", "counselor.a"), ("district_admin", "district.north"), ("admin", "admin")):
        assert world.seen(group, email, ASTHMA) == [1], email
        assert world.seen(group, email, DELIVERIES) == [1], email
        # The school goes on with it: what the account that wrote it is now is no matter.
        assert done(world, group, email, "UPDATE messages SET subject = 'x' WHERE content = 'asthma'") == 1
    assert world.seen("district_admin", "district.north", REPORTS) == ["of A"]
    # What the nurse writes from now on is of her school of now.
    act(world, "nurse", "nurse.a", SENT.format("", nurse, "later", ""))
    later = ASTHMA.replace("asthma", "later")
    assert world.seen("nurse", "nurse.b", later) == [1]
    assert world.seen("counselor", "counselor.a", later) == [0]


@MAJORS
def test_what_an_account_without_a_school_wrote_is_its_districts_or_its_own(world: World) -> None:
    move(world, "nurse.a", "NULL")
    nurse, district = world.id_of("nurse.a"), world.id_of("district.north")
    act(world, "nurse", "nurse.a", SENT.format("", nurse, "asthma", ""))
    act(world, "district_admin", "district.north", REPORTED.format("of North", district))
    assert world.seen("nurse", "nurse.a", ASTHMA) == [1]
    assert world.seen("admin", "admin", ASTHMA) == [1]
    move(world, "nurse.a", f"'{SCHOOL_B}'")
    assert world.seen("nurse", "nurse.a", ASTHMA) == [1]
    for group, email in (("nurse", "nurse.b"), ("counselor", "counselor.a"), ("district_admin", "district.north")):
        assert world.seen(group, email, ASTHMA) == [0], email
    assert world.seen("district_admin", "district.north", REPORTS) == ["of North"]
    assert world.seen("district_admin", "district.south", REPORTS) == []
    assert world.seen("school_admin", "school_admin.a", REPORTS) == []
    # Another administrator of the district sees what it has.
    world.owner(
        'INSERT INTO users (email, password, "firstName", "lastName", role, "districtId") '
        f"VALUES ('next@example.org', 'x', 'x', 'x', 'DISTRICT_ADMIN', '{NORTH}')"
    )
    assert world.seen("district_admin", "next", REPORTS) == ["of North"]


@MAJORS
def test_nobody_writes_in_the_name_of_another_school_nor_gives_a_row_away(world: World) -> None:
    own, other, colleague = (world.id_of(email) for email in ("nurse.a", "nurse.c", "counselor.a"))
    for group, email in (("nurse", "nurse.a"), ("counselor", "counselor.a"), ("school_admin", "school_admin.a")):
        for statement in (
            SENT.format("", other, "x", ""),
            SENT.format(', "schoolId"', other, "x", f", '{SCHOOL_A}'"),
            SENT.format(', "schoolId"', own, "x", f", '{SCHOOL_C}'"),
            SENT.format(', "districtId"', own, "x", f", '{SOUTH}'"),
            f"UPDATE messages SET \"senderId\" = '{other}'",
            f"UPDATE messages SET \"schoolId\" = '{SCHOOL_C}'",
            'UPDATE messages SET "schoolId" = NULL',
            f"UPDATE messages SET \"districtId\" = '{SOUTH}'",
            "DELETE FROM messages",
        ):
            is_refused(world, group, email, statement)
        assert done(world, group, email, SENT.format("", colleague, "x", "")) == 1
    is_refused(world, "district_admin", "district.north", SENT.format("", other, "x", ""))
    is_refused(world, "school_admin", "school_admin.a", REPORTED.format("x", other))
    is_refused(world, "school_admin", "school_admin.a", 'UPDATE compliance_reports SET "createdById" = NULL')
    assert done(world, "district_admin", "district.north", SENT.format("", own, "x", "")) == 1
    # ADMIN may, as everywhere.
    assert (
        done(world, "admin", "admin", f"UPDATE messages SET \"schoolId\" = '{SCHOOL_C}' WHERE \"senderId\" = '{own}'")
        == 1
    )


def test_a_school_with_messages_cannot_be_deleted(world: World) -> None:
    world.owner(f"INSERT INTO schools (id, name, code, \"districtId\") VALUES ('{GONE}', 'G', 'G', '{NORTH}')")
    world.owner(f"UPDATE messages SET \"schoolId\" = '{GONE}' WHERE \"schoolId\" = '{SCHOOL_A}'")
    with pytest.raises(psycopg2.errors.IntegrityError, match="messages_schoolId_fkey"):
        world.owner(f"DELETE FROM schools WHERE id = '{GONE}'")


@pytest.mark.begins(at=lambda server: chain_before(server, BOUND))
@MAJORS
def test_rows_of_before_get_the_school_of_their_author_and_the_way_back_is_exact(
    target: Any, chain: list[dict[str, Any]]
) -> None:
    by_author = (
        "SELECT split_part(u.email, '@', 1) AS who, s.code AS school, d.code AS district FROM messages AS m "
        'JOIN users AS u ON u.id = m."senderId" LEFT JOIN schools AS s ON s.id = m."schoolId" '
        'LEFT JOIN districts AS d ON d.id = m."districtId" ORDER BY 1'
    )
    do(target, PEOPLE, "UPDATE users SET \"schoolId\" = NULL WHERE email = 'nurse.c@example.org'")
    for email in ("district.north", "admin"):
        do(
            target,
            SENT.format("", "%", "x", "").replace("'%'", f"(SELECT id FROM users WHERE email = '{email}@example.org')"),
        )
    with as_it_was(target):
        for _ in range(2):
            migrate.apply(target, chain, Selection(target=BOUND), way())
            assert [tuple(row.values()) for row in rows(target, by_author)] == [
                ("admin", None, None),
                ("district.north", None, "NORTH"),
                ("nurse.a", "A", None),
                ("nurse.b", "B", None),
                ("nurse.c", None, None),
            ]
            migrate.revert(target, Reverts(version=BOUND), way())
    assert rows(target, "SELECT count(*) AS n FROM messages") == [{"n": 5}]


def test_a_nurse_gives_a_dose_and_the_drug_is_filled_in(world: World) -> None:
    with world.acting("nurse", "nurse.a") as conn:
        rows = fetch_all(
            conn,
            'INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven") '
            "SELECT p.id, current_setting('app.user_id')::uuid, now(), '1' FROM student_medications AS p LIMIT 1 "
            'RETURNING "medicationId"',
        )
    assert rows[0]["medicationId"] is not None


def test_the_login_of_the_application_has_no_group_before_it_takes_one(world: World) -> None:
    with world.server.session(world.database, APP) as conn:
        execute(conn, f"SELECT set_config('app.user_id', '{world.id_of('admin')}', false)")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(conn, "SELECT FROM students")


# --- the login's own rights -------------------------------------------------------------------------------------------

RIGHTS = Path(__file__).resolve().parents[2] / "demo" / "rights.sql"


def give_rights(server: Server, database: str) -> None:
    server.execute(RIGHTS.read_text().replace("DATABASE white_cross ", f"DATABASE {database} "), database=database)


def own_rights(target: Any) -> dict[str, str]:
    item = next(item for item in read_checks(SQL) if item["name"] == "direct_rights")
    conn = connection.connect(target.as_backup(), application_name="test")
    try:
        _, findings = checks.run(conn, [item], item["versions"], control=Control())
    finally:
        conn.close()
    assert {finding.level for finding in findings} <= {"warn"}
    return {finding.object: finding.found for finding in findings}


@pytest.mark.slow
@MAJORS
def test_the_demos_login_loses_its_own_rights_and_can_still_sign_in(
    target: Any, chain: list[dict[str, Any]], server: Server
) -> None:
    """The deployment of the demo: rights, chain, rights again."""
    give_rights(server, target.database)
    migrate.apply(target, chain, Selection(), way())
    world = World(server, target.database)
    world.owner(PEOPLE)
    told = own_rights(target)
    assert told[f"{APP} on students"] == told[f"{APP} on schools"] == "DELETE, INSERT, SELECT, UPDATE"
    assert told[f"{APP} on users"] == "DELETE, INSERT, UPDATE"
    assert told[f"{APP} on audit_logs"] == "DELETE, SELECT, UPDATE"
    for _ in range(2):
        give_rights(server, target.database)
        assert own_rights(target) == {}
    for statement in (
        "DELETE FROM schools",
        "DELETE FROM districts",
        "SELECT FROM students",
        "SELECT FROM health_records",
        "SELECT FROM medications",
        "UPDATE users SET role = 'ADMIN'",
        'UPDATE users SET "schoolId" = NULL',
        "DELETE FROM users",
        "SELECT FROM audit_logs",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), server.session(target.database, APP) as conn:
            execute(conn, statement)
    with server.session(target.database, APP) as conn:
        assert len(fetch_all(conn, "SELECT password FROM users WHERE email = 'nurse.a@example.org'")) == 1
        assert len(fetch_all(conn, "SELECT FROM users FOR UPDATE")) == 15
        execute(conn, 'UPDATE users SET "lastLogin" = now(), "failedLoginAttempts" = 0')
        execute(conn, 'INSERT INTO sessions ("userId", token, "expiresAt") SELECT id, email, now() FROM users')
        execute(conn, "INSERT INTO audit_logs (action, \"entityType\") VALUES ('LOGIN', 'users')")
    assert world.seen("nurse", "nurse.a", NUMBERS) == ["A1", "A2"]
    # A later version's table is nobody's by itself.
    world.owner("CREATE TABLE newer (id int)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), server.session(target.database, APP) as conn:
        execute(conn, "SELECT FROM newer")


@pytest.mark.parametrize(
    ("grant", "told"),
    [
        (f"GRANT SELECT ON students TO {APP}", {f"{APP} on students": "SELECT"}),
        (f"GRANT SELECT (id), UPDATE (grade) ON students TO {APP}", {f"{APP} on students": "SELECT, UPDATE"}),
        (f"GRANT TRUNCATE ON schools TO {APP}", {f"{APP} on schools": "TRUNCATE"}),
        (f"GRANT UPDATE (role) ON users TO {APP}", {f"{APP} on users": "UPDATE"}),
        ("GRANT DELETE ON allergies TO PUBLIC", {f"{APP} on allergies": "DELETE"}),
        (f'GRANT UPDATE ("lastLogin") ON users TO {APP}', {}),
        (f"GRANT SELECT ON medications TO {APP}", {}),
    ],
)
def test_a_right_that_the_login_has_without_a_group_is_told(world: World, grant: str, told: dict[str, str]) -> None:
    assert own_rights(world.target) == {}
    world.owner(grant)
    assert own_rights(world.target) == told


@MAJORS
def test_a_login_that_inherits_the_groups_is_told(world: World) -> None:
    login = f"t_{secrets.token_hex(4)}"
    world.server.execute(f"CREATE ROLE {login} LOGIN INHERIT; GRANT white_cross_viewer TO {login}")
    try:
        assert own_rights(world.target)[f"{login} on students"] == "SELECT"
    finally:
        world.server.execute(f"DROP ROLE {login}")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ('GRANT UPDATE ("districtId") ON schools TO white_cross_district_admin',
         ("UPDATE of white_cross_district_admin on schools.districtId", "none", "granted")),
        ("GRANT UPDATE (role) ON users TO white_cross_nurse",
         ("UPDATE of white_cross_nurse on users.role", "none", "granted")),
        ("REVOKE UPDATE (name) ON schools FROM white_cross_school_admin",
         ("UPDATE of white_cross_school_admin on schools.name", "granted", "none")),
        ("GRANT UPDATE ON schools TO white_cross_nurse", ("privileges of white_cross_nurse on schools", "r", "ru")),
        ("GRANT SELECT ON users TO white_cross_nurse", ("privileges of white_cross_nurse on users", "", "r")),
        ("GRANT DELETE ON schools TO PUBLIC", ("privileges of PUBLIC on schools", "none", "DELETE")),
    ],
)  # fmt: skip
def test_a_right_more_or_less_than_the_version_gives_is_a_difference(
    world: World, chain: list[dict[str, Any]], damage: str, told: tuple[str, str, str]
) -> None:
    conn = connection.connect(world.target, application_name="test")
    try:
        assert differences(conn, chain, GRANTS) == []
        world.owner(damage)
        assert told in {(row["object"], row["expected"], row["found"]) for row in differences(conn, chain, GRANTS)}
    finally:
        conn.close()


# --- what it costs ----------------------------------------------------------------------------------------------------

MANY = """
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
        SELECT s.code || 'm' || n, 'P', 'Q', '2015-01-01', '3', 'OTHER', s.id
        FROM generate_series(1, 3000) AS n, schools AS s WHERE n <= CASE s.code WHEN 'A' THEN 100 ELSE 3000 END;
    INSERT INTO allergies ("studentId", allergen, "allergyType") SELECT id, 'nuts', 'FOOD' FROM students;
    INSERT INTO messages ("senderId", content, priority, category) SELECT u.id, 'c', 'LOW', 'GENERAL'
        FROM users AS u JOIN schools AS s ON s.id = u."schoolId", generate_series(1, 3000) AS n
        WHERE u.role = 'NURSE' AND n <= CASE s.code WHEN 'A' THEN 100 ELSE 3000 END;
    ANALYZE students, allergies;
"""


def plan(world: World, group: str, email: str, query: str) -> str:
    with world.acting(group, email) as conn:
        execute(conn, "SET LOCAL jit = off")
        return "\n".join(
            row["QUERY PLAN"] for row in fetch_all(conn, f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) {query}")
        )


@MAJORS
def test_a_policy_uses_the_index_and_asks_who_acts_once(world: World) -> None:
    world.owner(MANY.replace("ANALYZE students, allergies;", ""))
    world.owner("ANALYZE")
    nurse = plan(world, "nurse", "nurse.a", "SELECT * FROM students")
    assert re.search(r'Index Cond: \("schoolId" = (\$0|.*InitPlan)', nurse), nurse
    written = plan(world, "nurse", "nurse.a", "SELECT * FROM messages")
    assert re.search(r'Index Cond: \("schoolId" = (\$0|.*InitPlan)', written), written
    child = plan(world, "nurse", "nurse.a", "SELECT * FROM allergies")
    assert re.search(r'Index Cond: \("studentId" = ANY', child), child
    point = plan(world, "nurse", "nurse.a", "SELECT * FROM allergies WHERE id = gen_random_uuid()")
    district = plan(world, "district_admin", "district.south", "SELECT * FROM allergies")
    assert "hashed SubPlan" in district, district
    everything = plan(world, "admin", "admin", "SELECT * FROM allergies")
    assert re.search(r"Filter: \((\$0|.*InitPlan 1.*) IS NOT NULL", everything), everything
    for text in (nurse, written, child, point, district, everything):
        # A sub-plan that is not hashed would run for each row; an InitPlan runs once.
        assert not re.search(r"\((?:alternatives: )?SubPlan", text), text
        assert not re.search(r"(?:Result|Function Scan).*loops=(?!1\b)\d", text), text


# --- the collection's own work ----------------------------------------------------------------------------------------


@MAJORS
def test_owner_backup_and_restore_roles_see_every_row(world: World) -> None:
    assert world.owner("SELECT count(*) AS n FROM students") == [{"n": 6}]
    for target in (world.target, world.target.as_backup()):
        # The engine's sessions run with row_security = off: a role that is bound would get an error, not fewer rows.
        conn = connection.connect(target, application_name="test")
        try:
            assert fetch_all(
                conn, "SELECT count(*) AS n, current_setting('row_security') AS rls FROM medication_logs"
            ) == [{"n": 6, "rls": "off"}]
        finally:
            conn.close()


@MAJORS
def test_a_backup_is_made_restored_and_proved(world: World, tmp_path: Path) -> None:
    backup = back_up(world.target, tmp_path)
    proof = prove(world.target, backup)
    counted = world.owner("SELECT count(*) AS n FROM students")[0]["n"]
    assert proof["rows"] > 6 * counted
    assert proof["reservations"] == []


def test_batches_of_a_later_version_reach_every_row_and_are_audited(
    world: World, tmp_path: Path, chain: list[dict[str, Any]]
) -> None:
    tree = tmp_path / "sql"
    shutil.copytree(SQL / "migrations", tree / "migrations")
    folder = tree / "migrations" / "20260101000000_tidy_notes"
    folder.mkdir()
    (folder / "migration.yml").write_text(
        "title: Tidy\nwhy: A test.\nrisk: low\nphi: true\nrollback: {safety: none, stays: the notes}\nsteps:\n"
        "  - backfill: {table: allergies, key: id, batch_size: 4, statement: fill.sql.j2}\n"
        "verify: verify.sql.j2\n"
    )
    (folder / "fill.sql.j2").write_text("UPDATE public.allergies SET notes = 'tidy' WHERE id BETWEEN $1 AND $2;\n")
    (folder / "verify.sql.j2").write_text(
        "SELECT 'allergies' AS object, 'tidy' AS expected, count(*)::text AS found FROM public.allergies "
        "WHERE notes IS DISTINCT FROM 'tidy' HAVING count(*) > 0;\n"
    )
    migrate.apply(world.target, migration_tree.render(migration_tree.read_tree(tree)), Selection(), way())
    assert world.owner("SELECT count(*) AS n FROM allergies WHERE notes = 'tidy'") == [{"n": 6}]
    written = world.owner(
        "SELECT \"userId\", changes->>'login' AS login, changes->'columns' AS columns FROM audit_logs "
        "WHERE \"entityType\" = 'allergies' AND action = 'UPDATE'"
    )
    assert written == [{"userId": None, "login": MIGRATOR, "columns": ["notes"]}] * 6


@pytest.mark.slow
@BEFORE_GRANTS
@MAJORS
def test_each_version_goes_back_and_comes_again_and_every_row_is_kept(
    target: Any, chain: list[dict[str, Any]], server: Server
) -> None:
    files = (
        "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "ORDER BY 1"
    )
    conn = connection.connect(target, application_name="test")
    try:
        execute(conn, PEOPLE)
        stored = fetch_all(conn, files)
        for _ in range(2):
            before = []
            for version in (GRANTS, ROWS, AUDIT):
                before.append(catalog.inventory(conn))
                migrate.apply(target, chain, Selection(target=version), way())
                assert differences(conn, chain, version) == []
            for version in (AUDIT, ROWS, GRANTS):
                migrate.revert(target, Reverts(version=version), way())
                assert catalog.compare(before.pop(), catalog.inventory(conn), ignore=()) == []
        assert fetch_all(conn, "SELECT count(*) AS n FROM students") == [{"n": 6}]
        # No table was written anew: each switch changes the catalog only.
        assert fetch_all(conn, files) == stored
    finally:
        conn.close()


@pytest.mark.slow
@BEFORE_GRANTS
def test_between_grants_and_policies_the_application_works_with_and_without_a_role(target: Any, server: Server) -> None:
    """The deployment in between: what takes a role and what does not yet both see their rows."""
    server.execute(f"GRANT SELECT ON students TO {APP}", database=target.database)
    migrate.apply(target, with_prefix("white_cross"), Selection(target=GRANTS), way())
    world = World(server, target.database)
    world.owner(PEOPLE)
    assert len(world.seen("nurse", "nurse.a", NUMBERS)) == 6
    with server.session(target.database, APP) as conn:
        assert len(fetch_all(conn, NUMBERS)) == 6
    migrate.apply(target, with_prefix("white_cross"), Selection(target=ROWS), way())
    assert len(world.seen("nurse", "nurse.a", NUMBERS)) == 2
    with server.session(target.database, APP) as conn:
        assert fetch_all(conn, NUMBERS) == []


def differences(conn: Any, chain: list[dict[str, Any]], version: str) -> list[dict[str, Any]]:
    migration = next(item for item in chain if item["version"] == version)
    return [row for statement in migration["verify"] for row in fetch_all(conn, statement["sql"])]


@contextmanager
def owner_as(server: Server, attribute: str) -> Iterator[None]:
    server.execute(f"ALTER ROLE {OWNER} {attribute}")
    try:
        yield
    finally:
        server.execute(f"ALTER ROLE {OWNER} {attribute[2:] if attribute.startswith('NO') else 'NO' + attribute}")


def with_prefix(prefix: str) -> list[dict[str, Any]]:
    return migration_tree.render(migration_tree.read_tree(SQL), {"role_prefix": prefix})


@BEFORE_GRANTS
def test_roles_that_are_missing_and_may_not_be_made_are_named_before_anything_changes(target: Any) -> None:
    conn = connection.connect(target, application_name="test")
    before = catalog.inventory(conn)
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, with_prefix("t_absent"), Selection(target=GRANTS), way())
    assert caught.value.sqlstate == "42501"
    assert "nothing was changed" in caught.value.message
    for role in ("admin", "district_admin", "school_admin", "nurse", "counselor", "viewer"):
        assert f"CREATE ROLE t_absent_{role} NOLOGIN;" in str(caught.value.hint)
    assert catalog.compare(before, catalog.inventory(conn), ignore=()) == []
    conn.close()


@pytest.mark.slow
@BEFORE_GRANTS
@MAJORS
def test_roles_that_are_missing_are_made_by_who_may_and_stay(target: Any, server: Server) -> None:
    prefix = f"t_{secrets.token_hex(3)}"
    conn = connection.connect(target, application_name="test")
    try:
        before = catalog.inventory(conn)
        with owner_as(server, "CREATEROLE"):
            migrate.apply(target, with_prefix(prefix), Selection(target=ROWS), way())
            migrate.revert(target, Reverts(steps=2), way())
        assert catalog.compare(before, catalog.inventory(conn), ignore=()) == []
        made = fetch_all(conn, f"SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE '{prefix}%'")
        assert [row["rolcanlogin"] for row in made] == [False] * 6
    finally:
        conn.close()
        for group in GROUPS:
            server.execute(f"DROP ROLE IF EXISTS {group.replace('white_cross', prefix)}")


@pytest.mark.slow
@BEFORE_GRANTS
def test_an_owner_whom_its_own_policies_would_bind_is_told_first(target: Any, server: Server) -> None:
    with owner_as(server, "NOBYPASSRLS"), pytest.raises(PgopsError) as caught:
        migrate.apply(target, with_prefix("white_cross"), Selection(target=ROWS), way())
    assert f"ALTER ROLE {OWNER} BYPASSRLS;" in str(caught.value.hint)


@pytest.mark.slow
@BEFORE_GRANTS
def test_without_force_the_owner_needs_nothing_and_the_application_is_bound(target: Any, server: Server) -> None:
    chain = migration_tree.render(migration_tree.read_tree(SQL), {"row_security_force": False})
    with owner_as(server, "NOBYPASSRLS"):
        migrate.apply(target, chain, Selection(target=AUDIT), way())
        conn = connection.connect(target, application_name="test")
        execute(conn, PEOPLE)
        assert fetch_all(conn, "SELECT count(*) AS n FROM students") == [{"n": 6}]
        assert differences(conn, chain, ROWS) == []
        conn.close()
        world = World(server, target.database)
        assert world.seen("nurse", "nurse.a", NUMBERS) == ["A1", "A2"]


@pytest.mark.slow
@BEFORE_GRANTS
def test_a_policy_that_is_there_is_taken_over_and_another_is_refused(target: Any) -> None:
    policy = "CREATE POLICY viewer ON students FOR SELECT TO white_cross_viewer USING (\"schoolId\" = (SELECT public.acting_school('{}')))"
    conn = connection.connect(target, application_name="test")
    chain = with_prefix("white_cross")
    functions = next(item for item in chain if item["version"] == ROWS)["steps"][0]["up"]
    for statement in functions:
        execute(conn, statement["sql"])
    execute(conn, policy.format("NURSE"))
    with pytest.raises(PgopsError, match=r"policy public.students.viewer exists already .* using: wanted"):
        migrate.apply(target, chain, Selection(target=ROWS), way())
    execute(conn, "DROP POLICY viewer ON students")
    execute(conn, policy.format("VIEWER"))
    migrate.apply(target, chain, Selection(target=ROWS), way())
    assert differences(conn, chain, ROWS) == []
    conn.close()


# --- audit ------------------------------------------------------------------------------------------------------------


def audit(world: World, table: str) -> list[dict[str, Any]]:
    return world.owner(
        'SELECT "userId"::text AS who, action::text AS action, "entityId" AS row, changes->>\'login\' AS login, '
        "changes->>'role' AS role, changes->'columns' AS columns, changes->'truncate' AS truncate, "
        "\"createdAt\" > now() - interval '1 minute' AS now "
        f'FROM audit_logs WHERE "entityType" = \'{table}\' ORDER BY "createdAt"'
    )


@MAJORS
def test_each_change_of_a_nurse_says_who_when_which_row_and_which_columns(world: World) -> None:
    nurse = world.id_of("nurse.a")
    world.owner("DELETE FROM vital_signs")
    with world.acting("nurse", "nurse.a") as conn:
        student = fetch_all(conn, "SELECT id FROM students LIMIT 1")[0]["id"]
        row = fetch_all(
            conn,
            'INSERT INTO vital_signs ("studentId", "measurementDate", "measuredBy", notes) '
            f"VALUES ('{student}', now(), 'n', 'Sentinel-4711') RETURNING id",
        )[0]["id"]
        execute(conn, "UPDATE vital_signs SET notes = 'Sentinel-4712', \"heartRate\" = 80")
        execute(conn, "UPDATE vital_signs SET notes = notes")
        execute(conn, "COMMIT")
    world.owner("DELETE FROM vital_signs")
    written = audit(world, "vital_signs")
    assert [(w["who"], w["action"], w["row"], w["login"], w["role"]) for w in written] == [
        (nurse, "CREATE", row, APP, "white_cross_nurse"),
        (nurse, "UPDATE", row, APP, "white_cross_nurse"),
        (None, "DELETE", row, MIGRATOR, OWNER),
    ]
    assert [w["columns"] for w in written] == [None, ["heartRate", "notes"], None]
    assert all(w["now"] for w in written)
    # The names of columns, never what is in them.
    assert world.owner("SELECT count(*) AS n FROM audit_logs WHERE to_jsonb(audit_logs)::text LIKE '%Sentinel%'") == [
        {"n": 0}
    ]


def test_an_unknown_or_malformed_account_loses_no_change(world: World) -> None:
    with world.server.session(world.database, MIGRATOR) as conn:
        execute(conn, f"SET ROLE {OWNER}")
        for claimed in ("nobody", "", "00000000-0000-0000-0000-000000000001"):
            fetch_all(conn, "SELECT set_config('app.user_id', %s, false)", (claimed,))
            execute(
                conn,
                "UPDATE emergency_contacts SET name = name; INSERT INTO contacts (\"firstName\", \"lastName\", type) VALUES ('a', 'b', 'OTHER')",
            )
    whos = [w["who"] for w in audit(world, "contacts") if w["login"] == MIGRATOR][-3:]
    assert whos == [None, None, "00000000-0000-0000-0000-000000000001"]


def test_a_cascade_and_a_truncate_are_written_down(world: World) -> None:
    # No delete takes PHI along, but another id does.
    world.owner("UPDATE students SET id = gen_random_uuid() WHERE \"studentNumber\" = 'C1'")
    for table, column in {"students": "id", "allergies": "studentId", "appointments": "studentId"}.items():
        assert [w["columns"] for w in audit(world, table) if w["action"] == "UPDATE"] == [[column]], table
    world.owner("TRUNCATE growth_measurements")
    assert [(w["action"], w["row"], w["truncate"]) for w in audit(world, "growth_measurements")] == [
        ("DELETE", None, True)
    ]


@MAJORS
def test_the_application_cannot_switch_the_audit_off_nor_change_what_it_wrote(world: World) -> None:
    for statement in (
        "ALTER TABLE students DISABLE TRIGGER phi_audit",
        "ALTER TABLE students DISABLE ROW LEVEL SECURITY",
        "SET session_replication_role = replica",
        "SET row_security = off; SELECT * FROM students",
        "DELETE FROM audit_logs",
        "UPDATE audit_logs SET action = 'READ'",
        "TRUNCATE audit_logs",
        (
            "INSERT INTO audit_logs (action, \"entityType\", \"userId\", changes) SELECT 'DELETE', 'students', "
            "current_setting('app.user_id')::uuid, '{\"trigger\": \"phi_audit\"}'"
        ),
        "INSERT INTO audit_logs (action, \"entityType\", \"userId\") VALUES ('READ', 'students', gen_random_uuid())",
        "SELECT audit_phi_change()",
    ):
        for group, email in (("nurse", "nurse.a"), ("admin", "admin")):
            with (
                pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.FeatureNotSupported)),
                world.acting(group, email) as conn,
            ):
                execute(conn, statement)
    with world.acting("nurse", "nurse.a") as conn:
        # What it did itself, it may add and see.
        fetch_all(
            conn,
            'INSERT INTO audit_logs (action, "entityType", "userId") '
            "VALUES ('READ', 'students', current_setting('app.user_id')::uuid) RETURNING id",
        )


def test_not_even_the_owner_or_a_replica_passes_by_the_audit(world: World) -> None:
    count = len(audit(world, "students"))
    with world.server.session(world.database) as conn:
        execute(
            conn,
            "SET session_replication_role = replica; UPDATE students SET grade = '4' WHERE \"studentNumber\" = 'A1'",
        )
    assert len(audit(world, "students")) == count + 1
    for statement in ("UPDATE audit_logs SET action = 'READ'", "TRUNCATE audit_logs", "DELETE FROM audit_logs"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="only added to"):
            world.owner(statement)
    world.owner(
        "INSERT INTO audit_logs (action, \"entityType\", \"createdAt\") VALUES ('READ', 'old', now() - interval '8 years')"
    )
    world.owner("DELETE FROM audit_logs WHERE \"createdAt\" < now() - interval '7 years'")
    assert audit(world, "old") == []


def test_a_sign_in_that_failed_can_be_written_down_before_there_is_an_account(world: World) -> None:
    world.server.execute(f"GRANT INSERT ON audit_logs TO {APP}", database=world.database)
    with world.server.session(world.database, APP) as conn:
        execute(conn, "INSERT INTO audit_logs (action, \"entityType\") VALUES ('LOGIN', 'users')")
    assert [w["action"] for w in audit(world, "users")][-1] == "LOGIN"


ANYBODYS = (
    "INSERT INTO audit_logs (\"userId\", action, \"entityType\", changes) VALUES (NULL, 'DELETE', 'students', {})"
)


@MAJORS
def test_whoever_took_a_group_writes_no_audit_row_of_nobody(world: World) -> None:
    world.server.execute(f"GRANT INSERT ON audit_logs TO {APP}", database=world.database)
    for group, email in (
        ("admin", "admin"),
        ("district_admin", "district.north"),
        ("school_admin", "school_admin.a"),
        ("nurse", "nurse.a"),
        ("counselor", "counselor.a"),
        ("viewer", "viewer.a"),
    ):
        for claimed in (email, None):
            for changes in ("'{}'", "NULL"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
                    done(world, group, claimed, ANYBODYS.format(changes))
    # The login without a group may: a sign-in that failed.
    with world.server.session(world.database, APP) as conn:
        execute(conn, ANYBODYS.format('\'{"email": "x"}\''))
        execute(conn, ANYBODYS.format("NULL"))


FORGED = ('[{"trigger": "phi_audit"}]', '{"trigger": "phi_audit"}', '{"trigger": null}', "[]", "null", '"trigger"', "1")


@pytest.mark.parametrize("changes", FORGED)
def test_what_looks_like_a_triggers_row_or_is_no_object_is_refused(world: World, changes: str) -> None:
    world.server.execute(f"GRANT INSERT ON audit_logs TO {APP}", database=world.database)
    with (
        pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"),
        world.server.session(world.database, APP) as conn,
    ):
        execute(conn, ANYBODYS.format(f"'{changes}'"))
    own = ANYBODYS.format(f"'{changes}'").replace("NULL", "current_setting('app.user_id')::uuid")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
        done(world, "nurse", "nurse.a", own)


def test_every_row_of_a_large_statement_is_audited(world: World) -> None:
    world.owner(
        "INSERT INTO allergies (\"studentId\", allergen, \"allergyType\") SELECT id, 'a' || n, 'FOOD' FROM students, generate_series(1, 500) AS n"
    )
    world.owner("UPDATE allergies SET notes = 'x'")
    assert len(audit(world, "allergies")) >= 6000


# --- what verify reports ----------------------------------------------------------------------------------------------


def told(target: Any) -> dict[str, tuple[str, Any]]:
    result = verification.verify({target.database: target}, compare_schema=False)[target.database]
    assert result["passed"]
    return {f["attribute"]: (f["level"], f["found"]) for f in result["findings"] if f["check"] == "PHI"}


def test_every_table_of_phi_is_protected_and_audited(world: World) -> None:
    found = told(world.target)
    assert set(found) <= {"soft_delete", "logged"}, found
    assert {level for level, _ in found.values()} == {"notice"}
    assert "public.students" not in found["soft_delete"][1]


@pytest.mark.parametrize(
    ("damage", "kind", "table"),
    [
        ("ALTER TABLE allergies DISABLE ROW LEVEL SECURITY", "row_security", "public.allergies"),
        ("ALTER TABLE allergies NO FORCE ROW LEVEL SECURITY", "row_security", "public.allergies"),
        ("ALTER TABLE allergies DISABLE TRIGGER phi_audit_truncate", "audited", "public.allergies"),
        ("ALTER TABLE students ENABLE REPLICA TRIGGER phi_audit", "audited", "public.students"),
        ("DROP TRIGGER audit_logs_keep_deleted ON audit_logs", "audited", "public.audit_logs"),
        (
            "COMMENT ON COLUMN medications.notes IS 'PHI: somebody wrote names into it'",
            "row_security",
            "public.medications",
        ),
        ("COMMENT ON TABLE medications IS 'PHI'", "audited", "public.medications"),
    ],
)
def test_verify_names_a_table_of_phi_that_lost_its_protection(world: World, damage: str, kind: str, table: str) -> None:
    world.owner(damage)
    level, found = told_of_failing(world)[kind]
    assert (level, found) == ("warn", f"missing on {table}")


def told_of_failing(world: World) -> dict[str, tuple[str, Any]]:
    try:
        result = verification.verify({world.database: world.target}, compare_schema=False)[world.database]
    except PgopsError as error:
        # A disabled trigger and the versions' own verification fail besides.
        result = error.extra["databases"][world.database]
    return {f["attribute"]: (f["level"], f["found"]) for f in result["findings"] if f["check"] == "PHI"}


def test_a_word_that_only_begins_like_phi_is_none(world: World) -> None:
    world.owner("COMMENT ON TABLE vendors IS 'PHILADELPHIA and others'")
    assert set(told(world.target)) <= {"soft_delete", "logged"}


def test_the_schema_is_compared_with_policies_and_triggers(world: World) -> None:
    assert not [
        f
        for f in verification.verify({world.database: world.target})[world.database]["findings"]
        if f["level"] != "notice"
    ]
    world.owner("DROP POLICY nurse ON allergies; CREATE POLICY nurse ON allergies TO white_cross_nurse USING (true)")
    with pytest.raises(PgopsError, match="policy public.allergies.nurse"):
        verification.verify({world.database: world.target})
