# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Privileges, comments and function definitions that were there before a version are there after its way down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import attributes_before, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts, preview_revert
from support.engine import Told, as_it_was, do, rows, way
from support.kept import chain_before
from support.server import Server
from support.tree import NO_DIFFERENCE, TestTree, shipped_chain

V1 = "20260101000001"
MODES = pytest.mark.parametrize("one_transaction", [True, pytest.param(False, marks=pytest.mark.slow)])
NURSE, VIEWER = "before_nurse", "before_viewer"


@pytest.fixture(scope="module")
def roles(server: Server) -> Iterator[None]:
    for role in (NURSE, VIEWER):
        server.execute(f"CREATE ROLE {role}")
    yield
    server.execute(f"DROP ROLE {NURSE}, {VIEWER}")


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    return TestTree(tmp_path / "sql")


BARE = [
    "CREATE TABLE public.people (id integer PRIMARY KEY, \"firstName\" text, kind text CONSTRAINT kind_ok CHECK (kind <> ''))",
    "CREATE TABLE public.pets (id integer PRIMARY KEY, name text)",
    "CREATE SEQUENCE public.numbers",
    "CREATE FUNCTION public.one(a integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA clinic",
    "CREATE TYPE public.mood AS ENUM ('GOOD')",
]
BEFORE = [
    f"GRANT SELECT, INSERT ON public.people TO {NURSE} WITH GRANT OPTION",
    f'GRANT SELECT ("firstName") ON public.people TO {VIEWER}',
    f"GRANT USAGE ON SEQUENCE public.numbers TO {NURSE}",
    f"GRANT EXECUTE ON FUNCTION public.one(integer) TO {NURSE}",
    f"GRANT USAGE ON SCHEMA clinic TO {NURSE}",
    f"GRANT USAGE ON TYPE public.mood TO {VIEWER}",
    "REVOKE ALL ON FUNCTION public.one(integer) FROM PUBLIC",
    "COMMENT ON COLUMN public.people.\"firstName\" IS '50%% of the hospital'",
    "COMMENT ON TABLE public.people IS 'of the hospital'",
    "COMMENT ON CONSTRAINT kind_ok ON public.people IS 'asked for by the board'",
    "COMMENT ON FUNCTION public.one(integer) IS 'one'",
    "COMMENT ON SCHEMA clinic IS 'the clinic'",
]
UP = f"""
GRANT SELECT, UPDATE ON public.people TO {NURSE};
GRANT SELECT ("firstName"), UPDATE (kind) ON public.people TO {VIEWER};
GRANT SELECT ON public.pets TO {NURSE};
GRANT USAGE, SELECT ON SEQUENCE public.numbers TO {NURSE};
GRANT EXECUTE ON FUNCTION public.one(integer) TO PUBLIC, {NURSE};
GRANT USAGE, CREATE ON SCHEMA clinic TO {NURSE};
REVOKE USAGE ON TYPE public.mood FROM {VIEWER}, PUBLIC;
COMMENT ON COLUMN public.people."firstName" IS 'PHI';
COMMENT ON TABLE public.people IS 'PHI';
COMMENT ON TABLE public.pets IS 'no PHI';
COMMENT ON SCHEMA clinic IS NULL;
ALTER TABLE public.people DROP CONSTRAINT kind_ok;
ALTER TABLE public.people ADD CONSTRAINT kind_ok CHECK (kind <> '' AND kind <> 'x');
CREATE OR REPLACE FUNCTION public.one(a integer) RETURNS integer LANGUAGE sql AS 'SELECT 2';
COMMENT ON FUNCTION public.one(integer) IS 'two';
"""
DOWN = f"""
COMMENT ON FUNCTION public.one(integer) IS NULL;
DROP FUNCTION IF EXISTS public.one(integer);
ALTER TABLE public.people DROP CONSTRAINT IF EXISTS kind_ok;
ALTER TABLE public.people ADD CONSTRAINT kind_ok CHECK (kind <> '');
COMMENT ON TABLE public.pets IS NULL;
COMMENT ON TABLE public.people IS NULL;
COMMENT ON COLUMN public.people."firstName" IS NULL;
REVOKE ALL ON SCHEMA clinic FROM {NURSE};
REVOKE ALL ON SEQUENCE public.numbers FROM {NURSE};
REVOKE ALL ON public.pets FROM {NURSE};
REVOKE ALL ON public.people FROM {VIEWER};
REVOKE ALL ON public.people FROM {NURSE};
"""


