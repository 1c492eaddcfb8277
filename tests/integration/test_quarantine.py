# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What keeps rows in quarantine out of their table is told before the version goes down, and inside the step where it came
later; once somebody has put it right, the same rollback goes through."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import When, do, fingerprint, rows, state, way
from support.tree import TestTree

V1 = "20260101000001"
FOREIGN_KEY = """
ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner)
    REFERENCES public.people (id) ON UPDATE CASCADE ON DELETE RESTRICT NOT VALID;
"""
STEPS = [
    {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
    {"validate": [{"table": "pets", "constraint": "pets_owner"}]},
    {"sql": {"up": "more.sql.j2", "down": "less.sql.j2"}},
]
FILES = {
    "up.sql.j2": FOREIGN_KEY,
    "down.sql.j2": "ALTER TABLE public.pets DROP CONSTRAINT IF EXISTS pets_owner;",
    "more.sql.j2": "CREATE TABLE public.shelters (id integer PRIMARY KEY);",
    "less.sql.j2": "DROP TABLE IF EXISTS public.shelters;",
}
KEPT = f"pgops.quarantine_{V1}_1_1"
ALL = "SELECT id, owner, name FROM pets ORDER BY id"


@pytest.fixture
def before(target: Any) -> list[dict[str, Any]]:
    """Five pets of somebody, and thirteen whose owner is not there."""
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY)",
        "CREATE TABLE pets (id integer PRIMARY KEY, owner integer, name text, mail text UNIQUE, chip text, note text, "
        "vet integer, friend integer, span int4range)",
        "INSERT INTO people VALUES (1)",
        "INSERT INTO pets SELECT n, 1, 'P' || n, 'p' || n, n, 'good', NULL, NULL, int4range(n, n + 1) "
        "FROM generate_series(1, 5) AS n",
        "INSERT INTO pets SELECT n, 9, 'Secret' || n, 's' || n, NULL, NULL, 7, CASE n WHEN 102 THEN 101 WHEN 103 THEN 99 END, "
        "int4range(n, n + 1) FROM generate_series(101, 113) AS n",
    )
    return rows(target, ALL)


def apply(target: Any, tmp_path: Any, steps: Any = None, **files: str) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add(V1, "own_pets", steps or STEPS, FILES | {f"{name}.sql.j2": text for name, text in files.items()})
    migrate.apply(target, tree.render(), Selection(), way(orphans="quarantine"))
    assert rows(target, f"SELECT count(*) AS n FROM {KEPT}") == [{"n": 13}]


def refused(target: Any) -> PgopsError:
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    error = caught.value
    assert "Secret" not in f"{error.message}{error.hint}{error.extra}"
    return error


def test_a_key_that_was_taken_since_is_told_before_anything_is_changed(target: Any, before: Any, tmp_path: Any) -> None:
    apply(target, tmp_path)
    do(target, "INSERT INTO pets (id) SELECT generate_series(101, 112)")
    now = fingerprint(target)
    error = refused(target)
    with pytest.raises(PgopsError) as caught:
        way_back.preview_revert(target, Reverts())
    assert caught.value.message == error.message
    assert error.message.startswith(
        f"Version {V1} cannot go down in {target.database}: of the 13 row(s) in {KEPT} these cannot go back into public.pets: "
        "12 row(s), by id 101, 102, "
    )
    assert (
        "110, ..., since the primary key pets_pkey has another row in their place. Nothing of this version"
        in error.message
    )
    assert "111" not in error.message
    (told,) = error.extra["quarantine"]["conflicts"]
    assert told["query"] in str(error.hint)
    assert [row["id"] for row in rows(target, told["query"])] == [str(number) for number in range(101, 113)]
    assert (fingerprint(target), state(target, V1)["state"]) == (now, "applied")
    assert rows(target, "SELECT result FROM pgops.run ORDER BY started_at DESC LIMIT 1") == [{"result": "refused"}]
    do(target, f"UPDATE {KEPT} SET id = id + 1000 WHERE id < 112", f"DELETE FROM {KEPT} WHERE id = 112")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, "SELECT count(*) AS n FROM pets WHERE name LIKE 'Secret%'") == [{"n": 12}]
    assert rows(target, f"SELECT to_regclass('{KEPT}') AS gone") == [{"gone": None}]


