# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A way down that drops a column or table takes nothing along that is somebody else's: it is named and refused before."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, fingerprint, rows, state, way
from support.tree import NO_DIFFERENCE, TestTree

V1, V2, V3 = (f"2026010100000{number}" for number in (1, 2, 3))
PEOPLE = "CREATE TABLE people (id integer PRIMARY KEY, code text, \"old Name\" text); INSERT INTO people VALUES (1, 'a', 'b')"
ADD = "ALTER TABLE public.people ADD COLUMN nick text CONSTRAINT short CHECK (length(nick) < 9) UNIQUE;"
DROP = "ALTER TABLE public.people DROP COLUMN nick;"


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    do(target, PEOPLE)
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "nick", ADD, DROP)
    return tree


def apply(target: Any, tree: TestTree) -> None:
    migrate.apply(target, tree.render(), Selection(), way())


def applied(target: Any) -> list[str]:
    return [
        row["version"] for row in rows(target, "SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY 1")
    ]


def refused(target: Any, selection: Reverts, match: str) -> PgopsError:
    """Shown and run it is refused, and nothing is gone."""
    there, before = fingerprint(target), applied(target)
    with pytest.raises(PgopsError, match=match):
        way_back.preview_revert(target, selection)
    with pytest.raises(PgopsError, match=match) as caught:
        migrate.revert(target, selection, way())
    assert (fingerprint(target), applied(target)) == (there, before)
    return caught.value


OWN = {
    "constraint no_space on public.people": "ALTER TABLE people ADD CONSTRAINT no_space CHECK (nick <> ' ') NOT VALID",
    "constraint people_nick_fkey on public.people": "ALTER TABLE people ADD FOREIGN KEY (nick) REFERENCES names",
    "index by_code on public.people": "CREATE INDEX by_code ON people (code) WHERE nick IS NOT NULL",
    "index by_id on public.people": "CREATE INDEX by_id ON people (id) INCLUDE (nick)",
    "index once on public.people": "CREATE UNIQUE INDEX once ON people (code, lower(nick))",
    "statistics together on public.people": "CREATE STATISTICS together ON code, nick FROM people",
}


def test_what_somebody_made_on_its_column_is_named_and_stays(target: Any, tree: TestTree) -> None:
    apply(target, tree)
    do(target, "CREATE TABLE names (name text PRIMARY KEY)", *OWN.values())
    error = refused(
        target, Reverts(), f"drops column public.people.nick, and PostgreSQL would drop with it {'; '.join(OWN)}, which"
    )
    assert "Nothing of it was reverted" in error.message
    assert "yours to drop first" in str(error.hint) and "rollback_through" not in str(error.hint)
    assert (error.extra["reason"], error.extra["not_reverted"]) == ("taken_along", [V1])
    assert rows(target, "SELECT result FROM pgops.run ORDER BY started_at DESC LIMIT 1") == [{"result": "refused"}]
    do(target, "ALTER TABLE people DROP CONSTRAINT no_space, DROP CONSTRAINT people_nick_fkey")
    do(target, "DROP INDEX by_code, by_id, once", "DROP STATISTICS together")
    migrate.revert(target, Reverts(), way())
    assert applied(target) == []


def test_what_somebody_made_on_its_table_is_named_and_stays(target: Any, tree: TestTree) -> None:
    made = (
        "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer REFERENCES public.people, name text UNIQUE "
        "CHECK (name <> ''), EXCLUDE USING btree (owner WITH =)); CREATE STATISTICS public.of_pets ON id, owner FROM public.pets;"
    )
    tree.add_sql(V2, "pets", made, "DROP TABLE public.pets;")
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    do(target, "CREATE INDEX mine ON pets (lower(name))")
    refused(
        target, Reverts(), "drops table public.pets, and PostgreSQL would drop with it index mine on public.pets, which"
    )
    do(target, "DROP INDEX mine")
    migrate.revert(target, Reverts(), way())
    assert applied(target) == [V1]


