# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A step whose way down takes the labels that it added from an enum: at once for small tables, beside the clients for
large ones, with everything that stands on the columns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backfill,
    label_removal,
    migrate,
    way_back,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect, execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.index_builds import IndexBuilds
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import scan_render, scan_tree
from support.engine import (
    InterruptAt,
    Told,
    do,
    fingerprint,
    holding,
    rows,
    state,
    take_back_labels,
    way,
)
from support.server import APP, BACKUP, Server
from support.tree import NO_DIFFERENCE, TestTree

V1, V2, V3 = "20260101000001", "20260101000002", "20260101000003"
SHY_VIEW = "CREATE VIEW public.shy AS SELECT id FROM public.people WHERE mood = 'SHY';"
EVERY_MAJOR = pytest.mark.majors(15, 16, 17, 18, slow=(15,))
ROWS = 20_000

MADE = """
CREATE TYPE public."Mood" AS ENUM ('CALM', 'LOUD', 'ODD ''QUOTED''');
CREATE TABLE public.people (
    id integer PRIMARY KEY, name text, mood public."Mood" NOT NULL DEFAULT 'CALM', "lastMood" public."Mood"
);
CREATE TABLE public.diary (at timestamptz NOT NULL, mood public."Mood");
CREATE INDEX diary_at ON public.diary (at);
"""
DROPPED = 'DROP TABLE public.diary; DROP TABLE public.people; DROP TYPE public."Mood";'
ADDED = """
ALTER TYPE public."Mood" ADD VALUE 'SHY' AFTER 'CALM';
ALTER TYPE public."Mood" ADD VALUE 'FINE';
"""
# What stands on the columns and is there again, under its name.
STANDING = (
    "CREATE INDEX people_mood ON people (mood, name DESC) INCLUDE (\"lastMood\") WHERE name <> 'mood (,'",
    'CREATE INDEX "people_lower" ON people (lower(name), "lastMood" DESC NULLS LAST, mood) WITH (fillfactor = 70)',
    "COMMENT ON INDEX people_mood IS 'for the list'",
    "ALTER TABLE people ADD CONSTRAINT people_mood_check CHECK (mood <> 'LOUD' OR name IS NOT NULL)",
    "ALTER TABLE people ADD CONSTRAINT people_late_check CHECK (\"lastMood\" <> 'LOUD') NOT VALID",
    "COMMENT ON CONSTRAINT people_mood_check ON people IS 'the loud have names'",
    "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
    f"CREATE POLICY calm_ones ON people FOR SELECT TO {APP}, {BACKUP} USING (mood = 'CALM' OR name = 'x')",
    "CREATE POLICY no_loud ON people AS RESTRICTIVE FOR INSERT WITH CHECK (mood <> 'LOUD')",
    "COMMENT ON POLICY calm_ones ON people IS 'what others see'",
    "COMMENT ON COLUMN people.mood IS 'PHI: how they are'",
    f"GRANT SELECT (mood), UPDATE (mood) ON people TO {APP}",
    "COMMENT ON TYPE \"Mood\" IS 'how somebody is'",
    f'REVOKE USAGE ON TYPE "Mood" FROM PUBLIC; GRANT USAGE ON TYPE "Mood" TO {APP} WITH GRANT OPTION',
    "ALTER TABLE people ALTER COLUMN mood SET STATISTICS 500, ALTER COLUMN mood SET (n_distinct = 3)",
)


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "create_people", MADE, DROPPED)
    return tree


def migrations(
    tree: TestTree, *, limit: int = 0, mapping: dict[str, str] | None = None, added: str = ADDED
) -> list[dict[str, Any]]:
    tree.add(
        V2,
        "add_moods",
        [{"sql": {"up": "up.sql.j2", "down": "remove_labels", "mapping": "moods"}}],
        {"up.sql.j2": added, "verify.sql.j2": NO_DIFFERENCE},
        variables={"moods": mapping or {}},
        budgets={"rewrite_limit_mb": limit, "lock_budget_s": 5},
    )
    return tree.render()


def applied(target: Any, chain: list[dict[str, Any]], *more: str, count: int = 300) -> str:
    """Both versions, rows in between. Returns the fingerprint of before the second."""
    migrate.apply(target, chain, Selection(target=V1), way())
    do(
        target,
        "INSERT INTO people SELECT n, 'p' || n, (ARRAY['CALM', 'LOUD', 'ODD ''QUOTED'''])[1 + n % 3]::\"Mood\", "
        f"CASE WHEN n % 2 = 0 THEN 'CALM'::\"Mood\" END FROM generate_series(1, {count}) n",
        "INSERT INTO diary VALUES (now(), 'LOUD'), (now(), NULL)",
        *more,
    )
    before = fingerprint(target)
    migrate.apply(target, chain, Selection(), way())
    assert labels(target) == ["CALM", "SHY", "LOUD", "ODD 'QUOTED'", "FINE"]
    return before


def revert(target: Any, **more: Any) -> dict[str, Any]:
    return migrate.revert(target, Reverts(version=V2), way(**more))