def test_each_rule_that_came_since_is_told_and_the_rest_is_not(target: Any, before: Any, tmp_path: Any) -> None:
    apply(target, tmp_path)
    do(
        target,
        "INSERT INTO pets (id, mail, chip, note, span) VALUES (500, 's101', 'a', 'b', '[102,105)')",
        "INSERT INTO pets (id, owner, name, chip, note) VALUES (501, 1, 'SECRET113', 'c', 'd')",
        "CREATE UNIQUE INDEX pets_name ON pets (lower(name)) WHERE id > 110",
        "CREATE UNIQUE INDEX pets_chip ON pets (chip) NULLS NOT DISTINCT",
        "ALTER TABLE pets ADD CONSTRAINT pets_span EXCLUDE USING gist (span WITH &&)",
        "ALTER TABLE pets ALTER note SET NOT NULL, ADD kind text DEFAULT 'cat', ADD colour text, ALTER vet TYPE bigint",
        "UPDATE pets SET colour = 'red'",
        "ALTER TABLE pets ALTER colour SET NOT NULL, ALTER kind SET NOT NULL",
        "ALTER TABLE pets ADD CONSTRAINT pets_vet CHECK (vet > 1000)",
        "CREATE TABLE vets (id integer PRIMARY KEY)",
        "ALTER TABLE pets ADD CONSTRAINT pets_vets FOREIGN KEY (vet) REFERENCES vets",
        # The friend of 102 comes back together with it.
        "ALTER TABLE pets ADD CONSTRAINT pets_friend FOREIGN KEY (friend) REFERENCES pets (id)",
    )
    error = refused(target)
    found = {told["why"]: (told["rows"], told["ids"][0]) for told in error.extra["quarantine"]["conflicts"]}
    assert found == {
        "the unique index pets_chip has another row in their place": (13, "101"),
        "the unique index pets_mail_key has another row in their place": (1, "101"),
        "the unique index pets_name has another row in their place": (1, "113"),
        "the constraint pets_span has another row in their place": (3, "102"),
        "the column note is NOT NULL, and they have no value there": (13, "101"),
        "the column colour is NOT NULL, and they have no value there": (13, "101"),
        "they break the constraint pets_vet": (13, "101"),
        "they have no parent in public.vets for the foreign key pets_vets": (13, "101"),
        "they have no parent in public.pets for the foreign key pets_friend": (1, "103"),
    }
    for told in error.extra["quarantine"]["conflicts"]:
        assert len(rows(target, told["query"])) == told["rows"]
    assert state(target, V1)["state"] == "applied"
    do(
        target,
        f"ALTER TABLE {KEPT} ADD COLUMN colour text",
        f"UPDATE {KEPT} SET chip = id, mail = 't' || id, note = 'x', colour = 'blue', vet = 2000, span = NULL, friend = NULL, "
        "name = 'Secret'",
        f"UPDATE {KEPT} SET name = name || id WHERE id > 110",
        "INSERT INTO vets VALUES (2000)",
        "DELETE FROM pets WHERE id = 501",
    )
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, "SELECT count(*) AS n FROM pets WHERE name LIKE 'Secret%'") == [{"n": 13}]


def test_what_the_server_computes_is_looked_at_anew(target: Any, before: Any, tmp_path: Any) -> None:
    do(target, "ALTER TABLE pets ADD small text GENERATED ALWAYS AS (lower(name)) STORED UNIQUE")
    apply(target, tmp_path)
    do(
        target,
        "INSERT INTO pets (id, owner, name) VALUES (500, 1, 'SECRET101')",
        'ALTER TABLE pets ADD "bornIn" integer',
        'UPDATE pets SET "bornIn" = 2020',
        'ALTER TABLE pets ALTER "bornIn" SET NOT NULL',
        "ALTER TABLE pets ADD tag text NOT NULL GENERATED ALWAYS AS ('tag ' || \"bornIn\") STORED",
    )
    error = refused(target)
    found = {told["why"]: told["ids"] for told in error.extra["quarantine"]["conflicts"]}
    assert found["the unique index pets_small_key has another row in their place"] == ["101"]
    added = f'ALTER TABLE {KEPT} ADD COLUMN "bornIn" integer'
    assert f"{added}, and fill it." in str(error.hint)
    assert f"change in {KEPT} what it is computed from" in str(error.hint)
    # What the hint says, and no more: the copy of what was computed stays as it is.
    do(target, added, f'UPDATE {KEPT} SET "bornIn" = 2021', f"UPDATE {KEPT} SET name = 'Secret101b' WHERE id = 101")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, "SELECT name, small, tag FROM pets WHERE id = 101") == [
        {"name": "Secret101b", "small": "secret101b", "tag": "tag 2021"}
    ]


