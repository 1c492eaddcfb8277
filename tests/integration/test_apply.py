# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Applying versions: in order, atomic, resumable, the ledger tells the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger, migrate, preview
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import Told, rows, way
from support.tree import TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1,
        "create_people",
        "CREATE TABLE public.people (id integer PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'x');\n",
        "DROP TABLE public.people;\n",
    )
    tree.add_sql(
        V2,
        "add_age",
        "ALTER TABLE public.people ADD COLUMN age integer;\n",
        "ALTER TABLE public.people DROP COLUMN age;\n",
    )
    return tree


def test_applies_every_pending_version_in_order(target: Any, tree: TestTree) -> None:
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert [item["version"] for item in result["applied"]] == [V1, V2]
    assert rows(target, "SELECT version, state FROM pgops.migration ORDER BY 1") == [
        {"version": V1, "state": "applied"},
        {"version": V2, "state": "applied"},
    ]
    assert rows(target, "SELECT count(age) AS n FROM public.people") == [{"n": 0}]


def test_a_second_run_does_nothing_and_writes_nothing(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way())
    before = rows(target, "SELECT (SELECT count(*) FROM pgops.audit) AS a, (SELECT count(*) FROM pgops.run) AS r")
    result = migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-000002"))
    assert result["applied"] == []
    assert (
        rows(target, "SELECT (SELECT count(*) FROM pgops.audit) AS a, (SELECT count(*) FROM pgops.run) AS r") == before
    )


def test_target_is_a_bound_and_steps_a_number(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3, "add_city", "ALTER TABLE public.people ADD COLUMN city text;", "ALTER TABLE public.people DROP COLUMN city;"
    )
    first = migrate.apply(target, tree.render(), Selection(target=V1), way())
    assert [item["version"] for item in first["applied"]] == [V1]
    assert first["later"] == [V2, V3]
    second = migrate.apply(target, tree.render(), Selection(steps=1), way())
    assert [item["version"] for item in second["applied"]] == [V2]
    with pytest.raises(PgopsError, match="no version 20260101000009.*nearest is"):
        migrate.apply(target, tree.render(), Selection(target="20260101000009"), way())


