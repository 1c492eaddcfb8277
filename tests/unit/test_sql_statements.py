# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Statements: where they begin, what they make and remove, which have no place in a sql step."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import Statement, split


def one(sql: str) -> Statement:
    (statement,), findings = split(sql, "f")
    assert findings == []
    return statement


def refusal(sql: str) -> str:
    _, findings = split(sql, "v/up.sql.j2")
    assert len(findings) == 1, findings
    return str(findings[0])


def test_each_statement_has_its_own_text_and_line() -> None:
    statements, findings = split("-- head\nSELECT 'é;';\n\n/* ; */ SELECT 2 -- x;\n;SELECT\n 3", "f")
    assert [(s.line, s.sql) for s in statements] == [
        (2, "SELECT 'é;'"),
        (4, "SELECT 2 -- x;"),
        (5, "SELECT\n 3"),
    ]
    assert findings == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $x$ BEGIN PERFORM 1; PERFORM ';'; END $x$",
        "DO $$ BEGIN RAISE NOTICE 'a;b'; END $$",
        "SELECT E'\\';', U&'\\0041;', \"a;b\" FROM t /* a /* nested; */ b; */",
    ],
)
def test_a_semicolon_inside_a_body_quote_or_comment_does_not_split(sql: str) -> None:
    assert one(sql).sql == sql


def test_a_syntax_error_gives_the_line_of_the_template() -> None:
    assert refusal("SELECT 1;\nSELECT 'é';\nSELEC 2;") == 'v/up.sql.j2:3: syntax error at or near "SELEC"'
    assert refusal("SELECT 1;\nSELECT (2") == "v/up.sql.j2:2: syntax error at end of input"
    assert refusal("SELECT 1;\n\nSELECT 'open").startswith("v/up.sql.j2:3: unterminated quoted string")


@pytest.mark.parametrize(
    ("sql", "advice"),
    [
        ("BEGIN", "the engine opens and commits"),
        ("COMMIT", "the engine opens and commits"),
        ("ROLLBACK", "the engine opens and commits"),
        ("SAVEPOINT a", "the engine opens and commits"),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "'indexes' step"),
        ("DROP INDEX CONCURRENTLY i", "'indexes' step"),
        ("REINDEX TABLE t", "maintenance.yml"),
        ("VACUUM t", "maintenance.yml"),
        ("ANALYZE t", "'analyze' step"),
        ("CREATE DATABASE d", "one database only"),
        ("DROP DATABASE d", "one database only"),
        ("CREATE TABLESPACE s LOCATION '/x'", "whole cluster"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "whole cluster"),
        ("ALTER DATABASE d SET work_mem = '1MB'", "lost by a restore"),
        ("COPY t FROM STDIN", "write INSERT"),
        ("SET lock_timeout = 0", "budgets in migration.yml"),
        ("RESET ALL", "budgets in migration.yml"),
        ("SET LOCAL search_path = x", "name the schema"),
        ("SET LOCAL ROLE x", "name the schema"),
        ("DISCARD ALL", "session state"),
        ("EXPLAIN ANALYZE DELETE FROM t", "remove the EXPLAIN"),
        ("PREPARE gone AS DELETE FROM t", "outlives the step"),
        ("EXECUTE gone", "write the statement itself"),
        ("DEALLOCATE gone", "outlives the step"),
        ("ALTER TABLE t VALIDATE CONSTRAINT c", "'validate' step"),
    ],
)
def test_what_has_no_place_in_a_sql_step_is_refused_with_the_way_out(sql: str, advice: str) -> None:
    message = refusal(f"SELECT 1;\n{sql};")
    assert message.startswith("v/up.sql.j2:2: ")
    assert advice in message


def test_set_local_of_a_setting_is_fine() -> None:
    assert one("SET LOCAL work_mem = '64MB'").creates is None


def test_psql_commands_are_called_so() -> None:
    assert refusal("SELECT 1;\n\\i other.sql\n") == (
        "v/up.sql.j2:2: \\i is a command of psql, not SQL; the server does not know it, so write the SQL itself"
    )


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    assert "64 bytes" in refusal(f"CREATE TABLE {'a' * 64} (i int)")
    assert "80 bytes" in refusal(f'CREATE TABLE "{"é" * 40}" (i int)')
    assert split(f"CREATE TABLE {'a' * 63} (i int)", "f")[1] == []


