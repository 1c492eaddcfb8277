# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Rows without a parent stop a foreign key before anything is changed, wait in quarantine for the way back, or get a
placeholder that the version declares for a parent."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import integrity, migrate, statements, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_lint, migration_tree
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import of_versions
from support.engine import Told, do, rows, state, way
from support.tree import NO_DIFFERENCE, TestTree

V1 = "20260101000001"
UP = """
ALTER TABLE public.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner)
    REFERENCES public.people (id) ON UPDATE CASCADE ON DELETE RESTRICT NOT VALID;
"""
DOWN = "ALTER TABLE public.pets DROP CONSTRAINT IF EXISTS pets_owner;"
STEPS = [
    {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
    {"validate": [{"table": "pets", "constraint": "pets_owner"}]},
]
ALL = "SELECT id, owner, name FROM pets ORDER BY id"


@pytest.fixture
def migrations(target: Any, tmp_path: Any) -> list[dict[str, Any]]:
    do(
        target,
        "CREATE TABLE people (id uuid PRIMARY KEY DEFAULT gen_random_uuid())",
        "CREATE TABLE pets (id integer PRIMARY KEY, owner uuid, name text, "
        "loud text GENERATED ALWAYS AS (upper(name)) STORED)",
        "INSERT INTO people DEFAULT VALUES",
        "INSERT INTO pets SELECT n, id, 'P' || n FROM people, generate_series(1, 5) AS n",
        "INSERT INTO pets SELECT n, gen_random_uuid(), 'Secret' || n FROM generate_series(101, 113) AS n",
        "INSERT INTO pets VALUES (200, NULL, 'wild')",
    )
    tree = TestTree(tmp_path / "sql")
    tree.add(V1, "own_pets", STEPS, {"up.sql.j2": UP, "down.sql.j2": DOWN})
    return tree.render()


def test_two_large_tables_are_counted_by_their_indexes_and_the_session_stays_as_it_was(
    target: Any, superuser_connection: Any
) -> None:
    do(
        target,
        "CREATE TABLE people (id bigint PRIMARY KEY, name text)",
        "CREATE TABLE pets (id bigint PRIMARY KEY, owner bigint, name text)",
        "INSERT INTO people SELECT n, repeat('n', 60) FROM generate_series(1, 150000) AS n",
        "INSERT INTO pets SELECT n, n * 7919 % 150000 + 2, repeat('n', 60) FROM generate_series(1, 150000) AS n",
        "CREATE INDEX pets_owner_idx ON pets (owner)",
        "ALTER TABLE pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner) REFERENCES people (id) NOT VALID",
    )

    def read() -> int:
        """How many entries of the index of the pets' owners were read; the planner itself looks at its ends."""
        with superuser_connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'pets_owner_idx'")
            return int(cursor.fetchone()[0])

    seen = []
    with closing(connect(target, application_name="pgops test")) as conn, conn.cursor() as cursor:
        key = integrity.find_foreign_key(conn, "public", "pets", "pets_owner")
        assert key is not None
        for vacuumed in (False, True):
            if vacuumed:
                do(target, "VACUUM (ANALYZE) people", "VACUUM (ANALYZE) pets")
            before = read()
            assert integrity.count_orphans(conn, key) == (1, ["82321"])
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute(
                "SELECT current_setting('enable_hashjoin'), current_setting('max_parallel_workers_per_gather')"
            )
            assert cursor.fetchone() == ("on", "2")
            seen.append(read() - before >= 150_000)
    assert seen == [False, True]


def test_orphans_are_counted_before_and_told_by_ten_ids_and_the_query(target: Any, migrations: Any) -> None:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, migrations, Selection(), way())
    error = caught.value
    assert error.sqlstate == "23503"
    assert "13 row(s) of public.pets have no parent in public.people, by id 101, 102," in error.message
    assert "110, ..." in error.message
    assert "111" not in error.message
    assert "Secret" not in error.message + str(error.hint)
    told = error.extra["orphans"]
    assert (told["rows"], len(told["ids"])) == (13, 10)
    assert [row["id"] for row in rows(target, told["query"])] == [str(number) for number in range(101, 114)]
    assert "migrate_orphans=quarantine" in str(error.hint)
    assert rows(target, "SELECT conname FROM pg_constraint WHERE conname = 'pets_owner'") == []
    assert state(target, V1)["steps"] == "1:pending 2:pending"


