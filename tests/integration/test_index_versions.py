# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The index versions against a real server: what each makes, that it goes back alone, and that queries use it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, migrate, preview, statements
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support import engine
from support.kept import chain_before, chain_through
from support.server import OWNER, SUPERUSER
from support.tree import shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
DECLARED: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("index_versions.yml").read_text(encoding="utf-8")
)
VERSIONS = list(DECLARED)
PERFORMANCE, CRITICAL, SECURITY, SEARCH = VERSIONS

# Both are in it, with these definitions one after the other.
SWAPPED = "idx_student_medications_active_dates"

EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))

# The 58 of 20251011000000, by what they are for.
PLANNED = {
    "students": "students_school students_nurse students_grade_active students_search students_health_overview",
    "users": "users_school users_district users_role_active users_search",
    "prescriptions": "student_medications_active_dates student_medications_student medication_schedule "
    "medication_logs_student medication_logs_nurse",
    "drugs": "medications_category_active medications_stock medications_expiration medications_search",
    "health records": "health_records_student_date health_records_type_date health_records_confidential "
    "health_records_provider",
    "appointments": "appointments_upcoming appointments_student appointments_date_range appointment_availability",
    "incidents": "incident_reports_student incident_reports_reporter incident_reports_filters "
    "incident_reports_critical",
    "emergency contacts": "emergency_contacts_student emergency_contacts_primary",
    "documents": "documents_student documents_uploader documents_category documents_expiring",
    "audit": "audit_logs_user audit_logs_entity audit_logs_date audit_logs_export",
    "communication": "messages_sender message_recipients_recipient message_recipients_unread",
    "inventory": "inventory_category inventory_low_stock inventory_transactions_item inventory_transactions_performer",
    "compliance, sessions, allergies, conditions, vaccinations": "compliance_records_student compliance_records_status "
    "compliance_records_overdue sessions_user_active sessions_expired allergies_student allergies_critical "
    "chronic_conditions_student vaccinations_student vaccinations_compliance vaccinations_due",
}
SKIPPED = {"idx_message_recipients_unread"}

# On a table or column of another name than the one that was planned: what was planned.
STANDS_FOR = {
    "idx_documents_student": "uploadedAt",
    "idx_documents_uploader": "uploadedById",
    "idx_documents_category": "uploadedAt",
    "idx_documents_expiring": "expirationDate",
    "idx_messages_sender": "sentAt",
    "idx_message_recipients_recipient": "message_recipients",
    "idx_inventory_low_stock": "minimumStock",
    "idx_inventory_transactions_item": "transactionDate",
    "idx_inventory_transactions_performer": "performedBy",
    "idx_compliance_records_student": "compliance_records",
    "idx_compliance_records_status": "compliance_records",
    "idx_compliance_records_overdue": "compliance_records",
    "idx_sessions_user_active": "isActive",
    "idx_sessions_expired": "isActive",
    "idx_chronic_conditions_condition_search": "condition.",
}

# What ANALYZE is asked for after the performance indexes.
ANALYZED = {
    "students",
    "users",
    "student_medications",
    "medications",
    "medication_logs",
    "health_records",
    "appointments",
    "incident_reports",
    "emergency_contacts",
    "allergies",
    "chronic_conditions",
}


@pytest.fixture(scope="module")
def chain() -> list[dict[str, Any]]:
    return shipped_chain()


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def upto(target: Any, chain: list[dict[str, Any]], version: str) -> None:
    migrate.apply(target, chain, Selection(target=version), engine.way())


def before(chain: list[dict[str, Any]], version: str) -> str:
    return [str(item["version"]) for item in chain if item["version"] < version][-1]


def find(chain: list[dict[str, Any]], version: str) -> dict[str, Any]:
    return next(item for item in chain if item["version"] == version)


