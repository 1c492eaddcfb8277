# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""The shipped migrations against a real server: what they make, that they go back, and that data survives."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    appeared,
    catalog,
    connection,
    existing,
    migrate,
    sql_step,
    statements,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_definition import index_definition
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from psycopg2 import sql
from support import engine
from support.kept import keep
from support.tree import TestTree, shipped_chain

SQL = Path(__file__).resolve().parents[2] / "sql"
BASE, HEALTH, CRITICAL, SETTINGS, INCIDENTS = (
    "20250103000000",
    "20250103000001",
    "20250103000002",
    "20250103000003",
    "20251103204744",
)
SHIPPED = (BASE, HEALTH, CRITICAL, SETTINGS, INCIDENTS)

# R14.17: all up, all down, all up again takes five minutes at most.
ALL_UP_AND_DOWN_S = 300

EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18)
# What a release is tried on; a change is tried on the newest.
EACH_MAJOR_OF_A_RELEASE = pytest.mark.majors(15, 16, 17, 18, slow=(15,))


@pytest.fixture(scope="module")
def chain() -> dict[str, dict[str, Any]]:
    return {item["version"]: item for item in shipped_chain()}


@pytest.fixture
def db(target: Any) -> Iterator[Any]:
    conn = connection.connect(target, application_name="pgops test")
    yield conn
    conn.close()


def in_one_transaction(db: Any, statements: list[dict[str, Any]]) -> None:
    with db.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            for statement in statements:
                cursor.execute(statement["sql"])
        except psycopg2.Error:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")


# What each version found there, by database and version; the engine keeps it in its ledger.
THERE_BEFORE: dict[tuple[str, str], list[str]] = {}
# What came with each step that its text does not name, by database, version and step.
CAME: dict[tuple[str, str, int], list[str]] = {}


def up(db: Any, migration: dict[str, Any]) -> None:
    """The steps as the engine runs them, without its ledger: each test sees the SQL alone."""
    kept = THERE_BEFORE[db.info.dbname, migration["version"]] = []
    with db.cursor() as cursor:
        for ordinal, step in enumerate(migration["steps"]):
            if step["kind"] == "sql":
                before = appeared.before(db, step["up"])
                made = [statement.get("creates") for statement in step["up"]]
                gone = [statement.get("destroys") for statement in step["down"] or []]
                there = existing.present(db, made)
                kept += [existing.describe(made[number]) for number in there]
                kept += [existing.describe(gone[number]) for number in existing.present(db, gone)]
                in_one_transaction(db, [item for number, item in enumerate(step["up"]) if number not in there])
                came = [".".join(parts) for parts in appeared.since(db, before)]
                CAME[db.info.dbname, migration["version"], ordinal] = came
            for index in step.get("indexes", []):
                if index.get("replaces"):
                    swap(db, index)
                elif index_definition(db, index["schema"], index["name"]):
                    kept.append(f"index {index['name']}")
                else:
                    cursor.execute(statements.create_index(index))
            if step["kind"] == "backfill":
                whole_table(db, step, step["statement"])
            for item in step.get("constraints", []):
                cursor.execute(
                    sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
                        sql.Identifier(item["schema"], item["table"]), sql.Identifier(item["constraint"])
                    )
                )
            for item in step.get("tables", []):
                cursor.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(item["schema"], item["table"])))


def is_there(cursor: Any, index: dict[str, Any]) -> bool:
    """Whether it still has the name that it was built under: a later step may have given it another."""
    cursor.execute("SELECT to_regclass(format('%%I.%%I', %s, %s)) IS NOT NULL", (index["schema"], index["name"]))
    return cursor.fetchone() == (True,)


