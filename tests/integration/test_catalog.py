# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory sees every change of every kind of object, and sees none where a dump was restored."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog
from support.server import APP, SUPERUSER, Server

ZOO = (Path(__file__).parent / "zoo.sql").read_text(encoding="utf-8")
MAJORS = (15, 16, 17, 18)


@pytest.fixture(scope="session")
def zoo(server: Server) -> Iterator[str]:
    """A database with one object of every kind; tests change it only inside a transaction that they roll back."""
    name = f"t_zoo_{secrets.token_hex(4)}"
    server.create_database(name)
    server.execute(ZOO, database=name)
    yield name
    server.drop_databases(name)


@pytest.fixture(scope="session")
def untouched(server: Server, zoo: str) -> catalog.Inventory:
    with server.session(zoo) as connection:
        return catalog.inventory(connection)


@pytest.fixture
def conn(server: Server, zoo: str) -> Iterator[Any]:
    with server.session(zoo) as connection:
        yield connection


def restored(server: Server, source: str, *options: str) -> str:
    """A dump of the database by the server's own client, restored into a new one. Returns its name."""
    name = f"{source}_{secrets.token_hex(3)}"
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    place = ["--host", server.host, "--port", str(server.port), "--username", SUPERUSER, "--no-password"]
    environment = {"PGPASSFILE": str(server.passfile), "PATH": "/usr/bin:/bin"}
    dump = subprocess.run(
        [server.bindir / "pg_dump", *place, "-Fc", *options, source],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    subprocess.run(
        [server.bindir / "pg_restore", *place, "--exit-on-error", "--dbname", name],
        env=environment, check=True, input=dump,
    )  # fmt: skip
    return name


def changes(conn: Any, before: catalog.Inventory, statement: str) -> set[tuple[str, str]]:
    """(object, attribute or missing/unexpected) that the statement changes; it is rolled back."""
    with conn.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            cursor.execute(statement)
            after = catalog.inventory(conn)
        finally:
            cursor.execute("ROLLBACK")
    return {(item.object, item.attribute or item.kind) for item in catalog.compare(before, after, ignore=())}


@pytest.mark.majors(*MAJORS)
def test_a_restore_of_a_dump_shows_no_difference(server: Server, zoo: str, conn: Any) -> None:
    copy = restored(server, zoo)
    with server.session(copy) as other:
        expected, found = catalog.inventory(conn), catalog.inventory(other)
        assert catalog.compare(expected, found, reparse=other, ignore=()) == []


@pytest.mark.majors(15, 18)
def test_without_parsing_again_the_prints_of_a_restore_differ(server: Server, zoo: str, conn: Any) -> None:
    """The guard of the test above: these are the prints that parsing again makes equal."""
    with server.session(restored(server, zoo)) as other:
        differences = catalog.compare(catalog.inventory(conn), catalog.inventory(other), ignore=())
    assert {catalog.kind_of(item.object) for item in differences} >= {
        "constraint", "domain constraint", "index", "view", "materialized view", "policy", "trigger", "function",
        "statistics", "table",
    }  # fmt: skip
    assert all(item.kind == "different" for item in differences)


def test_parsing_again_keeps_a_real_difference_and_writes_nothing(server: Server, zoo: str, conn: Any) -> None:
    with server.session(restored(server, zoo)) as other:
        with other.cursor() as cursor:
            cursor.execute(
                "ALTER TABLE public.students DROP CONSTRAINT status_known, "
                "ADD CONSTRAINT status_known CHECK (status IN ('active', 'gone', 'lost'))"
            )
        before = catalog.fingerprint(catalog.inventory(other))
        differences = catalog.compare(catalog.inventory(conn), catalog.inventory(other), reparse=other)
        assert before == catalog.fingerprint(catalog.inventory(other))
    told = {(item.object, item.attribute) for item in differences}
    assert told == {
        ("constraint public.students.status_known", "definition"),
        ("constraint public.students.status_known", "comment"),
    }
    assert "lost" in next(item.found for item in differences if item.attribute == "definition")


TABLE, COLUMN = "table public.students", "column public.students.status"

MUTATIONS: list[tuple[str, set[tuple[str, str]]]] = [
    ("CREATE SCHEMA extra", {("schema extra", "unexpected")}),
    ("COMMENT ON SCHEMA clinic IS 'other'", {("schema clinic", "comment")}),
    ("GRANT CREATE ON SCHEMA clinic TO white_cross_app", {("schema clinic", "acl")}),
    ("ALTER SCHEMA clinic OWNER TO white_cross_owner", {("schema clinic", "owner"), ("schema clinic", "acl")}),
    ("DROP EXTENSION pg_trgm CASCADE", {("extension pg_trgm", "missing"), ("index public.students_trgm", "missing")}),
    ("ALTER TYPE \"UserRole\" RENAME VALUE 'NURSE' TO 'DOCTOR'", {('type public."UserRole"', "labels")}),
    ("ALTER TYPE \"UserRole\" ADD VALUE 'DOCTOR' BEFORE 'NURSE'", {('type public."UserRole"', "labels")}),
    ("ALTER DOMAIN clinic.grade SET DEFAULT '1'", {("type clinic.grade", "default")}),
    ("ALTER DOMAIN clinic.grade DROP NOT NULL", {("type clinic.grade", "not_null")}),
    ("ALTER DOMAIN clinic.grade DROP CONSTRAINT grade_known",
     {("domain constraint clinic.grade.grade_known", "missing")}),
    ("ALTER TYPE clinic.dose ADD ATTRIBUTE way text CASCADE", {("type clinic.dose", "attributes")}),
    ("COMMENT ON TYPE clinic.dose IS 'other'", {("type clinic.dose", "comment")}),
    ("ALTER TABLE students SET (fillfactor = 70)", {(TABLE, "options")}),
    ("ALTER TABLE students SET (toast.autovacuum_enabled = true)", {(TABLE, "toast_options")}),
    ("ALTER TABLE students DISABLE ROW LEVEL SECURITY", {(TABLE, "row_security")}),
    ("ALTER TABLE students NO FORCE ROW LEVEL SECURITY", {(TABLE, "force_row_security")}),
    ("ALTER TABLE students REPLICA IDENTITY FULL", {(TABLE, "replica_identity")}),
    ("ALTER TABLE clinic.scratch SET LOGGED", {("table clinic.scratch", "persistence")}),
    ("ALTER TABLE clinic.child NO INHERIT clinic.parent", {("table clinic.child", "parents")}),
    ("ALTER TABLE clinic.scratch OWNER TO white_cross_owner",
     {("table clinic.scratch", "owner"), ("table clinic.scratch", "acl")}),
    ("GRANT DELETE ON students TO white_cross_app", {(TABLE, "acl")}),
    ("ALTER TABLE students ALTER status TYPE varchar(21)",
     {(COLUMN, "type"), ("view clinic.active", "missing"), ("materialized view clinic.totals", "missing")}),
    ("ALTER TABLE students ALTER status SET NOT NULL", {(COLUMN, "not_null")}),
    ("ALTER TABLE students ALTER status SET DEFAULT 'gone'", {(COLUMN, "default")}),
    ("ALTER TABLE students ALTER status SET STATISTICS 400", {(COLUMN, "statistics")}),
    ("ALTER TABLE students ALTER status SET STORAGE EXTERNAL", {(COLUMN, "storage")}),
    ("ALTER TABLE students ALTER status SET COMPRESSION pglz", {(COLUMN, "compression")}),
    ("ALTER TABLE students ALTER doc SET (n_distinct = 6)", {("column public.students.doc", "options")}),
    ("COMMENT ON COLUMN students.status IS NULL", {(COLUMN, "comment")}),
    ("REVOKE UPDATE (status) ON students FROM white_cross_app", {(COLUMN, "acl")}),
    ("ALTER TABLE students ALTER id SET GENERATED BY DEFAULT", {("column public.students.id", "identity")}),
    ("ALTER TABLE students ALTER full_name DROP EXPRESSION",
     {("column public.students.full_name", "generated"), ("column public.students.full_name", "default")}),
    ("ALTER TABLE districts ALTER name TYPE text", {("column public.districts.name", "collation")}),
    ("ALTER TABLE students ADD extra int", {("column public.students.extra", "unexpected")}),
    ("ALTER TABLE students DROP CONSTRAINT status_known", {("constraint public.students.status_known", "missing")}),
    ("ALTER TABLE students VALIDATE CONSTRAINT price_positive",
     {("constraint public.students.price_positive", "validated")}),
    ("ALTER TABLE students ALTER CONSTRAINT \"students_districtId_fkey\" NOT DEFERRABLE",
     {("constraint public.students.\"students_districtId_fkey\"", "definition")}),
    ("ALTER TABLE students DISABLE TRIGGER ALL",
     {("constraint public.students.\"students_districtId_fkey\"", "triggers"),
      ("trigger public.students.students_touch", "enabled"),
      ("trigger public.students.students_always", "enabled")}),
    ("COMMENT ON CONSTRAINT status_known ON students IS 'd'", {("constraint public.students.status_known", "comment")}),
    ("DROP INDEX students_active", {("index public.students_active", "missing")}),
    ("DROP INDEX students_active; CREATE INDEX students_active ON students (status)",
     {("index public.students_active", "definition"), ("index public.students_active", "comment")}),
    ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'students_trgm'::regclass",
     {("index public.students_trgm", "valid")}),
    ("ALTER TABLE students SET WITHOUT CLUSTER", {("index public.students_pkey", "clustered")}),
    ("ALTER INDEX students_expr ALTER COLUMN 1 SET STATISTICS 200", {("index public.students_expr", "statistics")}),
    ("ALTER SEQUENCE clinic.ticket INCREMENT 6", {("sequence clinic.ticket", "increment")}),
    ("ALTER SEQUENCE clinic.ticket NO CYCLE MAXVALUE 7000",
     {("sequence clinic.ticket", "cycle"), ("sequence clinic.ticket", "maximum")}),
    ("ALTER SEQUENCE clinic.ticket OWNED BY clinic.ident.k", {("sequence clinic.ticket", "owned_by")}),
    ("CREATE OR REPLACE VIEW clinic.active AS SELECT id, \"lastName\", status FROM students",
     {("view clinic.active", "definition")}),
    ("ALTER VIEW clinic.safe SET (security_barrier = false)", {("view clinic.safe", "options")}),
    ("REFRESH MATERIALIZED VIEW clinic.empty", {("materialized view clinic.empty", "populated")}),
    ("CREATE OR REPLACE FUNCTION clinic.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
     {("function clinic.touch()", "definition")}),
    ("ALTER FUNCTION clinic.plus SECURITY DEFINER", {("function clinic.plus(a integer, b integer)", "definition")}),
    ("GRANT EXECUTE ON FUNCTION clinic.plus TO PUBLIC", {("function clinic.plus(a integer, b integer)", "acl")}),
    ("CREATE OR REPLACE AGGREGATE clinic.total(int) (SFUNC = clinic.plus, STYPE = int, INITCOND = '1', PARALLEL = SAFE)",
     {("aggregate clinic.total(integer)", "aggregate")}),
    ("DROP PROCEDURE clinic.work", {("procedure clinic.work(IN x integer)", "missing")}),
    ("DROP TRIGGER students_touch ON students", {("trigger public.students.students_touch", "missing")}),
    ("ALTER TABLE students ENABLE TRIGGER students_off", {("trigger public.students.students_off", "enabled")}),
    ("ALTER TABLE clinic.scratch DISABLE RULE no_delete", {("rule clinic.scratch.no_delete", "enabled")}),
    ("ALTER POLICY own ON students TO white_cross_app", {("policy public.students.own", "roles")}),
    ("ALTER POLICY ins ON students WITH CHECK (true)", {("policy public.students.ins", "check")}),
    ("ALTER STATISTICS students_stats SET STATISTICS 50", {("statistics public.students_stats", "statistics")}),
    ("ALTER EVENT TRIGGER watch ENABLE", {("event trigger watch", "enabled")}),
    ("ALTER PUBLICATION pub SET (publish = 'insert, truncate')", {("publication pub", "truncate")}),
    ("ALTER PUBLICATION pub SET TABLE clinic.ident (k, v)", {("publication pub", "tables")}),
    ("ALTER SERVER far OPTIONS (SET host 'i')", {("server far", "options")}),
    ("ALTER FOREIGN TABLE clinic.remote OPTIONS (SET t 'z')", {("foreign table clinic.remote", "foreign")}),
    ("DROP USER MAPPING FOR PUBLIC SERVER far", {("user mapping public server far", "missing")}),
    ("DROP CAST (clinic.dose AS text)", {("cast clinic.dose as text", "missing")}),
    ("DROP OPERATOR clinic.<+> (int, int)", {("operator clinic.<+>(integer,integer)", "missing")}),
    ("DROP OPERATOR FAMILY clinic.int_backwards USING btree CASCADE",
     {("operator class clinic.int_backwards using btree", "missing"),
      ("operator family clinic.int_backwards using btree", "missing")}),
    ("ALTER TEXT SEARCH CONFIGURATION clinic.search DROP MAPPING FOR word",
     {("text search configuration clinic.search", "mappings")}),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA clinic GRANT INSERT ON TABLES TO white_cross_app",
     {("default privileges postgres in clinic on tables", "acl")}),
    ("DROP COLLATION clinic.plain", {("collation clinic.plain", "missing")}),
    ("ALTER TABLE clinic.events DETACH PARTITION clinic.events_2025",
     {("table clinic.events_2025", "partition_bound"), ("table clinic.events_2025", "parents"),
      ("index clinic.events_2025_pkey", "parent"), ("index clinic.events_2025_kind_idx", "parent"),
      ("trigger clinic.events_2025.events_touch", "missing")}),
]  # fmt: skip