def declared_indexes(migration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {index["name"]: index for step in migration["steps"] for index in step.get("indexes", [])}


def differences(db: Any, migration: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for statement in migration["verify"] for row in fetch_all(db, statement["sql"])]


def indexes_of(db: Any) -> dict[str, str]:
    """Every valid index of the schema by name: table, and the definition from the access method on."""
    query = (
        "SELECT c.relname AS name, i.indrelid::regclass || ' ' || substring(pg_get_indexdef(c.oid) FROM 'USING (.*)') "
        "AS line FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid"
    )
    return {row["name"]: row["line"] for row in fetch_all(db, query)}


def extensions(db: Any) -> set[str]:
    return {row["extname"] for row in fetch_all(db, "SELECT extname FROM pg_extension WHERE extname <> 'plpgsql'")}


# --- what is declared -------------------------------------------------------------------------------------------------


def test_of_the_58_in_13_groups_57_are_there_and_the_one_left_out_is_told(chain: list[dict[str, Any]]) -> None:
    planned = {f"idx_{name}" for names in PLANNED.values() for name in names.split()}
    assert (len(PLANNED), len(planned)) == (13, 58)
    assert set(DECLARED[PERFORMANCE]) == planned - SKIPPED
    assert len(DECLARED[PERFORMANCE]) >= 55
    for name in SKIPPED:
        assert f"{name} is skipped: " in find(chain, PERFORMANCE)["why"]


def test_the_other_34_are_12_11_and_11_on_these_tables() -> None:
    assert [len(DECLARED[version]) for version in (CRITICAL, SECURITY, SEARCH)] == [12, 11, 11]
    tables = [line.split()[0] for version in (CRITICAL, SECURITY, SEARCH) for line in DECLARED[version].values()]
    assert {table: tables.count(table) for table in tables} == {
        "allergies": 4 + 1,
        "chronic_conditions": 4 + 1,
        "student_medications": 4,
        "users": 11,
        "inventory_items": 3,
        "students": 3,
        "medications": 3,
    }


def test_of_the_34_18_are_partial_5_plain_and_11_gin_of_which_8_by_trigram() -> None:
    lines = [line for version in (CRITICAL, SECURITY, SEARCH) for line in DECLARED[version].values()]
    gin = [line for line in lines if " gin " in line]
    btree = [line for line in lines if " btree " in line]
    assert [" WHERE " in line for line in btree].count(True) == 18
    assert [" WHERE " in line for line in btree].count(False) == 5
    assert len(gin) == 11
    assert all(" WHERE " in line for line in gin)
    assert ["gin_trgm_ops" in line for line in gin].count(True) == 8
    assert ["to_tsvector('english'" in line for line in gin].count(True) == 3


def test_an_index_on_another_name_says_what_it_stands_for(chain: list[dict[str, Any]]) -> None:
    for version in VERSIONS:
        for name, index in declared_indexes(find(chain, version)).items():
            assert index["why"], name
            if name in STANDS_FOR:
                assert STANDS_FOR[name] in index["why"], name


def test_the_largest_come_last_and_phi_is_marked(chain: list[dict[str, Any]]) -> None:
    gin = {v for v in VERSIONS if " gin " in "".join(DECLARED[v].values()) and "gin_trgm_ops" in str(DECLARED[v])}
    assert gin == {VERSIONS[-1]}
    phi = "students student_medications medication_logs health_records appointments incident_reports allergies "
    phi += "chronic_conditions vaccinations emergency_contacts message_deliveries"
    for version in VERSIONS:
        for name, index in declared_indexes(find(chain, version)).items():
            if index["table"] in phi.split():
                assert index["phi"], name


def test_no_index_asks_the_clock() -> None:
    text = "\n".join(line for version in VERSIONS for line in DECLARED[version].values())
    assert not re.search(r"(?i)now\(\)|current_(date|time)|clock|interval", text)


# --- what the database has --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.begins(at=lambda server: chain_before(server, VERSIONS[0]))
@EVERY_MAJOR
def test_each_version_makes_its_indexes_and_no_other_goes_back_and_makes_them_again(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    for version in VERSIONS:
        upto(target, chain, before(chain, version))
        earlier, was = indexes_of(db), catalog.inventory(db)
        upto(target, chain, version)
        there = catalog.inventory(db)
        migrate.revert(target, Reverts(version=version), engine.way())
        assert catalog.compare(was, catalog.inventory(db), ignore=()) == []
        upto(target, chain, version)
        assert catalog.compare(there, catalog.inventory(db), ignore=()) == []
        assert migrate.apply(target, chain, Selection(target=version), engine.way())["applied"] == []
        now = indexes_of(db)
        assert {name: line for name, line in now.items() if earlier.get(name) != line} == DECLARED[version]
        assert set(earlier) <= set(now)
        assert differences(db, find(chain, version)) == []
    assert all(differences(db, find(chain, version)) == [] for version in VERSIONS)
    assert extensions(db) == {"pg_trgm", "unaccent"}


@pytest.mark.begins()
def test_no_two_indexes_have_the_same_definition_unless_both_are_asked_for(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    twins: dict[tuple[str, ...], list[str]] = {}
    unique = "SELECT c.relname AS name FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid WHERE indisunique"
    uniques = {row["name"] for row in fetch_all(db, unique)}
    for name, line in indexes_of(db).items():
        twins.setdefault((line, str(name in uniques)), []).append(name)
    # The core names one of this pair, the complete health records the other.
    pair = ["health_records_studentId_recordDate_idx", "health_records_student_date_idx"]
    assert [sorted(names) for names in twins.values() if len(names) > 1] == [pair]


@pytest.mark.begins()
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_goes_back_alone_and_takes_no_index_of_another(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    full = indexes_of(db)
    migrate.revert(target, Reverts(version=version), engine.way())
    gone = set(DECLARED[version]) - {SWAPPED}
    left = {name: line for name, line in full.items() if name not in gone}
    if version == CRITICAL:
        left[SWAPPED] = DECLARED[PERFORMANCE][SWAPPED]
    assert indexes_of(db) == left
    assert extensions(db) == (set() if version == SEARCH else {"pg_trgm", "unaccent"})
    for other in VERSIONS:
        if other not in (version, CRITICAL):
            assert differences(db, find(chain, other)) == []


@pytest.mark.few(1)
@pytest.mark.begins(at=chain_through)
@pytest.mark.parametrize(
    ("version", "parts"),
    [
        (PERFORMANCE, ["idx_appointments_student", "analyzing public.users"]),
        (CRITICAL, ["idx_allergies_unverified", "renaming index", "analyzing public.allergies"]),
        (SECURITY, ["idx_users_oauth_provider"]),
        (SEARCH, ["CREATE EXTENSION unaccent", "idx_students_lastname_trigram", "COMMENT ON", "analyzing public.stud"]),
    ],
)
def test_interrupted_in_each_step_and_resumed_it_is_as_if_it_never_was(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str, parts: list[str]
) -> None:
    whole = catalog.inventory(db)
    migrate.revert(target, Reverts(version=version), engine.way())
    for part in parts:
        control = Control()
        with pytest.raises(Interrupted):
            migrate.apply(
                target,
                chain,
                Selection(target=version),
                engine.way(control=control, progress=engine.InterruptAt(control, part)),
            )
    upto(target, chain, version)
    assert catalog.compare(whole, catalog.inventory(db), ignore=()) == []
    assert differences(db, find(chain, version)) == []


@pytest.mark.begins()
def test_what_is_there_with_the_same_definition_is_taken_over_and_left_by_the_way_back(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    full = catalog.inventory(db)
    names = indexes_of(db)
    for table in ("step", "migration"):
        execute(db, f"DELETE FROM pgops.{table} WHERE version = ANY(%s)", (VERSIONS,))
    result = migrate.apply(target, chain, Selection(allow_out_of_order=True), engine.way())
    skipped = {item["version"]: set(item["skipped"]) for item in result["applied"]}
    for version in VERSIONS:
        assert {f"index public.{name}" for name in DECLARED[version]} <= skipped[version]
    assert skipped[SEARCH] >= {"extension pg_trgm", "extension unaccent"}
    assert catalog.compare(full, catalog.inventory(db), ignore=()) == []
    for version in reversed(VERSIONS):
        migrate.revert(target, Reverts(version=version), engine.way())
    assert indexes_of(db) == names
    assert extensions(db) == {"pg_trgm", "unaccent"}


@pytest.mark.begins(at=lambda server: chain_through(server, PERFORMANCE))
@pytest.mark.majors(15, 16, 17, 18, slow=(15,))
def test_R14_8_the_performance_indexes_twice_are_there_once(
    target: Any, db: Any, chain: list[dict[str, Any]], superuser_connection: Any
) -> None:
    ours, files = set(DECLARED[PERFORMANCE]), index_files(db)
    assert len(ours) == 57
    assert ours <= files.keys()
    once_more = Selection(target=PERFORMANCE)
    assert migrate.apply(target, chain, once_more, engine.way())["applied"] == []
    # As after a restore of the schema without the ledger: the version runs, and builds nothing.
    forget(db, PERFORMANCE)
    assert built(migrate.apply(target, chain, once_more, engine.way())) == set()
    assert index_files(db) == files
    # As after a run that was cut off: what is missing is built, and what is invalid built anew.
    missing, invalid = "idx_students_school", "idx_users_search"
    forget(db, PERFORMANCE)
    execute(db, f"DROP INDEX {missing}")
    unfinished = f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{invalid}'::regclass"
    execute(superuser_connection, unfinished)
    assert built(migrate.apply(target, chain, once_more, engine.way())) == {missing, invalid}
    now = index_files(db)
    assert now.keys() == files.keys()
    assert {name for name, file in now.items() if file != files[name]} == {missing, invalid}
    assert differences(db, find(chain, PERFORMANCE)) == []
    with pytest.raises(psycopg2.errors.DuplicateTable):
        for index in find(chain, PERFORMANCE)["steps"][0]["indexes"]:
            execute(db, statements.create_index(index))


def forget(db: Any, version: str) -> None:
    """The ledger knows nothing of the version."""
    for table in ("step", "migration"):
        execute(db, f"DELETE FROM pgops.{table} WHERE version = %s", (version,))


def built(result: dict[str, Any]) -> set[str]:
    """:return: the declared indexes that were not there already."""
    (applied,) = result["applied"]
    there = {word.removeprefix("index public.") for word in applied["skipped"]}
    return set(DECLARED[applied["version"]]) - there


def index_files(db: Any) -> dict[str, int]:
    """:return: of each index the file that it is in: another one when it is built anew."""
    query = "SELECT relname::text AS name, relfilenode::bigint AS file FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace"
    return {row["name"]: row["file"] for row in fetch_all(db, query)}


@pytest.mark.slow
@pytest.mark.begins(at=lambda server: chain_before(server, PERFORMANCE))
def test_the_eleven_tables_are_analyzed(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    counted = "SELECT relname, analyze_count FROM pg_stat_user_tables WHERE schemaname = 'public'"
    earlier = {row["relname"]: row["analyze_count"] for row in fetch_all(db, counted)}
    upto(target, chain, PERFORMANCE)
    now = {row["relname"]: row["analyze_count"] for row in fetch_all(db, counted)}
    assert {table for table, count in now.items() if count > earlier[table]} == ANALYZED


@pytest.mark.few(1)
@pytest.mark.begins(at=chain_through)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_verification_sees_what_goes_missing_or_changes(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    gone, *others = DECLARED[version]
    other = next(name for name in others if name != SWAPPED)
    table = DECLARED[version][other].split()[0]
    execute(db, f"DROP INDEX {gone}; DROP INDEX {other}; CREATE INDEX {other} ON {table} (id)")
    assert {row["object"] for row in differences(db, find(chain, version))} >= {f"index {gone}", f"index {other}"}


# --- extensions -------------------------------------------------------------------------------------------------------


@pytest.mark.begins(at=lambda server: chain_before(server, SEARCH))
def test_an_extension_that_was_there_before_stays(
    target: Any, db: Any, chain: list[dict[str, Any]], superuser_connection: Any
) -> None:
    execute(superuser_connection, "CREATE EXTENSION pg_trgm SCHEMA public")
    was = catalog.inventory(db)
    upto(target, chain, SEARCH)
    migrate.revert(target, Reverts(version=SEARCH), engine.way())
    assert extensions(db) == {"pg_trgm"}
    assert catalog.compare(was, catalog.inventory(db), ignore=()) == []


@pytest.mark.begins(SEARCH)
def test_an_index_of_somebody_else_on_the_extension_stops_the_way_back(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    execute(db, "CREATE INDEX theirs ON schools USING gin (name gin_trgm_ops)")
    with pytest.raises(PgopsError, match=r"drops extension pg_trgm, and on it stands index public\.theirs"):
        migrate.revert(target, Reverts(version=SEARCH), engine.way())
    assert "theirs" in indexes_of(db)
    assert engine.state(target, SEARCH)["state"] == "applied"
    execute(db, "DROP INDEX theirs")
    migrate.revert(target, Reverts(version=SEARCH), engine.way())
    assert extensions(db) == set()


@pytest.mark.slow
def test_an_extension_that_the_server_does_not_have_is_named_before_anything_is_changed(
    target: Any, server: Any, chain: list[dict[str, Any]]
) -> None:
    # Since 18 a server looks for extensions where it is told to.
    server.execute(
        f"ALTER DATABASE {target.database} SET extension_control_path = '/nonexistent'",
        database=target.database,
        user=SUPERUSER,
    )
    for attempt in (
        lambda: preview.preview(target, chain, Selection()),
        lambda: migrate.apply(target, chain, Selection(), engine.way()),
    ):
        with pytest.raises(PgopsError) as caught:
            attempt()
        assert caught.value.message == (
            f"Nothing was applied to {target.database}: version {SEARCH} needs the extensions pg_trgm and unaccent, which "
            "the server does not have; install PostgreSQL's contrib package on it, postgresql-contrib on Debian and "
            "Ubuntu, postgresql18-contrib on Red Hat, then run it again."
        )
        assert caught.value.sqlstate == "0A000"
    assert engine.rows(target, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgops'") == []
    # What does not need them can still be applied.
    upto(target, chain, before(chain, SEARCH))


@pytest.mark.slow
@pytest.mark.begins(at=lambda server: chain_before(server, SEARCH))
def test_an_extension_that_the_role_may_not_create_is_named_before_anything_is_changed(
    target: Any, db: Any, server: Any, chain: list[dict[str, Any]]
) -> None:
    was = catalog.inventory(db)
    server.execute(
        f"REVOKE CREATE ON DATABASE {target.database} FROM {target.owner}", database=target.database, user=SUPERUSER
    )
    with pytest.raises(PgopsError, match=f"needs the extension pg_trgm, and {target.owner} lacks CREATE") as caught:
        migrate.apply(target, chain, Selection(), engine.way())
    assert caught.value.sqlstate == "42501"
    assert 'CREATE EXTENSION "pg_trgm" SCHEMA public' in str(caught.value.hint)
    assert catalog.compare(was, catalog.inventory(db)) == []
    for name in ("pg_trgm", "unaccent"):
        server.execute(f"CREATE EXTENSION {name} SCHEMA public", database=target.database, user=SUPERUSER)
    upto(target, chain, SEARCH)


@pytest.mark.slow
@pytest.mark.begins(SEARCH)
def test_two_indexes_say_that_queries_through_them_are_to_be_logged(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    marked = fetch_all(
        db,
        "SELECT objoid::regclass::text AS name FROM pg_description JOIN pg_class ON oid = objoid "
        "WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace AND description LIKE 'PHI:%log every query%'",
    )
    assert {row["name"] for row in marked} == {"idx_students_fulltext_name_search", "idx_students_lastname_trigram"}


# --- queries ----------------------------------------------------------------------------------------------------------

# 40,000 pupils in 400 schools; a year of prescriptions, records and logs; 5,000 accounts, 60 of them locked once.
SEED = """
INSERT INTO districts (name, code) SELECT 'District ' || n, 'D' || n FROM generate_series(1, 5) AS n;
INSERT INTO schools (name, code, "districtId")
    SELECT 'School ' || n, 'S' || n, (SELECT id FROM districts WHERE code = 'D' || 1 + n % 5)
    FROM generate_series(1, 400) AS n;
INSERT INTO users (email, password, "firstName", "lastName", role, "lockoutUntil", "failedLoginAttempts")
    SELECT 'u' || n || '@example.org', 'x', 'First' || n, 'Last' || n % 900, 'NURSE',
        CASE WHEN n <= 60 THEN now() + make_interval(mins => n - 30) END, CASE WHEN n <= 60 THEN 5 ELSE 0 END
    FROM generate_series(1, 5000) AS n;
INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId", "isActive")
    SELECT 'N-' || upper(substr(md5(n::text), 1, 8)), 'First' || n % 700, CASE n WHEN 77 THEN 'García' ELSE 'Name' || md5(n::text) END, '2015-01-01',
        (n % 12)::text, 'OTHER', s.ids[1 + n % 400], n % 10 <> 0
    FROM generate_series(1, 40000) AS n, (SELECT array_agg(id ORDER BY code) AS ids FROM schools) AS s;
INSERT INTO health_records ("studentId", "recordType", title, description, "recordDate")
    SELECT s.id, 'CHECKUP', 'Checkup', 'Well', now() - interval '90 days' FROM students AS s;
INSERT INTO medications (name, "genericName", manufacturer, "isActive")
    SELECT 'Drug' || md5(n::text), 'Generic' || n % 800, 'Maker' || n % 50, n % 20 <> 0 FROM generate_series(1, 5000) AS n;
INSERT INTO medications (name, "genericName", manufacturer) VALUES ('Ibuprofen', NULL, 'Contoso');
INSERT INTO student_medications ("studentId", "medicationId", dosage, frequency, "startDate", "prescribedBy", "isActive")
    SELECT s.id, m.ids[1 + row_number() OVER () % 5000], '1', 'daily', now(), 'a doctor', row_number() OVER () % 2 = 0
    FROM (SELECT id FROM students LIMIT 20000) AS s, (SELECT array_agg(id) AS ids FROM medications) AS m;
INSERT INTO medication_logs ("studentMedicationId", "medicationId", "nurseId", "timeGiven", "dosageGiven")
    SELECT p.id, p."medicationId", (SELECT id FROM users LIMIT 1), now() - make_interval(hours => n), '1'
    FROM student_medications AS p, generate_series(1, 2) AS n;
"""

VECTOR = (
    "to_tsvector('english', coalesce(name, '') || ' ' || coalesce(\"genericName\", '') "
    "|| ' ' || coalesce(manufacturer, ''))"
)
NAMES = "to_tsvector('english', coalesce(\"firstName\", '') || ' ' || coalesce(\"lastName\", ''))"


@pytest.fixture(scope="module")
def busy(server: Any) -> Iterator[Any]:
    """A database of realistic size, one a server: queries only read it."""
    name = f"t_busy_{secrets.token_hex(4)}"
    server.create_database(name, OWNER, template=chain_through(server))
    # Policies that a later version may have are not what is looked at here.
    with server.session(name, SUPERUSER) as conn:
        execute(conn, SEED)
        # Not ANALYZE alone: the rows wait in a list of each GIN index, and reading that costs.
        execute(conn, "VACUUM ANALYZE")
        yield conn
    server.drop_databases(name)


def used(conn: Any, query: str) -> set[str]:
    """The indexes of a query's plan. How long it may take is a named check, not a test."""
    with conn.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
        (told,) = cursor.fetchone()[0]
    names = set()
    nodes = [told["Plan"]]
    while nodes:
        node = nodes.pop()
        names |= {node["Index Name"]} if "Index Name" in node else set()
        nodes += node.get("Plans", [])
    return names


def leading(conn: Any, table: str, *columns: str) -> set[str]:
    """The indexes of a table that begin with these columns, whatever they are called."""
    rows = fetch_all(
        conn,
        "SELECT c.relname AS name, (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey::int[]) "
        "WITH ORDINALITY AS k(att, n) JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.att) AS columns "
        "FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE i.indrelid = %s::regclass",
        (table,),
    )
    return {row["name"] for row in rows if (row["columns"] or [])[: len(columns)] == list(columns)}


@pytest.mark.slow
@EVERY_MAJOR
def test_R8_18_the_pupils_of_a_school_with_their_records_are_found_by_their_school(busy: Any) -> None:
    (school,) = fetch_all(busy, "SELECT id FROM schools WHERE code = 'S7'")
    names = used(
        busy,
        'SELECT s.*, h."recordType", h."recordDate" FROM students AS s LEFT JOIN health_records AS h '
        f'ON h."studentId" = s.id WHERE s."schoolId" = \'{school["id"]}\' AND s."isActive" = true '
        'ORDER BY s."lastName", s."firstName" LIMIT 50',
    )
    assert names & {"students_schoolId_idx", "idx_students_school", "idx_students_health_overview"}, names
    assert names & leading(busy, "health_records", "studentId"), names


@pytest.mark.slow
@EVERY_MAJOR
def test_R8_19_the_logs_of_a_pupils_active_medication_are_found_by_pupil_and_prescription(busy: Any) -> None:
    (pupil,) = fetch_all(busy, 'SELECT "studentId" AS id FROM student_medications WHERE "isActive" LIMIT 1')
    names = used(
        busy,
        'SELECT p.dosage, l."timeGiven", l."dosageGiven" FROM student_medications AS p JOIN medication_logs AS l '
        f'ON l."studentMedicationId" = p.id WHERE p."studentId" = \'{pupil["id"]}\' AND p."isActive" = true '
        'ORDER BY l."timeGiven" DESC',
    )
    assert "student_medications_student_idx" in leading(busy, "student_medications", "studentId")
    assert names & leading(busy, "student_medications", "studentId"), names
    assert "medication_logs_student_med_time_idx" in leading(
        busy, "medication_logs", "studentMedicationId", "timeGiven"
    )
    assert names & leading(busy, "medication_logs", "studentMedicationId", "timeGiven"), names


@pytest.mark.slow
@EVERY_MAJOR
def test_R8_20_text_search_of_a_drug_uses_the_index_of_that_expression(busy: Any) -> None:
    search = (
        "SELECT name FROM medications WHERE {} @@ plainto_tsquery('english', 'ibuprofen') "
        'AND "isActive" = true AND "deletedAt" IS NULL'
    )
    names = used(busy, search.format(VECTOR))
    assert names == {"idx_medications_fulltext_search"}
    assert [row["name"] for row in fetch_all(busy, search.format(VECTOR))] == ["Ibuprofen"]
    # The expression of the execution guide has no manufacturer: another expression, and no index of it.
    without = VECTOR.replace(" || ' ' || coalesce(manufacturer, '')", "")
    assert "idx_medications_fulltext_search" not in used(busy, search.format(without))


@pytest.mark.slow
@EVERY_MAJOR
def test_R8_21_locked_accounts_are_found_without_reading_the_others(busy: Any) -> None:
    locked = (
        'SELECT email, "lockoutUntil", "failedLoginAttempts" FROM users WHERE "lockoutUntil" > now() '
        'AND "isActive" = true AND "deletedAt" IS NULL'
    )
    names = used(busy, locked)
    assert names == {"idx_users_active_lockouts"}
    assert 20 < len(fetch_all(busy, locked)) <= 30


@pytest.mark.slow
@EVERY_MAJOR
@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("\"lastName\" ILIKE '%garc%'", "idx_students_lastname_trigram"),
        # md5 of 77 begins with 28dd2c79.
        ("\"studentNumber\" ILIKE '%28DD2C%'", "idx_students_number_trigram"),
        (f"{NAMES} @@ to_tsquery('english', 'García')", "idx_students_fulltext_name_search"),
    ],
)
def test_pupils_are_found_by_part_of_their_name_or_number(busy: Any, condition: str, index: str) -> None:
    query = f'SELECT "lastName" FROM students WHERE {condition} AND "isActive" = true AND "deletedAt" IS NULL'
    names = used(busy, query)
    assert names == {index}
    assert fetch_all(busy, query)


@pytest.mark.slow
@EVERY_MAJOR
def test_a_name_is_found_with_a_letter_wrong_and_without_its_accent(busy: Any) -> None:
    found = [
        fetch_all(busy, f'SELECT "lastName" AS name FROM students WHERE {condition}')
        for condition in ("\"lastName\" % 'Garcya'", "unaccent(\"lastName\") ILIKE 'garcia'")
    ]
    assert found == [[{"name": "García"}]] * 2


def test_a_predicate_with_the_clock_would_be_refused(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    upto(target, chain, before(chain, PERFORMANCE))
    with pytest.raises(psycopg2.errors.InvalidObjectDefinition):
        execute(db, 'CREATE INDEX frozen ON users (email) WHERE "lockoutUntil" > now()')
