# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A later version whose way down only names a table hides nothing of an older one from the look before; what is hidden is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import do, fingerprint, rows, way
from support.kept import chain_through, keep
from support.tree import NO_DIFFERENCE, TestTree

V1, V2, V3 = (f"2026010100000{number}" for number in (1, 2, 3))
STATUS, RESTRICT = "20251103204744", "20251104000000"
MADE = """
CREATE TYPE public.mood AS ENUM ('CALM', 'LOUD');
CREATE TABLE public.people (id integer PRIMARY KEY, mood public.mood, CONSTRAINT grown CHECK (id > 0));
"""
# By what of a newer version names the table, and changes neither its rows nor what stands on it.
ONLY_NAMES = {
    "a condition": "IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'public.people'::regclass AND conname = 'x') THEN "
    "RAISE NOTICE 'UPDATE people'; END IF;",
    "a validation": "IF (SELECT count(*) FROM public.people) >= 0 THEN ALTER TABLE public.people VALIDATE CONSTRAINT grown; END IF;",
    "a constraint renamed": "ALTER TABLE public.people RENAME CONSTRAINT grown TO other; "
    "ALTER TABLE public.people RENAME CONSTRAINT other TO grown;",
    "a comment put together": "EXECUTE format('COMMENT ON TABLE public.%I IS NULL', 'people');",
    "a key added": "ALTER TABLE public.people ADD CONSTRAINT itself FOREIGN KEY (id) REFERENCES public.people (id) NOT VALID; "
    "ALTER TABLE public.people DROP CONSTRAINT IF EXISTS itself;",
    "a loop": "FOR n IN 1..2 LOOP PERFORM count(*) FROM public.people; COMMENT ON TABLE public.people IS 'x'; END LOOP;",
}
MAY_CHANGE = {
    "rows": "UPDATE public.people SET mood = 'CALM' WHERE id > 100;",
    "what it calls by a name of the server's": "PERFORM count(*) FROM public.people WHERE lower(people);",
    "rows in a loop": "FOR n IN UPDATE public.people SET mood = 'CALM' WHERE id > 100 RETURNING id LOOP END LOOP;",
    "what it puts together": "EXECUTE 'UPDATE public.' || 'people' || ' SET mood = NULL WHERE id > 100';",
    "what it calls": "PERFORM count(*) FROM public.people WHERE public.mend('people');",
}
MEND = "CREATE FUNCTION mend(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$"

LOWER = "CREATE FUNCTION lower(anyelement) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$"


@pytest.fixture
def tree(target: Any, tmp_path: Any) -> TestTree:
    do(target, MEND, LOWER)
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", MADE, "DROP TABLE public.people; DROP TYPE public.mood;")
    tree.add(
        V2,
        "shy",
        [
            {"sql": {"up": "labels.sql.j2", "down": "remove_labels"}},
            {"sql": {"up": "nick.sql.j2", "down": "nick_down.sql.j2"}},
        ],
        {
            "labels.sql.j2": "ALTER TYPE public.mood ADD VALUE 'SHY';",
            "nick.sql.j2": "ALTER TABLE public.people ADD COLUMN nick text;",
            "nick_down.sql.j2": "ALTER TABLE public.people DROP COLUMN nick;",
            "verify.sql.j2": NO_DIFFERENCE,
        },
    )
    return tree


def applied(target: Any, tree: TestTree, body: str) -> None:
    tree.add_sql(V3, "later", "SELECT 1;", f"DO $down$ DECLARE n integer; BEGIN {body} END $down$;")
    migrate.apply(target, tree.render(), Selection(), way())


def shown(target: Any) -> dict[str, list[str]]:
    """What a check would say of both versions: by version, what was not looked at."""
    found = way_back.preview_revert(target, Reverts(through=V2))["unlooked"]
    return {entry["version"]: entry["what"] for entry in found}


def refused(target: Any, match: str, selection: Reverts) -> None:
    before = fingerprint(target)
    with pytest.raises(PgopsError, match=match):
        way_back.preview_revert(target, selection)
    assert fingerprint(target) == before


@pytest.mark.few(3)
@pytest.mark.parametrize("what", ONLY_NAMES)
def test_a_newer_block_that_only_names_the_table_hides_nothing(target: Any, tree: TestTree, what: str) -> None:
    applied(target, tree, ONLY_NAMES[what])
    assert shown(target) == {}
    do(target, "INSERT INTO people VALUES (7, 'SHY')")
    refused(target, r"1 row\(s\) of people.mood, id 7.* Nothing of this version was reverted", Reverts(through=V2))
    do(target, "DELETE FROM people", 'CREATE VIEW "V é" AS SELECT nick FROM people')
    refused(target, 'column public.people.nick, and on it stands view public."V é"', Reverts(through=V2))
    do(target, 'DROP VIEW "V é"', "CREATE VIEW calm AS SELECT id FROM people WHERE mood = 'CALM'")
    refused(target, "view public.calm", Reverts(through=V2))
    do(target, "DROP VIEW calm", "ALTER TABLE people ALTER COLUMN mood SET DEFAULT 'SHY'")
    refused(target, "default of people.mood", Reverts(through=V2))
    do(target, "ALTER TABLE people ALTER COLUMN mood DROP DEFAULT")
    migrate.revert(target, Reverts(through=V2), way())