@pytest.mark.majors(15, 18, slow=(15,))
@pytest.mark.parametrize(
    ("before", "one_transaction"),
    [(BEFORE, True), (BEFORE, False), ([], True), pytest.param([], False, marks=pytest.mark.slow)],
)
def test_what_was_there_before_is_put_back(
    target: Any, tree: TestTree, roles: None, before: list[str], one_transaction: bool
) -> None:
    tree.add_sql(V1, "grant", UP, DOWN, transaction=one_transaction)
    do(target, *BARE, *before)
    with as_it_was(target):
        for _ in range(2):
            migrate.apply(target, tree.render(), Selection(), way())
            migrate.revert(target, Reverts(), way())


def test_it_is_told_before_and_while_it_happens(target: Any, tree: TestTree, roles: None) -> None:
    tree.add_sql(V1, "grant", UP, DOWN)
    do(target, *BARE, *BEFORE)
    migrate.apply(target, tree.render(), Selection(), way())
    shown, told = preview_revert(target, Reverts())["prepared"], Told()
    assert f"-- type public.mood: USAGE of {VIEWER}; USAGE of PUBLIC is put back, as before this version" in shown
    assert "-- table public.people: its comment is put back as it was before this version, 'of the hospital'" in shown
    assert "-- function public.one(integer) is put back as it was before this version" in shown
    assert "-- other privileges, comments and functions of before are put back" in shown
    migrate.revert(target, Reverts(), way(progress=told))
    assert told.said("table public.people: put back INSERT WITH GRANT OPTION, SELECT WITH GRANT OPTION of before_nurse")
    assert told.said("function public.one(integer) is as before this version again")
    assert told.said("table public.people: its comment is as before this version again")


