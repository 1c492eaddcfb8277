# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""To whom functions belong and who may call them is held against what the applied versions declare."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import connection, migrate, plan
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from support.engine import target_of, way
from support.server import APP, BACKUP, OWNER, SUPERUSER, Server
from support.tree import TestTree

HEADER = "SPDX-License-Identifier: GPL-3.0-or-later\n{0} Copyright (c) 2026 White Cross pgops contributors\n"
MIGRATION = f"""---
# {HEADER.format("#")}
title: Make it
why: The tests need something.
risk: low
phi: false
phase: core
rollback: {{safety: complete}}
steps:
  - sql: {{up: up.sql.j2, down: down.sql.j2}}
"""
UP = f"""-- {HEADER.format("--")}
CREATE TABLE history (id integer PRIMARY KEY);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
 BEGIN
  RETURN NEW;
 END $$;
REVOKE ALL ON FUNCTION note() FROM PUBLIC;
CREATE FUNCTION my_school(role text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT $1';
CREATE FUNCTION answer() RETURNS integer LANGUAGE sql AS 'SELECT 42';
REVOKE ALL ON FUNCTION answer() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION answer() TO {APP};
CREATE PROCEDURE tidy() LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT 1; END;
CREATE FUNCTION of_nobody() RETURNS text LANGUAGE sql AS $$
 SELECT 'says SECURITY DEFINER' $$;
CREATE FUNCTION of_the_server() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
"""
DOWN = f"""-- {HEADER.format("--")}
DROP FUNCTION of_the_server(), of_nobody(), answer(), my_school(text), note();
DROP PROCEDURE tidy();
DROP TABLE history;
"""


@pytest.fixture(scope="module")
def applied_once(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = f"t_rights_{secrets.token_hex(4)}"
    server.create_database(name)
    tree = tmp_path_factory.mktemp("sql")
    folder = tree / "migrations" / "20250101000000_make_it"
    folder.mkdir(parents=True)
    for file, text in {"migration.yml": MIGRATION, "up.sql.j2": UP, "down.sql.j2": DOWN}.items():
        (folder / file).write_text(text, encoding="utf-8")
    target = target_of(server, name)
    migrations = migration_tree.render(migration_tree.read_tree(Path(tree)))
    migrate.apply(target, migrations, plan.Selection(), migrate.Way(run=migrate.run_of("test", {}, name)))
    yield name
    server.drop_databases(name)


@pytest.fixture
def applied(server: Server, applied_once: str) -> Iterator[connection.Target]:
    name = f"t_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {applied_once} OWNER {OWNER}")
    yield target_of(server, name)
    server.drop_databases(name)


def verify(target: Any) -> dict[str, Any]:
    try:
        return verification.verify({target.database: target})[target.database]
    except PgopsError as error:
        return error.extra["databases"][target.database]


def told(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (entry["level"], entry["object"], entry["attribute"], entry["expected"], entry["found"], entry["note"])
        for entry in result["findings"]
    ]


@pytest.mark.majors(15, 18, slow=(15,))
def test_rights_as_they_are_declared_pass(applied: Any) -> None:
    assert verify(applied)["findings"] == []