def test_an_index_of_one_partition_is_named(target: Any, tree: TestTree) -> None:
    do(
        target,
        "CREATE TABLE visits (id integer, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    )
    tree.add_sql(
        V2, "visits", "ALTER TABLE public.visits ADD COLUMN note text; CREATE INDEX by_note ON public.visits (note);",
        "DROP INDEX public.by_note; ALTER TABLE public.visits DROP COLUMN note;",
    )  # fmt: skip
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    do(target, "CREATE INDEX mine ON visits_2026 (lower(note))")
    refused(
        target,
        Reverts(),
        "column public.visits.note, and PostgreSQL would drop with it index mine on public.visits_2026, which",
    )


INDEXED = "has an index on its column public.people.nick"


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ("ALTER TABLE public.people ADD CONSTRAINT p_nick_check CHECK (nick <> '') NOT VALID;", "names its column public.people.nick"),
        ("ALTER TABLE public.people ALTER COLUMN nick SET DEFAULT 'x';", "names its column public.people.nick"),
        ({"columns": [{"expression": "lower(nick)"}], "unique": True}, INDEXED),
        ({"columns": ["code"], "where": "nick IS NOT NULL"}, INDEXED),
        ({"columns": ["code"], "include": ["nick"]}, INDEXED),
    ],
)  # fmt: skip
def test_a_later_version_that_names_the_column_keeps_it(target: Any, tree: TestTree, later: Any, told: str) -> None:
    if isinstance(later, str):
        tree.add_sql(V2, "later", later, "SELECT 1;")
    else:
        index = {"name": "by_nick", "table": "people", "why": "x", **later}
        tree.add(V2, "later", [{"indexes": "indexes.yml"}], {"indexes.yml": [index], "verify.sql.j2": NO_DIFFERENCE})
    apply(target, tree)
    error = refused(target, Reverts(version=V1), f"version {V2} {told}")
    assert (error.extra["reason"], error.extra["needed_by"]) == ("needed", V2)
    migrate.revert(target, Reverts(through=V1), way())
    assert applied(target) == []


def test_a_later_version_that_has_a_column_of_that_name_elsewhere_is_no_obstacle(target: Any, tree: TestTree) -> None:
    made = "CREATE TABLE public.pets (id integer PRIMARY KEY, owner integer REFERENCES public.people, nick text);"
    tree.add_sql(V2, "pets", made, "DROP TABLE public.pets;")
    apply(target, tree)
    migrate.revert(target, Reverts(version=V1), way())
    assert applied(target) == [V2]


def test_a_version_whose_text_does_not_show_it_is_named_by_the_catalog(target: Any, tree: TestTree) -> None:
    block = "DO $$ BEGIN EXECUTE format('CREATE INDEX hidden ON public.people (lower(%I))', 'ni' || 'ck'); END $$;"
    tree.add_sql(V2, "hidden", block, "DROP INDEX public.hidden;")
    apply(target, tree)
    error = refused(
        target, Reverts(version=V1), rf"index hidden on public.people \(version {V2} made it\), which no version"
    )
    assert (error.extra["reason"], error.extra["needed_by"]) == ("needed", V2)
    assert error.hint == f"-e rollback_through={V1} reverts {V2}, {V1}, in this order."
    migrate.revert(target, Reverts(through=V1), way())
    assert applied(target) == []


