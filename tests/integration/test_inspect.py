# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Named queries into the catalog: each answers, none writes, a wrong name is told with the list."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import inspection, query_statistics
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import inspect_queries
from support.engine import target_of
from support.server import MIGRATOR, OWNER, SUPERUSER
from support.site import Playbook

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


@pytest.mark.parametrize(("scans", "use"), [(0, "UNUSED"), (3, "LOW"), (120, "MODERATE"), (1100, "HIGH")])
@pytest.mark.usefixtures("schema")
def test_an_index_is_told_by_how_much_it_is_used(target: Any, server: Any, database: str, scans: int, use: str) -> None:
    look = "PERFORM name FROM public.schools WHERE id = 1"
    server.execute(
        f"SET enable_seqscan = off; DO $$ BEGIN FOR i IN 1..{scans} LOOP {look}; END LOOP; END $$", database=database
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = {row["name"]: row for row in ask(target, "index_classes", table="schools")}
        if found["schools_pkey"]["scans"] == scans:
            break
    assert found["schools_pkey"]["use"] == use
    assert ask(target, "index_classes")[-1]["use"] == "UNUSED"


TYPED = [
    ("SELECT 'Ada''s allergy', 4711, 1.5", "SELECT ?, ?, ?"),
    ("SELECT E'it\\'s nuts', 'x'", "SELECT ?, ?"),
    ("SELECT 'C:\\', 'nuts' AS a1", "SELECT ?, ? AS a1"),
    ("SELECT $q$it's nuts$q$, 'x'", "SELECT ?"),
    ("SELECT /* it's\n $$nuts */ 1", "SELECT /* it?"),
]


@pytest.mark.parametrize(("typed", "told"), TYPED)
def test_sessions_are_seen_live_without_any_value(
    target: Any, server: Any, database: str, typed: str, told: str
) -> None:
    with server.session(database, MIGRATOR, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute(typed)
        (row,) = [row for row in ask(target, "sessions") if row["pid"] == conn.info.backend_pid]
    assert (row["role"], row["state"], row["statement"]) == (MIGRATOR, "idle in transaction", told)
    assert row["transaction_s"] >= 0


@pytest.mark.usefixtures("schema")
def test_a_lock_that_is_not_granted_is_seen_live_with_who_holds_it_up(target: Any, server: Any, database: str) -> None:
    with server.session(database, autocommit=False) as holder, server.session(database) as waiter:
        holder.cursor().execute("LOCK TABLE schools")

        def wait() -> None:
            with suppress(psycopg2.Error), waiter.cursor() as cursor:
                cursor.execute("SELECT FROM schools")

        pids = [holder.info.backend_pid, waiter.info.backend_pid]
        thread = threading.Thread(target=wait)
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not (rows := ask(target, "waiting_locks")) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            waiter.cancel()
            thread.join()
    (row,) = rows
    assert (row["pid"], row["mode"], row["object"]) == (pids[1], "AccessShareLock", "schools")
    assert row["held_up_by"] == str(pids[0])


def test_of_sessions_that_nobody_here_may_see_their_number_stays(target: Any, server: Any, database: str) -> None:
    with server.session(database, SUPERUSER, autocommit=False) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 'nuts'")
        seen = [row for row in ask(target, "sessions") if row["pid"] == conn.info.backend_pid]
        hidden = [
            row for row in ask(target.with_(restore_user=None), "sessions") if row["pid"] == conn.info.backend_pid
        ]
    assert [(row["state"], row["statement"]) for row in seen] == [("idle in transaction", "SELECT ?")]
    assert [(row["state"], row["statement"]) for row in hidden] == [(None, "<insufficient privilege>")]


def test_slow_queries_are_told_without_their_values_and_a_missing_extension_with_its_restart(own_server: Any) -> None:
    own_server.create_database("slow", OWNER)
    target = target_of(own_server, "slow")
    with pytest.raises(PgopsError, match="slow_queries needs the extension pg_stat_statements in slow on") as missing:
        ask(target, "slow_queries")
    assert "restart the server in a window, then CREATE EXTENSION pg_stat_statements;" in str(missing.value.hint)
    own_server.execute("CREATE EXTENSION pg_stat_statements", database="slow")
    with pytest.raises(PgopsError, match="needs the extension pg_stat_statements"):
        ask(target, "slow_queries")
    own_server.stop()
    own_server.postgres += ["-c", "shared_preload_libraries=pg_stat_statements"]
    own_server.start()
    with own_server.session("slow", MIGRATOR) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05), 'Ada' AS name")
        cursor.execute("SELECT 'nuts' AS allergy")
    rows = ask(target, "slow_queries")
    assert "pg_sleep($1), $2 AS name" in rows[0]["query"]
    assert float(rows[0]["mean_ms"]) > float(rows[-1]["mean_ms"])
    assert not [row for row in rows if "Ada" in row["query"] or "nuts" in row["query"]]
    assert [row["query"] for row in ask(target, "slow_queries", table="public.allergy")] == ["SELECT $1 AS allergy"]


def test_statements_are_counted_on_request_and_the_restart_is_left_to_people(own_server: Any) -> None:
    own_server.create_database("counted", OWNER)
    own_server.execute("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'")
    own_server.stop()
    own_server.start()
    target = target_of(own_server, "counted")
    plain = target.with_(restore_user=MIGRATOR)
    with pytest.raises(PgopsError, match=f"{plain.restore_user} is no superuser of"):
        query_statistics.enable([plain])
    written = "SELECT count(*) FROM pg_file_settings WHERE name = 'shared_preload_libraries' AND setting ~ 'pg_stat'"
    wanted = [
        'CREATE EXTENSION "pg_stat_statements"',
        "ALTER SYSTEM SET \"shared_preload_libraries\" = 'auto_explain', 'pg_stat_statements'",
    ]
    for check, there in ((True, 0), (False, 1)):
        found = query_statistics.enable([target], check=check)["counted"]
        assert found["statements"] == wanted
        assert (found["before"], found["restart"]) == (["auto_explain"], True)
        assert own_server.execute(written) == [(there,)]
    assert query_statistics.enable([target])["counted"]["statements"] == []
    with pytest.raises(PgopsError, match="needs the extension") as missing:
        ask(target, "slow_queries")
    assert "-e inspect_enable_statistics=true" in str(missing.value.hint)
    own_server.stop()
    own_server.start()
    assert own_server.execute("SHOW shared_preload_libraries") == [("auto_explain, pg_stat_statements",)]
    again = query_statistics.enable([target])["counted"]
    assert (again["statements"], again["restart"]) == ([], False)
    assert ask(target, "slow_queries")
    own_server.stop()
    own_server.postgres += ["-c", "shared_preload_libraries=auto_explain"]
    own_server.start()
    with pytest.raises(PgopsError, match="is set by the command that starts the server"):
        query_statistics.enable([target])


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
            r"inspect_query=indexs is no query \(did you mean indexes\?\).* columns, constraints, data_age, education_plans, enum_values",
        ),
        ("../checks/x", {}, "is no query"),
        (None, {}, "No query is named; choose with -e inspect_query=NAME from account_lockouts, columns"),
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


def test_inspect_yml_says_what_it_would_write_and_that_a_restart_is_left(own_server: Any, tmp_path: Path) -> None:
    own_server.create_database("asked", OWNER)
    site = Playbook(tmp_path / "ops host", own_server, "asked")
    site.variables["pgops_restore_user"] = SUPERUSER
    would = site("inspect.yml", "--check", inspect_enable_statistics=True)
    assert would.rc == 0, would.output
    assert 'asked: would run CREATE EXTENSION "pg_stat_statements";' in would.stdout
    assert "ALTER SYSTEM SET \"shared_preload_libraries\" = 'pg_stat_statements';" in would.stdout
    there = "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'"
    assert own_server.execute(there, database="asked") == [(0,)]
    done = site("inspect.yml", inspect_enable_statistics=True)
    assert done.rc == 0, done.output
    assert "changed=1" in done.stdout
    assert "nothing is counted until the server is restarted" in done.stdout
    assert own_server.execute(there, database="asked") == [(1,)]