@pytest.mark.parametrize("name", ["changes", "down"])
def test_without_the_record_it_is_lost(
    target: Any, tree: TestTree, roles: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first test sees what it is about: without what the up records, and without the look of the down."""
    nothing = {
        "changes": lambda *given: {"changed": [], "made": []},
        "down": lambda *given: attributes_before.AttributesBefore(False, False, {}, {}),
    }
    monkeypatch.setattr(attributes_before, name, nothing[name])
    with pytest.raises(AssertionError, match="firstName"):
        test_what_was_there_before_is_put_back(target, tree, roles, BEFORE, True)


def test_the_record_holds_names_and_definitions_only(target: Any, tree: TestTree, roles: None) -> None:
    tree.add_sql(V1, "grant", UP, DOWN)
    do(target, *BARE, *BEFORE, "INSERT INTO public.people VALUES (1, 'Jane Roe', 'pupil')")
    migrate.apply(target, tree.render(), Selection(), way())
    kept = json.dumps(rows(target, "SELECT progress FROM pgops.step"))
    assert "of the hospital" in kept
    assert "Jane" not in kept
    assert attributes_before.BEGINNING not in kept


def test_what_came_after_the_version_stays(target: Any, tree: TestTree, roles: None) -> None:
    """The way down takes back what the version did, not what somebody did since."""
    tree.add_sql(V1, "grant", UP, DOWN)
    do(target, *BARE, *BEFORE)
    migrate.apply(target, tree.render(), Selection(), way())
    do(
        target,
        f"GRANT DELETE ON public.pets TO {NURSE}",
        "COMMENT ON COLUMN public.people.\"firstName\" IS 'asked for since'",
        "CREATE OR REPLACE FUNCTION public.one(a integer) RETURNS integer LANGUAGE sql AS 'SELECT 3'",
    )
    migrate.revert(target, Reverts(), way())
    found = rows(
        target,
        f"SELECT has_table_privilege('{NURSE}', 'public.pets', 'DELETE') AS kept, "
        f"has_table_privilege('{NURSE}', 'public.pets', 'SELECT') AS gone, public.one(0) AS value, "
        "col_description('public.people'::regclass, 2) AS comment",
    )
    assert found == [{"kept": True, "gone": False, "value": 3, "comment": "asked for since"}]


RENAME_UP = f"""
COMMENT ON COLUMN public.people.kind IS 'kind';
ALTER TABLE public.people RENAME TO persons;
ALTER TABLE public.persons RENAME COLUMN "firstName" TO first_name;
REVOKE ALL (first_name) ON public.persons FROM {VIEWER};
REVOKE ALL ON public.persons FROM {NURSE};
COMMENT ON COLUMN public.persons.first_name IS 'PHI';
COMMENT ON TABLE public.persons IS 'PHI';
"""
RENAME_DOWN = """
ALTER TABLE public.persons RENAME COLUMN first_name TO "firstName";
ALTER TABLE public.persons RENAME TO people;
"""


@MODES
def test_they_are_followed_through_other_names(target: Any, tree: TestTree, roles: None, one_transaction: bool) -> None:
    tree.add_sql(V1, "rename", RENAME_UP, RENAME_DOWN, transaction=one_transaction)
    do(target, *BARE, *BEFORE)
    with as_it_was(target):
        for _ in range(2):
            migrate.apply(target, tree.render(), Selection(), way())
            migrate.revert(target, Reverts(), way())


def test_what_is_dropped_and_made_again_gets_it_back(target: Any, tree: TestTree, roles: None) -> None:
    up = "DROP TABLE public.people;\nDROP FUNCTION public.one(integer);"
    tree.add_sql(V1, "drop", up, BARE[0] + ";")
    do(target, *BARE, *BEFORE)
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


# Names in which a dot, a quote or a word of SQL parts nothing.
ODD = [
    'CREATE SCHEMA "cli.nic"',
    'CREATE TABLE "cli.nic"."my.kids" (id integer PRIMARY KEY, name text, nick text, "a.b" text, "c""d" text, "e on f" text)',
    f'GRANT SELECT (id, nick, "a.b", "c""d", "e on f"), UPDATE ("a.b") ON "cli.nic"."my.kids" TO {NURSE}',
    *(
        f'COMMENT ON COLUMN "cli.nic"."my.kids".{name} IS \'theirs\''
        for name in ("nick", '"a.b"', '"c""d"', '"e on f"')
    ),
    'CREATE DOMAIN public.size AS integer CONSTRAINT "tall on small" CHECK (value > 0)',
    "COMMENT ON CONSTRAINT \"tall on small\" ON DOMAIN public.size IS 'theirs'",
]
KIDS = 'ALTER TABLE "cli.nic"."my.kids"'
COLUMNS_THAT_GO = {
    "dropped": (f"{KIDS} DROP COLUMN nick;", f"{KIDS} ADD COLUMN nick text;"),
    "quoted": (
        f'{KIDS} DROP COLUMN "a.b";\n{KIDS} DROP COLUMN "c""d";\n{KIDS} DROP COLUMN "e on f";',
        f'{KIDS} ADD COLUMN "a.b" text;\n{KIDS} ADD COLUMN "c""d" text;\n{KIDS} ADD COLUMN "e on f" text;',
    ),
    "revoked": (
        f"""REVOKE ALL ("a.b", "c""d", "e on f") ON "cli.nic"."my.kids" FROM {NURSE};
        COMMENT ON CONSTRAINT "tall on small" ON DOMAIN public.size IS NULL;""",
        "SELECT 1;",
    ),
    "another type": (
        f"{KIDS} DROP COLUMN nick;\n{KIDS} ADD COLUMN nick integer;",
        f"{KIDS} DROP COLUMN nick;\n{KIDS} ADD COLUMN nick text;",
    ),
    "another type, by the down alone": (
        f"{KIDS} ALTER COLUMN nick TYPE integer USING NULL;",
        f"DO $$ BEGIN {KIDS} DROP COLUMN nick; {KIDS} ADD COLUMN nick text; END $$;",
    ),
    "its name taken": (
        f"{KIDS} DROP COLUMN nick;\n{KIDS} RENAME COLUMN name TO nick;",
        f"{KIDS} RENAME COLUMN nick TO name;\n{KIDS} ADD COLUMN nick text;",
    ),
    "its name taken by one of its own": (
        f'{KIDS} DROP COLUMN nick;\n{KIDS} RENAME COLUMN "a.b" TO nick;',
        f'{KIDS} RENAME COLUMN nick TO "a.b";\n{KIDS} ADD COLUMN nick text;',
    ),
    "its table": (
        'DROP TABLE "cli.nic"."my.kids";',
        f"{ODD[1]};",
    ),
}


@MODES
@pytest.mark.parametrize(("up", "down"), COLUMNS_THAT_GO.values(), ids=list(COLUMNS_THAT_GO))
def test_what_hangs_on_a_column_comes_back_with_it(
    target: Any, tree: TestTree, roles: None, up: str, down: str, one_transaction: bool
) -> None:
    tree.add_sql(V1, "columns", up, down, transaction=one_transaction)
    do(target, *ODD)
    with as_it_was(target):
        for _ in range(2):
            migrate.apply(target, tree.render(), Selection(), way())
            migrate.revert(target, Reverts(), way())


def test_what_was_given_since_stays_on_a_column_that_its_way_back_makes_anew(
    target: Any, tree: TestTree, roles: None
) -> None:
    """And a column that takes the name meanwhile gets nothing that is not its own."""
    kids = "ALTER TABLE public.kids"
    tree.add_sql(
        V1,
        "type",
        f"{kids} ALTER COLUMN nick TYPE integer USING NULL;\n{kids} RENAME COLUMN name TO called;",
        f"DO $$ BEGIN {kids} DROP COLUMN nick; {kids} ADD COLUMN nick text;\n"
        f"{kids} DROP COLUMN old; {kids} RENAME COLUMN called TO old; END $$;",
    )
    do(target, "CREATE TABLE public.kids (name text, nick text, old text)")
    migrate.apply(target, tree.render(), Selection(), way())
    do(
        target,
        f"GRANT SELECT (nick), UPDATE (old) ON public.kids TO {NURSE}",
        "COMMENT ON COLUMN public.kids.nick IS 'since'",
        "COMMENT ON COLUMN public.kids.old IS 'old'",
    )
    migrate.revert(target, Reverts(), way())
    found = rows(
        target,
        "SELECT a.attname::text AS name, a.attacl IS NOT NULL AS given, col_description(a.attrelid, a.attnum) AS comment "
        "FROM pg_attribute a WHERE a.attrelid = 'public.kids'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1",
    )
    assert found == [
        {"name": "nick", "given": True, "comment": "since"},
        {"name": "old", "given": False, "comment": None},
    ]


def test_a_record_of_an_older_tool_is_read(target: Any, tree: TestTree, roles: None) -> None:
    """It had the name of a column in its identity only."""
    tree.add_sql(V1, "columns", *COLUMNS_THAT_GO["quoted"])
    do(target, *ODD)
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        do(
            target,
            "UPDATE pgops.step SET progress = jsonb_set(progress, '{attributes_before,changed}', "
            "(SELECT jsonb_agg(e - 'part') FROM jsonb_array_elements(progress #> '{attributes_before,changed}') AS e))",
        )
        migrate.revert(target, Reverts(), way())


KINDS = [
    "CREATE TABLE public.people (id integer PRIMARY KEY, kind integer)",
    "CREATE VIEW public.ids AS SELECT id FROM public.people",
    "CREATE MATERIALIZED VIEW public.kept AS SELECT id FROM public.people",
    "CREATE DOMAIN public.size AS integer CONSTRAINT tall CHECK (value > 0)",
    "CREATE PROCEDURE public.act() LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION public.same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER same BEFORE INSERT ON public.people FOR EACH ROW EXECUTE FUNCTION public.same()",
    "CREATE POLICY everybody ON public.people USING (true)",
    "CREATE INDEX by_kind ON public.people (kind)",
    "CREATE STATISTICS public.pairs ON id, kind FROM public.people",
    f"GRANT SELECT ON public.ids TO {NURSE}",
]
COMMENTED = [
    "VIEW public.ids",
    "COLUMN public.ids.id",
    "MATERIALIZED VIEW public.kept",
    "DOMAIN public.size",
    "CONSTRAINT tall ON DOMAIN public.size",
    "PROCEDURE public.act()",
    "TRIGGER same ON public.people",
    "POLICY everybody ON public.people",
    "INDEX public.by_kind",
    "STATISTICS public.pairs",
]
KINDS_UP = f"""
DO $$ BEGIN
    GRANT ALL ON ALL TABLES IN SCHEMA public TO {NURSE};
    GRANT ALL ON ALL ROUTINES IN SCHEMA public TO {VIEWER};
END $$;
{"".join(f"COMMENT ON {name} IS 'ours';" for name in COMMENTED)}
DROP VIEW public.ids;
CREATE VIEW public.ids AS SELECT id, kind FROM public.people;
CREATE OR REPLACE FUNCTION public.same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
"""
KINDS_DOWN = f"""
DROP VIEW IF EXISTS public.ids;
CREATE VIEW public.ids AS SELECT id FROM public.people;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {NURSE};
"""


@pytest.mark.slow
@pytest.mark.parametrize("commented", [True, False])
def test_of_every_kind_of_object(target: Any, tree: TestTree, roles: None, commented: bool) -> None:
    tree.add_sql(V1, "all", KINDS_UP, KINDS_DOWN)
    do(target, *KINDS, *(f"COMMENT ON {name} IS 'theirs'" for name in COMMENTED if commented))
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


def test_version_after_version(target: Any, tree: TestTree, roles: None) -> None:
    tree.add_sql(V1, "give", f"GRANT SELECT ON public.pets TO {NURSE};", f"REVOKE SELECT ON public.pets FROM {NURSE};")
    tree.add_sql(
        "20260101000002",
        "take",
        f"REVOKE SELECT ON public.pets FROM {NURSE};\nCOMMENT ON TABLE public.pets IS 'two';",
        "COMMENT ON TABLE public.pets IS NULL;",
    )
    do(target, *BARE)
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(target=V1), way())
        with as_it_was(target):
            migrate.apply(target, tree.render(), Selection(), way())
            migrate.revert(target, Reverts(), way())
        migrate.revert(target, Reverts(), way())


def test_half_a_step_is_taken_back(target: Any, tree: TestTree, roles: None) -> None:
    """A step of several transactions that stopped has recorded how all was at its beginning."""
    tree.add_sql(V1, "grant", UP + "SELECT 1/0;", DOWN, transaction=False)
    do(target, *BARE, *BEFORE)
    with as_it_was(target):
        with pytest.raises(Exception, match="division by zero"):
            migrate.apply(target, tree.render(), Selection(), way())
        assert "that the step has changed are put back" in preview_revert(target, Reverts())["prepared"]
        migrate.revert(target, Reverts(), way())


def test_a_version_of_before_the_record_goes_as_its_author_wrote(target: Any, tree: TestTree, roles: None) -> None:
    tree.add_sql(V1, "grant", UP, DOWN)
    do(target, *BARE)
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, f"UPDATE pgops.step SET progress = progress - '{attributes_before.PROGRESS}'")
    migrate.revert(target, Reverts(), way())
    found = rows(target, f"SELECT has_table_privilege('{NURSE}', 'public.pets', 'SELECT') AS granted")
    assert found == [{"granted": False}]


def test_a_constraint_that_is_validated_keeps_its_comment(target: Any, tree: TestTree) -> None:
    steps = [{"validate": [{"table": "people", "constraint": "tall"}]}]
    tree.add(V1, "validate", steps, {"verify.sql.j2": NO_DIFFERENCE})
    do(
        target,
        "CREATE TABLE public.people (id integer PRIMARY KEY, size integer)",
        "ALTER TABLE public.people ADD CONSTRAINT tall CHECK (size > 0) NOT VALID",
        "COMMENT ON CONSTRAINT tall ON public.people IS '100% of the board''s'",
    )
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


ACCESS, COLUMNS = "20251107000000", "20251105000000"
HOSPITAL = {
    ACCESS: [
        "GRANT SELECT, INSERT ON students TO white_cross_nurse",
        'GRANT SELECT ("firstName") ON students TO white_cross_viewer',
        "GRANT SELECT, DELETE ON compliance_reports TO white_cross_viewer, white_cross_admin",
    ],
    COLUMNS: [
        'ALTER TABLE users ADD COLUMN "isEmailVerified" boolean NOT NULL DEFAULT false',
        "COMMENT ON COLUMN users.\"isEmailVerified\" IS 'of the hospital'",
    ],
}


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(ACCESS, marks=pytest.mark.begins(at=lambda server: chain_before(server, ACCESS))),
        pytest.param(
            COLUMNS, marks=[pytest.mark.slow, pytest.mark.begins(at=lambda server: chain_before(server, COLUMNS))]
        ),
    ],
)
def test_the_shipped_version_leaves_what_the_hospital_had(target: Any, version: str) -> None:
    do(target, *HOSPITAL[version])
    with as_it_was(target):
        migrate.apply(target, shipped_chain(), Selection(steps=1), way())
        migrate.revert(target, Reverts(), way())