def down(db: Any, migration: dict[str, Any]) -> None:
    kept = THERE_BEFORE.get((db.info.dbname, migration["version"]), [])
    with db.cursor() as cursor:
        for ordinal, step in reversed(list(enumerate(migration["steps"]))):
            if "labels" in step:
                engine.take_back_labels(db, step, kept)
            elif step["kind"] == "sql":
                ours = [
                    statement
                    for statement in step["down"] or []
                    if not statement.get("destroys") or existing.describe(statement["destroys"]) not in kept
                ]
                came = CAME.get((db.info.dbname, migration["version"], ordinal), [])
                told = [
                    {"sql": sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), sql.Literal(json.dumps(words)))}
                    for name, words in ((sql_step.THERE_BEFORE, kept), (sql_step.MADE, came))
                ]
                in_one_transaction(db, [*told, *ours])
            for index in reversed(step.get("indexes", [])):
                if index.get("replaces"):
                    swap(db, index["replaces"])
                elif f"index {index['name']}" not in kept and is_there(cursor, index):
                    cursor.execute(statements.drop_index(index["schema"], index["name"]))
            if step["kind"] == "backfill" and step.get("down"):
                whole_table(db, step, step["down"])


def swap(db: Any, index: dict[str, Any]) -> None:
    """In place of the index that has its name."""
    with db.cursor() as cursor:
        cursor.execute(statements.drop_index(index["schema"], index["name"]))
        cursor.execute(statements.create_index(index))


def whole_table(db: Any, step: dict[str, Any], statement: dict[str, Any]) -> None:
    """One batch for all rows."""
    key, table = sql.Identifier(step["key"]), sql.Identifier(step["schema"], step["table"])
    with db.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT {0} FROM {1} ORDER BY {0}").format(key, table))
        keys = [row[0] for row in cursor.fetchall()]
        if keys:
            cursor.execute("PREPARE batch AS " + statement["sql"])
            cursor.execute("EXECUTE batch(%s, %s)", (keys[0], keys[-1]))
            cursor.execute("DEALLOCATE batch")