@pytest.mark.majors(15, 18)
@pytest.mark.parametrize(("statement", "expected"), MUTATIONS, ids=[statement[:60] for statement, _ in MUTATIONS])
def test_a_change_is_seen_at_its_object(
    conn: Any, untouched: catalog.Inventory, statement: str, expected: set[tuple[str, str]]
) -> None:
    if "ALTER status TYPE" in statement:
        statement = WITHOUT_USERS_OF_STATUS + statement
        assert expected <= changes(conn, untouched, statement)
    else:
        assert changes(conn, untouched, statement) == expected


# A column's type changes only when no view, policy, trigger or statistics object names it.
WITHOUT_USERS_OF_STATUS = """
DROP VIEW clinic.active; DROP MATERIALIZED VIEW clinic.totals; DROP POLICY own ON students; DROP POLICY ins ON students;
DROP TRIGGER students_touch ON students; DROP STATISTICS students_stats; DROP STATISTICS students_expr_stats;
"""


def test_the_column_number_and_the_age_of_an_object_do_not_count(server: Server, database: str) -> None:
    make = "CREATE TABLE t (a int, b text DEFAULT 'x', CONSTRAINT a_sane CHECK (a > 0)); CREATE INDEX t_b ON t (b)"
    server.execute(make, database=database)
    with server.session(database) as conn:
        first = catalog.inventory(conn)
        with conn.cursor() as cursor:
            cursor.execute(
                "DROP TABLE t; CREATE TABLE t (gone int, b text DEFAULT 'x', a int); ALTER TABLE t DROP gone;"
                "CREATE INDEX t_b ON t (b); ALTER TABLE t ADD CONSTRAINT a_sane CHECK (a > 0)"
            )
        second = catalog.inventory(conn)
    assert catalog.compare(first, second, ignore=()) == []
    assert catalog.fingerprint(first) == catalog.fingerprint(second)