def test_when_they_are_mended_the_same_run_goes_on(target: Any, migrations: Any) -> None:
    with pytest.raises(PgopsError):
        migrate.apply(target, migrations, Selection(), way())
    do(target, "DELETE FROM pets WHERE id > 100")
    migrate.apply(target, migrations, Selection(), way())
    assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'pets_owner'") == [
        {"convalidated": True}
    ]


def test_the_quarantine_keeps_them_tells_them_and_gives_them_back(target: Any, migrations: Any) -> None:
    before = rows(target, ALL)
    result = migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    (moved,) = result["applied"][0]["quarantined"]
    assert (moved["table"], moved["constraint"], moved["rows"]) == ("public.pets", "public.pets.pets_owner", 13)
    kept = rows(target, f"SELECT id, owner, name FROM {moved['quarantine']} ORDER BY id")
    assert sorted([*rows(target, ALL), *kept], key=lambda row: row["id"]) == before
    assert len(kept) == 13
    audit = rows(target, "SELECT detail FROM pgops.audit WHERE event = 'applied'")
    assert audit[0]["detail"]["quarantined"][0]["rows"] == 13
    shown = way_back.preview_revert(target, Reverts())
    assert f"13 row(s) are put back from {moved['quarantine']}" in shown["prepared"]
    migrate.revert(target, Reverts(), way())
    assert rows(target, ALL) == before
    assert rows(target, f"SELECT to_regclass('{moved['quarantine']}') AS gone") == [{"gone": None}]


def test_what_lies_in_quarantine_is_deleted_by_a_version_that_says_so(
    target: Any, migrations: Any, tmp_path: Any
) -> None:
    migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    tree = TestTree(tmp_path / "sql")
    (version,) = migrations
    drop = f"DROP TABLE IF EXISTS pgops.quarantine_{version['version']}_1_1;"
    tree.add(
        "20260101000002", "delete_pets_of_nobody", [{"sql": {"up": "up.sql.j2"}}],
        {"up.sql.j2": drop, "verify.sql.j2": NO_DIFFERENCE}, risk="high", phi=True,
        rollback={"safety": "none", "stays": "The pets that had no owner are deleted."},
    )  # fmt: skip
    assert of_versions(migration_lint.lint(migration_tree.read_tree(tree.folder)), ["20260101000002"]) == []
    chain = tree.render()
    migrate.apply(target, chain, Selection(), way())
    assert rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'quarantine%'") == []
    (audit,) = rows(target, "SELECT max(version) AS version FROM pgops.audit WHERE event = 'applied'")
    assert audit["version"] == "20260101000002"
    told = Told()
    migrate.revert(target, Reverts(version=V1), way(progress=told))
    assert told.said(f"nothing is put back from pgops.quarantine_{V1}_1_1 into public.pets")
    assert rows(target, "SELECT count(*) AS n FROM pets WHERE id BETWEEN 101 AND 113") == [{"n": 0}]


def test_without_orphans_there_is_no_quarantine(target: Any, migrations: Any) -> None:
    do(target, "DELETE FROM pets WHERE id BETWEEN 101 AND 113")
    result = migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    assert result["applied"][0]["quarantined"] == []
    assert rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'quarantine%'") == []


def test_nothing_is_moved_while_other_rows_hang_on_it(target: Any, migrations: Any) -> None:
    do(
        target,
        "CREATE TABLE toys (pet integer REFERENCES pets ON DELETE CASCADE)",
        "INSERT INTO toys VALUES (101), (1)",
    )
    with pytest.raises(PgopsError, match=r"1 row\(s\) of public.toys hang on rows of public.pets"):
        migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    assert rows(target, "SELECT count(*) AS n FROM pets") == [{"n": 19}]
    assert rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'quarantine%'") == []