def test_a_table_is_told_with_columns_as_the_catalog_prints_them() -> None:
    made = one(
        "CREATE TABLE a (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n varchar(20), t timestamptz(3) NOT NULL,"
        ' e public."Kind" DEFAULT \'X\', i int[], d numeric(10,2), p double precision, b bool, s "my schema".x,'
        " j json, z time, c char(3), v interval day to second, CONSTRAINT u UNIQUE (n),"
        ' r uuid REFERENCES b ("Id") ON DELETE SET NULL)'
    ).creates
    assert made is not None
    assert (made["kind"], made["schema"], made["name"]) == ("table", "public", "a")
    assert [(c["name"], c["type"], c["not_null"]) for c in made["columns"]] == [
        ("id", "uuid", True),
        ("n", "character varying(20)", False),
        ("t", "timestamp(3) with time zone", True),
        ("e", '"Kind"', False),
        ("i", "integer[]", False),
        ("d", "numeric(10,2)", False),
        ("p", "double precision", False),
        ("b", "boolean", False),
        ("s", '"my schema".x', False),
        ("j", "json", False),
        ("z", "time without time zone", False),
        ("c", "character(3)", False),
        ("v", "interval day to second", False),
        ("r", "uuid", False),
    ]
    assert made["columns"][0]["default"] == "gen_random_uuid()"
    assert [(c["name"], c["type"]) for c in made["constraints"]] == [
        ("a_pkey", "primary_key"),
        ("u", "unique"),
        ("a_r_fkey", "foreign_key"),
    ]
    assert made["constraints"][2]["references"] == {"schema": "public", "table": "b", "columns": ["Id"]}
    assert made["constraints"][2]["on_delete"] == "SET NULL"


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (
            "CREATE TYPE s.\"E\" AS ENUM ('A', 'B')",
            {"kind": "type", "schema": "s", "name": "E", "labels": ["A", "B"]},
        ),
        (
            "ALTER TYPE \"E\" ADD VALUE 'C' BEFORE 'B'",
            {"kind": "enum_value", "schema": "public", "type": "E", "name": "C", "before": "B", "after": None},
        ),
        (
            "ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 0",
            {"kind": "column", "table": "t", "name": "c", "type": "integer", "not_null": True, "default": "0"},
        ),
        (
            "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID",
            {"kind": "constraint", "table": "t", "name": "k", "type": "check", "not_valid": True},
        ),
        (
            'CREATE UNIQUE INDEX i ON s.t USING btree (lower("A") text_pattern_ops DESC NULLS LAST) INCLUDE (b) WHERE c',
            {
                "kind": "index",
                "schema": "s",
                "table": "t",
                "name": "i",
                "method": "btree",
                "unique": True,
                "columns": [
                    {"expression": 'lower("A")', "opclass": "text_pattern_ops", "order": "desc", "nulls": "last"}
                ],
                "include": ["b"],
                "where": "c",
            },
        ),
        (
            "CREATE OR REPLACE FUNCTION f(a int, OUT b text) RETURNS text LANGUAGE sql AS 'SELECT $1::text'",
            {"kind": "function", "schema": "public", "name": "f", "arguments": ["integer"], "replace": True},
        ),
        (
            "CREATE TRIGGER g AFTER INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION f()",
            {"kind": "trigger", "schema": "s", "table": "t", "name": "g"},
        ),
        (
            "CREATE POLICY p ON s.t FOR SELECT TO r USING (true)",
            {"kind": "policy", "schema": "s", "table": "t", "name": "p"},
        ),
        ("CREATE EXTENSION pg_trgm", {"kind": "extension", "name": "pg_trgm"}),
        ("CREATE SCHEMA x", {"kind": "schema", "name": "x"}),
    ],
)
def test_what_a_statement_creates(sql: str, wanted: dict[str, Any]) -> None:
    made = one(sql).creates
    assert made is not None
    assert {key: made[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t ADD COLUMN a int, ADD COLUMN b int",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TABLE t (LIKE x)",
        "SELECT 1",
        "INSERT INTO t VALUES (1)",
        "ALTER TYPE e RENAME VALUE 'a' TO 'b'",
    ],
)
def test_what_creates_nothing_that_could_be_compared(sql: str) -> None:
    assert one(sql).creates is None