def test_preview_shows_the_exact_sql_and_writes_nothing(target: Any, tree: TestTree) -> None:
    told = preview.preview(target, tree.render(), Selection())
    assert "CREATE TABLE public.people (id integer PRIMARY KEY" in told["prepared"]
    assert [item["version"] for item in told["pending"]] == [V1, V2]
    assert rows(target, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgops'") == []
    assert rows(target, "SELECT relname FROM pg_class WHERE relname = 'people'") == []


def test_a_failing_statement_leaves_nothing_of_its_step_and_says_where(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3,
        "break_it",
        "INSERT INTO public.people (id) VALUES (1);\n\nALTER TABLE public.nobody ADD COLUMN x integer;\n",
        "SELECT 1;\n",
    )
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    error = caught.value
    assert error.sqlstate == "42P01"
    assert error.location == f"{V3}_break_it/up.sql.j2:3"
    assert "ALTER TABLE public.nobody" in (error.statement or "")
    assert error.extra["applied"] == [V1, V2]
    assert error.extra["not_applied"] == [V3]
    assert (error.extra["step"], error.extra["steps"]) == (1, 1)
    assert f"Applied in this run: {V1}, {V2}; not applied: {V3} (stopped at step 1 of 1)." in error.message
    assert rows(target, "SELECT count(*) AS n FROM public.people") == [{"n": 0}]
    assert rows(target, f"SELECT state, failed_step, reason FROM pgops.migration WHERE version = '{V3}'") == [
        {"state": "failed", "failed_step": 1, "reason": "failed"}
    ]


def test_a_table_that_no_version_made_is_told_as_a_version_that_is_missing(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3,
        "enhance_settings",
        "ALTER TABLE public.system_configurations ADD COLUMN scope text;",
        "ALTER TABLE public.system_configurations DROP COLUMN scope;",
    )
    with pytest.raises(PgopsError, match='relation "public.system_configurations" does not exist') as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert caught.value.sqlstate == "42P01"
    assert caught.value.location == f"{V3}_enhance_settings/up.sql.j2:1"
    assert "the one that does is missing, or its number is later" in str(caught.value.hint)
    assert caught.value.extra["applied"] == [V1, V2]


def test_a_failed_version_goes_on_at_its_step_with_the_mended_file(target: Any, tree: TestTree) -> None:
    steps = [
        {"sql": {"up": "one.sql.j2", "down": "one_down.sql.j2"}},
        {"sql": {"up": "two.sql.j2", "down": "two_down.sql.j2"}},
    ]
    files = {
        "one.sql.j2": "INSERT INTO public.people (id) VALUES (1);",
        "one_down.sql.j2": "DELETE FROM public.people WHERE id = 1;",
        "two.sql.j2": "INSERT INTO public.people (id, nom) VALUES (2);",
        "two_down.sql.j2": "DELETE FROM public.people WHERE id = 2;",
    }
    path = tree.add(V3, "two_steps", steps, files)
    with pytest.raises(PgopsError, match="Step 2 of 2"):
        migrate.apply(target, tree.render(), Selection(), way())
    (path / "one.sql.j2").write_text("INSERT INTO public.people (id) VALUES (7);")
    with pytest.raises(PgopsError, match="step 1, which is done already, was edited"):
        migrate.apply(target, tree.render(), Selection(), way())
    (path / "one.sql.j2").write_text(files["one.sql.j2"])
    (path / "two.sql.j2").write_text("INSERT INTO public.people (id, name) VALUES (2, 'y');")
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert [(item["version"], item["resumed"]) for item in result["applied"]] == [(V3, True)]
    assert rows(target, "SELECT id FROM public.people ORDER BY 1") == [{"id": 1}, {"id": 2}]
    kept = rows(
        target,
        "SELECT detail->'replaced_files'->'two.sql.j2'->>'text' AS text FROM pgops.audit WHERE event = 'apply_resumed'",
    )
    assert kept == [{"text": files["two.sql.j2"]}]


def test_a_failed_version_goes_on_with_the_values_that_it_began_with(target: Any, tree: TestTree) -> None:
    steps = [{"sql": {"up": f"{name}.sql.j2", "down": f"{name}_down.sql.j2"}} for name in ("one", "two")]
    files = {
        "one.sql.j2": "CREATE TABLE public.{{ made }} (id integer PRIMARY KEY);",
        "one_down.sql.j2": "DROP TABLE public.{{ made }};",
        "two.sql.j2": "INSERT INTO public.people (id, name) VALUES (1, '{{ given }}');",
        "two_down.sql.j2": "DELETE FROM public.people WHERE id = 1;",
    }
    tree.add(V3, "two_steps", steps, files, variables={"made": "rooms", "given": "y"})
    with pytest.raises(PgopsError, match="Step 2 of 2"):
        migrate.apply(target, tree.render({"made": "halls", "given": "y" * 21}), Selection(), way())
    with pytest.raises(PgopsError, match="step 1, which is done already, is another one now, for a variable") as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert "give the values of then or revert the version first" in caught.value.message
    # The step that failed may have another value.
    migrate.apply(target, tree.render({"made": "halls"}), Selection(), way())
    assert rows(target, "SELECT name FROM public.people") == [{"name": "y"}]
    migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert rows(target, "SELECT to_regclass('public.halls') AS t") == [{"t": None}]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT to_tsquery(name || ' &') FROM public.patients;", 'no operand in tsquery: "…"'),
        ("SELECT to_timestamp(name, 'YYYY-MM-DD') FROM public.patients;", 'invalid value "…"'),
        ("SELECT (name || ': peanuts')::integer FROM public.patients;", "invalid input syntax for type integer"),
        (
            "ALTER TABLE public.patients ALTER name TYPE date USING (name || ': \"x\"')::date;",
            "invalid input syntax for type date",
        ),
        (
            "SELECT set_config(name || '\" x \"', '1', true) FROM public.patients;",
            'unrecognized configuration parameter "…"',
        ),
        ("SELECT to_tsquery(name || ' \" &') FROM public.patients;", 'syntax error in tsquery: "…"'),
        ("SELECT set_config(name, '1', true) FROM public.patients;", 'unrecognized configuration parameter "…"'),
        (
            "DO $$ BEGIN EXECUTE (SELECT 'SELECT 1 FROM ' || quote_ident(name) FROM public.patients); END $$;",
            'relation "…" does not exist',
        ),
        ('SELECT 1 FROM "public"."Nobody";', 'relation "public.Nobody" does not exist'),
        ("INSERT INTO public.patients VALUES (NULL);", 'null value in column "name" of relation "patients"'),
    ],
)
def test_what_the_server_quotes_from_a_row_is_not_told(target: Any, tree: TestTree, statement: str, told: str) -> None:
    up = "CREATE TABLE public.patients (name text NOT NULL);\nINSERT INTO public.patients VALUES ('Doe123-45-6789');\n"
    tree.add_sql(V3, "patients", up, "DROP TABLE public.patients;")
    tree.add_sql("20260101000004", "reads_them", statement, "SELECT 1;")
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert told in caught.value.message
    kept = rows(
        target,
        "SELECT (SELECT string_agg(error, '') FROM pgops.migration) || string_agg(detail::text, '') AS text FROM pgops.audit",
    )
    assert "6789" not in f"{caught.value.message} {caught.value.as_dict()} {kept}"
    assert "Doe1" not in caught.value.message