def test_the_look_does_not_compare_each_row_with_each(target: Any, tmp_path: Any) -> None:
    many = 10_000
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY)",
        "CREATE TABLE pets (id integer PRIMARY KEY, owner integer, name text UNIQUE)",
        f"INSERT INTO pets SELECT n, n, 'Secret' || n FROM generate_series(1, {many}) AS n",
        "CREATE UNIQUE INDEX pets_both ON pets (owner, name) NULLS NOT DISTINCT",
    )
    tree = TestTree(tmp_path / "sql")
    # Row with row it took 31 s, this way 0.1 s.
    tree.add(V1, "own_pets", STEPS, FILES, budgets={"index_timeout_s": 10})
    migrate.apply(target, tree.render(), Selection(), way(orphans="quarantine"))
    do(target, "INSERT INTO pets (id, name) VALUES (0, 'Secret7')")
    error = refused(target)
    assert error.extra["quarantine"]["conflicts"][0]["ids"] == ["7"]
    do(target, "DELETE FROM pets")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, "SELECT count(*) AS n FROM pets") == [{"n": many}]


def test_what_goes_down_before_the_put_back_stands_in_nobodys_way(target: Any, before: Any, tmp_path: Any) -> None:
    apply(
        target,
        tmp_path,
        more="CREATE UNIQUE INDEX pets_chip ON public.pets (chip) NULLS NOT DISTINCT; "
        "ALTER TABLE public.pets ALTER COLUMN note SET NOT NULL;",
        less="ALTER TABLE public.pets ALTER COLUMN note DROP NOT NULL; DROP INDEX IF EXISTS public.pets_chip;",
    )
    migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert rows(target, ALL) == before


# By what a block does: what came since, that it takes out of the way.
SETTLED = {
    "DELETE FROM public.pets WHERE owner IS NULL": "INSERT INTO pets (id) VALUES (101)",
    "INSERT INTO public.vets (id) VALUES (7)": "ALTER TABLE pets ADD CONSTRAINT pets_vets FOREIGN KEY (vet) REFERENCES vets",
}


@pytest.mark.parametrize("what", SETTLED)
def test_what_a_block_settles_before_the_put_back_stands_in_nobodys_way(
    target: Any, before: Any, tmp_path: Any, what: str
) -> None:
    do(target, "CREATE TABLE vets (id integer PRIMARY KEY)")
    apply(target, tmp_path, steps=[STEPS[0], STEPS[2]], more="SELECT 1;", less=f"DO $$ BEGIN {what}; END $$;")
    do(target, SETTLED[what])
    way_back.preview_revert(target, Reverts())
    migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert rows(target, ALL) == before


NO_PARENT_COMES = (
    "UPDATE public.vets SET name = 'x'; DELETE FROM public.vets;",
    "UPDATE public.notes SET vets = 1, pets = 1; INSERT INTO other.vets VALUES (7);",
)


@pytest.mark.parametrize("less", NO_PARENT_COMES)
def test_a_parent_that_nothing_gives_before_the_put_back_is_told_before(
    target: Any, before: Any, tmp_path: Any, less: str
) -> None:
    made = ("public.vets (id integer PRIMARY KEY, name text)", "public.notes (vets integer, pets integer)")
    do(target, *(f"CREATE TABLE {table}" for table in made), "CREATE SCHEMA other CREATE TABLE vets (id integer)")
    apply(target, tmp_path, steps=[STEPS[0], STEPS[2]], more="SELECT 1;", less=less)
    do(target, "ALTER TABLE pets ADD CONSTRAINT pets_vets FOREIGN KEY (vet) REFERENCES vets")
    error = refused(target)
    assert "have no parent in public.vets" in error.message and "Nothing of this version" in error.message
    assert state(target, V1)["state"] == "applied"


def test_rows_of_a_partition_give_a_parent_before_the_put_back(target: Any, before: Any, tmp_path: Any) -> None:
    do(
        target,
        "CREATE TABLE vets (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE vets_1 PARTITION OF vets FOR VALUES FROM (1) TO (100)",
    )
    less = "INSERT INTO public.vets_1 (id) VALUES (7);"
    apply(target, tmp_path, steps=[STEPS[0], STEPS[2]], more="SELECT 1;", less=less)
    do(target, "ALTER TABLE pets ADD CONSTRAINT pets_vets FOREIGN KEY (vet) REFERENCES vets")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000002"))
    assert rows(target, ALL) == before


