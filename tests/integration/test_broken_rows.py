# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Rows that break a rule stop the step that brings it: told by number, ten ids and the query, never by what they hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from support.engine import Told, do, rows, state, way
from support.tree import TestTree

V1 = "20260101000001"
NAME_IS_THERE = 'ALTER TABLE public."Pets" ADD CONSTRAINT name_is_there CHECK ("Name" IS NOT NULL) NOT VALID;'
# With what a driver could take for a place to fill in.
SHORT_NAME = """ALTER TABLE public."Pets" ADD CONSTRAINT short_name CHECK (length("Name") <= 10 AND "Name" !~ '%s{9}') NOT VALID;"""


@pytest.fixture
def pets(target: Any) -> None:
    """Five good rows, 13 without a name, two with a long one and one with blanks behind it."""
    do(
        target,
        'CREATE TABLE "Pets" (id integer PRIMARY KEY, "Name" text)',
        "INSERT INTO \"Pets\" SELECT n, 'P' || n FROM generate_series(1, 5) AS n",
        'INSERT INTO "Pets" SELECT n, NULL FROM generate_series(101, 113) AS n',
        "INSERT INTO \"Pets\" VALUES (201, 'SecretSecretSecret'), (202, 'SecretSecret'), (203, 'blanks         ')",
    )


def validating(tmp_path: Any, name: str, up: str, table: str = "Pets") -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    steps = [
        {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
        {"validate": [{"table": table, "constraint": name}]},
    ]
    down = f'ALTER TABLE public."{table}" DROP CONSTRAINT IF EXISTS {name};'
    tree.add(V1, "rule", steps, {"up.sql.j2": up, "down.sql.j2": down})
    return tree.render()


def changing(tmp_path: Any, up: str) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "change", up, "SELECT 1;")
    return tree.render()


def refused(target: Any, migrations: list[dict[str, Any]]) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way())
    error = caught.value
    assert "Secret" not in error.message + str(error.hint) + str(error.as_dict())
    return error


@pytest.mark.usefixtures("pets")
def test_rows_that_break_a_check_are_told_by_ten_ids_and_the_query(target: Any, tmp_path: Any) -> None:
    error = refused(target, validating(tmp_path, "name_is_there", NAME_IS_THERE))
    assert error.sqlstate == "23514"
    assert (
        'the constraint public.Pets.name_is_there: 13 row(s) of public."Pets" break it, by id 101, 102,'
        in error.message
    )
    assert "110, ..." in error.message
    assert "111" not in error.message
    told = error.extra["broken_rows"]
    assert (told["table"], told["rows"], len(told["ids"])) == ('public."Pets"', 13, 10)
    assert [row["id"] for row in rows(target, told["query"])] == [str(number) for number in range(101, 114)]
    assert told["query"] in str(error.hint)
    assert str(error.hint).endswith("then run it again.")
    assert state(target, V1)["steps"] == "1:done 2:pending"


@pytest.mark.usefixtures("pets")
def test_when_they_are_mended_the_same_run_goes_on(target: Any, tmp_path: Any) -> None:
    migrations = validating(tmp_path, "name_is_there", NAME_IS_THERE)
    refused(target, migrations)
    do(target, 'DELETE FROM "Pets" WHERE "Name" IS NULL')
    told = Told()
    migrate.apply(target, migrations, Selection(), way(progress=told))
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'name_is_there'")[0]["convalidated"]
    # What goes well is read once.
    assert not told.said("that stand in the way")


@pytest.mark.usefixtures("pets")
def test_a_row_that_a_check_knows_nothing_of_does_not_break_it(target: Any, tmp_path: Any) -> None:
    error = refused(target, validating(tmp_path, "short_name", SHORT_NAME))
    assert error.extra["broken_rows"]["ids"] == ["201", "202", "203"]


def test_a_table_whose_key_may_be_a_name_is_told_by_place(target: Any, tmp_path: Any) -> None:
    do(
        target,
        "CREATE TABLE kin (name text PRIMARY KEY, age integer)",
        "INSERT INTO kin VALUES ('SecretAunt', 1), ('SecretUncle', -1)",
    )
    up = "ALTER TABLE public.kin ADD CONSTRAINT old_enough CHECK (age > 0) NOT VALID;"
    assert refused(target, validating(tmp_path, "old_enough", up, "kin")).extra["broken_rows"]["ids"] == ["(0,2)"]