def test_a_connection_that_is_lost_after_the_last_version_says_what_is_applied(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(conn: Any, run_id: str, result: str) -> None:
        conn.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(ledger, "finish_run", cut)
    with pytest.raises(PgopsError, match="All is applied .* the connection to .* was lost") as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert caught.value.extra["applied"] == [V1, V2]
    assert caught.value.extra["reason"] == "connection_lost"
    assert [item["version"] for item in caught.value.extra["partial"]["applied"]] == [V1, V2]
    monkeypatch.undo()
    assert migrate.apply(target, tree.render(), Selection(), way("20260101T000000Z-000002"))["applied"] == []


def test_an_error_at_commit_is_told_too(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3,
        "deferred",
        "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer REFERENCES public.people DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO public.pets VALUES (1, 99);",
        "DROP TABLE public.pets;",
    )
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert caught.value.sqlstate == "23503"
    assert "(99)" not in caught.value.message
    assert rows(target, "SELECT relname FROM pg_class WHERE relname = 'pets'") == []


def test_an_object_that_is_there_with_the_same_definition_is_skipped_and_told(
    target: Any, tree: TestTree, superuser_connection: Any
) -> None:
    with superuser_connection.cursor() as cursor:
        cursor.execute(
            "SET ROLE white_cross_owner; CREATE TABLE people (id int NOT NULL, name character varying(20) DEFAULT 'x' NOT NULL,"
            "age int4, CONSTRAINT people_pkey PRIMARY KEY (id))"
        )
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert [item["skipped"] for item in result["applied"]] == [["table public.people"], ["column public.people.age"]]


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        (
            "(id int PRIMARY KEY, name text NOT NULL DEFAULT 'x')",
            "column name: wanted character varying\\(20\\), found text",
        ),
        ("(id int PRIMARY KEY, name varchar(20) DEFAULT 'x')", "column name: wanted NOT NULL, found NULL"),
        (
            "(id int PRIMARY KEY, name varchar(20) NOT NULL)",
            "column name default: wanted 'x'::character varying, found none",
        ),
        (
            "(id int, name varchar(20) NOT NULL DEFAULT 'x')",
            "column id: wanted NOT NULL, found NULL; constraint people_pkey",
        ),
        ("(id int PRIMARY KEY)", "column name: wanted character varying\\(20\\), found none"),
        (
            "(id int PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'x', zip text)",
            "column zip: wanted none, found text",
        ),
    ],
)
def test_an_object_with_another_definition_is_refused(
    target: Any, tree: TestTree, superuser_connection: Any, existing: str, told: str
) -> None:
    with superuser_connection.cursor() as cursor:
        cursor.execute(f"SET ROLE white_cross_owner; CREATE TABLE people {existing}")
    with pytest.raises(
        PgopsError, match=f"table public.people exists already with another definition: .*{told}"
    ) as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert caught.value.location == f"{V1}_create_people/up.sql.j2:1"


