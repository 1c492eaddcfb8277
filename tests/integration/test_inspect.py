# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named queries into the catalog: each answers, none writes, a wrong name is told with the list."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import inspection
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries
from support.server import OWNER

SCHEMA = f"""
SET ROLE {OWNER};
CREATE TYPE "Grade" AS ENUM ('ONE', 'TWO', 'AFTER TWO');
CREATE TABLE schools (id int PRIMARY KEY, name text NOT NULL DEFAULT 'none');
CREATE TABLE "Students" (id int PRIMARY KEY, grade "Grade", school int CONSTRAINT of_school REFERENCES schools
    ON UPDATE CASCADE ON DELETE SET NULL);
CREATE INDEX students_school ON "Students" (school);
COMMENT ON COLUMN schools.name IS 'as on its door';
"""


@pytest.fixture
def schema(server: Any, database: str) -> None:
    server.execute(SCHEMA, database=database)


def ask(target: Any, name: str, **given: str) -> list[dict[str, Any]]:
    query = inspect_queries.choose(name, given)
    parameters = {"table": None, "enum": None, **given}
    return inspection.inspect(target, query.text, parameters, name=name)["rows"]


@pytest.mark.usefixtures("schema")
def test_each_query_answers(target: Any) -> None:
    assert {(row["schema"], row["name"], row["kind"]) for row in ask(target, "tables")} == {
        ("public", "schools", "table"), ("public", "Students", "table"),
    }  # fmt: skip
    columns = {row["column"]: row for row in ask(target, "columns", table="public.schools")}
    assert list(columns) == ["id", "name"]
    assert columns["name"]["type"] == "text"
    assert columns["name"]["not_null"] is True
    assert columns["name"]["default"] == "'none'::text"
    assert columns["name"]["comment"] == "as on its door"
    assert [(row["name"], row["values"], row["columns"]) for row in ask(target, "enums")] == [("Grade", 3, 1)]
    assert [row["value"] for row in ask(target, "enum_values", enum="Grade")] == ["ONE", "TWO", "AFTER TWO"]
    assert [row["name"] for row in ask(target, "indexes", table="Students")] == ["Students_pkey", "students_school"]
    assert len(ask(target, "indexes")) == 3
    (key,) = ask(target, "foreign_keys")
    assert (key["name"], key["columns"], key["target"], key["target_columns"]) == (
        "of_school",
        "school",
        "schools",
        "id",
    )
    assert (key["on_update"], key["on_delete"], key["validated"]) == ("CASCADE", "SET NULL", True)
    assert "of_school" in [row["name"] for row in ask(target, "constraints", table="Students")]
    assert ask(target, "extensions") == [{"name": "plpgsql", "version": "1.0", "schema": "pg_catalog"}]


@pytest.mark.usefixtures("schema")
def test_indexes_stand_in_four_classes_of_use_the_least_used_first(target: Any, server: Any, database: str) -> None:
    scans = "DO $$ BEGIN FOR n IN 1..{} LOOP PERFORM 1 FROM {} WHERE {} = n; END LOOP; END $$"
    with server.session(database) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE INDEX schools_name ON schools ((length(name)))")
        cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        cursor.execute(scans.format(3, '"Students"', "school"))
        cursor.execute(scans.format(150, "schools", "id"))
        cursor.execute(scans.format(1200, "schools", "length(name)"))
        cursor.execute("SELECT pg_stat_force_next_flush()")
    found = [(row["name"], row["class"], row["scans"]) for row in ask(target, "index_classes")]
    assert found == [
        ("Students_pkey", "UNUSED", 0),
        ("students_school", "LOW", 3),
        ("schools_pkey", "MODERATE", 150),
        ("schools_name", "HIGH", 1200),
    ]


@pytest.mark.usefixtures("schema")
def test_a_parameter_is_a_value_and_never_sql(target: Any, server: Any, database: str) -> None:
    assert ask(target, "columns", table="x'; DROP TABLE schools; --") == []
    assert server.execute("SELECT to_regclass('schools')::text", database=database) == [("schools",)]


@pytest.mark.usefixtures("schema")
def test_a_query_that_writes_is_refused_by_the_server(target: Any) -> None:
    with pytest.raises(PgopsError, match="read-only transaction") as refused:
        inspection.inspect(target, "INSERT INTO schools VALUES (1) RETURNING id", {}, name="evil")
    assert refused.value.sqlstate == "25006"


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        (
            "indexs",
            {},
            r"inspect_query=indexs is no query \(did you mean indexes\?\).* from columns, constraints, data_age, enum_values",
        ),
        ("../checks/x", {}, "is no query"),
        (None, {}, "No query is named; choose with -e inspect_query=NAME from columns"),
        ("columns", {}, "needs -e inspect_table=TABLE"),
        ("enums", {"table": "x"}, "takes no inspect_table"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(name: str | None, given: dict[str, str], told: str) -> None:
    with pytest.raises(PgopsError, match=told):
        inspect_queries.choose(name, given)


@pytest.mark.usefixtures("schema")
def test_inspect_yml_prints_a_table_and_leaves_json(playbook: Any, server: Any, database: str) -> None:
    done = playbook("inspect.yml", inspect_query="indexes", inspect_table="Students")
    assert done.rc == 0, done.output
    assert "changed=0" in done.stdout
    assert f"{database}: indexes table=Students: 2 rows" in done.stdout
    assert "SCHEMA  TABLE     NAME             UNIQUE  VALID  DEFINITION" in done.stdout
    found = done.json["hosts"]["local-1"][database]["inspect"]
    assert [row["name"] for row in found["rows"]] == ["Students_pkey", "students_school"]
    assert server.execute("SELECT to_regnamespace('pgops')", database=database) == [(None,)]

    wrong = playbook("inspect.yml", inspect_query="index")
    assert wrong.rc != 0
    assert "inspect_query=index is no query (did you mean indexes?)" in wrong.json["error"]["message"]
    assert "Traceback" not in wrong.output