def test_a_foreign_key_that_waits_for_its_validation_tells_its_orphans_too(target: Any, migrations: Any) -> None:
    do(target, UP)
    with pytest.raises(PgopsError, match=r"13 row\(s\) of public.pets have no parent") as caught:
        migrate.apply(target, migrations, Selection(), way())
    assert caught.value.extra["reason"] == "orphans"
    assert state(target, V1)["steps"] == "1:done 2:pending"


# --- placeholders -----------------------------------------------------------------------------------------------------

PLACEHOLDER = {"name": "Unknown {key}", "mood": "CALM", "age": 0, "active": False, "notes": None, "more": "[]"}
PARENTS = "SELECT id, name, active FROM people ORDER BY id"


@pytest.fixture
def declared(target: Any, tmp_path: Any) -> list[dict[str, Any]]:
    """Four pets, of which three have an owner that is not there, two of them the same."""
    do(
        target,
        "CREATE TYPE mood AS ENUM ('CALM', 'WILD')",
        "CREATE TABLE people (id integer PRIMARY KEY, name varchar(40) NOT NULL, mood mood NOT NULL, age integer NOT NULL, "
        "active boolean NOT NULL DEFAULT true, notes text DEFAULT 'none', more json, "
        "loud text GENERATED ALWAYS AS (upper(name)) STORED)",
        "CREATE TABLE pets (id integer PRIMARY KEY, owner integer, name text)",
        "INSERT INTO people (id, name, mood, age) VALUES (1, 'Ann', 'WILD', 30)",
        "INSERT INTO pets VALUES (1, 1, 'a'), (2, 7, 'b'), (3, 7, 'c'), (4, 8, 'd'), (5, NULL, 'e')",
    )
    return own_pets(tmp_path, [{"constraint": "pets_owner", "row": PLACEHOLDER}])


def own_pets(tmp_path: Any, placeholders: Any, **keys: Any) -> list[dict[str, Any]]:
    tree = TestTree(tmp_path / "sql")
    step = {"sql": {"up": "up.sql.j2", "down": "down.sql.j2", "placeholders": placeholders}}
    tree.add(V1, "own_pets", [step, STEPS[1]], {"up.sql.j2": UP, "down.sql.j2": DOWN}, **keys)
    return tree.render()


@pytest.mark.majors(15, 18, slow=(15,))
@pytest.mark.parametrize("one_transaction", [True, False])
def test_a_placeholder_is_made_once_a_missing_parent_told_and_taken_away(
    target: Any, declared: Any, tmp_path: Any, one_transaction: bool
) -> None:
    pets, parents = rows(target, ALL), rows(target, PARENTS)
    migrations = own_pets(tmp_path, [{"constraint": "pets_owner", "row": PLACEHOLDER}], transaction=one_transaction)
    for _ in range(2):
        result = migrate.apply(target, migrations, Selection(), way(orphans="placeholder"))
        assert result["applied"][0]["quarantined"] == []
        (made,) = result["applied"][0]["placeholders"]
        assert (made["table"], made["constraint"], made["rows"]) == ("public.people", "public.pets.pets_owner", 2)
        assert rows(target, PARENTS) == [
            *parents,
            {"id": 7, "name": "Unknown 7", "active": False},
            {"id": 8, "name": "Unknown 8", "active": False},
        ]
        assert rows(target, "SELECT count(*) AS n FROM people WHERE id > 1 AND notes IS NULL AND mood = 'CALM'") == [
            {"n": 2}
        ]
        assert rows(target, ALL) == pets
        assert rows(target, "SELECT convalidated FROM pg_constraint WHERE conname = 'pets_owner'")[0]["convalidated"]
        audit = rows(target, "SELECT detail FROM pgops.audit WHERE event = 'applied'")
        assert audit[-1]["detail"]["placeholders"][0]["rows"] == 2
        assert "of 2 placeholder(s) in public.people those go" in way_back.preview_revert(target, Reverts())["prepared"]
        migrate.revert(target, Reverts(), way())
        assert (rows(target, ALL), rows(target, PARENTS)) == (pets, parents)
        assert rows(target, f"SELECT to_regclass('{made['placeholders']}') AS gone") == [{"gone": None}]


