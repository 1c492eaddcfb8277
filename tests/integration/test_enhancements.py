# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The versions that enhance the tables of the core: what each makes, that each goes back, that no data is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, connection, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from support.engine import InterruptAt, Told, way
from support.kept import chain_before
from support.people import PEOPLE, enhanced, ready

SQL = Path(__file__).resolve().parents[2] / "sql"
ROLES, ADMINISTRATION, SETTINGS, HEALTH, LEGACY, COLUMNS, KEY = (
    "20251003162519",
    "20251009011130",
    "20251009013303",
    "20251010000000",
    "20251103000000",
    "20251105000000",
    "20251106000000",
)
VERSIONS = (ROLES, ADMINISTRATION, SETTINGS, HEALTH, LEGACY, COLUMNS, KEY)
EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))

BASE_RECORD_TYPES = [
    "CHECKUP",
    "VACCINATION",
    "ILLNESS",
    "INJURY",
    "SCREENING",
    "PHYSICAL_EXAM",
    "MENTAL_HEALTH",
    "DENTAL",
    "VISION",
    "HEARING",
]
CATEGORIES = [
    "HEALTHCARE",
    "MEDICATION",
    "APPOINTMENTS",
    "UI",
    "QUERY",
    "FILE_UPLOAD",
    "RATE_LIMITING",
    "SESSION",
    "EMAIL",
    "SMS",
]
# The core without what an older lineage lacked.
OLDER = """
    ALTER TABLE users DROP CONSTRAINT "users_schoolId_fkey", DROP CONSTRAINT "users_districtId_fkey";
    DROP INDEX "users_schoolId_idx";
    ALTER TABLE users ALTER role DROP DEFAULT, ALTER role TYPE text;
    DROP TYPE "UserRole";
    CREATE TYPE "UserRole" AS ENUM ('ADMIN', 'NURSE', 'SCHOOL_ADMIN', 'DISTRICT_ADMIN');
    ALTER TABLE users ALTER role TYPE "UserRole" USING role::"UserRole", ALTER role SET DEFAULT 'ADMIN';
    ALTER TABLE allergies DROP COLUMN "diagnosedBy";
    ALTER TABLE health_records DROP COLUMN metadata;
"""
TABLES = (
    "districts",
    "schools",
    "users",
    "students",
    "health_records",
    "allergies",
    "chronic_conditions",
    "medications",
    "student_medications",
    "medication_logs",
    "system_configurations",
)


class EndsAt(Told):
    """Asks the run to end when it begins a step."""

    def __init__(self, step: int, control: Any) -> None:
        super().__init__()
        self.step, self.control = step, control

    def emit(self, text: str, **fields: Any) -> None:
        super().emit(text, **fields)
        if fields.get("step") == self.step:
            self.control.request("the test ends it")


@pytest.fixture(scope="module")
def tree() -> migration_tree.Tree:
    return migration_tree.read_tree(SQL)


@pytest.fixture(scope="module")
def chain(tree: migration_tree.Tree) -> list[dict[str, Any]]:
    return migration_tree.render(tree)


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def before(chain: list[dict[str, Any]], version: str) -> list[dict[str, Any]]:
    return [item for item in chain if item["version"] < version]


def up_to(target: Any, chain: list[dict[str, Any]], version: str, **more: Any) -> dict[str, Any]:
    return migrate.apply(target, chain, Selection(target=version), way(**more))


def do(db: Any, statements: str) -> None:
    with db.cursor() as cursor:
        cursor.execute(statements)


def column(db: Any, query: str) -> list[Any]:
    with db.cursor() as cursor:
        cursor.execute(query)
        return [row[0] for row in cursor.fetchall()]


def row(db: Any, query: str) -> tuple[Any, ...]:
    with db.cursor() as cursor:
        cursor.execute(query)
        (found,) = cursor.fetchall()
        return tuple(found)


def labels(db: Any, name: str) -> list[str]:
    return column(
        db,
        "SELECT enumlabel FROM pg_enum JOIN pg_type AS t ON t.oid = enumtypid "
        f"WHERE t.typname = '{name}' ORDER BY enumsortorder",
    )


def columns(db: Any, table: str) -> dict[str, tuple[str, bool, str | None]]:
    """Type, NOT NULL and default of each column."""
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute "
            "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (table,),
        )
        return {name: (kind, required, default) for name, kind, required, default in cursor.fetchall()}


def index_keys(db: Any, table: str) -> dict[str, str]:
    with db.cursor() as cursor:
        cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s", (table,))
        return {name: text.split(" USING ")[1] for name, text in cursor.fetchall()}


def differences(db: Any, chain: list[dict[str, Any]], version: str) -> list[Any]:
    rows: list[Any] = []
    with db.cursor() as cursor:
        for statement in next(item for item in chain if item["version"] == version)["verify"]:
            cursor.execute(statement["sql"])
            rows += cursor.fetchall()
    return rows


def contents(db: Any) -> dict[str, str]:
    """What the core's columns hold, whatever was added beside them."""
    return {
        table: column(db, f"SELECT coalesce(string_agg(to_jsonb(t)::text, '|' ORDER BY id), '') FROM {table} AS t")[0]
        for table in TABLES
    }


