# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""NOT NULL, a default and row level security that were there before a version are there after its way down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, locks, migrate, states_before
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.states_before import Before
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts, preview_revert
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
from support.engine import RUN, Told, When, as_it_was, do, holding, rows, state, way
from support.kept import chain_before
from support.lock_line import Line
from support.server import Server
from support.tree import SQL, TestTree, shipped_chain

V1 = "20260101000001"
PROTECT = "20251107000001"
MODES = pytest.mark.parametrize("one_transaction", [True, False])

BARE = "CREATE TABLE public.people (id integer PRIMARY KEY, name text, kind text)"
ALL = """
ALTER TABLE public.people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY,
    ALTER COLUMN name SET NOT NULL, ALTER COLUMN name SET DEFAULT 'a'
"""
UP = """
ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.people FORCE ROW LEVEL SECURITY;
ALTER TABLE public.people ALTER COLUMN name SET NOT NULL;
ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'a';
"""
DOWN = """
ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT;
ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;
ALTER TABLE public.people NO FORCE ROW LEVEL SECURITY;
ALTER TABLE public.people DISABLE ROW LEVEL SECURITY;
"""
# The same in one statement each.
UP_TOGETHER = ALL.strip() + ";"
DOWN_TOGETHER = """
ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT, ALTER COLUMN name DROP NOT NULL, -- as it was
    NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
"""
WORDS = [
    "public.people.name has the default",
    "public.people.name has NOT NULL",
    "public.people has forced row level security",
    "public.people has row level security",
]


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    return TestTree(tmp_path / "sql")


def recorded(target: Any) -> list[Any]:
    found = rows(
        target, "SELECT progress -> 'states_before' AS states FROM pgops.step WHERE direction = 'up' ORDER BY 1"
    )
    return [row["states"] for row in found]


@pytest.mark.parametrize(
    ("up", "down", "one_transaction"),
    [(UP, DOWN, True), (UP, DOWN, False), (UP_TOGETHER, DOWN_TOGETHER, True)],
    ids=["a statement each", "a transaction each", "together"],
)
def test_what_was_there_before_stays(target: Any, tree: TestTree, up: str, down: str, one_transaction: bool) -> None:
    tree.add_sql(V1, "protect", up, down, transaction=one_transaction)
    do(target, BARE, ALL)
    with as_it_was(target):
        for _ in range(2):
            migrate.apply(target, tree.render(), Selection(), way())
            shown, told = preview_revert(target, Reverts())["prepared"], Told()
            assert "ALTER TABLE" not in shown
            result = migrate.revert(target, Reverts(), way(progress=told))
            assert result["reverted"][0]["left"] == WORDS
            for word in WORDS:
                assert f"-- {word} as before this version: it stays" in shown
                assert told.said(f"{word} as before this version: it stays")