ROWS_OF_T = {"kind": "rows", "schema": "s", "table": "t", "name": "t"}


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("DROP TABLE IF EXISTS s.t", {"kind": "table", "schema": "s", "table": "t", "name": "t"}),
        (
            "DROP MATERIALIZED VIEW m",
            {"kind": "table", "schema": "public", "table": "m", "name": "m", "materialized": True},
        ),
        ('DROP TYPE "E"', {"kind": "type", "schema": "public", "table": None, "name": "E"}),
        ("DROP INDEX s.i", {"kind": "index", "schema": "s", "table": None, "name": "i"}),
        ("DROP FUNCTION f(int)", {"kind": "function", "schema": "public", "table": None, "name": "f"}),
        ("DROP TRIGGER g ON s.t", {"kind": "trigger", "schema": "s", "table": "t", "name": "g"}),
        ("DROP EXTENSION e", {"kind": "extension", "schema": None, "table": None, "name": "e"}),
        ("DROP POLICY p ON s.t", {"kind": "policy", "schema": "s", "table": "t", "name": "p"}),
        ("TRUNCATE t", {"kind": "rows", "schema": "public", "table": "t", "name": "t"}),
        ("DELETE FROM s.t WHERE a", {"kind": "rows", "schema": "s", "table": "t", "name": "t"}),
        ("WITH g AS (DELETE FROM s.t RETURNING id) UPDATE u SET a = 1 FROM g WHERE u.id = g.id", ROWS_OF_T),
        ("WITH g AS (DELETE FROM s.t RETURNING *) INSERT INTO u SELECT * FROM g", ROWS_OF_T),
        ("INSERT INTO u WITH g AS (DELETE FROM s.t RETURNING *) SELECT * FROM g", ROWS_OF_T),
        ("WITH g AS (DELETE FROM s.t RETURNING *) SELECT count(*) FROM g", ROWS_OF_T),
        ("CREATE TABLE u AS WITH g AS (DELETE FROM s.t RETURNING *) SELECT * FROM g", ROWS_OF_T),
        (
            "MERGE INTO s.t USING u ON t.id = u.id WHEN MATCHED AND u.a THEN UPDATE SET b = 1 WHEN MATCHED THEN DELETE",
            ROWS_OF_T,
        ),
        ("MERGE INTO s.t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET b = 1", None),
        ("WITH g AS (UPDATE s.t SET a = 1 RETURNING *) SELECT count(*) FROM g", None),
        # Nothing of these is run when they are made.
        ("CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM s.t; END", None),
        ("CREATE RULE r AS ON INSERT TO u DO ALSO DELETE FROM s.t", None),
        # Whether these are there still, nobody asks: they are run as they are.
        ("DROP VIEW v", None),
        ("DROP SEQUENCE s", None),
        ("DROP FOREIGN TABLE f", None),
        ("ALTER TABLE t DROP COLUMN c", {"kind": "column", "schema": "public", "table": "t", "name": "c"}),
        ("ALTER TABLE t DROP CONSTRAINT c", {"kind": "constraint", "schema": "public", "table": "t", "name": "c"}),
        # The column is what takes data with it.
        (
            "ALTER TABLE t DROP CONSTRAINT k, DROP COLUMN c",
            {"kind": "column", "schema": "public", "table": "t", "name": "c"},
        ),
    ],
)
def test_what_a_statement_destroys(sql: str, wanted: dict[str, Any] | None) -> None:
    assert one(sql).destroys == wanted


@pytest.mark.parametrize(
    "expression",
    [
        "a > now()",
        "a > CURRENT_DATE",
        "a > LOCALTIMESTAMP",
        "a > clock_timestamp() - interval '1 day'",
        "a > 'today'::date",
        "age(a) > interval '1 year'",
    ],
)
def test_the_clock_in_a_predicate_is_seen(expression: str) -> None:
    assert sql_statements.clock_use(sql_statements.parse_expression(expression))


@pytest.mark.parametrize("expression", ["a IS NOT NULL", "a > '2020-01-01'::date", "age(a, b) > '1 year'", "now = 1"])
def test_what_only_looks_like_a_clock_is_not_taken_for_one(expression: str) -> None:
    assert sql_statements.clock_use(sql_statements.parse_expression(expression)) is None


@pytest.mark.parametrize("text", ["1) FROM (SELECT 1", "a; DROP TABLE t", "a AS b", ") ; --", "", "a WHERE b"])
def test_an_expression_is_one_expression(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        sql_statements.parse_expression(text)


def test_without_pglast_one_sentence_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pglast"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    sql_statements.grammar.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PgopsError, match="-m pip install 'pglast"):
        split("SELECT 1", "f")
    monkeypatch.undo()
    assert split("SELECT 1", "f")[1] == []