NOTE = "function public.note()"
FAULTS = {
    "public may": (
        "GRANT EXECUTE ON FUNCTION note() TO PUBLIC",
        ("fail", NOTE, "EXECUTE", "none for PUBLIC", "EXECUTE for PUBLIC",
         "type: REVOKE EXECUTE ON FUNCTION public.note() FROM PUBLIC;"),
    ),
    "another owner": (
        f"ALTER FUNCTION note() OWNER TO {APP}",
        ("fail", NOTE, "owner", OWNER, APP, f"type: ALTER FUNCTION public.note() OWNER TO {OWNER};"),
    ),
    "a superuser as owner": (
        f"ALTER PROCEDURE tidy() OWNER TO {SUPERUSER}",
        ("fail", "procedure public.tidy()", "owner", OWNER, SUPERUSER, f"type: ALTER PROCEDURE public.tidy() OWNER TO {OWNER};"),
    ),
    "a default owner": (
        f"ALTER FUNCTION my_school(text) OWNER TO {APP}",
        ("fail", "function public.my_school(role text)", "owner", OWNER, APP,
         f"type: ALTER FUNCTION public.my_school(role text) OWNER TO {OWNER};"),
    ),
    "a declared right is gone": (
        f"REVOKE EXECUTE ON FUNCTION answer() FROM {APP}",
        ("fail", "function public.answer()", "EXECUTE", f"EXECUTE for {APP}", f"none for {APP}",
         f"type: GRANT EXECUTE ON FUNCTION public.answer() TO {APP};"),
    ),
    "a site takes a default away": (
        "REVOKE EXECUTE ON FUNCTION my_school(text) FROM PUBLIC",
        ("warn", "function public.my_school(role text)", "EXECUTE", "EXECUTE for PUBLIC", "none for PUBLIC",
         "type: GRANT EXECUTE ON FUNCTION public.my_school(role text) TO PUBLIC;"),
    ),
    "a site gives its own role more": (
        f"GRANT EXECUTE ON FUNCTION note() TO {BACKUP}",
        ("notice", NOTE, "EXECUTE", f"none for {BACKUP}", f"EXECUTE for {BACKUP}",
         f"type: REVOKE EXECUTE ON FUNCTION public.note() FROM {BACKUP};"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_right_that_is_not_as_declared_is_named_with_what_to_type(server: Server, applied: Any, fault: str) -> None:
    statement, expected = FAULTS[fault]
    server.execute(statement, database=applied.database)
    result = verify(applied)
    assert told(result) == [expected]
    failed = expected[0] == "fail"
    assert result["passed"] is not failed
    assert [line["object"] for line in result["lines"] if not line["passed"]] == (
        [expected[1].partition(" ")[2]] if failed else []
    )
    server.execute(expected[-1].removeprefix("type: "), database=applied.database)
    assert verify(applied)["findings"] == []


def test_one_that_runs_with_its_callers_rights_may_have_any_owner(server: Server, applied: Any) -> None:
    server.execute(f"ALTER FUNCTION of_nobody() OWNER TO {APP}", database=applied.database)
    assert verify(applied)["findings"] == []


def test_where_all_belongs_to_another_owner_the_functions_may_too(server: Server, applied: Any) -> None:
    # As in an adopted database, whose owner the role that migrates is a member of.
    for kind, name in (
        ("TABLE", "history"),
        *(("ROUTINE", name) for name in ("note", "my_school", "answer", "tidy", "of_the_server")),
    ):
        server.execute(f"ALTER {kind} {name} OWNER TO {SUPERUSER}", database=applied.database)
    assert verify(applied)["findings"] == []


def test_a_grant_to_the_application_is_no_fault(server: Server, applied: Any) -> None:
    server.execute(f"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO {APP}", database=applied.database)
    result = verify(applied)
    assert result["passed"]
    assert {entry["level"] for entry in result["findings"]} == {"notice"}


V1, V2 = "20250101000000", "20250102000000"
DEFINER = "FUNCTION {}() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT {}';"
ONE, TWO, THREE = (f"function public.{name}()" for name in ("one", "two", "three"))
ADOPTED = "Its version was recorded at adoption and did not run"


@pytest.fixture
def adopted(target: Any, server: Server, tmp_path: Path) -> Callable[[str], None]:
    """Three functions of a version that was adopted and never ran, and a second version that ran."""

    def begin(up: str) -> None:
        tree = TestTree(tmp_path / "sql")
        made = "".join(f"CREATE {DEFINER.format(name, 1)}" for name in ("one", "two", "three"))
        made += "CREATE SCHEMA s; CREATE TABLE history (id integer PRIMARY KEY); REVOKE ALL ON FUNCTION three() FROM PUBLIC;"
        tree.add_sql(V1, "make", made, "DROP TABLE history; DROP SCHEMA s; DROP FUNCTION one(), two(), three();")
        tree.add_sql(V2, "change", up, "GRANT EXECUTE ON FUNCTION one(), two(), three() TO PUBLIC;")
        migrate.apply(target, tree.render(), plan.Selection(), way())
        server.execute(
            f"UPDATE pgops.migration SET adopted = '{{\"accepted\": {{}}}}' WHERE version = '{V1}'",
            database=target.database,
        )

    return begin


def levels(target: Any) -> dict[str, str]:
    return {entry["object"]: entry["level"] for entry in verify(target)["findings"]}


AGAIN = f"CREATE OR REPLACE {DEFINER.format('three', 2)} COMMENT ON FUNCTION three() IS 'x'; "
# By what the version that ran says: of which functions a right that is not there is a failure.
DECIDED = {
    "a list": (AGAIN + "REVOKE EXECUTE ON FUNCTION one(), public.two() FROM PUBLIC;", "fail", "fail", "warn"),
    "all of the schema": ("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;", "fail", "fail", "fail"),
    "others": (
        f"CREATE {DEFINER.format('s.three', 1)} REVOKE ALL ON FUNCTION s.three() FROM PUBLIC;",
        None,
        None,
        "warn",
    ),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("what", DECIDED)
def test_execute_fails_where_a_version_that_ran_decides_it(
    server: Server, target: Any, adopted: Callable[[str], None], what: str
) -> None:
    up, *expected = DECIDED[what]
    adopted(up)
    assert levels(target) == {}
    server.execute("GRANT EXECUTE ON FUNCTION one(), two(), three() TO PUBLIC", database=target.database)
    assert [levels(target).get(key) for key in (ONE, TWO, THREE)] == expected


def test_an_owner_of_its_own_that_an_adopted_function_has_is_a_warning_where_no_version_names_one(
    server: Server, target: Any, adopted: Callable[[str], None]
) -> None:
    adopted(f"ALTER FUNCTION one() OWNER TO {OWNER}; DROP FUNCTION two(); CREATE {DEFINER.format('two', 2)} {AGAIN}")
    assert levels(target) == {}
    for name in ("one", "two", "three"):
        server.execute(f"ALTER FUNCTION {name}() OWNER TO {APP}", database=target.database)
    assert levels(target) == {ONE: "fail", TWO: "fail", THREE: "warn"}
    (note,) = (entry["note"] for entry in verify(target)["findings"] if entry["level"] == "warn")
    assert note == f"type: ALTER FUNCTION public.three() OWNER TO {OWNER}; {ADOPTED}"


def test_where_the_version_was_adopted_and_never_ran_it_is_a_warning(server: Server, applied: Any) -> None:
    server.execute("UPDATE pgops.migration SET adopted = '{\"accepted\": {}}'", database=applied.database)
    server.execute("GRANT EXECUTE ON FUNCTION note() TO PUBLIC", database=applied.database)
    server.execute(f"ALTER FUNCTION note() OWNER TO {APP}", database=applied.database)
    result = verify(applied)
    assert result["passed"]
    assert [(level, attribute, note.endswith(ADOPTED)) for level, _, attribute, *_, note in told(result)] == [
        ("warn", "owner", True),
        ("warn", "EXECUTE", True),
    ]