def test_a_check_that_fails_while_it_is_counted_leaves_the_first_error(target: Any, tmp_path: Any) -> None:
    do(target, "CREATE TABLE kin (id integer PRIMARY KEY, age integer)", "INSERT INTO kin VALUES (1, -5), (2, 0)")
    up = "ALTER TABLE public.kin ADD CONSTRAINT old_enough CHECK (10 / age > 0) NOT VALID;"
    error = refused(target, validating(tmp_path, "old_enough", up, "kin"))
    assert error.sqlstate == "23514"
    assert "failed at constraint public.kin.old_enough" in error.message


@pytest.mark.majors(18)
@pytest.mark.usefixtures("pets")
def test_a_not_null_of_its_own_is_counted_too(target: Any, tmp_path: Any) -> None:
    do(target, 'ALTER TABLE "Pets" ADD CONSTRAINT name_is_there NOT NULL "Name" NOT VALID')
    tree = TestTree(tmp_path / "sql")
    tree.add(V1, "rule", [{"validate": [{"table": "Pets", "constraint": "name_is_there"}]}])
    error = refused(target, tree.render())
    assert (error.sqlstate, error.extra["broken_rows"]["rows"]) == ("23502", 13)


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("up", "sqlstate", "told"),
    [
        ('ALTER TABLE public."Pets" ALTER COLUMN "Name" SET NOT NULL;', "23502", r'13 row\(s\) of public."Pets" have no value there, by id 101'),
        ('ALTER TABLE ONLY "Pets" -- why\n ALTER "Name"\n set not null;', "23502", "13 row"),
        ('ALTER TABLE public."Pets" ALTER COLUMN "Name" TYPE varchar(10);', "22001", r'2 row\(s\) of public."Pets" have more than 10 characters there, by id 201, 202 '),
        ('ALTER TABLE "Pets" ADD x int, ALTER "Name" SET DATA TYPE character varying (10) COLLATE "C";', "22001", "2 row"),
    ],
)  # fmt: skip
def test_rows_that_a_column_cannot_hold_are_counted(
    target: Any, tmp_path: Any, up: str, sqlstate: str, told: str
) -> None:
    error = refused(target, changing(tmp_path, up))
    assert error.sqlstate == sqlstate
    assert re.search(told, error.message)
    assert error.location == "20260101000001_change/up.sql.j2:1"
    assert len(rows(target, error.extra["broken_rows"]["query"])) == error.extra["broken_rows"]["rows"]
    assert state(target, V1)["steps"] == "1:pending"


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    "default",
    [
        "'alter b set not null'",
        "$$alter b set not null$$",
        "$t$x ALTER b SET NOT NULL$t$",
        "E'\\'alter b set not null'",
    ],
)
def test_what_a_constant_or_a_name_says_is_no_change(target: Any, tmp_path: Any, default: str) -> None:
    do(target, 'ALTER TABLE "Pets" ADD b text, ADD "alter b set not null" text')
    up = (
        f'ALTER TABLE public."Pets" ALTER b SET DEFAULT {default}, ALTER "alter b set not null" SET DEFAULT 1, '
        'ALTER COLUMN "Name" SET NOT NULL;'
    )
    error = refused(target, changing(tmp_path, up))
    assert re.search(r"at the column public\.Pets\.Name: 13 row\(s\)", error.message)
    assert error.extra["broken_rows"]["rows"] == 13


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    "up",
    [
        # The value is another than that of the column.
        'ALTER TABLE public."Pets" ALTER COLUMN "Name" TYPE varchar(10) USING "Name" || \'0123456789\';',
        # Nothing of it is left that could be counted.
        'ALTER TABLE public."Pets" ADD COLUMN age integer; ALTER TABLE public."Pets" ALTER COLUMN age SET NOT NULL;',
        "CREATE TABLE public.new AS SELECT NULL::int AS id; ALTER TABLE public.new ALTER COLUMN id SET NOT NULL;",
        # Not a table that is there, but a row that is not.
        'INSERT INTO public."Pets" (id) VALUES (NULL);',
    ],
)
def test_what_cannot_be_counted_keeps_the_servers_error(target: Any, tmp_path: Any, up: str) -> None:
    error = refused(target, changing(tmp_path, up))
    assert error.sqlstate in ("23502", "22001")
    assert "broken_rows" not in error.extra