@pytest.mark.majors(17, 18)
def test_the_generated_name_of_a_not_null_constraint_does_not_count(server: Server, database: str) -> None:
    server.execute("CREATE TABLE a (x int NOT NULL); CREATE TABLE b (x int NOT NULL)", database=database)
    server.execute("ALTER TABLE b RENAME TO c; ALTER TABLE a RENAME TO b", database=database)
    with server.session(database) as conn:
        first = catalog.inventory(conn)
        server.execute("DROP TABLE b; CREATE TABLE b (x int NOT NULL)", database=database)
        assert catalog.fingerprint(first) == catalog.fingerprint(catalog.inventory(conn))


def test_not_null_that_is_not_validated_is_told_apart(server: Server, database: str) -> None:
    server.execute("CREATE TABLE a (x int); ALTER TABLE a ADD CONSTRAINT n NOT NULL x NOT VALID", database=database)
    with server.session(database) as conn:
        assert catalog.inventory(conn)["column public.a.x"]["not_null"] == "not valid"


def test_an_explicit_default_privilege_equals_none(server: Server, database: str) -> None:
    server.execute("CREATE TABLE t (a int)", database=database)
    with server.session(database) as conn:
        before = catalog.fingerprint(catalog.inventory(conn))
        server.execute("GRANT ALL ON t TO CURRENT_USER", database=database)
        assert catalog.fingerprint(catalog.inventory(conn)) == before
        server.execute("GRANT SELECT ON t TO white_cross_app", database=database)
        assert catalog.fingerprint(catalog.inventory(conn)) != before
        assert catalog.fingerprint(catalog.inventory(conn), ignore=["acl"])