def test_without_what_was_recorded_it_goes(target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is about."""
    tree.add_sql(V1, "protect", UP, DOWN)
    do(target, BARE, ALL)
    migrate.apply(target, tree.render(), Selection(), way())
    monkeypatch.setattr(states_before, "down", lambda *given: Before())
    with pytest.raises(AssertionError, match="column public.people.name"), as_it_was(target):
        migrate.revert(target, Reverts(), way())


BEFORE = {
    "nothing": [],
    "row level security": ["ALTER TABLE public.people ENABLE ROW LEVEL SECURITY"],
    "forced only": ["ALTER TABLE public.people FORCE ROW LEVEL SECURITY"],
    "not null": ["ALTER TABLE public.people ALTER COLUMN name SET NOT NULL"],
    "default": ["ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'a'"],
    "another default": ["ALTER TABLE public.people ALTER COLUMN name SET DEFAULT 'b' || now()"],
}


@pytest.mark.parametrize("before", BEFORE)
def test_each_part_by_itself(target: Any, tree: TestTree, before: str) -> None:
    """Of one statement some parts stay and the others are taken back."""
    tree.add_sql(V1, "protect", UP_TOGETHER, DOWN_TOGETHER)
    do(target, BARE, *BEFORE[before])
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        shown = preview_revert(target, Reverts())["prepared"]
        told = Told()
        result = migrate.revert(target, Reverts(), way(progress=told))
        assert len(result["reverted"][0]["left"]) == (before not in ("nothing", "another default"))
    # What is shown is what is run.
    (ran,) = [text.partition("[1/1] ")[2].rstrip("…") for text in told.texts if "ALTER TABLE" in text]
    assert ran[:60] in " ".join(shown.split())
    if before == "another default":
        assert told.said("public.people.name gets back the default that it had before this version")
    if before == "nothing":
        assert recorded(target) == [None]


RENAMED = {
    "column": (
        """
ALTER TABLE public.people RENAME COLUMN name TO full_name;
ALTER TABLE public.people ALTER COLUMN full_name SET NOT NULL, ALTER COLUMN full_name SET DEFAULT 'n';
ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;
""",
        """
ALTER TABLE public.people DISABLE ROW LEVEL SECURITY;
ALTER TABLE public.people ALTER COLUMN full_name DROP DEFAULT, ALTER COLUMN full_name DROP NOT NULL;
ALTER TABLE public.people RENAME COLUMN full_name TO name;
""",
    ),
    "table": (
        """
ALTER TABLE public.people ALTER COLUMN name SET NOT NULL;
ALTER TABLE public.people RENAME TO persons;
ALTER TABLE public.persons RENAME name TO full_name;
ALTER TABLE public.persons ALTER COLUMN full_name SET DEFAULT 'n', ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
""",
        """
ALTER TABLE public.persons NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
ALTER TABLE public.persons RENAME full_name TO name;
ALTER TABLE public.persons RENAME TO people;
ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT, ALTER COLUMN name DROP NOT NULL;
""",
    ),
    "another column of the name": (
        """
ALTER TABLE public.people RENAME COLUMN name TO old_name;
ALTER TABLE public.people ADD COLUMN name text;
ALTER TABLE public.people ALTER COLUMN name SET NOT NULL, ALTER COLUMN name SET DEFAULT 'n';
""",
        """
ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;
ALTER TABLE public.people DROP COLUMN name;
ALTER TABLE public.people RENAME COLUMN old_name TO name;
""",
    ),
}


@pytest.mark.parametrize("case", RENAMED)
@pytest.mark.parametrize(
    "before",
    [
        "another default",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("nothing", "not null", "row level security")),
    ],
)
def test_they_are_followed_through_other_names(target: Any, tree: TestTree, case: str, before: str) -> None:
    tree.add_sql(V1, "rename", *RENAMED[case])
    do(target, BARE, *BEFORE[before])
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


# A trade in the other direction: what was not there before is not there afterwards.
AWAY = """
ALTER TABLE public.people ALTER COLUMN name DROP DEFAULT, ALTER COLUMN name DROP NOT NULL;
ALTER TABLE public.people NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;
"""


@pytest.mark.parametrize("begin", [[], [ALL]])
def test_what_was_not_there_before_does_not_come(target: Any, tree: TestTree, begin: list[str]) -> None:
    tree.add_sql(V1, "open", AWAY, UP)
    do(target, BARE, *begin)
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


def test_what_the_way_down_takes_away_for_a_while_it_may(target: Any, tree: TestTree) -> None:
    """A default of the old type stands in the way of the new one."""
    convert = "ALTER TABLE public.people ALTER COLUMN kind DROP DEFAULT;\n{}ALTER TABLE public.people ALTER COLUMN kind SET DEFAULT 'GOOD';"
    up = 'ALTER TABLE public.people ALTER COLUMN kind TYPE public."Mood" USING kind::public."Mood";\n'
    down = "ALTER TABLE public.people ALTER COLUMN kind TYPE text;\n"
    tree.add_sql(V1, "convert", convert.format(up), convert.format(down))
    do(
        target,
        BARE,
        "ALTER TABLE public.people ALTER COLUMN kind SET DEFAULT 'GOOD'",
        "CREATE TYPE \"Mood\" AS ENUM ('GOOD')",
    )
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        assert migrate.revert(target, Reverts(), way())["reverted"][0]["left"] == []


@MODES
def test_what_an_earlier_step_of_the_version_made_goes(target: Any, tree: TestTree, one_transaction: bool) -> None:
    """Before the step it was there, before the version it was not; and the other way round."""
    tree.add(
        V1,
        "steps",
        [{"sql": {"up": f"{name}.sql.j2", "down": f"{name}_down.sql.j2"}} for name in ("first", "second")],
        {
            "first.sql.j2": "ALTER TABLE public.people ALTER COLUMN kind SET NOT NULL;\n"
            "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;",
            "first_down.sql.j2": "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL;",
            "second.sql.j2": "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL;",
            "second_down.sql.j2": "ALTER TABLE public.people ALTER COLUMN kind DROP NOT NULL;\n"
            "ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;\n"
            "INSERT INTO public.people (id) VALUES (1);\nDELETE FROM public.people;",
        },
        transaction=one_transaction,
    )
    do(target, BARE, "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL")
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        assert migrate.revert(target, Reverts(), way())["reverted"][0]["left"] == []


ASKS = """
DO $$ BEGIN
    IF NOT coalesce(nullif(current_setting('pgops.there_before', true), ''), '[]')::jsonb ? '{word}' THEN
        ALTER TABLE public.people {part};
    END IF;
END $$;
"""
PARTS = (
    "ALTER COLUMN name DROP DEFAULT",
    "ALTER COLUMN name DROP NOT NULL",
    "NO FORCE ROW LEVEL SECURITY",
    "DISABLE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize(
    ("before", "one_transaction"),
    [([], True), ([ALL], True), ([ALL], False), (BEFORE["row level security"], True), (BEFORE["default"], False)],
    ids=["nothing", "all", "all, a transaction each", "row level security", "default, a transaction each"],
)
def test_a_do_block_can_ask(target: Any, tree: TestTree, before: list[str], one_transaction: bool) -> None:
    down = "".join(ASKS.format(word=word, part=part) for word, part in zip(WORDS, PARTS))
    tree.add_sql(V1, "protect", UP_TOGETHER, down, transaction=one_transaction)
    do(target, BARE, *before)
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        migrate.revert(target, Reverts(), way())


def test_a_column_and_a_table_that_the_version_makes_were_not_there(target: Any, tree: TestTree) -> None:
    up = """
        ALTER TABLE public.people DROP COLUMN name;
        ALTER TABLE public.people ADD COLUMN name integer DEFAULT 1 NOT NULL;
        ALTER TABLE public.people ADD COLUMN "Nick" text;
        ALTER TABLE public.people ALTER COLUMN "Nick" SET NOT NULL;
        CREATE TABLE public.pets (id integer);
        ALTER TABLE public.pets ENABLE ROW LEVEL SECURITY;
    """
    down = """
        ALTER TABLE public.pets DISABLE ROW LEVEL SECURITY;
        DROP TABLE public.pets;
        ALTER TABLE public.people ALTER COLUMN "Nick" DROP NOT NULL;
        ALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;
        INSERT INTO public.people (id, name) VALUES (1, NULL);
        DELETE FROM public.people;
        ALTER TABLE public.people DROP COLUMN "Nick";
    """
    tree.add_sql(V1, "grow", up, down, rollback={"safety": "partial", "stays": "the name is a number"})
    do(target, BARE, "ALTER TABLE public.people ALTER COLUMN name SET NOT NULL")
    migrate.apply(target, tree.render(), Selection(), way())
    assert migrate.revert(target, Reverts(), way())["reverted"][0]["left"] == []


def test_of_a_table_with_heirs_too(target: Any, tree: TestTree) -> None:
    tree.add_sql(V1, "protect", UP, DOWN)
    do(target, BARE, ALL, "CREATE TABLE public.pupils (class text) INHERITS (public.people)")
    with as_it_was(target):
        migrate.apply(target, tree.render(), Selection(), way())
        assert migrate.revert(target, Reverts(), way())["reverted"][0]["left"] == WORDS


def test_what_somebody_has_taken_away_since_is_not_said_to_stay(target: Any, tree: TestTree) -> None:
    tree.add_sql(V1, "protect", UP, DOWN)
    do(target, BARE, ALL)
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, "ALTER TABLE public.people DISABLE ROW LEVEL SECURITY, ALTER COLUMN name DROP DEFAULT")
    (reverted,) = migrate.revert(target, Reverts(), way())["reverted"]
    assert reverted["left"] == WORDS[1:3]
    assert reverted["already"] == ["public.people.name has no default", "public.people has no row level security"]


def test_for_what_stays_no_lock_is_asked_for(target: Any, tree: TestTree) -> None:
    tree.add_sql(V1, "protect", UP_TOGETHER, DOWN_TOGETHER)
    do(target, BARE, ALL)
    migrate.apply(target, tree.render(), Selection(), way())
    with holding(target, "LOCK TABLE public.people IN ROW EXCLUSIVE MODE"), Line(target) as line:
        started = time.monotonic()
        migrate.revert(target, Reverts(), way())
        assert time.monotonic() - started < 5
    assert (line.waited, line.held) == (set(), set())


# Fails until the table is there.
STOP = "DO $$ BEGIN IF to_regclass('public.go_on') IS NULL THEN RAISE EXCEPTION 'not yet'; END IF; END $$"


def test_a_step_that_stopped_and_goes_on_keeps_what_it_recorded_first(target: Any, tree: TestTree) -> None:
    """When it goes on, what its own first statement made is there too."""
    up = f"ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;\n{STOP};\nALTER TABLE public.people ALTER COLUMN name SET NOT NULL;"
    down = f"ALTER TABLE public.people DISABLE ROW LEVEL SECURITY;\n{STOP};\nALTER TABLE public.people ALTER COLUMN name DROP NOT NULL;"
    tree.add_sql(V1, "protect", up, down, transaction=False)
    do(target, BARE, *BEFORE["not null"])
    with as_it_was(target):
        with pytest.raises(PgopsError, match="not yet"):
            migrate.apply(target, tree.render(), Selection(), way())
        do(target, "CREATE TABLE public.go_on ()")
        migrate.apply(target, tree.render(), Selection(), way())
        do(target, "DROP TABLE public.go_on")
        with pytest.raises(PgopsError, match="not yet"):
            migrate.revert(target, Reverts(), way())
        do(target, "CREATE TABLE public.go_on ()")
        assert migrate.revert(target, Reverts(), way())["reverted"][0]["left"] == WORDS[1:2]
        do(target, "DROP TABLE public.go_on")
    assert state(target, V1)["state"] == "reverted"


@pytest.fixture
def end(server: Server, database: str) -> Callable[[], object]:
    """Somebody ends every session of the run, in the middle of what is told."""
    ending = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND application_name = '{locks.application_name(RUN)}'"
    )
    return lambda: threading.Timer(0.2, lambda: server.execute(ending)).start()


@MODES
def test_after_a_lost_session_too(
    target: Any, tree: TestTree, end: Callable[[], object], one_transaction: bool
) -> None:
    """Nobody waits twice."""
    slow = (
        "SELECT pg_sleep(CASE WHEN EXISTS (SELECT FROM pgops.audit WHERE event = 'apply_resumed') THEN 0 ELSE 60 END)"
    )
    up = f"ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;\n{slow};\nALTER TABLE public.people ALTER COLUMN name SET NOT NULL;"
    tree.add_sql(V1, "protect", up, DOWN, transaction=one_transaction)
    do(target, BARE, *BEFORE["not null"])
    with as_it_was(target):
        result = migrate.apply(
            target, tree.render(), Selection(), way(progress=When("pg_sleep", end), reconnect_s=30.0)
        )
        assert len(result["reconnected"]) == 1
        migrate.revert(target, Reverts(), way())


@pytest.mark.begins(at=lambda server: chain_before(server, PROTECT))
@pytest.mark.parametrize("protected", [("students", "documents", "messages"), pytest.param((), marks=pytest.mark.slow)])
def test_the_shipped_version_leaves_row_level_security_that_was_there(target: Any, protected: tuple[str, ...]) -> None:
    """Switched on, forced, or both; the hospital's own policy goes on to apply."""
    chain = shipped_chain()
    if protected:
        tree = migration_tree.read_tree(SQL)
        scoped = tree.migration(PROTECT).variables["scoped_tables"]
        tables = [table for table in scoped if table["name"] in protected]
        chain = migration_tree.render(tree, {"scoped_tables": tables})
    do(
        target,
        "ALTER TABLE public.students ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own ON public.students FOR SELECT USING (false)",
        "ALTER TABLE public.documents FORCE ROW LEVEL SECURITY",
        "ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    )
    with as_it_was(target):
        migrate.apply(target, chain, Selection(target=PROTECT), way())
        result = migrate.revert(target, Reverts(), way())
    assert [word for word in result["reverted"][0]["left"] if "row level security" in word] == [
        "public.students has row level security",
        "public.documents has forced row level security",
        "public.messages has forced row level security",
        "public.messages has row level security",
    ]
    with closing(connect(target, application_name="test")) as conn:
        assert {row.version: row.state for row in ledger.read(conn).migrations}[PROTECT] == "reverted"