def test_a_placeholder_that_somebody_changed_or_uses_stays(target: Any, declared: Any) -> None:
    do(
        target,
        "CREATE TABLE cars (owner integer REFERENCES people ON DELETE CASCADE)",
        "INSERT INTO pets VALUES (6, 9, 'f')",
    )
    migrate.apply(target, declared, Selection(), way(orphans="placeholder"))
    do(target, "UPDATE people SET name = 'Bob' WHERE id = 7", "INSERT INTO cars VALUES (8)")
    told = Told()
    migrate.revert(target, Reverts(), way(progress=told))
    assert [row["id"] for row in rows(target, PARENTS)] == [1, 7, 8]
    assert told.said("1 placeholder(s) taken out of public.people; 2 stay")


def test_what_a_version_does_not_declare_is_not_made_up(target: Any, migrations: Any) -> None:
    with pytest.raises(PgopsError, match=r"13 row\(s\) of public.pets have no parent") as caught:
        migrate.apply(target, migrations, Selection(), way(orphans="placeholder"))
    assert "migrate_orphans=placeholder" not in str(caught.value.hint)
    assert state(target, V1)["steps"] == "1:pending 2:pending"


def test_without_being_asked_for_it_is_named_and_shown_and_not_made(target: Any, declared: Any) -> None:
    with pytest.raises(PgopsError) as caught:
        migrate.apply(target, declared, Selection(), way())
    assert "migrate_orphans=placeholder" in str(caught.value.hint)
    with connect(target, application_name="test") as conn:
        shown = statements.up_text(conn, declared[0])
    conn.close()
    assert "a parent name = 'Unknown {key}', mood = 'CALM', age = 0, active = false, notes = NULL" in shown


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"name": "Unknown"}, "can make no placeholder in public.people for public.pets.pets_owner: .*null value"),
        ({**PLACEHOLDER, "mood": "GLAD"}, "can make no placeholder .*invalid input value for enum mood"),
        ({**PLACEHOLDER, "nmae": "x"}, "it has no column nmae"),
    ],
)
def test_a_placeholder_that_cannot_be_made_leaves_everything_as_it_was(
    target: Any, declared: Any, tmp_path: Any, row: dict[str, Any], told: str
) -> None:
    given = own_pets(tmp_path, [{"constraint": "pets_owner", "row": row}])
    with pytest.raises(PgopsError, match=told) as caught:
        migrate.apply(target, given, Selection(), way(orphans="placeholder"))
    assert "Unknown" not in caught.value.message
    assert len(rows(target, PARENTS)) == 1
    assert (
        rows(target, "SELECT relname FROM pg_class WHERE relname LIKE 'placeholder%' OR relname = 'pets_owner'") == []
    )


def test_what_is_declared_is_part_of_what_is_approved(tmp_path: Any) -> None:
    first, second = (
        own_pets(tmp_path, [{"constraint": "pets_owner", "row": {"name": name}}])[0] for name in ("Unknown", "Nobody")
    )
    assert first["rendered_checksum"] != second["rendered_checksum"]


@pytest.mark.parametrize(
    ("placeholders", "told"),
    [
        ([{"constraint": "pets_owners", "row": {"name": "x"}}], "adds no foreign key 'pets_owners'.*pets_owner"),
        ([{"constraint": "pets_owner", "row": {"id": 1}}], "has the key that is missing in 'id'"),
        ([{"constraint": "pets_owner"}], "'row'"),
        ([{"constraint": "pets_owner", "row": {"name": ["x"]}}], "'name' of a placeholder must be one value"),
        (["pets_owner"], "a placeholder has 'constraint' and 'row'"),
    ],
)
def test_a_placeholder_that_is_declared_wrongly_is_found_before(tmp_path: Any, placeholders: Any, told: str) -> None:
    with pytest.raises(PgopsError, match=told):
        own_pets(tmp_path, placeholders)