def test_a_name_that_exists_in_two_schemas_is_not_mixed_up(server: Server, database: str) -> None:
    """Fact 19: an exact copy of a partial index's name in another schema."""
    server.execute(
        "CREATE SCHEMA other; CREATE TABLE t (a int); CREATE TABLE other.t (a int);"
        "CREATE INDEX t_a ON t (a) WHERE a > 1; CREATE INDEX t_a ON other.t (a) WHERE a > 2",
        database=database,
    )
    with server.session(database) as conn:
        found = catalog.inventory(conn)
        assert "(a > 1)" in found["index public.t_a"]["definition"]
        assert "(a > 2)" in found["index other.t_a"]["definition"]
        assert set(catalog.inventory(conn, schemas=["other"])) == {
            "schema other", "table other.t", "column other.t.a", "index other.t_a",
        }  # fmt: skip


def test_members_of_an_extension_and_the_ledger_are_left_out(server: Server, database: str) -> None:
    with server.session(database) as conn:
        before = set(catalog.inventory(conn))
        server.execute("CREATE EXTENSION citext; CREATE SCHEMA pgops; CREATE TABLE pgops.t (a int)", database=database)
        assert set(catalog.inventory(conn)) - before == {"extension citext"}
        assert "table pgops.t" in catalog.inventory(conn, exclude_schemas=())