def labels(target: Any) -> list[str]:
    return [row["l"] for row in rows(target, 'SELECT unnest(enum_range(NULL::"Mood"))::text AS l')]


def contents(target: Any) -> list[tuple[Any, ...]]:
    found = rows(target, 'SELECT id, name, mood::text, "lastMood"::text FROM people ORDER BY id')
    return [tuple(row.values()) for row in found]


def file_node(target: Any) -> int:
    return int(rows(target, "SELECT pg_relation_filenode('people') AS n")[0]["n"])


def left_over(target: Any) -> list[str]:
    """Whatever has a name of ours."""
    return [
        row["name"]
        for row in rows(
            target,
            "SELECT relname AS name FROM pg_class WHERE relname LIKE '%pgops\\_new%' UNION SELECT typname FROM pg_type "
            "WHERE typname LIKE '%pgops\\_new%' UNION SELECT attname FROM pg_attribute WHERE attname LIKE '%pgops\\_new%' "
            "UNION SELECT proname FROM pg_proc WHERE proname LIKE '%pgops\\_labels%' UNION SELECT conname FROM pg_constraint "
            "WHERE conname LIKE '%pgops\\_%'",
        )
    ]


# --- what is the same on both ways --------------------------------------------------------------------------------------


@EVERY_MAJOR
@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_the_labels_go_and_all_that_stands_on_the_columns_is_as_before(target: Any, tree: TestTree, limit: int) -> None:
    before = applied(target, migrations(tree, limit=limit), *STANDING)
    rows_before, node = contents(target), file_node(target)
    revert(target)
    assert fingerprint(target) == before
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]
    assert contents(target) == rows_before
    assert (file_node(target) == node) == (limit == 0)
    assert left_over(target) == []
    assert rows(target, "SELECT count(*) AS n FROM pg_stats WHERE tablename = 'people' AND attname = 'mood'") == [
        {"n": 1}
    ]
    for _ in range(2):
        migrate.apply(target, tree.render(), Selection(), way())
        revert(target)
    assert fingerprint(target) == before


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_rows_with_a_label_are_listed_and_nothing_goes(target: Any, tree: TestTree, limit: int) -> None:
    applied(target, migrations(tree, limit=limit), *STANDING)
    do(target, "UPDATE people SET mood = 'SHY' WHERE id > 280", "INSERT INTO diary VALUES (now(), 'FINE')")
    before = fingerprint(target)
    with pytest.raises(PgopsError, match="labels SHY, FINE cannot be removed from Mood") as caught:
        revert(target)
    assert caught.value.sqlstate == "55006"
    assert "20 row(s) of people.mood, id 281, 282, 283, 284, 285, 286, 287, 288, 289, 290" in caught.value.message
    assert "291" not in caught.value.message
    assert "1 row(s) of diary.mood" in caught.value.message
    assert 'SELECT "id" FROM "public"."people" WHERE "mood" IN (\'SHY\', \'FINE\')' in str(caught.value.hint)
    assert fingerprint(target) == before
    do(target, "UPDATE people SET mood = 'CALM' WHERE mood = 'SHY'", "DELETE FROM diary WHERE mood = 'FINE'")
    revert(target)
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_a_declared_mapping_gives_rows_another_label(target: Any, tree: TestTree, limit: int) -> None:
    applied(target, migrations(tree, limit=limit, mapping={"SHY": "CALM", "FINE": "ODD 'QUOTED'", "OTHER": "X"}))
    do(target, "UPDATE people SET mood = 'SHY', \"lastMood\" = 'FINE' WHERE id <= 10")
    revert(target)
    assert [row[2:] for row in contents(target)[:10]] == [("CALM", "ODD 'QUOTED'")] * 10


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_a_mapping_to_what_goes_too_is_refused(target: Any, tree: TestTree, limit: int) -> None:
    applied(target, migrations(tree, limit=limit, mapping={"SHY": "FINE"}))
    before = fingerprint(target)
    with pytest.raises(PgopsError, match="turns rows into FINE, which the type will not have"):
        revert(target)
    assert fingerprint(target) == before