@pytest.mark.few(2)
@pytest.mark.parametrize("what", MAY_CHANGE)
def test_rows_that_a_newer_block_may_change_are_told_as_not_looked_at(target: Any, tree: TestTree, what: str) -> None:
    applied(target, tree, MAY_CHANGE[what])
    assert shown(target) == {}
    do(target, "INSERT INTO people VALUES (7, 'SHY')")
    (told,) = shown(target)[V2]
    assert told.startswith("the labels SHY cannot be removed from mood: they are in use: 1 row(s) of people.mood, id 7")
    with pytest.raises(PgopsError, match=r"1 row\(s\) of people.mood, id 7") as caught:
        migrate.revert(target, Reverts(through=V2), way())
    assert (caught.value.extra["reverted"], caught.value.extra["not_reverted"]) == ([V3], [V2])


# By what a newer version takes away in a block: what it makes on the way up, its way down, and who uses the label there.
TAKEN_AWAY = {
    "a column": (
        ("ALTER TABLE public.people ADD COLUMN other public.mood; CREATE INDEX shy ON public.people (other) WHERE other <> 'SHY'; "
        "CREATE TRIGGER shies BEFORE UPDATE OF other ON public.people FOR EACH ROW EXECUTE FUNCTION public.stay();"),
        "IF true THEN DROP TRIGGER shies ON public.people; ALTER TABLE public.people DROP COLUMN other; END IF;",
        "INSERT INTO people (id, other) VALUES (1, 'SHY')",
    ),
    "a table": (
        ("CREATE TABLE public.pets (id integer PRIMARY KEY, mood public.mood CHECK (mood <> 'LOUD')); "
        "CREATE INDEX shy ON public.pets (id) WHERE mood = 'SHY'; "
        "CREATE TRIGGER shies BEFORE UPDATE OF mood ON public.pets FOR EACH ROW EXECUTE FUNCTION public.stay();"),
        "IF to_regclass('public.pets') IS NOT NULL THEN DROP TABLE public.pets; END IF;",
        "INSERT INTO pets VALUES (1, 'SHY')",
    ),
    "a type": (
        "ALTER TABLE public.people ADD COLUMN feel public.mood;",
        "ALTER TABLE public.people ALTER COLUMN feel TYPE text; ALTER TABLE public.people DROP COLUMN feel;",
        "INSERT INTO people (id, feel) VALUES (1, 'SHY')",
    ),
    "a partition": (
        ("CREATE TABLE public.days (day date, mood public.mood) PARTITION BY RANGE (day); "
        "CREATE TABLE public.days_1 PARTITION OF public.days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"),
        "ALTER TABLE public.days DETACH PARTITION public.days_1; DROP TABLE public.days_1; DROP TABLE public.days;",
        "INSERT INTO days VALUES ('2020-02-02', 'SHY')",
    ),
    "an index": (
        "CREATE INDEX shy ON public.people (id) WHERE mood = 'SHY';",
        "IF to_regclass('public.shy') IS NOT NULL THEN DROP INDEX public.shy; END IF;",
        "INSERT INTO people VALUES (1, 'CALM')",
    ),
}  # fmt: skip
STAY = "CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"


@pytest.mark.few(3)
@pytest.mark.parametrize("what", TAKEN_AWAY)
def test_what_a_newer_block_takes_away_with_its_rows_stops_no_rollback(target: Any, tree: TestTree, what: str) -> None:
    up, body, use = TAKEN_AWAY[what]
    do(target, STAY)
    tree.add_sql(V3, "later", up, f"DO $down$ BEGIN {body} END $down$;", transaction=True)
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, use)
    assert list(shown(target)) == [V2]
    done = migrate.revert(target, Reverts(through=V2), way())
    assert [version["version"] for version in done["reverted"]] == [V3, V2]


@pytest.mark.parametrize(
    "body",
    [
        "IF false THEN ALTER TABLE public.people DROP CONSTRAINT IF EXISTS not_shy; END IF;",
        "ALTER TABLE public.people RENAME CONSTRAINT grown TO not_shy; ALTER TABLE public.people RENAME CONSTRAINT not_shy TO grown;",
    ],
)
def test_a_constraint_that_a_newer_block_may_leave_there_is_told_as_not_looked_at(
    target: Any, tree: TestTree, body: str
) -> None:
    applied(target, tree, body)
    assert shown(target) == {}
    do(target, "ALTER TABLE people ADD CONSTRAINT not_shy CHECK (mood <> 'SHY')")
    assert shown(target) == {
        V2: ["the labels SHY cannot be removed from mood: this names one of them: check not_shy of people"]
    }