def test_the_inventory_is_plain_data_that_no_setting_of_the_role_changes(server: Server, zoo: str, conn: Any) -> None:
    first = catalog.inventory(conn)
    assert json.loads(json.dumps(first)) == first
    with conn.cursor() as cursor:
        cursor.execute("SET search_path = clinic, public; SET DateStyle = 'SQL, DMY'; SET quote_all_identifiers = off")
        second = catalog.inventory(conn)
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("clinic, public",)
    assert catalog.fingerprint(first) == catalog.fingerprint(second)


def test_the_inventory_sees_the_callers_transaction_and_leaves_it_open(server: Server, zoo: str) -> None:
    with server.session(zoo, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE in_flight (a int); SET LOCAL search_path = clinic")
        assert "table public.in_flight" in catalog.inventory(conn)
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("clinic",)
        conn.rollback()
        assert "table public.in_flight" not in catalog.inventory(conn)


@pytest.mark.majors(15, 18)
def test_a_role_without_any_right_sees_the_same_catalog(server: Server, zoo: str, untouched: catalog.Inventory) -> None:
    with server.session(zoo, APP) as conn:
        assert catalog.compare(untouched, catalog.inventory(conn), ignore=()) == []
        assert catalog.database_properties(conn)["owner"] == "white_cross_owner"


def test_sixty_tables_take_as_many_queries_as_one(server: Server, database: str) -> None:
    asked: list[str] = []

    class Counting(psycopg2.extensions.cursor):
        def execute(self, query: Any, parameters: Any = None) -> None:
            asked.append(str(query))
            super().execute(query, parameters)

    def queries(tables: int) -> int:
        server.execute(
            f"DO $$ BEGIN FOR i IN 1..{tables} LOOP EXECUTE format('CREATE TABLE IF NOT EXISTS t%s (id uuid PRIMARY KEY, "
            "a text NOT NULL, e numeric CHECK (e > 0))', i); END LOOP; END $$",
            database=database,
        )
        asked.clear()
        with server.session(database) as conn:
            conn.cursor_factory = Counting
            catalog.inventory(conn)
        return len(asked)

    assert queries(1) > 0
    assert queries(1) == queries(60)


def test_what_belongs_to_the_database_itself(server: Server, database: str) -> None:
    server.execute(f"ALTER DATABASE {database} SET statement_timeout = '7s'")
    server.execute(f"ALTER ROLE white_cross_app IN DATABASE {database} SET work_mem = '8MB'")
    server.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    server.execute(f"COMMENT ON DATABASE {database} IS 'schools'; ALTER DATABASE {database} CONNECTION LIMIT 9")
    with server.session(database) as conn:
        found = catalog.database_properties(conn)
    assert found["owner"] == "white_cross_owner"
    assert (found["encoding"], found["comment"], found["connection_limit"]) == ("UTF8", "schools", 9)
    assert found["settings"] == ["statement_timeout=7s"]
    assert found["role_settings"] == {"white_cross_app": ["work_mem=8MB"]}
    assert found["acl"] == ["=T/white_cross_owner", "white_cross_owner=CTc/white_cross_owner"]


def test_a_difference_says_object_expected_and_found() -> None:
    expected = {"table public.a": {"owner": "x", "options": ["fillfactor=70"]}, "table public.b": {}}
    found = {"table public.a": {"owner": "y"}, "table public.c": {}}
    assert [str(item) for item in catalog.compare(expected, found)] == [
        'table public.a: options expected ["fillfactor=70"], found nothing',
        "table public.b: expected, not found",
        "table public.c: found, not expected",
    ]


def test_an_expression_that_the_other_database_does_not_take_stays_a_difference(server: Server, database: str) -> None:
    server.execute("CREATE TABLE t (a varchar(9), CONSTRAINT c CHECK (a IN ('x', 'y')))", database=database)
    with server.session(database) as conn:
        found = catalog.inventory(conn)
        broken = {**found, "constraint public.t.c": {**found["constraint public.t.c"], "definition": "CHECK (gone(a))"}}
        differences = catalog.compare(found, broken, reparse=conn)
        assert [item.attribute for item in differences] == ["definition"]
        assert conn.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
