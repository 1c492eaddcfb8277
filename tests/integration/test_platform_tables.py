# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The platform's remaining tables against a real server: each one as platform_tables.yml declares it, and back again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support import engine
from support.kept import chain_before
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
DECLARED = yaml.safe_load(Path(__file__).with_name("platform_tables.yml").read_text(encoding="utf-8"))
VERSIONS = list(DECLARED)
TABLES = {table: about for version in VERSIONS for table, about in DECLARED[version]["tables"].items()}
ENUMS = {name: values.split() for version in VERSIONS for name, values in DECLARED[version]["enums"].items()}

EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18)
pytestmark = pytest.mark.begins(VERSIONS[-1])


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def lines(db: Any, query: str) -> list[str]:
    return [str(row["line"]) for row in fetch_all(db, query)]


def columns_of(db: Any, table: str) -> list[str]:
    return lines(
        db,
        "SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), "
        "CASE WHEN a.attnotnull THEN 'not null' END, "
        "'default ' || split_part(pg_get_expr(d.adbin, d.adrelid), '::', 1)) AS line "
        "FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
        f"WHERE a.attrelid = 'public.{table}'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )


def keys_of(db: Any, table: str) -> list[str]:
    return lines(
        db,
        "SELECT conname || ' ' || pg_get_constraintdef(oid) AS line FROM pg_constraint "
        f"WHERE conrelid = 'public.{table}'::regclass AND contype = 'f' ORDER BY conname COLLATE \"C\"",
    )


def indexes_of(db: Any, table: str) -> list[str]:
    return lines(
        db,
        "SELECT CASE WHEN i.indisunique THEN 'unique ' ELSE '' END || c.relname || ' ' "
        "|| substring(pg_get_indexdef(i.indexrelid) FROM 'USING (.*)') AS line "
        "FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
        f"WHERE i.indrelid = 'public.{table}'::regclass AND i.indisvalid ORDER BY c.relname COLLATE \"C\"",
    )


def labels_of(db: Any, name: str) -> list[str]:
    return lines(
        db,
        "SELECT enumlabel AS line FROM pg_enum "
        f"WHERE enumtypid = to_regtype('public.\"{name}\"') ORDER BY enumsortorder",
    )


def declared(table: str, kind: str) -> list[str]:
    return str(TABLES[table].get(kind, "")).splitlines()


def differences(db: Any, migration: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for statement in migration["verify"] for row in fetch_all(db, statement["sql"])]


def find(chain: list[dict[str, Any]], version: str) -> dict[str, Any]:
    return next(item for item in chain if item["version"] == version)


@EVERY_MAJOR
def test_each_table_has_its_columns_keys_and_indexes(db: Any) -> None:
    for table in TABLES:
        assert columns_of(db, table) == declared(table, "columns"), table
        assert keys_of(db, table) == declared(table, "foreign_keys"), table
        assert indexes_of(db, table) == declared(table, "indexes"), table


def test_each_enum_has_its_labels_in_order(db: Any) -> None:
    assert {name: labels_of(db, name) for name in ENUMS} == ENUMS


@pytest.mark.begins(at=lambda server: chain_before(server, VERSIONS[0]))
def test_the_versions_make_these_tables_and_enums_and_no_other(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    of_public = "typnamespace = 'public'::regnamespace AND typtype = "
    names = {
        "tables": "SELECT tablename AS line FROM pg_tables WHERE schemaname = 'public'",
        "enums": f"SELECT typname AS line FROM pg_type WHERE {of_public}'e'",
    }
    before = {kind: set(lines(db, query)) for kind, query in names.items()}
    migrate.apply(target, chain, Selection(target=VERSIONS[-1]), engine.way())
    after = {kind: set(lines(db, query)) for kind, query in names.items()}
    assert after["tables"] - before["tables"] == set(TABLES)
    assert after["enums"] - before["enums"] == set(ENUMS)
    assert len(TABLES) == 42


def test_no_recipients_or_compliance_records_are_invented(db: Any) -> None:
    invented = "SELECT relname AS line FROM pg_class WHERE relname IN ('message_recipients', 'compliance_records')"
    assert lines(db, invented) == []


def test_every_foreign_key_column_leads_an_index(db: Any) -> None:
    assert (
        lines(
            db,
            "SELECT c.conname AS line FROM pg_constraint AS c WHERE c.contype = 'f' AND NOT EXISTS (SELECT "
            "FROM pg_index AS i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1] AND i.indpred IS NULL)",
        )
        == []
    )


def test_every_table_says_what_it_is_for_and_phi_is_marked(db: Any) -> None:
    for table, about in TABLES.items():
        marked = lines(
            db,
            "SELECT a.attname AS line FROM pg_attribute AS a "
            f"WHERE a.attrelid = 'public.{table}'::regclass AND col_description(a.attrelid, a.attnum) LIKE 'PHI%' "
            "ORDER BY a.attnum",
        )
        assert marked == about.get("phi", "").split(), table
        (purpose,) = lines(db, f"SELECT obj_description('public.{table}'::regclass) AS line")
        assert len(purpose) > 10, table
        assert purpose.startswith("PHI:") == bool(marked), table


@pytest.mark.parametrize("version", VERSIONS)
def test_the_verification_finds_no_difference_and_sees_what_goes_missing(
    db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    migration = find(chain, version)
    assert differences(db, migration) == []
    keys = [
        (table, line.split()[0]) for table in DECLARED[version]["tables"] for line in declared(table, "foreign_keys")
    ]
    wanted = set()
    for table, key in keys:
        execute(db, f'ALTER TABLE public.{table} DROP CONSTRAINT "{key}"')
        wanted.add(f"foreign key {table}.{key}")
    for name in DECLARED[version]["enums"]:
        execute(db, f"ALTER TYPE public.\"{name}\" RENAME VALUE '{ENUMS[name][0]}' TO 'renamed'")
        wanted.add(f"enum {name} label {ENUMS[name][0]}")
    for table in DECLARED[version]["tables"]:
        column = declared(table, "columns")[1].split()[0]
        execute(db, f'ALTER TABLE public.{table} RENAME COLUMN "{column}" TO renamed')
        wanted.add(f"column {table}.{column}")
        for line in declared(table, "indexes"):
            index = line.removeprefix("unique ").split()[0]
            if not index.endswith("_pkey"):
                execute(db, f'DROP INDEX public."{index}"')
                wanted.add(f"index {index}")
    assert wanted <= {row["object"] for row in differences(db, migration)}
    for table in DECLARED[version]["tables"]:
        execute(db, f"ALTER TABLE public.{table} RENAME TO {table}_gone")
    gone = {f"table {table}" for table in DECLARED[version]["tables"]}
    assert gone <= {row["object"] for row in differences(db, migration)}


@pytest.mark.few(2)
@pytest.mark.begins(at=chain_before)
@pytest.mark.parametrize("version", VERSIONS)
def test_up_down_up_gives_the_same_schema(target: Any, db: Any, chain: list[dict[str, Any]], version: str) -> None:
    before = catalog.inventory(db)
    migrate.apply(target, chain, Selection(steps=1), engine.way())
    there = catalog.inventory(db)
    migrate.revert(target, Reverts(version=version), engine.way())
    assert catalog.fingerprint(catalog.inventory(db)) == catalog.fingerprint(before)
    migrate.apply(target, chain, Selection(steps=1), engine.way())
    assert catalog.fingerprint(catalog.inventory(db)) == catalog.fingerprint(there)
    assert catalog.fingerprint(there) != catalog.fingerprint(before)


def test_tables_that_are_there_already_are_taken_over(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    before = catalog.inventory(db)
    execute(db, "INSERT INTO inventory_items (name, category) VALUES ('Gauze', 'First aid')")
    execute(db, f"DELETE FROM pgops.step WHERE version >= '{VERSIONS[0]}'")
    execute(db, f"DELETE FROM pgops.migration WHERE version >= '{VERSIONS[0]}'")
    again = migrate.apply(target, chain, Selection(target=VERSIONS[-1]), engine.way())
    assert [item["version"] for item in again["applied"]] == VERSIONS
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
    assert lines(db, "SELECT name AS line FROM inventory_items") == ["Gauze"]


@pytest.fixture
def people(db: Any) -> Any:
    execute(
        db,
        """
        INSERT INTO users (email, password, "firstName", "lastName") VALUES ('nurse@example.org', 'x', 'A', 'B');
        INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender)
            VALUES ('1', 'P', 'Q', '2015-01-01', '3', 'OTHER');
        """,
    )
    return db


def test_a_consent_survives_the_pupil(people: Any) -> None:
    execute(
        people,
        """
        INSERT INTO consent_forms (type, title, description, content) VALUES ('EMERGENCY_CARE', 't', 'd', 'c');
        INSERT INTO consent_signatures ("consentFormId", "studentId", "signedBy", relationship)
            SELECT f.id, s.id, 'a guardian', 'mother' FROM consent_forms AS f, students AS s;
        """,
    )
    execute(people, "DELETE FROM students")
    assert lines(people, 'SELECT "signedBy" AS line FROM consent_signatures') == ["a guardian"]


def test_evidence_survives_the_account_and_its_rights_do_not(people: Any) -> None:
    execute(
        people,
        """
        INSERT INTO audit_logs ("userId", action, "entityType", "entityId") SELECT id, 'READ', 'report', 'no uuid' FROM users;
        INSERT INTO policy_documents (title, category, content, "effectiveDate") VALUES ('t', 'HIPAA', 'c', now());
        INSERT INTO policy_acknowledgments ("policyId", "userId") SELECT p.id, u.id FROM policy_documents AS p, users AS u;
        INSERT INTO training_modules (title, content, category) VALUES ('t', 'c', 'DATA_SECURITY');
        INSERT INTO training_completions ("moduleId", "userId") SELECT m.id, u.id FROM training_modules AS m, users AS u;
        INSERT INTO compliance_reports ("reportType", title, status, period, "createdById")
            SELECT 'HIPAA', 't', 'PENDING', '2026', id FROM users;
        INSERT INTO sessions ("userId", token, "expiresAt") SELECT id, 'secret', now() FROM users;
        INSERT INTO roles (name) VALUES ('auditor');
        INSERT INTO user_role_assignments ("userId", "roleId") SELECT u.id, r.id FROM users AS u, roles AS r;
        """,
    )
    execute(people, "DELETE FROM users")
    for table in ("audit_logs", "policy_acknowledgments", "training_completions", "compliance_reports", "roles"):
        assert lines(people, f"SELECT count(*) AS line FROM {table}") == ["1"], table
    for table in ("sessions", "user_role_assignments"):
        assert lines(people, f"SELECT count(*) AS line FROM {table}") == ["0"], table


def test_a_pupil_with_documents_and_a_document_with_a_trail_cannot_be_deleted(people: Any) -> None:
    execute(
        people,
        """
        INSERT INTO documents ("studentId", title, category, "fileType", "fileName", "fileSize", "fileUrl", "uploadedBy")
            SELECT id, 't', 'STUDENT_FILE', 'pdf', 'f.pdf', 1, '/f', 'a nurse' FROM students;
        INSERT INTO document_audit_trail ("documentId", action, "performedBy") SELECT id, 'VIEWED', 'a nurse' FROM documents;
        """,
    )
    # 23503 up to PostgreSQL 17, 23001 from 18.
    with pytest.raises(psycopg2.IntegrityError, match="documents_studentId_fkey"):
        people.cursor().execute("DELETE FROM students")
    with pytest.raises(psycopg2.IntegrityError, match="document_audit_trail_documentId_fkey"):
        people.cursor().execute("DELETE FROM documents")


def test_a_backup_above_two_gigabytes_can_be_logged(db: Any) -> None:
    execute(
        db,
        "INSERT INTO backup_logs (type, status, \"fileSize\", \"startedAt\") VALUES ('MANUAL', 'COMPLETED', 5e9, now())",
    )
    assert lines(db, 'SELECT "fileSize" AS line FROM backup_logs') == ["5000000000"]