# --- each version, up and down ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.begins(at=ready)
@EVERY_MAJOR
@pytest.mark.parametrize("version", VERSIONS)
def test_up_down_up_leaves_the_fingerprint_and_the_data_of_before(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    schema, data = catalog.inventory(db), contents(db)
    after = None
    for _ in range(2):
        up_to(target, chain, version)
        assert differences(db, chain, version) == []
        found = catalog.inventory(db)
        if version not in (ROLES, LEGACY):
            assert catalog.compare(schema, found) != []
        assert after is None or catalog.compare(after, found, ignore=()) == []
        after = found
        migrate.revert(target, Reverts(), way())
        assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
        if version != LEGACY:
            assert contents(db) == data


@pytest.mark.few(1)
@pytest.mark.begins(at=lambda server: chain_before(server, ROLES))
@pytest.mark.parametrize("version", (ROLES, ADMINISTRATION, SETTINGS, HEALTH))
def test_a_database_of_an_older_lineage_gets_what_it_lacks_and_goes_back(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    do(db, OLDER)
    do(db, PEOPLE)
    up_to(target, chain, before(chain, version)[-1]["version"])
    schema, data = catalog.inventory(db), contents(db)
    up_to(target, chain, version)
    assert differences(db, chain, version) == []
    migrate.revert(target, Reverts(), way())
    assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
    assert contents(db) == data


@pytest.mark.slow
@pytest.mark.begins(at=lambda server: ready(server, HEALTH))
def test_what_is_there_with_the_same_definition_is_taken_over_and_left_by_the_way_back(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    # The versions between them stand on them, and would have to go first.
    chain = [item for item in chain if item["version"] < ROLES or item["version"] in VERSIONS]
    up_to(target, chain, KEY)
    schema, data = catalog.inventory(db), contents(db)
    versions: list[str] = []
    for item in chain:
        if item["version"] <= KEY and (item["version"] in VERSIONS or set(item["depends_on"]) & set(versions)):
            versions.append(item["version"])
    do(db, f"DELETE FROM pgops.migration WHERE version IN {tuple(versions)}")
    result = migrate.apply(target, chain, Selection(target=KEY, allow_out_of_order=True), way())
    assert [item["version"] for item in result["applied"]] == versions
    assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
    for version in reversed(versions):
        migrate.revert(target, Reverts(version=version), way())
    assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
    assert contents(db) == data


@pytest.mark.begins(at=ready)
@pytest.mark.slow  # test_chain_interrupted.py goes through every step of the chain
@pytest.mark.parametrize("version", VERSIONS)
def test_interrupted_at_each_step_and_resumed_it_is_as_if_it_never_was(
    target: Any, db: Any, chain: list[dict[str, Any]], version: str
) -> None:
    steps = next(item for item in chain if item["version"] == version)["steps"]
    up_to(target, chain, version)
    schema, data = catalog.inventory(db), contents(db)
    migrate.revert(target, Reverts(), way())
    for ordinal in range(1, len(steps) + 1):
        control = Control()
        stop = InterruptAtStep(control, ordinal)
        try:
            up_to(target, chain, version, control=control, progress=stop)
        except Interrupted:
            up_to(target, chain, version)
        assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
        assert contents(db) == data
        migrate.revert(target, Reverts(), way())


class InterruptAtStep(InterruptAt):
    """Asks for an end at the first word of a step."""

    def __init__(self, control: Control, ordinal: int) -> None:
        super().__init__(control, "")
        self.ordinal = ordinal

    def emit(self, text: str, **fields: Any) -> None:
        if fields.get("step") == self.ordinal and self.control.reason is None:
            super().emit(text, **fields)


# --- roles, administration ----------------------------------------------------------------------------------------------


@pytest.mark.begins(at=lambda server: chain_before(server, ROLES))
def test_the_roles_of_the_base_are_left_alone(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    result = up_to(target, chain, ROLES)
    assert result["applied"][-1]["skipped"] == [
        "enum value public.UserRole.VIEWER",
        "enum value public.UserRole.COUNSELOR",
    ]
    do(db, PEOPLE + "UPDATE users SET role = 'VIEWER'")
    migrate.revert(target, Reverts(), way())
    assert labels(db, "UserRole")[-2:] == ["VIEWER", "COUNSELOR"]
    assert column(db, "SELECT DISTINCT role FROM users") == ["VIEWER"]


@pytest.mark.begins(at=lambda server: chain_before(server, ROLES))
def test_roles_that_this_version_added_go_unless_a_user_has_one(
    target: Any, db: Any, tree: migration_tree.Tree, chain: list[dict[str, Any]]
) -> None:
    do(db, OLDER)
    do(db, PEOPLE)
    up_to(target, chain, ROLES)
    assert labels(db, "UserRole") == ["ADMIN", "NURSE", "SCHOOL_ADMIN", "DISTRICT_ADMIN", "VIEWER", "COUNSELOR"]
    do(db, "UPDATE users SET role = 'VIEWER' WHERE role = 'NURSE'")
    with pytest.raises(PgopsError, match=r"1 row\(s\) of users.role, id [0-9a-f-]{36}") as caught:
        migrate.revert(target, Reverts(), way())
    assert caught.value.sqlstate == "55006"
    assert "another value" in str(caught.value.hint)
    do(db, "UPDATE users SET role = 'NURSE' WHERE role = 'VIEWER'")
    migrate.revert(target, Reverts(), way())
    assert labels(db, "UserRole") == ["ADMIN", "NURSE", "SCHOOL_ADMIN", "DISTRICT_ADMIN"]
    assert columns(db, "users")["role"] == ('"UserRole"', True, "'ADMIN'::\"UserRole\"")
    mapped = migration_tree.render(tree, {"label_mapping": {"VIEWER": "NURSE"}})
    up_to(target, mapped, ROLES)
    do(db, "UPDATE users SET role = 'VIEWER' WHERE role = 'NURSE'")
    migrate.revert(target, Reverts(), way())
    assert sorted(column(db, "SELECT role FROM users")) == ["ADMIN", "NURSE"]


@pytest.mark.begins(at=lambda server: chain_before(server, ADMINISTRATION))
def test_districts_and_schools_get_what_administration_needs(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    do(db, PEOPLE)
    up_to(target, chain, ADMINISTRATION)
    assert row(db, 'SELECT status, description, superintendent, "phoneNumber" FROM districts') == (
        "Active",
        None,
        None,
        None,
    )
    assert row(db, 'SELECT status, "schoolType", "principalName", "totalEnrollment" FROM schools') == (
        "Active",
        "Elementary",
        None,
        None,
    )
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        do(db, 'UPDATE users SET "schoolId" = gen_random_uuid()')


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.begins(SETTINGS)
def test_settings_have_thirteen_categories_and_twelve_more_columns(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    assert labels(db, "ConfigCategory") == ["GENERAL", "SECURITY", "NOTIFICATION", *CATEGORIES]
    assert len(labels(db, "ConfigValueType")) == 12
    assert labels(db, "ConfigScope") == ["SYSTEM", "DISTRICT", "SCHOOL", "USER"]
    found = columns(db, "system_configurations")
    assert len(found) == 11 + 12
    assert found["valueType"] == ('"ConfigValueType"', True, "'STRING'::\"ConfigValueType\"")
    assert found["scope"] == ('"ConfigScope"', True, "'SYSTEM'::\"ConfigScope\"")
    assert found["isEditable"] == ("boolean", True, "true")
    assert found["requiresRestart"] == ("boolean", True, "false")
    assert found["sortOrder"] == ("integer", True, "0")
    assert found["validValues"][0] == found["tags"][0] == "text[]"
    assert columns(db, "configuration_history")["id"] == ("uuid", True, "gen_random_uuid()")
    keys = {**index_keys(db, "system_configurations"), **index_keys(db, "configuration_history")}
    assert keys["system_configurations_category_subCategory_idx"] == 'btree (category, "subCategory")'
    assert keys["system_configurations_scope_scopeId_idx"] == 'btree (scope, "scopeId")'
    assert keys["system_configurations_tags_idx"] == "gin (tags)"
    assert keys["configuration_history_configKey_createdAt_idx"] == 'btree ("configKey", "createdAt")'
    assert keys["configuration_history_changedBy_createdAt_idx"] == 'btree ("changedBy", "createdAt")'
    assert keys["configuration_history_configurationId_createdAt_idx"] == 'btree ("configurationId", "createdAt")'
    assert column(db, "SELECT count(*) FROM system_configurations") == [12]
    assert column(db, "SELECT count(*) FROM configuration_history") == [0]


@pytest.mark.begins(SETTINGS)
def test_the_history_survives_a_setting_that_nobody_changed_before(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    do(db, "UPDATE system_configurations SET description = 'other', value = value")
    assert column(db, "SELECT count(*) FROM configuration_history") == [0]
    do(db, "UPDATE system_configurations SET value = '7' WHERE key = 'MAX_LOGIN_ATTEMPTS'")
    assert row(
        db,
        'SELECT "configKey", "oldValue", "newValue", "changedBy" = session_user, c.key FROM configuration_history '
        'JOIN system_configurations AS c ON c.id = "configurationId"',
    ) == ("MAX_LOGIN_ATTEMPTS", "5", "7", True, "MAX_LOGIN_ATTEMPTS")
    do(db, PEOPLE)
    do(
        db,
        "UPDATE system_configurations SET value = '8', \"lastModifiedBy\" = (SELECT id FROM users LIMIT 1) "
        "WHERE key = 'MAX_LOGIN_ATTEMPTS'",
    )
    who = 'SELECT count(*) FROM configuration_history WHERE "changedBy" IN (SELECT id::text FROM users)'
    assert column(db, who) == [1]


@pytest.mark.begins(SETTINGS)
def test_what_a_configuration_service_asks_for_is_answered(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    """R6.20: list, create, update by id, history by key."""
    listed = (
        'SELECT key FROM system_configurations WHERE category = \'SECURITY\' AND "isActive" ORDER BY "sortOrder", key'
    )
    before = column(db, listed)
    assert "MAX_LOGIN_ATTEMPTS" in before
    (made,) = row(
        db,
        'INSERT INTO system_configurations (key, value, category, "valueType", description) '
        "VALUES ('LOCK_AFTER_MINUTES', '15', 'SECURITY', 'NUMBER', 'idle time') RETURNING id::text",
    )
    assert column(db, listed) == sorted([*before, "LOCK_AFTER_MINUTES"])
    for value in ("20", "30"):
        do(db, f"UPDATE system_configurations SET value = '{value}' WHERE id = '{made}'")
    history = (
        'SELECT "oldValue" || \' -> \' || "newValue" FROM configuration_history WHERE "configKey" = \'LOCK_AFTER_MINUTES\' '
        'ORDER BY "createdAt"'
    )
    assert column(db, history) == ["15 -> 20", "20 -> 30"]


@pytest.mark.begins(SETTINGS)
def test_a_role_without_rights_on_the_history_still_leaves_its_trace(
    target: Any, db: Any, superuser_connection: Any, chain: list[dict[str, Any]]
) -> None:
    do(
        superuser_connection,
        "GRANT SELECT, UPDATE ON system_configurations TO white_cross_app; SET ROLE white_cross_app; "
        "UPDATE system_configurations SET value = '7' WHERE key = 'MAX_LOGIN_ATTEMPTS'; RESET ROLE",
    )
    assert column(db, "SELECT count(*) FROM configuration_history") == [1]


@pytest.mark.begins(SETTINGS)
def test_a_category_in_use_stays_and_every_setting_that_uses_one_is_counted(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    do(db, "UPDATE system_configurations SET category = 'SMS' WHERE key LIKE 'PASSWORD%'")
    with pytest.raises(PgopsError, match=r"3 row\(s\) of system_configurations.category, id "):
        migrate.revert(target, Reverts(), way())
    assert "SMS" in labels(db, "ConfigCategory")
    do(db, "UPDATE system_configurations SET category = 'SECURITY' WHERE category = 'SMS'")
    migrate.revert(target, Reverts(), way())
    assert labels(db, "ConfigCategory") == ["GENERAL", "SECURITY", "NOTIFICATION"]


@pytest.mark.begins(at=lambda server: chain_before(server, SETTINGS))
@EVERY_MAJOR
def test_the_type_gets_back_its_grants_comment_and_foreign_labels(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    do(
        db,
        """
        COMMENT ON TYPE "ConfigCategory" IS 'it''s ours';
        REVOKE ALL ON TYPE "ConfigCategory" FROM PUBLIC;
        GRANT USAGE ON TYPE "ConfigCategory" TO white_cross_app WITH GRANT OPTION;
        ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO white_cross_backup;
        ALTER TYPE "ConfigCategory" ADD VALUE 'LOCAL' BEFORE 'SECURITY';
        ALTER TYPE "ConfigCategory" ADD VALUE 'UI';
        """,
    )
    # Labels are usable after the commit that added them.
    do(db, "CREATE TABLE plugins (id integer PRIMARY KEY, category \"ConfigCategory\" DEFAULT 'LOCAL')")
    do(db, "INSERT INTO plugins VALUES (1, 'UI')")
    schema = catalog.inventory(db)
    up_to(target, chain, SETTINGS)
    migrate.revert(target, Reverts(), way())
    assert catalog.compare(schema, catalog.inventory(db), ignore=()) == []
    assert labels(db, "ConfigCategory") == ["GENERAL", "LOCAL", "SECURITY", "NOTIFICATION", "UI"]
    assert column(db, "SELECT category FROM plugins") == ["UI"]


# --- health records -----------------------------------------------------------------------------------------------------


WITH_HEALTH = pytest.mark.begins(at=lambda server: enhanced(server, HEALTH))


@WITH_HEALTH
def test_the_eleven_enums_have_their_labels_in_order(db: Any) -> None:
    wanted = {
        "AllergyType": "FOOD MEDICATION ENVIRONMENTAL INSECT LATEX ANIMAL CHEMICAL SEASONAL OTHER",
        "ConditionSeverity": "MILD MODERATE SEVERE CRITICAL",
        "ConditionStatus": "ACTIVE MANAGED RESOLVED MONITORING INACTIVE",
        "VaccineType": "COVID_19 FLU MEASLES MUMPS RUBELLA MMR POLIO HEPATITIS_A HEPATITIS_B VARICELLA TETANUS DIPHTHERIA "
        "PERTUSSIS TDAP DTaP HIB PNEUMOCOCCAL ROTAVIRUS MENINGOCOCCAL HPV OTHER",
        "AdministrationSite": "ARM_LEFT ARM_RIGHT THIGH_LEFT THIGH_RIGHT DELTOID_LEFT DELTOID_RIGHT BUTTOCK_LEFT "
        "BUTTOCK_RIGHT ORAL NASAL OTHER",
        "AdministrationRoute": "INTRAMUSCULAR SUBCUTANEOUS INTRADERMAL ORAL INTRANASAL INTRAVENOUS OTHER",
        "VaccineComplianceStatus": "COMPLIANT OVERDUE PARTIALLY_COMPLIANT EXEMPT NON_COMPLIANT",
        "ScreeningType": "VISION HEARING SCOLIOSIS DENTAL BMI BLOOD_PRESSURE DEVELOPMENTAL SPEECH MENTAL_HEALTH "
        "TUBERCULOSIS LEAD ANEMIA OTHER",
        "ScreeningOutcome": "PASS REFER FAIL INCONCLUSIVE INCOMPLETE",
        "FollowUpStatus": "PENDING SCHEDULED COMPLETED CANCELLED OVERDUE NOT_NEEDED",
        "ConsciousnessLevel": "ALERT VERBAL PAIN UNRESPONSIVE DROWSY CONFUSED LETHARGIC",
    }
    assert {name: labels(db, name) for name in wanted} == {name: text.split() for name, text in wanted.items()}
    assert labels(db, "HealthRecordType")[:10] == BASE_RECORD_TYPES
    added = (
        "EXAMINATION ALLERGY_DOCUMENTATION CHRONIC_CONDITION_REVIEW GROWTH_ASSESSMENT VITAL_SIGNS_CHECK EMERGENCY_VISIT "
        "FOLLOW_UP CONSULTATION DIAGNOSTIC_TEST PROCEDURE HOSPITALIZATION SURGERY COUNSELING THERAPY NUTRITION "
        "MEDICATION_REVIEW IMMUNIZATION LAB_RESULT RADIOLOGY OTHER"
    )
    assert labels(db, "HealthRecordType")[10:] == added.split()


@WITH_HEALTH
def test_columns_use_the_named_types_and_no_twins_exist(db: Any) -> None:
    assert column(db, "SELECT typname FROM pg_type WHERE typname LIKE 'enum\\_%'") == []
    unused = column(
        db,
        "SELECT typname FROM pg_type AS t WHERE typtype = 'e' AND NOT EXISTS "
        "(SELECT FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid WHERE a.atttypid = t.oid)",
    )
    assert unused == []


@WITH_HEALTH
def test_the_four_tables_have_their_columns_keys_and_actions(db: Any) -> None:
    wanted = {
        "vaccinations": 29 + 8,
        "screenings": 20 + 8,
        "growth_measurements": 15 + 8,
        "vital_signs": 20 + 8,
    }
    for table, number in wanted.items():
        found = columns(db, table)
        assert len(found) == number, table
        assert found["id"] == ("uuid", True, "gen_random_uuid()")
        assert found["studentId"] == ("uuid", True, None)
        assert found["healthRecordId"] == ("uuid", False, None)
        assert {"createdBy", "updatedBy", "createdAt", "updatedAt", "notes"} <= set(found)
    keys = set(
        column(
            db,
            "SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' "
            f"AND conrelid::regclass::text IN {tuple(wanted)}",
        )
    )
    assert keys == {
        *(f'{t} FOREIGN KEY ("studentId") REFERENCES students(id) ON UPDATE CASCADE ON DELETE CASCADE' for t in wanted),
        *(
            f'{t} FOREIGN KEY ("healthRecordId") REFERENCES health_records(id) ON UPDATE CASCADE ON DELETE SET NULL'
            for t in wanted
        ),
        'vital_signs FOREIGN KEY ("appointmentId") REFERENCES appointments(id) ON UPDATE CASCADE ON DELETE SET NULL',
    }
    assert columns(db, "vaccinations")["complianceStatus"] == (
        '"VaccineComplianceStatus"',
        True,
        "'COMPLIANT'::\"VaccineComplianceStatus\"",
    )
    assert columns(db, "screenings")["outcome"][2] == "'PASS'::\"ScreeningOutcome\""
    assert columns(db, "vital_signs")["temperatureUnit"] == ("text", True, "'F'::text")


@WITH_HEALTH
def test_the_23_indexes_are_there_and_every_foreign_key_column_leads_one(db: Any) -> None:
    wanted = {
        "health_records": (
            "studentId recordDate",
            "recordType recordDate",
            "createdBy",
            "followUpRequired followUpDate",
        ),
        "allergies": ("studentId active", "allergyType severity", "epiPenExpiration"),
        "chronic_conditions": ("studentId status", "severity status", "nextReviewDate"),
        "vaccinations": (
            "studentId administrationDate",
            "vaccineType complianceStatus",
            "nextDueDate",
            "expirationDate",
        ),
        "screenings": (
            "studentId screeningDate",
            "screeningType outcome",
            "referralRequired followUpRequired",
            "followUpDate",
        ),
        "growth_measurements": ("studentId measurementDate", "measurementDate"),
        "vital_signs": ("studentId measurementDate", "measurementDate", "appointmentId"),
    }
    assert sum(len(keys) for keys in wanted.values()) == 23
    for table, keys in wanted.items():
        found = {name: text.replace('"', "") for name, text in index_keys(db, table).items()}
        for key in keys:
            name = f"{table}_{key.replace(' ', '_')}_idx"
            assert found[name] == f"btree ({key.replace(' ', ', ')})"
    bare = column(
        db,
        "SELECT c.conname FROM pg_constraint AS c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace AND "
        "NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])",
    )
    assert bare == []


@WITH_HEALTH
def test_existing_rows_get_a_type_and_a_severity_and_the_default_goes(db: Any) -> None:
    assert column(db, 'SELECT DISTINCT "allergyType" FROM allergies') == ["OTHER"]
    assert column(db, "SELECT DISTINCT severity FROM chronic_conditions") == ["MODERATE"]
    assert columns(db, "allergies")["allergyType"] == ('"AllergyType"', False, None)
    assert columns(db, "chronic_conditions")["severity"] == ('"ConditionSeverity"', False, None)
    assert len(columns(db, "allergies")) == 14 + 14
    assert len(columns(db, "chronic_conditions")) == 14 + 16 + 2


@WITH_HEALTH
def test_a_known_status_is_kept_whatever_its_case(db: Any) -> None:
    assert columns(db, "chronic_conditions")["status"] == (
        '"ConditionStatus"',
        True,
        "'ACTIVE'::\"ConditionStatus\"",
    )
    with db.cursor() as cursor:
        cursor.execute(
            'SELECT status::text, "legacyStatus", count(*) FROM chronic_conditions GROUP BY 1, 2 ORDER BY 1, 2'
        )
        assert cursor.fetchall() == [
            ("ACTIVE", None, 5),
            ("INACTIVE", "inactive", 3),
            ("INACTIVE", None, 3),
            ("MANAGED", None, 3),
            ("MONITORING", None, 3),
            ("RESOLVED", " Resolved ", 3),
        ]


@pytest.mark.begins(at=lambda server: chain_before(server, HEALTH))
def test_unknown_texts_are_counted_read_active_and_come_back(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    do(db, PEOPLE + "UPDATE chronic_conditions SET status = 'Controlled' WHERE status = 'MANAGED'")
    data = contents(db)
    told = Told()
    up_to(target, chain, HEALTH, progress=told)
    assert told.said("9 condition(s) have a status in another spelling, 3 of them one that is none of the five")
    assert column(db, "SELECT DISTINCT status FROM chronic_conditions WHERE \"legacyStatus\" = 'Controlled'") == [
        "ACTIVE"
    ]
    migrate.revert(target, Reverts(), way())
    assert contents(db) == data


@pytest.mark.slow
@pytest.mark.begins(at=lambda server: chain_before(server, HEALTH))
def test_a_rewrite_that_takes_long_is_told_before_it_begins(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    do(
        db,
        PEOPLE + 'INSERT INTO chronic_conditions ("studentId", "conditionName", "diagnosedDate") '
        "SELECT (SELECT id FROM students LIMIT 1), 'asthma', now() FROM generate_series(1, 100000)",
    )
    up_to(target, chain, HEALTH)
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    assert told.said("nobody reads or writes chronic_conditions while its 100020 row(s) are rewritten, about 0.5 s")
    do(db, "DELETE FROM chronic_conditions WHERE \"conditionName\" = 'asthma'")
    up_to(target, chain, HEALTH)
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    assert not told.said("nobody reads or writes chronic_conditions")


@pytest.mark.begins(at=lambda server: ready(server, HEALTH))
def test_what_hangs_on_the_status_as_a_text_hangs_on_the_enum(
    server: Any, target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    do(db, "GRANT SELECT (status), UPDATE (status) ON chronic_conditions TO PUBLIC")
    do(db, "COMMENT ON COLUMN chronic_conditions.status IS 'PHI: ask the nurse''s office'")
    hangs = (
        "SELECT a.attnotnull, a.attacl::text, col_description(a.attrelid, a.attnum), (SELECT k.conname FROM pg_constraint AS k "
        "WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum]), "
        "pg_get_indexdef('chronic_conditions_status_idx'::regclass, 1, true), (SELECT string_agg(attname, ',') FROM pg_attribute "
        "WHERE attrelid = 'chronic_conditions_status_idx'::regclass) FROM pg_attribute AS a "
        "WHERE a.attrelid = 'chronic_conditions'::regclass AND a.attname = 'status'"
    )
    then = row(db, hangs)
    up_to(target, chain, HEALTH)
    assert row(db, hangs) == then
    assert columns(db, "chronic_conditions").get("statusLabel") is None
    assert (
        column(db, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'chronic_conditions'::regclass AND NOT tgisinternal")
        == []
    )
    assert column(db, "SELECT proname FROM pg_proc WHERE proname = 'chronic_conditions_status_label'") == []
    migrate.revert(target, Reverts(), way())
    assert row(db, hangs) == then


@pytest.mark.begins(at=lambda server: ready(server, HEALTH))
def test_what_is_written_between_two_steps_counts(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    stopped = way()
    stopped.progress = EndsAt(8, stopped.control)
    with pytest.raises(PgopsError, match="Step 9 of 15"):
        migrate.apply(target, chain, Selection(target=HEALTH), stopped)
    do(db, "UPDATE chronic_conditions SET status = ' managed' WHERE status = 'INACTIVE'")
    do(db, "UPDATE chronic_conditions SET status = 'ACTIVE' WHERE status = 'inactive'")
    up_to(target, chain, HEALTH)
    with db.cursor() as cursor:
        cursor.execute(
            'SELECT status::text, "legacyStatus", count(*) FROM chronic_conditions GROUP BY 1, 2 ORDER BY 1, 2'
        )
        assert cursor.fetchall() == [
            ("ACTIVE", None, 8),
            ("MANAGED", " managed", 3),
            ("MANAGED", None, 3),
            ("MONITORING", None, 3),
            ("RESOLVED", " Resolved ", 3),
        ]


@WITH_HEALTH
def test_a_status_that_was_changed_since_is_kept_on_the_way_back(target: Any, db: Any) -> None:
    do(db, "UPDATE chronic_conditions SET status = 'RESOLVED' WHERE \"legacyStatus\" = 'inactive'")
    migrate.revert(target, Reverts(), way())
    assert columns(db, "chronic_conditions")["status"] == (
        "character varying(50)",
        True,
        "'ACTIVE'::character varying",
    )
    assert column(db, "SELECT count(*) FROM chronic_conditions WHERE status = 'inactive'") == [0]
    assert column(db, "SELECT count(*) FROM chronic_conditions WHERE status = 'RESOLVED'") == [3]


@WITH_HEALTH
def test_both_flags_of_an_allergy_go_together(db: Any) -> None:
    one = 'WHERE id = (SELECT min(id::text)::uuid FROM allergies WHERE "isActive")'
    flags = "SELECT active, \"isActive\" FROM allergies WHERE allergen = 'milk'"
    do(db, f"UPDATE allergies SET allergen = 'milk' {one}")
    do(db, "UPDATE allergies SET active = false WHERE allergen = 'milk'")
    assert row(db, flags) == (False, False)
    do(db, "UPDATE allergies SET \"isActive\" = true WHERE allergen = 'milk'")
    assert row(db, flags) == (True, True)
    do(db, "DELETE FROM allergies WHERE allergen = 'milk'")
    for flag in ("active", '"isActive"'):
        do(
            db,
            f"INSERT INTO allergies (\"studentId\", allergen, {flag}) SELECT id, 'milk', false FROM students LIMIT 1",
        )
        assert row(db, flags) == (False, False)
        do(db, "DELETE FROM allergies WHERE allergen = 'milk'")


@WITH_HEALTH
def test_a_record_with_a_new_type_stops_the_way_back(target: Any, db: Any) -> None:
    do(db, "UPDATE health_records SET \"recordType\" = 'SURGERY' WHERE title = 't'")
    with pytest.raises(PgopsError, match=r"20 row\(s\) of health_records.\"recordType\"") as caught:
        migrate.revert(target, Reverts(), way())
    assert str(caught.value.message).count(", ") >= 9, "ten ids"
    do(db, "UPDATE health_records SET \"recordType\" = 'CHECKUP'")
    migrate.revert(target, Reverts(), way())
    assert labels(db, "HealthRecordType") == BASE_RECORD_TYPES


@WITH_HEALTH
def test_phi_of_the_new_columns_is_marked(db: Any) -> None:
    marked = column(
        db,
        "SELECT DISTINCT objoid::regclass::text FROM pg_description WHERE objsubid > 0 AND description LIKE 'PHI%'",
    )
    assert {"vaccinations", "screenings", "growth_measurements", "vital_signs"} <= set(marked)
    tables = column(
        db,
        "SELECT relname FROM pg_class WHERE relname IN ('health_records', 'allergies', 'chronic_conditions', "
        "'vaccinations', 'screenings', 'growth_measurements', 'vital_signs') AND obj_description(oid) LIKE 'PHI: %'",
    )
    assert len(tables) == 7


# --- legacy data --------------------------------------------------------------------------------------------------------


@WITH_HEALTH
def test_what_stood_in_older_columns_is_in_the_new_ones(target: Any, db: Any, chain: list[dict[str, Any]]) -> None:
    assert column(db, "SELECT count(*) FROM allergies WHERE NOT active") == [0]
    up_to(target, chain, LEGACY)
    assert column(db, 'SELECT count(*) FROM allergies WHERE NOT active AND NOT "isActive"') == [5]
    assert column(db, 'SELECT count(*) FROM allergies WHERE active <> "isActive"') == [0]
    assert column(db, "SELECT count(*) FROM allergies WHERE reactions = '[\"rash\"]' AND reaction = 'rash'") == [10]
    assert column(db, 'SELECT count(*) FROM chronic_conditions WHERE "carePlan" = "managementPlan"') == [20]
    assert column(db, "SELECT count(*) FROM chronic_conditions WHERE status = 'INACTIVE'") == [6]


@pytest.mark.begins(at=lambda server: chain_before(server, HEALTH))
def test_an_unknown_status_is_listed_and_refused_until_it_is_mapped(
    target: Any, db: Any, tree: migration_tree.Tree, chain: list[dict[str, Any]]
) -> None:
    do(
        db,
        PEOPLE
        + "UPDATE chronic_conditions SET status = 'Controlled' WHERE status = 'MANAGED';"
        + "UPDATE chronic_conditions SET status = 'seldom' WHERE status = 'MONITORING'",
    )
    with pytest.raises(PgopsError) as caught:
        up_to(target, chain, LEGACY)
    assert "6 condition(s) have a status that maps to nothing, in 2 text(s)" in caught.value.message
    # The texts are PHI: the query for them is told, and they are in no audit.
    kept = column(db, "SELECT string_agg(detail::text, '') FROM pgops.audit")
    assert "CONTROLLED" not in f"{caught.value.message}{caught.value.hint}{kept}".upper()
    query = str(caught.value.hint).partition("List the texts: ")[2].partition(";")[0]
    assert column(db, query) == ["CONTROLLED", "SELDOM"]
    assert "condition_status" in str(caught.value.hint)
    assert column(db, "SELECT count(*) FROM allergies WHERE NOT active") == [0]
    with pytest.raises(PgopsError, match="maps to what is no status.*CONTROLLED: GOOD"):
        up_to(target, migration_tree.render(tree, {"condition_status": {"CONTROLLED": "GOOD"}}), LEGACY)
    mapped = migration_tree.render(tree, {"condition_status": {"CONTROLLED": "MANAGED", "SELDOM": "ACTIVE"}})
    up_to(target, mapped, LEGACY)
    states = "SELECT status || ' ' || count(*) FROM chronic_conditions GROUP BY status ORDER BY status"
    after = column(db, states)
    assert after == ["ACTIVE 8", "MANAGED 3", "RESOLVED 3", "INACTIVE 6"]
    migrate.revert(target, Reverts(), way())
    assert column(db, states) == ["ACTIVE 11", "RESOLVED 3", "INACTIVE 6"]
    migrate.revert(target, Reverts(through=HEALTH), way())
    assert column(db, "SELECT count(*) FROM chronic_conditions WHERE status IN ('Controlled', 'seldom')") == [6]


# --- columns of 20251105000000, foreign key of 20251106000000 -----------------------------------------------------------


WITH_LOGS = pytest.mark.begins(at=lambda server: enhanced(server, COLUMNS))


@WITH_LOGS
def test_the_columns_have_their_types_and_defaults(db: Any) -> None:
    assert columns(db, "medication_logs")["medicationId"] == ("uuid", False, None)
    assert columns(db, "medications")["deletedAt"] == ("timestamp with time zone", False, None)
    assert columns(db, "student_medications")["refillsRemaining"] == ("integer", False, "0")
    users, conditions = columns(db, "users"), columns(db, "chronic_conditions")
    assert users["deletedAt"] == ("timestamp with time zone", False, None)
    assert users["mfaEnabled"] == users["isEmailVerified"] == ("boolean", True, "false")
    assert users["oauthProvider"][0] == "character varying(50)"
    assert users["oauthProviderId"][0] == "character varying(255)"
    assert conditions["requiresIEP"] == conditions["requires504"] == ("boolean", True, "false")
    assert conditions["isActive"] == ("boolean", True, "true")


@WITH_LOGS
def test_old_rows_are_filled_from_what_is_known(db: Any) -> None:
    wrong = (
        'SELECT count(*) FROM medication_logs AS l JOIN student_medications AS p ON p.id = l."studentMedicationId" '
        'WHERE l."medicationId" IS DISTINCT FROM p."medicationId"'
    )
    assert column(db, wrong) == [0]
    assert column(db, "SELECT count(*) FROM medication_logs") == [40]
    assert column(db, 'SELECT email FROM users WHERE "isEmailVerified"') == ["nurse@example.org"]
    assert column(db, "SELECT count(*) FROM chronic_conditions WHERE \"isActive\" = (status = 'INACTIVE')") == [0]


@WITH_LOGS
def test_a_log_of_code_that_does_not_know_the_column_gets_its_drug(db: Any) -> None:
    do(
        db,
        'INSERT INTO medication_logs ("studentMedicationId", "nurseId", "timeGiven", "dosageGiven") '
        "SELECT p.id, u.id, now(), 'new' FROM student_medications AS p JOIN medications AS m ON m.id = p.\"medicationId\", "
        "users AS u WHERE m.name = 'A' LIMIT 1",
    )
    drug = (
        'SELECT m.name FROM medication_logs AS l JOIN medications AS m ON m.id = l."medicationId" '
        "WHERE l.\"dosageGiven\" = 'new'"
    )
    assert column(db, drug) == ["A"]
    do(
        db,
        'UPDATE medication_logs SET "studentMedicationId" = (SELECT p.id FROM student_medications AS p JOIN medications '
        "AS m ON m.id = p.\"medicationId\" WHERE m.name = 'B' LIMIT 1) WHERE \"dosageGiven\" = 'new'",
    )
    assert column(db, drug) == ["B"]


@WITH_LOGS
def test_a_log_of_an_unknown_drug_stops_the_foreign_key_before_anything_is_changed(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    schema = catalog.inventory(db)
    do(
        db,
        'UPDATE medication_logs SET "medicationId" = gen_random_uuid() WHERE id IN '
        "(SELECT id FROM medication_logs ORDER BY id LIMIT 12)",
    )
    with pytest.raises(PgopsError, match=r"12 row\(s\) of public.medication_logs have no parent in public.medications"):
        up_to(target, chain, KEY)
    made = {str(item.object) for item in catalog.compare(schema, catalog.inventory(db))}
    assert made == {'index public."medication_logs_medicationId_idx"'}
    result = up_to(target, chain, KEY, orphans="quarantine")
    assert result["applied"][-1]["quarantined"][0]["rows"] == 12
    assert column(db, "SELECT count(*) FROM medication_logs") == [28]
    migrate.revert(target, Reverts(), way())
    assert column(db, "SELECT count(*) FROM medication_logs") == [40]


@WITH_LOGS
def test_a_log_of_an_unknown_drug_gets_an_inactive_placeholder_when_asked(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    do(
        db,
        'UPDATE medication_logs SET "medicationId" = gen_random_uuid() WHERE id IN '
        "(SELECT id FROM medication_logs ORDER BY id LIMIT 3)",
    )
    drugs = column(db, "SELECT name FROM medications ORDER BY name")
    result = up_to(target, chain, KEY, orphans="placeholder")
    assert result["applied"][-1]["placeholders"][0]["rows"] == 3
    made = "SELECT name = 'Unknown medication ' || id AND NOT \"isActive\" FROM medications WHERE name ~ '^Unknown'"
    assert column(db, made) == [True] * 3
    assert column(db, "SELECT count(*) FROM medication_logs") == [40]
    migrate.revert(target, Reverts(), way())
    assert column(db, "SELECT name FROM medications ORDER BY name") == drugs


@WITH_LOGS
def test_a_drug_that_was_given_cannot_be_deleted_and_takes_its_key_along(
    target: Any, db: Any, chain: list[dict[str, Any]]
) -> None:
    up_to(target, chain, KEY)
    definition = (
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'fk_medication_logs_medication_id'"
    )
    assert column(db, definition) == [
        'FOREIGN KEY ("medicationId") REFERENCES medications(id) ON UPDATE CASCADE ON DELETE RESTRICT'
    ]
    assert index_keys(db, "medication_logs")["medication_logs_medicationId_idx"] == 'btree ("medicationId")'
    with pytest.raises(psycopg2.errors.IntegrityError) as caught:
        do(db, "DELETE FROM medications WHERE name = 'A'")
    assert caught.value.pgcode in ("23001", "23503")
    do(db, "UPDATE medications SET id = '00000000-0000-4000-8000-000000000001' WHERE name = 'A'")
    moved = "SELECT count(*) FROM medication_logs WHERE \"medicationId\" = '00000000-0000-4000-8000-000000000001'"
    assert column(db, moved) == [20]