def test_an_older_version_is_looked_at_before_a_newer_one_goes(target: Any, tree: TestTree) -> None:
    tree.add_sql(V2, "pets", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;")
    apply(target, tree)
    do(target, "CREATE INDEX mine ON people (lower(nick))")
    error = refused(target, Reverts(steps=2), f"Version {V1} cannot be reverted .* index mine on public.people, which")
    assert error.extra["not_reverted"] == [V2, V1]


def renaming(tree: TestTree) -> None:
    """The column that the first version adds is another one by its name when the second has gone through."""
    tree.add_sql(V2, "unrelated", "CREATE TABLE public.pets (id integer);", "DROP TABLE public.pets;")
    tree.add_sql(
        V3, "switch",
        'ALTER TABLE public.people DROP COLUMN nick; ALTER TABLE public.people RENAME COLUMN "old Name" TO nick;',
        'ALTER TABLE public.people RENAME COLUMN nick TO "old Name"; ALTER TABLE public.people ADD COLUMN nick text;',
    )  # fmt: skip


def test_a_column_that_has_another_name_by_then_is_looked_at_in_its_turn(target: Any, tree: TestTree) -> None:
    renaming(tree)
    do(target, 'CREATE INDEX mine ON people (lower("old Name"))')
    apply(target, tree)
    there = fingerprint(target)
    way_back.preview_revert(target, Reverts(through=V1))
    assert fingerprint(target) == there
    migrate.revert(target, Reverts(through=V1), way())
    assert rows(target, "SELECT pg_get_indexdef('mine'::regclass) ~ 'old Name' AS yes") == [{"yes": True}]
    assert rows(target, 'SELECT "old Name" AS name FROM people') == [{"name": "b"}]


def test_what_shows_in_its_turn_only_stops_that_version(target: Any, tree: TestTree) -> None:
    renaming(tree)
    apply(target, tree)
    migrate.revert(target, Reverts(), way())
    do(target, "CREATE INDEX mine ON people (lower(nick))")
    # As if somebody had made it while the newest went down: its way down does it.
    tree.add_sql(V3, "again", "SELECT 1;", "ALTER TABLE public.people RENAME COLUMN nick TO other; "
        "ALTER TABLE public.people RENAME COLUMN other TO nick;")  # fmt: skip
    apply(target, tree)
    with pytest.raises(PgopsError, match=f"Version {V1} cannot be reverted .* index mine") as caught:
        migrate.revert(target, Reverts(through=V1), way())
    assert (caught.value.extra["reverted"], caught.value.extra["not_reverted"]) == ([V3, V2], [V1])
    assert state(target, V1)["state"] == "applied"
    assert rows(target, "SELECT to_regclass('mine') IS NOT NULL AS there") == [{"there": True}]


def test_a_column_that_was_there_before_keeps_all_that_is_on_it(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE people ADD COLUMN nick text CONSTRAINT short CHECK (length(nick) < 9) UNIQUE")
    apply(target, tree)
    do(target, "CREATE INDEX mine ON people (lower(nick))")
    there = fingerprint(target)
    migrate.revert(target, Reverts(), way())
    assert fingerprint(target) == there


# By what a version does: its way down, and what somebody makes under a name that the server makes up like the version's.
LIKE_ITS_OWN = {
    "ALTER TABLE public.people ADD COLUMN nick text CHECK (nick <> 'x');": (
        "ALTER TABLE public.people DROP COLUMN IF EXISTS nick;", "constraint people_nick_check1"),
    "ALTER TABLE public.people ADD COLUMN nick text, ADD COLUMN age integer CHECK (age > 0);": (
        "ALTER TABLE public.people DROP COLUMN nick, DROP COLUMN age;", "constraint people_nick_check"),
    "DO $$BEGIN ALTER TABLE public.people ADD COLUMN nick text CHECK (nick <> 'x') UNIQUE; END$$;": (
        "DO $$BEGIN ALTER TABLE public.people DROP COLUMN nick; END$$;", "constraint people_nick_check1"),
}  # fmt: skip


@pytest.mark.parametrize("up", LIKE_ITS_OWN)
def test_a_check_that_the_server_named_like_its_own_is_somebody_elses(target: Any, tree: TestTree, up: str) -> None:
    down, told = LIKE_ITS_OWN[up]
    tree.add_sql(V1, "nick", up, down)
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    do(target, "ALTER TABLE people ADD CHECK (length(nick) < 40)", "CREATE UNIQUE INDEX mine ON people (nick, code)")
    refused(target, Reverts(), f"drop with it {told} on public.people; index mine on public.people, which no version")
    do(target, f"ALTER TABLE people DROP {told}", "DROP INDEX mine")
    migrate.revert(target, Reverts(), way())
    assert applied(target) == []


COPY = "CREATE TABLE public.people_old (LIKE public.people INCLUDING ALL);"


def test_what_a_copied_table_has_from_its_model_is_its_own(target: Any, tree: TestTree) -> None:
    do(target, "ALTER TABLE people ADD CONSTRAINT code_ok CHECK (code <> '')", "CREATE INDEX by_code ON people (code)")
    tree.add_sql(V2, "copy", COPY, "DROP TABLE public.people_old;")
    apply(target, tree)
    way_back.preview_revert(target, Reverts())
    do(target, "CREATE INDEX mine ON people_old (lower(code))")
    refused(target, Reverts(), "drop with it index mine on public.people_old, which no version")
    do(target, "DROP INDEX mine")
    migrate.revert(target, Reverts(), way())
    assert applied(target) == [V1]


def test_of_a_version_older_than_the_record_its_text_tells_what_it_made(target: Any, tree: TestTree) -> None:
    """As it was applied by a release that recorded nothing: what may be its own goes, what cannot be is named."""
    do(target, "ALTER TABLE people ADD CONSTRAINT code_ok CHECK (code <> '')")
    tree.add_sql(V1, "nick", next(iter(LIKE_ITS_OWN)), "ALTER TABLE public.people DROP COLUMN IF EXISTS nick;")
    tree.add_sql(V2, "copy", COPY, "DROP TABLE public.people_old;")
    apply(target, tree)
    do(target, "UPDATE pgops.step SET progress = progress - 'appeared'")
    do(target, "CREATE UNIQUE INDEX mine ON people (nick)")
    refused(target, Reverts(through=V1), "drop with it index mine on public.people, which no version")
    do(target, "DROP INDEX mine")
    migrate.revert(target, Reverts(through=V1), way())
    assert applied(target) == []