def test_enum_values_are_compared_in_order(target: Any, tmp_path: Any, superuser_connection: Any) -> None:
    tree = TestTree(tmp_path / "enum")
    tree.add_sql(V1, "make_role", """CREATE TYPE public."Role" AS ENUM ('A', 'B');""", 'DROP TYPE public."Role";')
    tree.add_sql(
        V2, "add_role", """ALTER TYPE public."Role" ADD VALUE IF NOT EXISTS 'C';""", "SELECT 1;",
        rollback={"safety": "partial", "stays": "the value C"},
    )  # fmt: skip
    with superuser_connection.cursor() as cursor:
        cursor.execute("""SET ROLE white_cross_owner; CREATE TYPE "Role" AS ENUM ('A', 'B', 'C')""")
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert [item["skipped"] for item in result["applied"]] == [["type public.Role"], ["enum value public.Role.C"]]
    other = TestTree(tmp_path / "other")
    other.add_sql(V1, "make_role", """CREATE TYPE public."Role" AS ENUM ('B', 'A');""", 'DROP TYPE public."Role";')
    with superuser_connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA pgops CASCADE")
    with pytest.raises(PgopsError, match="values: wanted B, A; found A, B, C"):
        migrate.apply(target, other.render(), Selection(), way())


@pytest.mark.parametrize("rule", ["CASCADE", "SET NULL"])
def test_a_foreign_key_with_another_rule_is_refused(
    target: Any, tree: TestTree, superuser_connection: Any, rule: str
) -> None:
    tree.add_sql(
        V3,
        "pets",
        "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer);\n"
        "ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES public.people (id) ON DELETE CASCADE;",
        "DROP TABLE public.pets;",
    )
    migrate.apply(target, tree.render(), Selection(target=V2), way())
    with superuser_connection.cursor() as cursor:
        cursor.execute(
            "SET ROLE white_cross_owner; CREATE TABLE pets (id int PRIMARY KEY, owner int,"
            f"CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES people ON DELETE {rule})"
        )
    if rule == "CASCADE":
        result = migrate.apply(target, tree.render(), Selection(), way())
        assert result["applied"][0]["skipped"] == ["table public.pets", "constraint public.pets.pets_owner"]
    else:
        with pytest.raises(PgopsError, match="wanted FOREIGN KEY .* ON DELETE CASCADE, found .* ON DELETE SET NULL"):
            migrate.apply(target, tree.render(), Selection(), way())


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("CREATE TABLE public.stranger (id integer)", "the catalog"),
        ("UPDATE pgops.migration SET checksum = 'x'", "the ledger"),
    ],
)
def test_what_moved_since_the_backup_is_refused_and_named(
    target: Any, tree: TestTree, superuser_connection: Any, change: str, moved: str
) -> None:
    migrate.apply(target, tree.render(), Selection(target=V1), way())
    state = preview.preview(target, tree.render(), Selection())["state"]
    with superuser_connection.cursor() as cursor:
        cursor.execute(change)
    migrations = tree.render()
    if moved == "the ledger":
        migrations[0]["checksum"] = "x"
    with pytest.raises(PgopsError, match=f"since it was planned, {moved}.*moved"):
        migrate.apply(target, migrations, Selection(), way(), expected=state)
    backed_up = way()
    backed_up.run = replace(backed_up.run, backup={"path": "/b"})
    with pytest.raises(PgopsError, match=f"since its backup was proved, {moved}.*moved"):
        migrate.apply(target, migrations, Selection(), backed_up, expected=state)
    assert rows(target, f"SELECT 1 AS x FROM pgops.migration WHERE version = '{V2}'") == []