def test_labels_that_were_there_before_stay(target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    migrate.apply(target, chain, Selection(target=V1), way())
    do(target, "ALTER TYPE \"Mood\" ADD VALUE 'SHY'")
    migrate.apply(target, chain, Selection(), way())
    do(target, "INSERT INTO people VALUES (1, 'a', 'SHY')")
    assert revert(target)["reverted"][0]["left"] == ["enum value public.Mood.SHY"]
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'", "SHY"]


STRANGERS = {
    "view calm": "CREATE VIEW calm AS SELECT id FROM people WHERE mood = 'CALM'",
    "function loudness": "CREATE FUNCTION loudness(\"Mood\") RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "column moods": 'ALTER TABLE people ADD COLUMN moods "Mood"[]',
    "type nice": "CREATE DOMAIN nice AS \"Mood\" CHECK (VALUE <> 'LOUD')",
    "column word": "ALTER TABLE people ADD COLUMN word text GENERATED ALWAYS AS (CASE WHEN mood = 'CALM' THEN 'c' END) STORED",
    "trigger on_mood": "CREATE TRIGGER on_mood BEFORE UPDATE OF mood ON people FOR EACH ROW EXECUTE FUNCTION "
    "suppress_redundant_updates_trigger()",
}


@pytest.mark.few(5)
@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
@pytest.mark.parametrize("named", STRANGERS)
def test_what_no_way_carries_over_is_refused_by_name(target: Any, tree: TestTree, limit: int, named: str) -> None:
    applied(target, migrations(tree, limit=limit), STRANGERS[named])
    before = fingerprint(target)
    with pytest.raises(PgopsError) as caught:
        revert(target)
    assert named.split()[-1] in caught.value.message
    assert "was refused" in caught.value.message
    assert fingerprint(target) == before


REWRITTEN = {
    "people_some": "CREATE INDEX people_some ON people (name) WHERE mood = 'CALM'",
    "people_unique": "ALTER TABLE people ADD CONSTRAINT people_unique UNIQUE (id, mood)",
    "people_both": 'CREATE STATISTICS people_both ON mood, "lastMood" FROM people',
    "each_row": "CREATE TRIGGER each_row BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION "
    "suppress_redundant_updates_trigger()",
    "diary": "DROP INDEX diary_at",
    "part": 'CREATE TABLE part (at int, mood "Mood") PARTITION BY RANGE (at)',
}


@pytest.mark.few(2)
@pytest.mark.parametrize("named", REWRITTEN)
def test_what_only_a_rewrite_carries_over_is_refused_by_name_where_the_table_is_large(
    target: Any, tree: TestTree, named: str
) -> None:
    before = applied(target, migrations(tree, limit=0), REWRITTEN[named])
    there = fingerprint(target)
    with pytest.raises(PgopsError, match=rf"larger than 0 MB together.*{named}"):
        revert(target)
    assert fingerprint(target) == there
    revert(target, rewrite_limit_mb=1)
    assert fingerprint(target) == before


def test_a_rewrite_has_the_limit_that_its_hint_names(target: Any, tree: TestTree) -> None:
    chain = migrations(tree, limit=1)
    chain[-1]["budgets"]["statement_timeout_s"] = 1
    before = applied(
        target,
        chain,
        "CREATE FUNCTION slowly(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.015); RETURN $1; END $$",
        "CREATE INDEX people_slowly ON people (slowly(name))",
        count=100,
    )
    with pytest.raises(PgopsError, match="hit its time limit of 1 s when it took labels from Mood") as caught:
        revert(target)
    assert caught.value.extra["reason"] == "time_limit"
    assert "-e rollback_statement_timeout=SECONDS" in str(caught.value.hint)
    revert(target, statement_timeout_s=60)
    assert fingerprint(target) == before


def test_the_look_before_has_the_limit_that_its_hint_names(target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    chain[-1]["budgets"]["index_timeout_s"] = 1
    before = applied(target, chain)
    with holding(target, "LOCK TABLE people IN ACCESS EXCLUSIVE MODE"):
        with pytest.raises(PgopsError, match="could not be told in the time limit of 1 s") as caught:
            revert(target)
        assert "-e migrate_index_timeout=SECONDS" in str(caught.value.hint)
        with pytest.raises(PgopsError, match="could not be told in the time limit of 2 s"):
            revert(target, builds=IndexBuilds(timeout_s=2))
        with pytest.raises(PgopsError, match="could not be told in the time limit of 2 s"):
            way_back.preview_revert(target, Reverts(), index_timeout_s=2)
    assert state(target, V2)["state"] == "applied"
    revert(target)
    assert fingerprint(target) == before


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_a_session_that_knows_the_type_from_a_function_must_reconnect(target: Any, tree: TestTree, limit: int) -> None:
    applied(target, migrations(tree, limit=limit))
    do(
        target,
        "CREATE FUNCTION loudest(name text) RETURNS text LANGUAGE plpgsql AS "
        "'DECLARE m public.\"Mood\" := name; BEGIN RETURN m::text; END'",
    )
    call = "SELECT public.loudest('LOUD')"
    session = connect(target, application_name="a pool")
    try:
        execute(session, call)
        revert(target)
        for _ in range(2):
            with pytest.raises(psycopg2.Error, match="cache lookup failed for type"):
                execute(session, call)
    finally:
        session.close()
    assert rows(target, call) == [{"loudest": "LOUD"}]


# --- beside the clients -------------------------------------------------------------------------------------------------


class Writers:
    """Clients that insert and update without end; what each row must hold is remembered."""

    def __init__(self, target: Any) -> None:
        self.expected: dict[int, tuple[str, str | None]] = {}
        self.faults: list[str] = []
        self.done = 0
        self._target, self._ended = target, threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(2)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        conn = psycopg2.connect(**self._target.parameters())
        conn.autocommit = True
        cursor = conn.cursor()
        turn = 0
        while not self._ended.is_set():
            turn += 1
            new = ROWS + 2 * turn + number
            old = 1 + (turn * 37 + number * 9973) % (ROWS // 2) * 2 - number
            values = (("CALM", "LOUD")[turn % 2], (None, "CALM")[turn % 2])
            try:
                cursor.execute(
                    'INSERT INTO people (id, name, mood, "lastMood") VALUES (%s, %s, %s, %s)', (new, "n", *values)
                )
                self.expected[new] = values
                if old > 0:
                    cursor.execute('UPDATE people SET mood = %s, "lastMood" = %s WHERE id = %s', (*values, old))
                    self.expected[old] = values
                cursor.execute('SELECT mood::text, "lastMood"::text FROM people WHERE id = %s', (new,))
                if cursor.fetchone() != values:
                    self.faults.append(f"row {new}")
                self.done += 1
            except psycopg2.Error as error:
                self.faults.append(str(error))
            time.sleep(0.002)  # paced: two busy threads would take the machine from the copy
        conn.close()


def test_clients_go_on_and_the_table_is_not_rewritten(target: Any, tree: TestTree) -> None:
    before = applied(target, migrations(tree), *STANDING[:6], count=ROWS)
    expected = {row[0]: row[2:] for row in contents(target)}
    node, told = file_node(target), Told()
    with Writers(target) as writers:
        revert(target, progress=told)
        ended = writers.done
    assert writers.faults == []
    assert ended > 20
    assert file_node(target) == node
    assert {row[0]: row[2:] for row in contents(target)} == {**expected, **writers.expected}
    assert fingerprint(target) == before
    copied = [event for event in told.events if event.get("unit") == "rows" and "people" in event["text"]]
    assert len(copied) >= ROWS // 5000


def test_the_server_reads_no_row_under_the_lock(target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.whitecross.pgops.plugins.module_utils import connection, label_removal

    applied(target, migrations(tree), *STANDING)
    monkeypatch.setitem(connection.PINNED_SETTINGS, "client_min_messages", "debug1")
    monkeypatch.setattr(label_removal, "told_notices", lambda notices, _statement: list(notices))
    told = Told()
    revert(target, progress=told)
    assert told.said('existing constraints on column "people.mood_pgops_new" are sufficient to prove')
    assert not told.said("rewriting table")
    assert not told.said("verifying table")


def test_a_row_with_a_label_that_comes_meanwhile_is_refused_to_its_writer(target: Any, tree: TestTree) -> None:
    applied(target, migrations(tree))
    control = Control()
    with pytest.raises(Interrupted):
        revert(target, control=control, progress=InterruptAt(control, "backfilling public.people"))
    with pytest.raises(
        psycopg2.errors.CheckViolation, match="people.mood takes no label that is being removed from Mood: SHY"
    ):
        do(target, "UPDATE people SET mood = 'SHY' WHERE id = 1")
    revert(target)
    assert left_over(target) == []


def test_a_row_that_comes_before_the_trigger_is_listed_and_the_next_run_goes_on(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = applied(target, migrations(tree))
    real = label_removal.Removal.run
    late: list[int] = []

    def run(self: Any, statements: Any) -> None:
        if not late:
            late.append(1)
            do(target, "UPDATE people SET mood = 'SHY' WHERE id = 7")
        real(self, statements)

    monkeypatch.setattr(label_removal.Removal, "run", run)
    with pytest.raises(PgopsError, match=r"1 row\(s\) of people.mood, id 7"):
        revert(target)
    do(target, "UPDATE people SET mood = 'LOUD' WHERE id = 7")
    revert(target)
    assert fingerprint(target) == before


def test_a_mapping_holds_for_rows_that_come_meanwhile(target: Any, tree: TestTree) -> None:
    applied(target, migrations(tree, mapping={"SHY": "CALM"}))
    control = Control()
    with pytest.raises(Interrupted):
        revert(target, control=control, progress=InterruptAt(control, "backfilling public.people"))
    do(target, "UPDATE people SET mood = 'SHY' WHERE id = 2", "INSERT INTO people VALUES (1000, 'late', 'SHY')")
    revert(target)
    assert {row[0]: row[2] for row in contents(target) if row[0] in (2, 1000)} == {2: "CALM", 1000: "CALM"}


def test_a_write_past_the_trigger_is_refused(target: Any, tree: TestTree) -> None:
    applied(target, migrations(tree))
    control = Control()
    with pytest.raises(Interrupted):
        revert(target, control=control, progress=InterruptAt(control, "validating public.people"))
    do(target, "ALTER TABLE people DISABLE TRIGGER USER")
    with pytest.raises(psycopg2.errors.CheckViolation):
        do(target, "UPDATE people SET mood = 'LOUD' WHERE mood = 'CALM'")
    name = rows(target, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'people'::regclass")[0]["tgname"]
    do(target, f'ALTER TABLE people ENABLE ALWAYS TRIGGER "{name}"')
    revert(target)
    assert left_over(target) == []


def test_rows_that_a_policy_hides_are_not_passed_over(target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    applied(target, chain, "ALTER TABLE people ENABLE ROW LEVEL SECURITY")
    # The owner sees every row; a login that does not would count none of those with the label.
    conn = connect(target.with_(user=APP, owner=None), application_name="test")
    try:
        with pytest.raises(PgopsError, match="row level security hides rows of people from this login"):
            take_back_labels(conn, chain[-1]["steps"][0], [])
    finally:
        conn.close()


TAKEN = {
    "column people.mood_pgops_new": "ALTER TABLE people ADD COLUMN mood_pgops_new text",
    "type Mood_pgops_new": "CREATE TYPE \"Mood_pgops_new\" AS ENUM ('A')",
    "index public.people_name_pgops_new": "CREATE INDEX people_name ON people (mood); "
    "CREATE INDEX people_name_pgops_new ON people (name)",
}


@pytest.mark.parametrize("named", TAKEN)
def test_a_name_that_somebody_has_taken_is_refused(target: Any, tree: TestTree, named: str) -> None:
    applied(target, migrations(tree), TAKEN[named])
    with pytest.raises(PgopsError, match=f"{named} is there"):
        revert(target)
    gone = {
        "column": "ALTER TABLE people DROP COLUMN mood_pgops_new",
        "type": 'DROP TYPE "Mood_pgops_new"',
        "index": "DROP INDEX people_name_pgops_new",
    }
    do(target, gone[named.split()[0]])
    revert(target)
    assert left_over(target) == []


def test_it_gives_way_to_who_holds_the_table_and_goes_on(target: Any, tree: TestTree) -> None:
    before = applied(target, migrations(tree))
    with holding(target, "SELECT * FROM people"), pytest.raises(PgopsError, match="did not get its locks"):
        revert(target)
    revert(target)
    assert fingerprint(target) == before


def test_what_changes_while_rows_are_copied_is_noticed_under_the_lock(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(target, migrations(tree))
    real = backfill.run

    def run(*given: Any) -> int:
        done = real(*given)
        do(target, "DROP INDEX IF EXISTS people_late", "CREATE INDEX people_late ON people (mood)")
        return done

    monkeypatch.setattr(backfill, "run", run)
    with pytest.raises(PgopsError, match="was changed while the rows were copied"):
        revert(target)
    monkeypatch.undo()
    revert(target)
    assert left_over(target) == []
    assert rows(target, "SELECT indexdef FROM pg_indexes WHERE indexname = 'people_late'")[0]["indexdef"].endswith(
        "(mood)"
    )


class Killed(BaseException):
    """As kill -9: nothing tidies up."""


# What is sent, one of each stage.
STAGES = (
    "CREATE TYPE",
    "ADD COLUMN",
    "CREATE TRIGGER",
    "PREPARE pgops_backfill",
    "EXECUTE pgops_backfill",
    "VALIDATE CONSTRAINT",
    "CREATE INDEX CONCURRENTLY",
    "LOCK TABLE",
    "SET NOT NULL",
    "DROP COLUMN",
    "DROP TYPE",
    "CREATE POLICY",
    'VALIDATE CONSTRAINT "people_mood_check"',
    "ANALYZE",
)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, stage: str) -> Iterator[None]:
    """The process ends just after the first statement with that text."""

    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, given: Any = None) -> Any:
            super().execute(query, given)
            if stage in (query if isinstance(query, str) else query.as_string(self.connection)):
                self.connection.close()
                raise Killed

    real = migrate.connect

    def open_session(*given: Any, **more: Any) -> Any:
        conn = real(*given, **more)
        conn.cursor_factory = Cursor
        return conn

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(migrate, "connect", open_session)
        yield


@pytest.mark.few(5)
@pytest.mark.parametrize("stage", STAGES)
def test_cut_off_at_any_stage_it_goes_on(
    target: Any, tree: TestTree, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    before = applied(target, migrations(tree), *STANDING)
    rows_before = contents(target)
    with killed_at(monkeypatch, stage):
        revert(target)
    # The application's way goes on meanwhile.
    do(target, "INSERT INTO people VALUES (5000, 'x', 'LOUD', NULL)")
    with pytest.raises(PgopsError, match="half reverted"):
        migrate.apply(target, tree.render(), Selection(), way())
    revert(target)
    assert fingerprint(target) == before
    assert contents(target) == [*rows_before, (5000, "x", "LOUD", None)]


@pytest.mark.parametrize(
    "part", ["backfilling public.people", "validating public.people", "building index", "analyzing"]
)
def test_asked_to_stop_it_ends_and_goes_on(target: Any, tree: TestTree, part: str) -> None:
    before = applied(target, migrations(tree), *STANDING)
    control = Control()
    with pytest.raises(Interrupted):
        revert(target, control=control, progress=InterruptAt(control, part))
    revert(target)
    assert fingerprint(target) == before


# --- looked at before the first step goes down ----------------------------------------------------------------------------

# A version whose way down begins with what must not go while its labels cannot.
MORE = """
ALTER TABLE public.people ADD COLUMN note text;
CREATE TABLE public.visits (id integer PRIMARY KEY, mood public."Mood" DEFAULT 'FINE');
CREATE VIEW public.shy AS SELECT id FROM public.people WHERE mood = 'SHY';
ALTER TABLE public.people ALTER COLUMN mood SET DEFAULT 'SHY';
ALTER TABLE public.people ADD CONSTRAINT people_shy CHECK (mood <> 'SHY' OR name IS NOT NULL);
ALTER TABLE public.people ADD CONSTRAINT people_long CHECK (length(name) > 2) NOT VALID;
"""
LESS = """
ALTER TABLE public.people DROP CONSTRAINT people_long;
ALTER TABLE public.people DROP CONSTRAINT people_shy;
ALTER TABLE public.people ALTER COLUMN mood SET DEFAULT 'CALM';
DROP VIEW public.shy;
DROP TABLE public.visits;
ALTER TABLE public.people DROP COLUMN note;
"""


def longer(tree: TestTree, *, limit: int = 0, more: str = MORE, less: str = LESS) -> list[dict[str, Any]]:
    tree.add(
        V2,
        "add_moods",
        [
            {"sql": {"up": "up.sql.j2", "down": "remove_labels", "mapping": "moods"}},
            {"sql": {"up": "more.sql.j2", "down": "less.sql.j2"}},
        ],
        {"up.sql.j2": ADDED, "more.sql.j2": more, "less.sql.j2": less, "verify.sql.j2": NO_DIFFERENCE},
        variables={"moods": {}},
        budgets={"rewrite_limit_mb": limit, "lock_budget_s": 5},
    )
    return tree.render()


def refused_whole(target: Any, chain: list[dict[str, Any]], match: str, **more: Any) -> None:
    """Shown and run it is refused, and nothing of the version is gone."""
    there = fingerprint(target)
    with pytest.raises(PgopsError, match=match):
        way_back.preview_revert(target, Reverts(version=V2), **more)
    with pytest.raises(PgopsError, match=match) as caught:
        revert(target, **more)
    assert "Nothing of this version was reverted" in caught.value.message
    assert caught.value.extra["reason"] == "labels"
    assert caught.value.extra["not_reverted"] == [V2]
    assert fingerprint(target) == there
    assert state(target, V2)["state"] == "applied"
    assert rows(target, "SELECT result FROM pgops.run ORDER BY started_at DESC LIMIT 1") == [{"result": "refused"}]
    assert migrate.apply(target, chain, Selection(), way())["applied"] == []


IN_THE_WAY = {
    r"1 row\(s\) of people.mood, id 7": "UPDATE people SET mood = 'SHY' WHERE id = 7",
    "view public.calm": "CREATE VIEW calm AS SELECT id FROM people WHERE mood = 'CALM'",
    "trigger each_row": "CREATE TRIGGER each_row BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION "
    "suppress_redundant_updates_trigger()",
    "column people.mood_pgops_new is there": "ALTER TABLE people ADD COLUMN mood_pgops_new text",
    "type Mood_pgops_new is there": "CREATE TYPE \"Mood_pgops_new\" AS ENUM ('A')",
}


@pytest.mark.parametrize("match", IN_THE_WAY)
def test_what_refuses_is_looked_at_before_another_step_of_the_version_goes(
    target: Any, tree: TestTree, match: str
) -> None:
    chain = longer(
        tree, more="ALTER TABLE public.people ADD COLUMN note text;", less="ALTER TABLE public.people DROP COLUMN note;"
    )
    applied(target, chain)
    do(target, "UPDATE people SET note = 'kept'", IN_THE_WAY[match])
    refused_whole(target, chain, match)
    assert rows(target, "SELECT DISTINCT note FROM people") == [{"note": "kept"}]


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
def test_what_the_version_itself_takes_away_before_is_in_nobody_s_way(target: Any, tree: TestTree, limit: int) -> None:
    before = applied(target, longer(tree, limit=limit))
    do(target, "INSERT INTO visits VALUES (1, 'FINE')")
    way_back.preview_revert(target, Reverts())
    revert(target)
    assert fingerprint(target) == before


def test_rows_that_the_version_itself_gives_another_label_are_in_nobody_s_way(target: Any, tree: TestTree) -> None:
    mended = "UPDATE public.people SET mood = 'CALM' WHERE mood = 'SHY';"
    before = applied(target, longer(tree, more="UPDATE public.people SET mood = 'SHY' WHERE id < 5;", less=mended))
    way_back.preview_revert(target, Reverts())
    revert(target)
    assert fingerprint(target) == before


def test_an_update_that_the_version_itself_runs_before_hides_nothing_that_stands_on_its_table(
    target: Any, tree: TestTree
) -> None:
    mended = "UPDATE public.people SET mood = 'CALM' WHERE mood = 'SHY';"
    chain = longer(tree, limit=1, more="UPDATE public.people SET mood = 'SHY' WHERE id < 5;", less=mended)
    applied(target, chain)
    do(target, "ALTER TABLE people ADD COLUMN calm boolean GENERATED ALWAYS AS (mood = 'CALM') STORED")
    refused_whole(target, chain, "column calm of table")
    do(target, "ALTER TABLE people DROP COLUMN calm", STRANGERS["trigger on_mood"])
    refused_whole(target, chain, "trigger on_mood")
    do(target, "DROP TRIGGER on_mood ON people", "ALTER TABLE people ALTER COLUMN mood SET DEFAULT 'SHY'")
    refused_whole(target, chain, "default of people.mood")
    do(target, "ALTER TABLE people ALTER COLUMN mood SET DEFAULT 'CALM'", NAMED["index people_shy of people"])
    refused_whole(target, chain, "index people_shy of people")


def test_newer_versions_go_before_an_older_one_is_refused_and_are_told(target: Any, tree: TestTree) -> None:
    migrations(tree)
    tree.add_sql(V3, "create_shy", SHY_VIEW, "DROP VIEW public.shy;")
    chain = tree.render()
    applied(target, chain)
    do(target, "UPDATE people SET mood = 'SHY' WHERE id = 7")
    with pytest.raises(PgopsError, match=r"1 row\(s\) of people.mood, id 7"):
        way_back.preview_revert(target, Reverts(through=V2))
    with pytest.raises(PgopsError, match=r"1 row\(s\) of people.mood, id 7") as caught:
        migrate.revert(target, Reverts(through=V2), way())
    assert caught.value.extra["reverted"] == [V3]
    assert caught.value.extra["not_reverted"] == [V2]
    assert state(target, V2)["state"] == "applied"
    do(target, "UPDATE people SET mood = 'CALM' WHERE id = 7")
    # The view of the newer version, which goes first, is no reason to refuse.
    migrate.apply(target, chain, Selection(), way("20260101T000000Z-000002"))
    way_back.preview_revert(target, Reverts(through=V2))
    migrate.revert(target, Reverts(through=V2), way("20260101T000000Z-000003"))
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]


# What would be made anew with a label that is no more, and what the role that migrates may not touch.
NAMED = {
    "default of people.mood": "ALTER TABLE people ALTER COLUMN mood SET DEFAULT 'SHY'",
    "check not_shy of people": "ALTER TABLE people ADD CONSTRAINT not_shy CHECK (mood <> 'SHY' OR name IS NOT NULL)",
    "check any_of of people": "ALTER TABLE people ADD CONSTRAINT any_of CHECK (mood = ANY ('{CALM,\"ODD ''QUOTED''\",LOUD,FINE}'))",
    "policy shy_ones on public.people": "CREATE POLICY shy_ones ON people USING (mood IN ('SHY', 'CALM'))",
    "index people_shy of people": "CREATE INDEX people_shy ON people (name) WHERE mood = 'SHY'",
    r"column p of public.archive": "CREATE TABLE archive (p people)",
    r"column p of public.arrays": "CREATE DOMAIN persons AS people[]; CREATE TABLE arrays (p persons)",
}


@pytest.mark.few(6)
@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
@pytest.mark.parametrize("match", NAMED)
def test_what_cannot_be_put_back_is_refused_by_name(target: Any, tree: TestTree, limit: int, match: str) -> None:
    chain = migrations(tree, limit=limit, mapping={"SHY": "CALM", "FINE": "CALM"})
    applied(target, chain)
    do(target, NAMED[match])
    refused_whole(target, chain, match)


def test_a_text_that_reads_like_a_label_is_none(target: Any, tree: TestTree) -> None:
    applied(
        target,
        migrations(tree, limit=1),
        "ALTER TABLE people ADD CONSTRAINT people_text CHECK (mood <> 'LOUD' OR name <> 'SHY')",
    )
    revert(target)
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]


STRANGE = {
    "table strange of postgres": (
        'CREATE TABLE public.strange (id int PRIMARY KEY, mood public."Mood")',
        "GRANT ALL ON public.strange TO white_cross_owner",
    ),
    "type Mood of postgres": (
        'ALTER TYPE public."Mood" OWNER TO postgres',
        'GRANT USAGE ON TYPE public."Mood" TO white_cross_owner',
    ),
    "policy calm_ones on public.strange of postgres": (
        "CREATE TABLE public.strange (id int)",
        "CREATE POLICY calm_ones ON public.strange USING (EXISTS (SELECT FROM public.people WHERE mood = 'CALM'))",
    ),
}


@pytest.mark.parametrize("limit", [1, 0], ids=["rewritten", "beside"])
@pytest.mark.parametrize("match", STRANGE)
def test_what_belongs_to_a_strange_role_is_refused_by_name(
    server: Server, target: Any, tree: TestTree, limit: int, match: str
) -> None:
    chain = migrations(tree, limit=limit)
    applied(target, chain)
    for statement in STRANGE[match]:
        server.execute(statement, database=target.database)
    refused_whole(target, chain, match)


def test_a_schema_in_which_nothing_can_be_made_is_refused_by_name(server: Server, target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    applied(target, chain)
    for statement in (
        "CREATE SCHEMA closed; GRANT USAGE ON SCHEMA closed TO white_cross_owner",
        'CREATE TABLE closed.people (id int PRIMARY KEY, mood public."Mood")',
        "ALTER TABLE closed.people OWNER TO white_cross_owner",
    ):
        server.execute(statement, database=target.database)
    refused_whole(target, chain, "may not create in the schema closed")
    # In place nothing is made there.
    revert(target, rewrite_limit_mb=1)
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]


def test_rows_that_break_a_check_of_later_are_not_copied(target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    applied(target, chain)
    do(target, "ALTER TABLE people ADD CONSTRAINT long_names CHECK (length(name) > 2) NOT VALID")
    refused_whole(target, chain, r"long_names of people, which is NOT VALID: 9 row\(s\) break it and cannot be copied")
    do(target, "UPDATE people SET name = 'long' WHERE id < 10")
    revert(target)
    assert labels(target) == ["CALM", "LOUD", "ODD 'QUOTED'"]


@pytest.mark.majors(18)
def test_a_not_null_of_later_is_refused_where_the_table_is_large(target: Any, tree: TestTree) -> None:
    chain = migrations(tree)
    applied(target, chain)
    do(target, 'ALTER TABLE people ADD CONSTRAINT later NOT NULL "lastMood" NOT VALID')
    refused_whole(target, chain, r"later of people, which is NOT VALID: 150 row\(s\)")
    before = fingerprint(target)
    do(target, "UPDATE people SET \"lastMood\" = 'CALM'")
    with pytest.raises(PgopsError, match="later of people, which is NOT VALID"):
        revert(target)
    assert fingerprint(target) == before


def test_long_names_that_begin_alike_stay_different(target: Any, tree: TestTree) -> None:
    long = "é" * 30
    before = applied(
        target,
        migrations(tree),
        f'CREATE TABLE longs (id int PRIMARY KEY, {long}aa "Mood", {long}bb "Mood")',
        f"CREATE INDEX {long}aa ON people (mood)",
        f"CREATE INDEX {long}bb ON people (mood, name)",
        "INSERT INTO longs VALUES (1, 'CALM', 'LOUD')",
    )
    revert(target)
    assert fingerprint(target) == before
    assert left_over(target) == []
    assert rows(target, f"SELECT {long}aa::text AS a, {long}bb::text AS b FROM longs") == [{"a": "CALM", "b": "LOUD"}]


def test_begun_beside_it_names_no_other_limit_as_the_way_out(target: Any, tree: TestTree) -> None:
    applied(target, migrations(tree))
    control = Control()
    with pytest.raises(Interrupted):
        revert(target, control=control, progress=InterruptAt(control, "backfilling public.people"))
    do(target, "CREATE INDEX calm_ones ON people (name) WHERE mood = 'CALM'")
    with pytest.raises(
        PgopsError, match="the columns beside are begun, and cannot take over: index calm_ones"
    ) as caught:
        revert(target, rewrite_limit_mb=1000)
    assert "limit" not in str(caught.value.hint)
    assert "1000 MB" not in caught.value.message
    do(target, "DROP INDEX calm_ones")
    revert(target)
    assert left_over(target) == []


# --- told, and refused in the tree ---------------------------------------------------------------------------------------


def test_the_plan_of_the_way_down_says_what_is_done_to_each_table(target: Any, tree: TestTree) -> None:
    applied(target, migrations(tree, mapping={"SHY": "CALM"}))
    text = way_back.preview_revert(target, Reverts())["prepared"]
    assert "-- SHY, FINE go from type public.Mood: one without them takes its place" in text
    assert "-- rows with SHY become CALM" in text
    assert "-- refused while a row has another of them" in text
    assert "-- people (mood, lastMood): " in text
    assert "more than 0 MB together, so beside the running clients" in text
    text = way_back.preview_revert(target, Reverts(), rewrite_limit_mb=1)["prepared"]
    assert "at most 1 MB together, so rewritten in one transaction" in text


def findings(tree: TestTree, text: str = ADDED, **step: Any) -> list[str]:
    tree.add(
        V2,
        "add_moods",
        [{"sql": {"up": "up.sql.j2", "down": "remove_labels", **step}}],
        {"up.sql.j2": text, "verify.sql.j2": NO_DIFFERENCE},
        variables={"moods": ["SHY"]},
    )
    scanned = scan_tree(tree.folder)
    return [found.message for found in [*scanned.findings, *scan_render(scanned)[1]]]


def test_what_cannot_be_taken_back_so_is_refused_in_the_tree(tree: TestTree) -> None:
    assert findings(tree) == []
    assert "no variable of this version" in findings(tree, mapping="other")[0]
    assert "must turn labels into labels" in findings(tree, mapping="moods")[0]
    more = findings(tree, ADDED + "ALTER TABLE public.people ADD COLUMN more text;")
    assert "takes back ALTER TYPE ... ADD VALUE only" in more[0]
    other = findings(tree, down="down.sql.j2", mapping="moods")
    assert any("'mapping' goes with 'down: remove_labels'" in found for found in other)