def test_rows_that_go_in_a_block_before_the_put_back_take_nobodys_place(target: Any, tmp_path: Any) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        "20260101000000",
        "pets",
        "CREATE TABLE public.people (id integer PRIMARY KEY); CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer);",
        "DROP TABLE IF EXISTS public.pets; DROP TABLE public.people;",
        transaction=True,
    )
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "INSERT INTO pets SELECT n, 9 FROM generate_series(101, 113) AS n")
    less = "DO $$ BEGIN IF to_regclass('public.pets') IS NOT NULL THEN DROP TABLE public.pets; END IF; END $$;"
    files = {"more.sql.j2": "SELECT 1;", "less.sql.j2": less}
    files["down.sql.j2"] = "ALTER TABLE IF EXISTS public.pets DROP CONSTRAINT IF EXISTS pets_owner;"
    tree.add(V1, "own_pets", [STEPS[0], STEPS[2]], FILES | files)
    migrate.apply(target, tree.render(), Selection(), way(orphans="quarantine"))
    do(target, "INSERT INTO pets (id) VALUES (101)")
    way_back.preview_revert(target, Reverts(steps=2))
    migrate.revert(target, Reverts(steps=2), way("20260101T000000Z-000002"))
    assert rows(target, "SELECT to_regclass('pets') AS gone") == [{"gone": None}]


def test_who_comes_between_the_look_and_the_put_back_is_told_in_the_same_way(
    target: Any, before: Any, tmp_path: Any
) -> None:
    apply(target, tmp_path)
    come = When("DROP TABLE", lambda: do(target, "INSERT INTO pets (id, mail) VALUES (101, 'x'), (700, 's105')"))
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, Reverts(), way("20260101T000000Z-000002", progress=come))
    error = caught.value
    assert error.sqlstate == "23505"
    assert (
        f"cannot put the 13 row(s) of {KEPT} back into public.pets: 1 row(s), by id 101, since the primary key"
        in error.message
    )
    assert "1 row(s), by id 105, since the unique index pets_mail_key" in error.message
    assert "(SQLSTATE 23505)" in error.message and f"not reverted: {V1} (stopped at step 1 of 3)" in error.message
    assert "Secret" not in f"{error.message}{error.hint}{error.extra['quarantine']}"
    assert len(rows(target, error.extra["quarantine"]["conflicts"][0]["query"])) == 1
    assert state(target, V1)["state"] == "reverting"
    assert rows(target, "SELECT conname FROM pg_constraint WHERE conname = 'pets_owner'") == [{"conname": "pets_owner"}]
    # The next one sees it before it begins.
    assert "Nothing of this version was reverted" in refused(target).message
    do(target, "DELETE FROM pets WHERE id IN (101, 700)")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, ALL) == before


def test_what_no_look_can_tell_is_told_by_the_put_back_with_the_rows(target: Any, before: Any, tmp_path: Any) -> None:
    apply(target, tmp_path)
    do(
        target,
        "CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no % today', NEW.name; END $$",
        "CREATE TRIGGER closed BEFORE INSERT ON pets FOR EACH ROW EXECUTE FUNCTION closed()",
    )
    error = refused(target)
    assert error.sqlstate == "P0001"
    assert "13 row(s), by id 101, 102, " in error.message
    assert "since PL/pgSQL function closed() line 1 at RAISE raised an error" in error.message
    assert f'SELECT ("id")::text AS id FROM "pgops"."{KEPT.partition(".")[2]}"' in str(error.hint)
    do(target, "DROP TRIGGER closed ON pets")
    migrate.revert(target, Reverts(), way("20260101T000000Z-000003"))
    assert rows(target, ALL) == before


@pytest.mark.slow
def test_rollback_yml_says_it_before_it_makes_a_backup_and_goes_through_afterwards(
    playbook: Any, target: Any, before: Any, tmp_path: Any
) -> None:
    apply(target, tmp_path)
    playbook.variables["pgops_sql"] = str(tmp_path / "sql")
    do(target, "INSERT INTO pets (id) VALUES (101)")
    for argument in ("--check", "--diff"):
        result = playbook("rollback.yml", argument, rollback_strategy="down", rollback_confirm=target.database)
        assert result.rc == 2
        assert "1 row(s), by id 101, since the primary key pets_pkey has another row in their place" in result.output
        assert "rollback_strategy=down" in result.output.partition("List them: ")[2]
        assert "Secret" not in result.output
    assert not list(playbook.backups.glob("*/*"))
    do(target, "DELETE FROM pets WHERE id = 101")
    result = playbook("rollback.yml", rollback_strategy="down", rollback_confirm=target.database)
    assert result.rc == 0, result.output
    assert rows(target, ALL) == before