def test_other_rendered_sql_than_the_planned_one_is_refused(target: Any, tree: TestTree) -> None:
    state = preview.preview(target, tree.render(), Selection())["state"]
    tree.add_sql(
        V2, "add_age", "ALTER TABLE public.people ADD COLUMN age bigint;", "ALTER TABLE public.people DROP COLUMN age;"
    )
    with pytest.raises(PgopsError, match="the rendered SQL of the pending versions moved"):
        migrate.apply(target, tree.render(), Selection(), way(), expected=state)
    assert migrate.apply(target, tree.render(), Selection(), way())["applied"]


def test_the_same_state_is_not_refused(target: Any, tree: TestTree) -> None:
    state = preview.preview(target, tree.render(), Selection())["state"]
    assert migrate.apply(target, tree.render(), Selection(), way(), expected=state)["applied"]


def test_a_statement_that_hits_its_time_limit_is_told_apart(target: Any, tree: TestTree) -> None:
    tree.add_sql(V3, "slow", "SELECT pg_sleep(5);", "SELECT 1;", budgets={"statement_timeout_s": 1})
    with pytest.raises(PgopsError, match="hit its time limit of 1 s") as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert caught.value.extra["reason"] == "time_limit"
    assert "Split the step" in (caught.value.hint or "")


def test_statements_outside_one_transaction_go_on_where_they_stopped(target: Any, tree: TestTree) -> None:
    path = tree.add_sql(
        V3,
        "several",
        "INSERT INTO public.people (id) VALUES (1);\nINSERT INTO public.people (nom) VALUES (2);",
        "DELETE FROM public.people WHERE id IN (1, 2);",
        transaction=False,
    )
    with pytest.raises(PgopsError):
        migrate.apply(target, tree.render(), Selection(), way())
    assert rows(target, "SELECT count(*) AS n FROM public.people") == [{"n": 1}]
    assert rows(target, f"SELECT progress->'statements' AS n FROM pgops.step WHERE version = '{V3}'") == [{"n": 1}]
    del path


def test_the_ledger_moves_no_fingerprint(target: Any, tree: TestTree) -> None:
    conn = connect(target, application_name="test")
    before = catalog.fingerprint(catalog.inventory(conn))
    ledger.ensure(conn)
    assert catalog.fingerprint(catalog.inventory(conn)) == before
    assert fetch_one(conn, "SELECT count(*) AS n FROM pgops.migration") == {"n": 0}
    conn.close()


def test_what_a_migration_says_is_told(target: Any, tree: TestTree) -> None:
    tree.add_sql(V3, "says", "DO $$ BEGIN RAISE NOTICE 'three of them'; END $$;", "SELECT 1;")
    told = Told()
    migrate.apply(target, tree.render(), Selection(), way(progress=told))
    assert told.said("NOTICE:  three of them")


def test_a_right_that_is_missing_has_a_hint(server: Any, target: Any, tree: TestTree) -> None:
    server.execute("CREATE TYPE public.kind AS ENUM ('A')", database=target.database)
    tree.add_sql(V3, "label", "ALTER TYPE public.kind ADD VALUE 'B';\n", "SELECT 1;\n")
    with pytest.raises(PgopsError, match="must be owner of type kind") as caught:
        migrate.apply(target, tree.render(), Selection(), way())
    assert "preflight (--tags preflight) names what belongs to others" in str(caught.value.hint)