def differences(db: Any, migration: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    with db.cursor() as cursor:
        for statement in migration["verify"]:
            cursor.execute(statement["sql"])
            rows += cursor.fetchall()
    return rows


def column(db: Any, query: str) -> list[Any]:
    with db.cursor() as cursor:
        cursor.execute(query)
        return [row[0] for row in cursor.fetchall()]


def labels(db: Any, name: str) -> list[str]:
    return column(
        db,
        "SELECT enumlabel FROM pg_enum JOIN pg_type AS t ON t.oid = enumtypid "
        f"WHERE t.typname = '{name}' ORDER BY enumsortorder",
    )


def seed_people(db: Any) -> None:
    with db.cursor() as cursor:
        cursor.execute("""
            INSERT INTO districts (name, code) VALUES ('North', 'N');
            INSERT INTO schools (name, code, "districtId") SELECT 'Hill', 'H', id FROM districts;
            INSERT INTO users (email, password, "firstName", "lastName", role)
                VALUES ('nurse@example.org', 'x', 'A', 'B', 'NURSE');
            INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender, "schoolId")
                SELECT n::text, 'P' || n, 'Q', '2015-01-01', '3', 'OTHER', schools.id
                FROM schools, generate_series(1, 20) AS n;
        """)


def seed_incidents(db: Any) -> None:
    seed_people(db)
    with db.cursor() as cursor:
        cursor.execute("""
            INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description)
            SELECT s.id, u.id, (enum_range(NULL::"IncidentType"))[1 + row_number() OVER () % 7], 'LOW', now(), 'fell'
            FROM students AS s, users AS u
        """)


def by_plain_sql(server: Any) -> str:
    """The versions of SHIPPED without the engine and its ledger."""

    def make(target: Any) -> None:
        conn = connection.connect(target, application_name="pgops test")
        for migration in shipped_chain():
            if migration["version"] in SHIPPED:
                up(conn, migration)
        conn.close()

    return keep(server, "by_plain_sql", make)


BY_PLAIN_SQL = pytest.mark.begins(at=by_plain_sql)


def test_R14_1_every_migration_has_an_up(chain: dict[str, dict[str, Any]]) -> None:
    for version, migration in chain.items():
        assert migration["steps"], version
        assert all(step["up"] for step in migration["steps"] if step["kind"] == "sql"), version


def test_R14_2_every_migration_has_a_down(chain: dict[str, dict[str, Any]]) -> None:
    for version, migration in chain.items():
        assert migration["rollback"]["safety"] == "complete" or migration["rollback"]["stays"], version
        if migration["rollback"]["safety"] == "complete":
            ways = [step["down"] or "labels" in step for step in migration["steps"] if step["kind"] == "sql"]
            assert all(ways), version


def test_R14_9_the_order_is_chronological(chain: dict[str, dict[str, Any]]) -> None:
    assert list(chain) == sorted(chain)
    assert set(SHIPPED) <= set(chain)


def test_R14_10_base_comes_before_its_dependents(chain: dict[str, dict[str, Any]]) -> None:
    for migration in chain.values():
        assert all(wanted < migration["version"] for wanted in migration["depends_on"])
    assert chain[HEALTH]["depends_on"] == [BASE]
    assert chain[INCIDENTS]["depends_on"] == [CRITICAL]


@EACH_MAJOR_OF_A_RELEASE
def test_a_dependent_without_the_base_fails_and_leaves_nothing(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    before = catalog.inventory(db)
    with pytest.raises(psycopg2.Error) as caught:
        up(db, chain[HEALTH])
    assert caught.value.pgcode == "42P01"
    assert catalog.compare(before, catalog.inventory(db)) == []


@EACH_MAJOR_OF_A_RELEASE
@pytest.mark.parametrize("version", SHIPPED)
def test_R14_3_4_each_version_applies_and_its_verification_finds_no_difference(
    db: Any, chain: dict[str, dict[str, Any]], version: str
) -> None:
    for earlier in SHIPPED[: SHIPPED.index(version) + 1]:
        up(db, chain[earlier])
    assert differences(db, chain[version]) == []


@EACH_MAJOR_OF_A_RELEASE
@pytest.mark.parametrize("version", SHIPPED)
def test_R14_5_6_19_after_each_down_the_schema_is_what_it_was(
    db: Any, chain: dict[str, dict[str, Any]], version: str
) -> None:
    for earlier in SHIPPED[: SHIPPED.index(version)]:
        up(db, chain[earlier])
    before = catalog.inventory(db)
    for _ in range(2):
        up(db, chain[version])
        assert catalog.compare(before, catalog.inventory(db)) != []
        down(db, chain[version])
        assert catalog.compare(before, catalog.inventory(db), ignore=()) == []


@BY_PLAIN_SQL
@EACH_MAJOR_OF_A_RELEASE
def test_R14_11_foreign_keys_point_where_they_should_with_their_rules(db: Any) -> None:
    definitions = column(
        db,
        "SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'",
    )
    assert len(definitions) == 19
    cascade, set_null = "ON UPDATE CASCADE ON DELETE CASCADE", "ON UPDATE CASCADE ON DELETE SET NULL"
    for wanted in (
        f'schools FOREIGN KEY ("districtId") REFERENCES districts(id) {cascade}',
        f'students FOREIGN KEY ("schoolId") REFERENCES schools(id) {cascade}',
        f'students FOREIGN KEY ("nurseId") REFERENCES users(id) {set_null}',
        f'users FOREIGN KEY ("schoolId") REFERENCES schools(id) {set_null}',
        f'appointments FOREIGN KEY ("nurseId") REFERENCES users(id) {cascade}',
        f'medication_logs FOREIGN KEY ("studentMedicationId") REFERENCES student_medications(id) {cascade}',
        f'system_configurations FOREIGN KEY ("lastModifiedBy") REFERENCES users(id) {set_null}',
    ):
        assert wanted in definitions


@BY_PLAIN_SQL
def test_R14_21_a_foreign_key_refuses_an_orphan(db: Any) -> None:
    with db.cursor() as cursor, pytest.raises(psycopg2.errors.ForeignKeyViolation):
        cursor.execute("INSERT INTO schools (name, code, \"districtId\") VALUES ('x', 'x', gen_random_uuid())")


@BY_PLAIN_SQL
@EACH_MAJOR_OF_A_RELEASE
def test_R14_12_the_indexes_of_the_requirements_are_there_under_their_names(db: Any) -> None:
    found = set(column(db, "SELECT indexname FROM pg_indexes WHERE schemaname = 'public'"))
    unique = {f"{t}_{c}_unique" for t, c in (("districts", "code"), ("schools", "code"), ("users", "email"))}
    plain = {
        "districts": ("isActive",),
        "schools": ("districtId", "isActive"),
        "users": ("schoolId", "districtId", "role", "isActive"),
        "students": ("nurseId", "schoolId", "districtId", "isActive", "grade", "name"),
        "contacts": ("email", "type", "relationTo", "isActive", "name"),
        "health_records": ("student_date", "type"),
        "allergies": ("student", "severity", "isActive"),
        "chronic_conditions": ("student", "status"),
        "appointments": ("student", "nurse_scheduled", "status"),
        "medications": ("name", "category", "isActive"),
        "student_medications": ("student", "medication", "isActive"),
        "medication_logs": ("student_med_time", "nurse"),
        "incident_reports": ("student", "type", "severity", "occurred", "status", "type_status"),
        "emergency_contacts": ("student", "priority", "isActive"),
        "system_configurations": ("category", "isActive", "category_active"),
    }
    wanted = {f"{table}_{name}_idx" for table, names in plain.items() for name in names}
    wanted |= unique | {"students_studentNumber_unique", "system_configurations_key_unique"}
    assert wanted <= found
    assert len(wanted) == 22 + 10 + 15 + 4 + 2


@BY_PLAIN_SQL
def test_no_two_unique_indexes_say_the_same(db: Any) -> None:
    # Sequelize made a constraint and an index for each unique column; each write then pays twice.
    assert (
        column(
            db,
            "SELECT min(indexrelid::regclass::text) FROM pg_index WHERE indisunique AND indrelid >= 16384 "
            "GROUP BY indrelid, indkey::text HAVING count(*) > 1",
        )
        == []
    )


@BY_PLAIN_SQL
def test_every_foreign_key_column_leads_an_index(db: Any) -> None:
    query = (
        "SELECT c.conname FROM pg_constraint AS c WHERE c.contype = 'f' AND NOT EXISTS ("
        "SELECT FROM pg_index AS i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1] AND i.indpred IS NULL)"
    )
    assert column(db, query) == []
    with db.cursor() as cursor:
        cursor.execute('DROP INDEX "incident_reports_reportedById_idx"')
    assert column(db, query) == ["incident_reports_reportedById_fkey"]


@BY_PLAIN_SQL
@EACH_MAJOR_OF_A_RELEASE
def test_R14_13_indexes_are_removed_by_down(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    down(db, chain[INCIDENTS])
    left = column(db, "SELECT indexname FROM pg_indexes WHERE indexname ~ '^incident_reports_.*status'")
    assert left == []


@BY_PLAIN_SQL
@EACH_MAJOR_OF_A_RELEASE
def test_R14_14_15_enums_have_their_labels_and_go_with_the_down(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    assert labels(db, "UserRole") == ["ADMIN", "NURSE", "SCHOOL_ADMIN", "DISTRICT_ADMIN", "VIEWER", "COUNSELOR"]
    assert labels(db, "IncidentType")[-2:] == ["OTHER", "SAFETY"]
    assert len(labels(db, "HealthRecordType")) == 10
    with pytest.raises(psycopg2.errors.DuplicateObject):
        in_one_transaction(db, chain[BASE]["steps"][0]["up"])
    for version in reversed(SHIPPED):
        down(db, chain[version])
    assert column(db, "SELECT typname FROM pg_type WHERE typtype = 'e'") == []


@BY_PLAIN_SQL
def test_columns_use_the_named_enums_and_no_twins_exist(db: Any) -> None:
    assert column(db, "SELECT typname FROM pg_type WHERE typname LIKE 'enum\\_%'") == []
    used = column(
        db,
        "SELECT DISTINCT t.typname FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
        "JOIN pg_class AS c ON c.oid = a.attrelid WHERE t.typtype = 'e' AND c.relkind = 'r'",
    )
    assert set(used) == {
        "AllergySeverity",
        "AppointmentStatus",
        "ConfigCategory",
        "ContactType",
        "Gender",
        "HealthRecordType",
        "IncidentSeverity",
        "IncidentType",
        "UserRole",
    }


# A version after INCIDENTS that takes every row of PHI and the settings along, changes a table, and then fails.
LOSES_ALL = "20251103204745"
LOSES = """
UPDATE public.students SET "firstName" = 'nobody';
DELETE FROM public.incident_reports;
DELETE FROM public.students;
DELETE FROM public.system_configurations;
ALTER TABLE public.incident_reports DROP COLUMN description;
SELECT 1 / 0;
"""


def contents(db: Any) -> list[Any]:
    """How many rows the tables have, and what is in them."""
    return [
        column(db, f"SELECT count(*) || ' ' || md5(string_agg(t::text, '|' ORDER BY id)) FROM {table} AS t")
        for table in ("students", "incident_reports", "system_configurations", "users")
    ]


@pytest.mark.begins(INCIDENTS)
@EACH_MAJOR_OF_A_RELEASE
@pytest.mark.parametrize("direction", ["up", "down"])
def test_R14_16_a_failing_step_leaves_the_data_as_it_was(target: Any, db: Any, tmp_path: Path, direction: str) -> None:
    seed_incidents(db)
    shutil.copytree(SQL / "migrations", tmp_path / "migrations")
    tree = TestTree(tmp_path)
    up, down = (LOSES, "SELECT 1;") if direction == "up" else ("SELECT 1;", LOSES)
    tree.add_sql(LOSES_ALL, "lose_everything", up, down)
    if direction == "down":
        migrate.apply(target, tree.render(), Selection(target=LOSES_ALL), engine.way())
    before = contents(db)
    assert [text.partition(" ")[0] for (text,) in before] == ["20", "20", "12", "1"]
    with engine.as_it_was(target), pytest.raises(PgopsError) as caught:
        if direction == "up":
            migrate.apply(target, tree.render(), Selection(target=LOSES_ALL), engine.way())
        else:
            migrate.revert(target, Reverts(version=LOSES_ALL), engine.way())
    assert caught.value.sqlstate == "22012"
    assert contents(db) == before
    assert engine.state(target, LOSES_ALL)["state"] == {"up": "failed", "down": "reverting"}[direction]


@EACH_MAJOR_OF_A_RELEASE
def test_R14_17_all_up_all_down_and_up_again(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    empty = catalog.inventory(db)
    for _ in range(2):
        for migration in chain.values():
            up(db, migration)
        for migration in chain.values():
            assert differences(db, migration) == [], migration["version"]
        for migration in reversed(chain.values()):
            down(db, migration)
        assert catalog.compare(empty, catalog.inventory(db), ignore=()) == []


@BY_PLAIN_SQL
def test_the_twelve_settings_are_seeded_and_an_operators_value_survives_seed_and_its_down(
    db: Any, chain: dict[str, dict[str, Any]]
) -> None:
    seed = chain[SETTINGS]["steps"][1]
    assert column(db, "SELECT count(*) FROM system_configurations") == [12]
    with db.cursor() as cursor:
        cursor.execute("UPDATE system_configurations SET value = '7' WHERE key = 'MAX_LOGIN_ATTEMPTS'")
        cursor.execute("UPDATE system_configurations SET \"isActive\" = false WHERE key = 'MAINTENANCE_MODE'")
    in_one_transaction(db, seed["up"])
    assert column(db, "SELECT value FROM system_configurations WHERE key = 'MAX_LOGIN_ATTEMPTS'") == ["7"]
    in_one_transaction(db, seed["down"])
    assert column(db, "SELECT key FROM system_configurations ORDER BY key") == [
        "MAINTENANCE_MODE",
        "MAX_LOGIN_ATTEMPTS",
    ]


def test_an_environment_may_give_its_own_settings() -> None:
    given = [
        {
            "key": "SYSTEM_NAME",
            "value": "O'Brien's school",
            "category": "GENERAL",
            "display_name": "Name",
            "description": "d",
            "rules": {"type": "string"},
        }
    ]
    rendered = migration_tree.render(migration_tree.read_tree(SQL), {"settings": given})
    seed = next(item for item in rendered if item["version"] == SETTINGS)["steps"][1]["up"][0]["sql"]
    assert "'O''Brien''s school'" in seed
    assert "MAX_LOGIN_ATTEMPTS" not in seed


def test_incidents_keep_their_data_through_up_and_down(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    for version in SHIPPED[:-1]:
        up(db, chain[version])
    seed_incidents(db)
    rows = "SELECT md5(string_agg(r::text, '|' ORDER BY id)) FROM (SELECT id, type, severity, description, \"createdAt\" FROM incident_reports) AS r"
    before = column(db, rows)
    up(db, chain[INCIDENTS])
    assert column(db, rows) == before
    assert column(db, "SELECT DISTINCT status FROM incident_reports") == ["PENDING_REVIEW"]
    down(db, chain[INCIDENTS])
    assert column(db, rows) == before


@BY_PLAIN_SQL
def test_the_status_is_limited_by_the_database(db: Any) -> None:
    seed_incidents(db)
    with db.cursor() as cursor, pytest.raises(psycopg2.errors.CheckViolation):
        cursor.execute("UPDATE incident_reports SET status = 'LOST'")


@BY_PLAIN_SQL
def test_safety_stays_while_an_incident_uses_it(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    seed_incidents(db)
    with db.cursor() as cursor:
        cursor.execute("UPDATE incident_reports SET type = 'SAFETY' WHERE type = 'OTHER'")
        count = cursor.rowcount
    with pytest.raises(PgopsError) as caught:
        down(db, chain[INCIDENTS])
    assert caught.value.sqlstate == "55006"
    assert f"{count} row(s) of incident_reports.type" in str(caught.value)
    assert "another value" in str(caught.value.hint)
    assert "SAFETY" in labels(db, "IncidentType")
    with db.cursor() as cursor:
        cursor.execute("UPDATE incident_reports SET type = 'OTHER' WHERE type = 'SAFETY'")
    engine.take_back_labels(db, chain[INCIDENTS]["steps"][0], [])
    assert "SAFETY" not in labels(db, "IncidentType")


@EVERY_MAJOR
def test_the_type_gets_back_its_grants_comment_owner_and_foreign_labels(
    db: Any, chain: dict[str, dict[str, Any]], server: Any
) -> None:
    for version in SHIPPED[:-1]:
        up(db, chain[version])
    with db.cursor() as cursor:
        cursor.execute("""
            COMMENT ON TYPE "IncidentType" IS 'it''s ours';
            REVOKE ALL ON TYPE "IncidentType" FROM PUBLIC;
            GRANT USAGE ON TYPE "IncidentType" TO white_cross_app WITH GRANT OPTION;
            ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO white_cross_backup;
            ALTER TYPE "IncidentType" ADD VALUE 'LOCAL' BEFORE 'OTHER';
        """)
    before = catalog.inventory(db)
    up(db, chain[INCIDENTS])
    down(db, chain[INCIDENTS])
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
    assert labels(db, "IncidentType")[-2:] == ["LOCAL", "OTHER"]


@BY_PLAIN_SQL
def test_the_down_of_safety_says_when_there_is_nothing_to_remove(db: Any, chain: dict[str, dict[str, Any]]) -> None:
    step = chain[INCIDENTS]["steps"][0]
    engine.take_back_labels(db, step, [])
    assert engine.take_back_labels(db, step, []).said("no label of this version: nothing to remove")


@pytest.mark.parametrize(
    ("version", "damage", "expected"),
    [
        (BASE, "DROP TABLE contacts", "table contacts"),
        (BASE, 'ALTER TABLE schools DROP COLUMN "zipCode"', "column schools.zipCode"),
        (BASE, "DROP INDEX users_role_idx", "index users_role_idx"),
        (BASE, 'ALTER TABLE schools DROP CONSTRAINT "schools_districtId_fkey"', "foreign key schools"),
        (
            BASE,
            (
                'ALTER TABLE schools DROP CONSTRAINT "schools_districtId_fkey", ADD CONSTRAINT "schools_districtId_fkey" '
                'FOREIGN KEY ("districtId") REFERENCES districts'
            ),
            "foreign key schools",
        ),
        (BASE, "ALTER TABLE contacts ALTER type TYPE text", "column contacts.type"),
        (HEALTH, "ALTER TYPE \"AllergySeverity\" RENAME VALUE 'MILD' TO 'LIGHT'", "enum AllergySeverity label MILD"),
        (CRITICAL, "DROP INDEX emergency_contacts_priority_idx", "index emergency_contacts_priority_idx"),
        (SETTINGS, "DELETE FROM system_configurations WHERE key = 'SYSTEM_NAME'", "setting SYSTEM_NAME"),
        (
            INCIDENTS,
            "ALTER TABLE incident_reports DROP CONSTRAINT incident_reports_status_check",
            "constraint incident",
        ),
        (INCIDENTS, "ALTER TABLE incident_reports ALTER status DROP DEFAULT", "column incident_reports.status"),
        (INCIDENTS, "ALTER TABLE incident_reports DROP COLUMN status", "column incident_reports.status"),
        (INCIDENTS, "DROP INDEX incident_reports_type_status_idx", "index incident_reports_type_status_idx"),
        (
            INCIDENTS,
            (
                "ALTER TABLE incident_reports DROP CONSTRAINT incident_reports_status_check, "
                "ADD CONSTRAINT incident_reports_status_check CHECK (status IN ('DRAFT')) NOT VALID"
            ),
            "constraint incident",
        ),
    ],
)
@BY_PLAIN_SQL
def test_the_verification_sees_each_kind_of_damage(
    db: Any, chain: dict[str, dict[str, Any]], version: str, damage: str, expected: str
) -> None:
    with db.cursor() as cursor:
        cursor.execute(damage)
    found = differences(db, chain[version])
    assert any(str(row[0]).startswith(expected) for row in found), found
    assert all(len(row) == 3 for row in found)


@BY_PLAIN_SQL
def test_phi_is_marked_in_the_database(db: Any) -> None:
    marked = column(
        db,
        "SELECT DISTINCT objoid::regclass::text FROM pg_description WHERE objsubid > 0 AND description LIKE 'PHI%'",
    )
    assert set(marked) == {
        "allergies",
        "appointments",
        "chronic_conditions",
        "contacts",
        "emergency_contacts",
        "health_records",
        "incident_reports",
        "medication_logs",
        "student_medications",
        "students",
    }


# --- through the engine -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@EACH_MAJOR_OF_A_RELEASE
def test_R14_7_17_the_engine_applies_all_reverts_all_and_applies_again(
    target: Any, db: Any, chain: dict[str, dict[str, Any]]
) -> None:
    migrations = list(chain.values())
    empty = catalog.inventory(db)
    started = time.monotonic()
    for _ in range(2):
        first = migrate.apply(target, migrations, Selection(), engine.way())
        assert [item["version"] for item in first["applied"]] == list(chain)
        full = catalog.inventory(db)
        second = migrate.apply(target, migrations, Selection(), engine.way())
        assert second["applied"] == []
        assert catalog.compare(full, catalog.inventory(db), ignore=()) == []
        migrate.revert(target, Reverts(steps=len(chain)), engine.way())
        assert catalog.compare(empty, catalog.inventory(db), ignore=()) == []
    assert time.monotonic() - started < ALL_UP_AND_DOWN_S


@pytest.mark.begins()
def test_the_engine_makes_what_the_plain_sql_makes(
    target: Any, db: Any, chain: dict[str, dict[str, Any]], server: Any, database: str
) -> None:
    by_engine = catalog.inventory(db)
    plain = f"{database}_plain"
    server.create_database(plain)
    other = connection.connect(target.with_(database=plain), application_name="pgops test")
    try:
        for migration in chain.values():
            up(other, migration)
        assert catalog.compare(catalog.inventory(other), by_engine, ignore=()) == []
    finally:
        other.close()


@BY_PLAIN_SQL
def test_R3_4_what_is_there_already_with_the_same_definition_is_taken_over(
    target: Any, db: Any, chain: dict[str, dict[str, Any]]
) -> None:
    seed_incidents(db)
    before = catalog.inventory(db)
    result = migrate.apply(target, [chain[version] for version in SHIPPED], Selection(), engine.way())
    assert len(result["applied"]) == len(SHIPPED)
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
    assert column(db, "SELECT count(*) FROM incident_reports") == [20]


def test_the_engine_refuses_a_table_of_that_name_with_another_definition(
    target: Any, db: Any, chain: dict[str, dict[str, Any]]
) -> None:
    with db.cursor() as cursor:
        cursor.execute("CREATE TABLE districts (id text PRIMARY KEY)")
    with pytest.raises(PgopsError, match="districts") as caught:
        migrate.apply(target, list(chain.values()), Selection(), engine.way())
    assert str(caught.value.location).startswith(f"{BASE}_create_base_schema/up.sql.j2:")
    assert column(db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == ["districts"]


@pytest.mark.begins(INCIDENTS)
def test_the_engine_tells_why_safety_cannot_go_yet(target: Any, db: Any, chain: dict[str, dict[str, Any]]) -> None:
    seed_incidents(db)
    with db.cursor() as cursor:
        cursor.execute("UPDATE incident_reports SET type = 'SAFETY' WHERE type = 'OTHER'")
    with pytest.raises(PgopsError, match=r"in use: \d+ row\(s\) of incident_reports.type, id ") as caught:
        migrate.revert(target, Reverts(), engine.way())
    assert caught.value.sqlstate == "55006"
    assert "another value" in str(caught.value.hint)
    assert engine.state(target, INCIDENTS)["state"] == "applied"


@pytest.mark.begins()
def test_the_example_of_the_documentation_applies_and_goes_back_with_data(
    target: Any, db: Any, chain: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(SQL / "migrations", tmp_path / "migrations")
    example = SQL.parent / "docs" / "examples" / "add_student_nickname"
    shutil.copytree(example, tmp_path / "migrations" / "20260101000000_add_student_nickname")
    seed_people(db)
    before = catalog.inventory(db)
    migrations = migration_tree.render(migration_tree.read_tree(tmp_path), {"shortest": 3})
    migrate.apply(target, migrations, Selection(), engine.way())
    # 'P1' to 'P9' are too short, 'P10' to 'P20' are not.
    assert column(db, "SELECT count(nickname) FROM students") == [11]
    assert differences(db, migrations[-1]) == []
    migrate.revert(target, Reverts(), engine.way())
    assert catalog.compare(before, catalog.inventory(db), ignore=()) == []