def test_what_comes_after_a_block_that_may_drop_anything_is_told_as_not_looked_at(target: Any, tree: TestTree) -> None:
    applied(target, tree, "EXECUTE format('DROP VIEW IF EXISTS public.%I', 'ni' || 'cks');")
    do(target, "CREATE VIEW nicks AS SELECT nick FROM people")
    assert shown(target) == {V2: ["what stands on column public.people.nick"]}
    migrate.revert(target, Reverts(through=V2), way())


def test_a_column_that_a_newer_version_renames_is_told_as_not_looked_at(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3, "later", "ALTER TABLE public.people RENAME COLUMN nick TO short;", "ALTER TABLE public.people RENAME short TO nick;"
    )  # fmt: skip
    migrate.apply(target, tree.render(), Selection(), way())
    assert shown(target) == {V2: ["what stands on column public.people.nick"]}
    # The table itself is no other one.
    do(target, "CREATE VIEW ids AS SELECT id FROM people")
    refused(target, f"Version {V1} .* drops table public.people, and on it stands view public.ids", Reverts(through=V1))


def test_the_check_and_the_question_name_what_was_not_looked_at(
    playbook: Any, target: Any, database: str, tree: TestTree
) -> None:
    applied(target, tree, "EXECUTE 'DROP VIEW IF EXISTS public.' || 'nicks';")
    playbook.variables["pgops_sql"] = str(tree.folder)
    told = f"NOT LOOKED AT in {database}: {V2}: what stands on column public.people.nick. What goes before it may change that"
    checked = playbook("rollback.yml", "--check", rollback_steps=2)
    assert checked.rc == 0, checked.output
    assert checked.stdout.count(told) == 2
    assert "rollback in local ended, with versions not looked at, in check mode, nothing was written" in checked.stdout
    shown = checked.json["hosts"]["local-1"][database]["revert"]["unlooked"]
    assert shown == [{"version": V2, "what": ["what stands on column public.people.nick"]}]
    asked = playbook("rollback.yml", rollback_steps=2)
    assert asked.rc == 2 and "was not confirmed" in asked.output
    assert told in asked.stdout
    one = playbook("rollback.yml", "--check")
    assert "NOT LOOKED AT" not in one.stdout and "rollback in local succeeded in check mode" in one.stdout


# --- the shipped chain ----------------------------------------------------------------------------------------------------

PUPILS = """
    INSERT INTO users (email, password, "firstName", "lastName", role) VALUES ('nurse@example.org', 'x', 'A', 'B', 'NURSE');
    INSERT INTO students ("studentNumber", "firstName", "lastName", "dateOfBirth", grade, gender)
        VALUES ('1', 'P', 'Q', '2015-01-01', '3', 'OTHER');
    INSERT INTO incident_reports ("studentId", "reportedById", type, severity, "occurredAt", description)
        SELECT s.id, u.id, 'SAFETY', 'LOW', '2025-01-02', 'd' FROM students AS s, users AS u, generate_series(1, 3);
"""


def with_incidents(version: str) -> Callable[[Any], str]:
    """The shipped chain through that version, and three incidents with the label that goes."""
    return lambda server: keep(
        server, f"incidents_{version}", lambda target: do(target, PUPILS), begin=chain_through(server, version)
    )


@pytest.mark.begins(at=with_incidents(RESTRICT))
def test_incidents_and_views_are_named_before_the_keys_of_a_newer_version_go(target: Any) -> None:
    refused(target, r"3 row\(s\) of incident_reports.type", Reverts(steps=2))
    refused(target, r"3 row\(s\) of incident_reports.type", Reverts(version=STATUS))
    do(target, "DELETE FROM incident_reports", 'CREATE VIEW "V é" AS SELECT status FROM incident_reports')
    refused(target, 'column public.incident_reports.status, and on it stands view public."V é"', Reverts(steps=2))
    do(target, 'DROP VIEW "V é"')
    assert way_back.preview_revert(target, Reverts(steps=2))["unlooked"] == []
    migrate.revert(target, Reverts(steps=2), way())


@pytest.mark.begins()
def test_the_whole_shipped_chain_is_looked_at(target: Any) -> None:
    found = way_back.preview_revert(target, Reverts(keep="20250103000000"))
    assert (
        len(found["versions"]) == len(rows(target, "SELECT version FROM pgops.migration WHERE state = 'applied'")) - 1
    )
    assert found["unlooked"] == []
    do(target, PUPILS)
    refused(target, r"3 row\(s\) of incident_reports.type", Reverts(through=STATUS))
    do(target, "DELETE FROM incident_reports", 'CREATE VIEW "V é" AS SELECT status FROM incident_reports')
    refused(
        target, 'column public.incident_reports.status, and on it stands view public."V é"', Reverts(through=STATUS)
    )
