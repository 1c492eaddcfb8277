# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Each pattern: scaffolded as a person would, applied and taken back while clients read and write in the forms that its
page allows. Nobody sees an error or waits a second, no written value is lost, and the schema comes back as it was."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, declared, migrate
from ansible_collections.whitecross.pgops.plugins.module_utils import verify as verification
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from ansible_collections.whitecross.pgops.plugins.plugin_utils import (
    migration_lint,
    migration_tree,
    patterns,
    rendered_tree,
    scaffold,
)
from support.engine import Told, do, rows, wait_for, way
from support.server import Server
from support.site import Playbook

ROOT = Path(__file__).resolve().parents[2]
LONGEST_WAIT_S = 3.0
ANSWERS = 20

SCHEMA = """
    CREATE TYPE "Kind" AS ENUM ('ONE', 'TWO', 'THREE');
    CREATE TABLE places (id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, name text NOT NULL);
    CREATE TABLE spare (id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, name text UNIQUE);
    CREATE TABLE children (
        id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
        code text,
        room varchar(40) NOT NULL,
        note text,
        points integer NOT NULL,
        "placeId" uuid,
        kind "Kind" NOT NULL DEFAULT 'ONE'
    );
    COMMENT ON COLUMN children.room IS 'PHI: where the child is';
    COMMENT ON COLUMN children.note IS 'PHI: what the nurse''s note says';
    COMMENT ON TYPE "Kind" IS 'kinds';
    INSERT INTO places (name) SELECT 'p' || n FROM generate_series(1, 10) AS n;
    INSERT INTO spare (name) SELECT 's' || n FROM generate_series(1, 10) AS n;
    INSERT INTO children (code, room, note, points, "placeId", kind)
    SELECT 'c' || n, 'room ' || n, CASE WHEN n % 3 > 0 THEN 'note ' || n END, n, (SELECT id FROM places LIMIT 1),
        (enum_range(NULL::"Kind"))[1 + n % 3]
    FROM generate_series(1, 1500) AS n;
"""


@dataclass(frozen=True)
class Form:
    """Code of the application as it stands before or after a deploy: how it inserts, changes and reads one value."""

    insert: str
    update: str
    read: str
    value: Callable[[int], str] = lambda n: f"v{n}"
    # Another value may come back where the pattern maps it.
    exact: bool = True


def plain(column: str, value: Callable[[int], str] = lambda n: f"v{n}", **more: Any) -> Form:
    """Code that knows a column of children."""
    given = (
        {"room": "'r'", "points": "1", column: "%(value)s"}
        if column != "room"
        else {"room": "%(value)s", "points": "1"}
    )
    return Form(
        f"INSERT INTO children (id, {', '.join(given)}) VALUES (%(id)s, {', '.join(given.values())})",
        f"UPDATE children SET {column} = %(value)s WHERE id = %(id)s",
        f"SELECT {column}::text FROM children WHERE id = %(id)s",
        value,
        **more,
    )


ROOM = plain("room")
NUMBER = plain("points", str)
NEW_NAME = Form(
    'INSERT INTO children (id, "roomName", points) VALUES (%(id)s, %(value)s, 1)',
    'UPDATE children SET "roomName" = %(value)s WHERE id = %(id)s',
    'SELECT "roomName" FROM children WHERE id = %(id)s',
)
NO_ROOM = Form(
    "INSERT INTO children (id, points) VALUES (%(id)s, %(value)s)",
    "UPDATE children SET points = %(value)s WHERE id = %(id)s",
    "SELECT points::text FROM children WHERE id = %(id)s",
    str,
)
NEW_TABLE = Form(
    "INSERT INTO children (id, room, points) VALUES (%(id)s, 'r', 1); "
    "INSERT INTO child_notes (id, note) VALUES (%(id)s, %(value)s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
    "INSERT INTO child_notes (id, note) VALUES (%(id)s, %(value)s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
    "SELECT note FROM child_notes WHERE id = %(id)s",
)
PLACE = Form(
    "INSERT INTO children (id, room, points, \"placeId\") SELECT %(id)s, 'r', 1, id FROM places LIMIT 1",
    'UPDATE children SET "placeId" = (SELECT id FROM places ORDER BY random() LIMIT 1), code = %(value)s WHERE id = %(id)s',
    "SELECT code FROM children WHERE id = %(id)s",
    exact=False,
)
DELETE_PLACE = Form(
    "INSERT INTO places (name) VALUES (%(value)s)",
    "UPDATE places SET name = %(value)s WHERE name = 'p10'",
    "SELECT count(*)::text FROM places WHERE id = %(id)s",
    exact=False,
)

CHILD_PLAN = Form(
    "INSERT INTO child_plans (id, note) VALUES (%(id)s, %(value)s)",
    "INSERT INTO child_plans (id, note) VALUES (%(id)s, %(value)s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
    "SELECT note FROM child_plans WHERE id = %(id)s",
)


@dataclass(frozen=True)
class Part:
    """Who runs while one version is applied and taken back, and who may run besides once it is applied."""

    during: tuple[Form, ...]
    after: tuple[Form, ...] = ()
    # What the operator does before the way back.
    before_down: str = "SELECT 1"


@dataclass(frozen=True)
class Case:
    variables: dict[str, str]
    parts: tuple[Part, ...]
    before: str = "SELECT 1"
    # What no client changes: the rows of before, without the columns named here.
    changed: tuple[str, ...] = ()
    holds: dict[int, str] = field(default_factory=dict)


CHILDREN = {"table": "children"}
CASES = {
    "create_table": Case(
        {"table": "child_plans", "columns": 'note text NOT NULL, due date, "isOpen" boolean NOT NULL DEFAULT true', "comment": "What's planned for a child"},
        (Part((ROOM, NUMBER), (CHILD_PLAN, ROOM)),),
        holds={0: "SELECT count(*) = 7 FROM information_schema.columns WHERE table_name = 'child_plans'"},
    ),
    "create_type": Case(
        {"enum": "Mood", "labels": "GOOD, BAD,it's so", "comment": "how a child feels"},
        (Part((ROOM, NUMBER)),),
        holds={0: "SELECT enum_range(NULL::\"Mood\")::text[] = ARRAY['GOOD', 'BAD', 'it''s so']"},
    ),
    "add_column": Case(
        {**CHILDREN, "column": "nickName", "type": "varchar(40)", "comment": "PHI: what's the child's nickname"},
        (Part((ROOM,), (plain('"nickName"'),)),),
    ),
    "remove_column": Case(
        {**CHILDREN, "column": "room", "type": "varchar(40)", "not_null": "true", "value": "none", "comment": "PHI: where the child is"},
        (Part((ROOM, NUMBER), (NO_ROOM,)), Part((NO_ROOM, NO_ROOM))),
    ),
    "rename_column": Case(
        {**CHILDREN, "column": "room", "to": "roomName", "type": "varchar(40)"},
        (Part((ROOM, NUMBER), (NEW_NAME,)), Part((ROOM, NEW_NAME), (ROOM, NEW_NAME)), Part((NEW_NAME, NEW_NAME))),
        before="CREATE INDEX children_room_idx ON children (room); "
        "ALTER TABLE children ADD CONSTRAINT room_is_short CHECK (length(room) < 40)",
        holds={1: 'SELECT count(*) = 0 FROM children WHERE room IS DISTINCT FROM "roomName"'},
    ),
    "change_type": Case(
        {**CHILDREN, "column": "points", "type": "bigint", "old_type": "integer", "not_null": "true"},
        (Part((NUMBER, ROOM)), Part((NUMBER, NUMBER)), Part((NUMBER,), (plain("points", lambda n: str(2**40 + n)),),
            "UPDATE children SET points = 1 WHERE points > 2147483647")),
        holds={
            0: "SELECT count(*) = 0 FROM children WHERE points::bigint IS DISTINCT FROM points_new",
            1: "SELECT pg_typeof(points) = 'bigint'::regtype FROM children LIMIT 1",
        },
    ),
    "split_table": Case(
        {**CHILDREN, "column": "note", "to": "child_notes", "type": "text", "comment": "PHI: what the nurse's note says"},
        (Part((plain("note"), ROOM)), Part((plain("note"), NEW_TABLE), (plain("note"), NEW_TABLE)), Part((NEW_TABLE, NEW_TABLE))),
        holds={1: "SELECT count(*) = 0 FROM children AS c LEFT JOIN child_notes AS n USING (id) "
            "WHERE n.id IS NULL OR c.note IS DISTINCT FROM n.note"},
    ),
    "add_not_null": Case(
        {**CHILDREN, "column": "note", "value": "nothing"},
        (Part((ROOM, plain("note"))),),
        changed=("note",),
        holds={0: "SELECT count(*) FILTER (WHERE note IS NULL) = 0 AND count(*) FILTER (WHERE note = 'nothing') >= 400 FROM children"},
    ),
    "add_foreign_key": Case(
        {**CHILDREN, "column": "placeId", "to": "places", "on_delete": "SET NULL"},
        (Part((PLACE, DELETE_PLACE)),),
    ),
    "add_unique": Case(
        {**CHILDREN, "column": "code"},
        (Part((plain("code", lambda _: str(uuid.uuid4())), ROOM)),),
    ),
    "add_enum_value": Case(
        {"enum": "Kind", "value": "EXTRA", "neighbour": "ONE"},
        (Part(
            (plain("kind", lambda n: ("ONE", "TWO")[n % 2]), ROOM), (plain("kind", lambda _: "EXTRA"),),
            "UPDATE children SET kind = 'ONE' WHERE kind = 'EXTRA'",
        ),),
        holds={0: "SELECT enum_range(NULL::\"Kind\")::text = '{ONE,EXTRA,TWO,THREE}'"},
    ),
    "remove_enum_value": Case(
        {**CHILDREN, "enum": "Kind", "value": "TWO", "to_value": "THREE", "neighbour": "ONE", "column": "kind"},
        (
            # The way back cannot tell a THREE that new code wrote into a replaced row from the one that took the place of TWO.
            Part((plain("kind", lambda n: ("ONE", "TWO")[n % 2], exact=False), plain("kind", lambda n: "ONE"))),
            Part((plain("kind", lambda n: ("ONE", "THREE")[n % 2]), ROOM)),
        ),
        holds={
            0: "SELECT count(*) = 0 FROM children WHERE kind = 'TWO'",
            1: "SELECT enum_range(NULL::\"Kind\")::text = '{ONE,THREE}'",
        },
    ),
    "add_index": Case({**CHILDREN, "column": "note"}, (Part((ROOM, plain("note"))),)),
    "drop_index": Case(
        {"index": "children_room_idx", "definition": "CREATE INDEX children_room_idx ON public.children USING btree (room)"},
        (Part((ROOM, NUMBER)),),
        before="CREATE INDEX children_room_idx ON children (room)",
        holds={0: "SELECT to_regclass('children_room_idx') IS NULL"},
    ),
    "large_data_migration": Case(
        {**CHILDREN, "column": "note", "expression": "'of ' || room"},
        (Part((ROOM, plain("note"))),),
        changed=("note",),
        holds={0: "SELECT count(*) >= 400 FROM children WHERE note = 'of ' || room"},
    ),
    "conditional_change": Case(
        {
            "condition": "EXISTS (SELECT FROM children WHERE points = 7)",
            "change": "ALTER TABLE children ALTER COLUMN note SET DEFAULT 'it''s empty'",
            "undo": "ALTER TABLE children ALTER COLUMN note DROP DEFAULT",
            "marker": "children_note_defaulted",
        },
        (Part((ROOM, plain("note"))),),
        holds={0: "SELECT column_default ~ 'empty' FROM information_schema.columns WHERE (table_name, column_name) = ('children', 'note')"},
    ),
    "drop_table": Case({"table": "spare"}, (Part((ROOM, NUMBER)),)),
}  # fmt: skip


class Client(threading.Thread):
    """Writes rows of its own and reads them back, until told to stop; each answer is timed."""

    def __init__(self, target: Target, form: Form, own: list[str], start: int) -> None:
        super().__init__(daemon=True)
        self.target, self.form, self.own, self.number = target, form, own, start
        self.stopping = threading.Event()
        self.longest = 0.0
        self.answers = 0
        self.failure: str | None = None
        self.written: dict[str, str] = {}

    def run(self) -> None:
        try:
            with closing(connect(self.target, application_name="the application")) as conn:
                while not self.stopping.is_set():
                    self.number += 1
                    self._one(conn)
                    time.sleep(0.002)
        except Exception as exc:  # noqa: BLE001 - told by the test
            self.failure = f"{type(exc).__name__}: {exc}"

    def _one(self, conn: Any) -> None:
        inserts = self.number % 4 == 0
        row = str(uuid.uuid4()) if inserts else self.own[self.number % len(self.own)]
        value = self.form.value(self.number)
        self._timed(conn, self.form.insert if inserts else self.form.update, {"id": row, "value": value})
        found = self._timed(conn, self.form.read, {"id": row})
        if self.form.exact:
            assert found == value, f"{value} was written and {found} read by: {self.form.read}"
            self.written[row] = value

    def _timed(self, conn: Any, statement: str, values: dict[str, str]) -> Any:
        started = time.monotonic()
        with conn.cursor() as cursor:
            cursor.execute(statement, values)
            found = cursor.fetchone() if cursor.description else None
        self.longest = max(self.longest, time.monotonic() - started)
        self.answers += 1
        return found[0] if found else None


class Application:
    """The clients of one test; each has rows of its own, in which the last value that was acknowledged must stand."""

    def __init__(self, target: Target, busy: list[str]) -> None:
        self.target, self.busy, self.count = target, busy, 0

    @contextmanager
    def running(self, forms: tuple[Form, ...]) -> Iterator[None]:
        clients = []
        for number, form in enumerate(forms):
            self.count += 1
            clients.append(Client(self.target, form, self.busy[number :: len(forms)], self.count * 100_000))
        for client in clients:
            client.start()
        try:
            self._busy(clients)
            yield
            self._busy(clients)
        finally:
            for client in clients:
                client.stopping.set()
            for client in clients:
                client.join(30)
        for client in clients:
            assert client.failure is None, client.failure
            assert client.longest < LONGEST_WAIT_S
            self._kept(client)

    def _busy(self, clients: list[Client]) -> None:
        """Wait until each has had some more answers: however slow the machine is, they work before, during and after."""
        before = [client.answers for client in clients]

        def went_on() -> bool:
            return all(
                client.failure or client.answers >= known + ANSWERS
                for client, known in zip(clients, before, strict=True)
            )

        wait_for(went_on, what="that each client works")

    def _kept(self, client: Client) -> None:
        with closing(connect(self.target, application_name="test")) as conn, conn.cursor() as cursor:
            for row, value in client.written.items():
                cursor.execute(client.form.read, {"id": row})
                found = cursor.fetchone()
                assert found and found[0] == value


def inventory(target: Target) -> dict[str, Any]:
    with closing(connect(target, application_name="test")) as conn:
        return catalog.inventory(conn)


def differences(target: Target, migrations: list[dict[str, Any]]) -> list[Any]:
    with closing(connect(target, application_name="test")) as conn:
        return [found for one in migrations for found in declared.check_statements(conn, one, Control())]


def quiet_rows(target: Target, busy: list[str], changed: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows that no client writes, as they read under their first names."""
    return rows(
        target,
        "SELECT id::text, (to_jsonb(c) - %s::text[])::text AS row FROM children AS c WHERE id::text <> ALL(%s) ORDER BY id",
        (list(changed), busy),
    )


def scaffolded(folder: Path, pattern: str, variables: dict[str, str]) -> list[dict[str, Any]]:
    (folder / "migrations").mkdir(parents=True)
    scaffold.write_all(scaffold.plan(folder, "change_it", pattern=pattern, variables=variables))
    tree = migration_tree.scan_tree(folder)
    assert [*tree.findings, *migration_lint.lint(tree)] == []
    return migration_tree.render(tree)


@pytest.mark.few(8)
@pytest.mark.parametrize("pattern", list(CASES))
def test_a_pattern_is_applied_and_taken_back_while_clients_work(target: Target, tmp_path: Path, pattern: str) -> None:
    case = CASES[pattern]
    do(target, SCHEMA, case.before, "ANALYZE")
    migrations = scaffolded(tmp_path / "sql", pattern, case.variables)
    first = [row["id"] for row in rows(target, "SELECT id::text FROM children ORDER BY id")]
    busy, quiet = first[:100], set(first[100:])
    application = Application(target, busy)

    def untouched() -> list[dict[str, Any]]:
        return [row for row in quiet_rows(target, busy, case.changed) if row["id"] in quiet]

    rows_before, schemas = untouched(), []
    for number, part in enumerate(case.parts):
        schemas.append(inventory(target))
        with application.running(part.during):
            migrate.apply(target, migrations[: number + 1], Selection(), way())
        assert differences(target, migrations[: number + 1]) == []
        if number in case.holds:
            assert list(rows(target, case.holds[number])[0].values()) == [True]
        if part.after:
            with application.running(part.after):
                pass
    for number, part in reversed(list(enumerate(case.parts))):
        do(target, part.before_down)
        with application.running(part.during):
            migrate.revert(target, Reverts(version=migrations[number]["version"]), way())
        assert catalog.compare(schemas[number], inventory(target), ignore=()) == []
    assert untouched() == rows_before
    # And once more: nothing is left that stands in its way.
    migrate.apply(target, migrations[: len(case.parts)], Selection(), way())
    assert differences(target, migrations[: len(case.parts)]) == []


def applied(target: Target, folder: Path, pattern: str, parts: int = 1, **variables: str) -> list[dict[str, Any]]:
    migrations = scaffolded(folder / "sql", pattern, {**CASES[pattern].variables, **variables})
    migrate.apply(target, migrations[:parts], Selection(), way())
    return migrations


@pytest.mark.parametrize(
    ("pattern", "before", "parts", "told"),
    [
        ("remove_column", "CREATE INDEX children_room_idx ON children (room)", 2, "still has: index children_room_idx"),
        ("remove_column", "COMMENT ON COLUMN children.room IS 'other'", 2,
            r"room is .* NOT NULL with the comment 'other', and the way back would make it .* with the comment 'PHI: where the child is'"),
        ("remove_column", "ALTER TABLE children ALTER room TYPE varchar(41)", 2, r"room is character varying\(41\) .*make it character varying\(40\) "),
        ("remove_column", "ALTER TABLE children ALTER room SET DEFAULT 'x'", 1, "has a default already"),
        ("change_type", "CREATE INDEX children_points_idx ON children (points)", 2, "still has: index children_points_idx"),
        ("change_type", "ALTER TABLE children ALTER points DROP NOT NULL", 2, "another NOT NULL than this version says"),
        ("split_table", "ALTER TABLE children ALTER note SET DEFAULT 'x'", 3, "still has: a default"),
        ("add_not_null", "ALTER TABLE children ALTER note SET DEFAULT 'x'", 1, "has a default or is NOT NULL already"),
        ("add_foreign_key", "UPDATE children SET \"placeId\" = id WHERE code IN ('c1', 'c2')", 1, r"2 row\(s\) of public.children have no parent"),
        ("add_unique", "UPDATE children SET code = 'c1' WHERE code = 'c2'", 1, r"1 value\(s\) of children.code"),
        ("drop_table", "CREATE TABLE spares (id uuid REFERENCES spare)", 2, "still has foreign keys: spares.spares_id_fkey"),
    ],
)  # fmt: skip
def test_a_pattern_stops_before_it_would_lose_something(
    target: Target, tmp_path: Path, pattern: str, before: str, parts: int, told: str
) -> None:
    do(target, SCHEMA, before)
    with pytest.raises(PgopsError, match=told):
        applied(target, tmp_path, pattern, parts)


# What PostgreSQL drops with a column and does not say so, in its own words for it.
GO_SILENTLY = {
    "constraint checked on table children": "ALTER TABLE children ADD CONSTRAINT checked CHECK ({0}::text <> code || 'x')",
    "index by_condition": "CREATE INDEX by_condition ON children (code) WHERE {0} IS NOT NULL",
    "index by_expression": "CREATE INDEX by_expression ON children (lower({0}::text))",
    "index including": "CREATE INDEX including ON children (code) INCLUDE ({0})",
    "index unique_by_expression": "CREATE UNIQUE INDEX unique_by_expression ON children (code, (coalesce({0}::text, '')))",
    "sequence own": "CREATE SEQUENCE own OWNED BY children.{0}",
    "statistics object of_columns": "CREATE STATISTICS of_columns ON code, {0} FROM children",
    "statistics object of_expression": "CREATE STATISTICS of_expression ON lower({0}::text), code FROM children",
}


@pytest.mark.parametrize(
    ("pattern", "column", "parts"),
    [("remove_column", "room", 2), ("change_type", "points", 2), ("change_type", "points_old", 3), ("split_table", "note", 3), ("rename_column", '"roomName"', 3)],
)  # fmt: skip
def test_a_pattern_names_all_that_would_go_with_its_column_unseen(
    target: Target, tmp_path: Path, pattern: str, column: str, parts: int
) -> None:
    do(target, SCHEMA)
    migrations = applied(target, tmp_path, pattern, parts - 1)
    do(target, *(statement.format(column) for statement in GO_SILENTLY.values()))
    before = inventory(target)
    with pytest.raises(PgopsError) as told:
        migrate.apply(target, migrations[:parts], Selection(), way())
    assert f"children.{column.strip(chr(34))} still has: {', '.join(GO_SILENTLY)}" in told.value.message
    assert set(before) <= set(inventory(target))
    do(
        target,
        "ALTER TABLE children DROP CONSTRAINT checked",
        "DROP INDEX by_condition, by_expression, including, unique_by_expression",
        "DROP SEQUENCE own",
        "DROP STATISTICS of_columns, of_expression",
    )
    migrate.apply(target, migrations[:parts], Selection(), way())
    assert differences(target, migrations[:parts]) == []


def test_the_twin_of_a_renamed_column_goes_with_nothing_that_the_old_one_lacks(target: Target, tmp_path: Path) -> None:
    do(
        target,
        SCHEMA,
        "CREATE INDEX by_room ON children (code, room DESC)",
        "ALTER TABLE children ALTER room SET DEFAULT 'none'",
    )
    migrations = applied(target, tmp_path, "rename_column", 2)
    both = [
        'CREATE INDEX by_name ON children (code, "roomName" DESC)',
        'ALTER TABLE children ALTER "roomName" SET NOT NULL',
        "ALTER TABLE children ALTER \"roomName\" SET DEFAULT 'none'",
    ]
    extra = {
        "index other_way": ('CREATE INDEX other_way ON children (code, "roomName")', "DROP INDEX other_way"),
        "index unlike": (
            'CREATE UNIQUE INDEX unlike ON children (code, "roomName" DESC)',
            "DROP INDEX unlike",
        ),
        "a default": (
            "ALTER TABLE children ALTER room DROP DEFAULT",
            "ALTER TABLE children ALTER room SET DEFAULT 'none'",
        ),
        "NOT NULL": ("ALTER TABLE children ALTER room DROP NOT NULL", "ALTER TABLE children ALTER room SET NOT NULL"),
        "privileges": (
            'GRANT UPDATE ("roomName") ON children TO white_cross_nurse',
            "GRANT UPDATE (room) ON children TO white_cross_nurse",
        ),
        "another comment": (
            "COMMENT ON COLUMN children.\"roomName\" IS 'PHI: a room'",
            "COMMENT ON COLUMN children.room IS 'PHI: a room'",
        ),
    }
    do(target, *both, *(statement for statement, _ in extra.values()))
    with pytest.raises(PgopsError) as told:
        migrate.apply(target, migrations, Selection(), way())
    assert f"children.roomName still has: {', '.join(extra)} (SQLSTATE" in told.value.message
    assert "give it to room, which takes the name" in str(told.value.hint)
    do(target, *(way_out for _, way_out in extra.values()))
    migrate.apply(target, migrations, Selection(), way("20260101T000000Z-000002"))
    nurse = "has_column_privilege('white_cross_nurse', 'children', 'roomName', 'update')"
    assert rows(target, f"SELECT {nurse} AS may, to_regclass('by_room') IS NOT NULL AS there") == [
        {"may": True, "there": True}
    ]
    assert differences(target, migrations) == []


@pytest.mark.parametrize(
    ("pattern", "parts", "meanwhile", "told"),
    [
        ("add_enum_value", 1, "UPDATE children SET kind = 'EXTRA' WHERE code = 'c1'", r"in use: 1 row\(s\) of children.kind, id "),
        ("change_type", 2, "UPDATE children SET points = 2 ^ 40 WHERE code = 'c1'", "that integer cannot hold"),
        ("create_table", 1, "CREATE TABLE steps (id uuid REFERENCES child_plans)", "on it stands constraint steps_id_fkey on public.steps"),
        ("create_type", 1, 'ALTER TABLE children ADD mood "Mood"', "on it stands column public.children.mood"),
        ("drop_table", 2, "SELECT 1", "cannot be reverted by its down .The table is gone with its rows"),
    ],
)  # fmt: skip
def test_a_way_back_stops_before_it_would_lose_something(
    target: Target, tmp_path: Path, pattern: str, parts: int, meanwhile: str, told: str
) -> None:
    do(target, SCHEMA)
    migrations = applied(target, tmp_path, pattern, parts)
    do(target, meanwhile)
    with pytest.raises(PgopsError, match=told):
        migrate.revert(target, Reverts(version=migrations[parts - 1]["version"]), way())


def test_a_change_whose_condition_does_not_hold_is_told_and_skipped_both_ways(target: Target, tmp_path: Path) -> None:
    do(target, SCHEMA, "UPDATE children SET points = 8 WHERE points = 7")
    before = inventory(target)
    migrations = scaffolded(tmp_path / "sql", "conditional_change", CASES["conditional_change"].variables)
    told = Told()
    migrate.apply(target, migrations, Selection(), way(progress=told))
    assert told.said("The condition does not hold: Change it changes nothing here")
    assert catalog.compare(before, inventory(target), ignore=()) == []
    assert differences(target, migrations) == []
    do(target, "UPDATE children SET points = 7 WHERE code = 'c1'")
    assert [found.found for found in differences(target, migrations)] == ["the condition holds"]
    # A default that somebody gave it meanwhile is not this version's to take.
    do(target, "ALTER TABLE children ALTER note SET DEFAULT 'mine'")
    own = inventory(target)
    migrate.revert(target, Reverts(), way(progress=told))
    assert told.said("Change it changed nothing here: there is nothing to take back")
    assert catalog.compare(own, inventory(target), ignore=()) == []


def test_rows_without_a_parent_are_moved_aside_when_asked(target: Target, tmp_path: Path) -> None:
    do(target, SCHEMA, "UPDATE children SET \"placeId\" = id WHERE code IN ('c1', 'c2')")
    migrations = scaffolded(tmp_path / "sql", "add_foreign_key", CASES["add_foreign_key"].variables)
    told = migrate.apply(target, migrations, Selection(), way(orphans="quarantine"))
    assert [entry["rows"] for entry in told["applied"][0]["quarantined"]] == [2]
    migrate.revert(target, Reverts(), way())
    assert rows(target, 'SELECT count(*) AS n FROM children WHERE "placeId" = id') == [{"n": 2}]


@pytest.mark.majors(15, 18, slow=(15,))
def test_a_check_with_the_name_of_a_not_null_stops_on_18_and_is_found_before(
    server: Server, target: Target, tmp_path: Path
) -> None:
    do(target, SCHEMA)
    name = "children_note_not_null"
    (tmp_path / "sql" / "migrations").mkdir(parents=True)
    scaffold.write_all(
        scaffold.plan(
            tmp_path / "sql", "change_it", pattern="add_not_null",
            variables={**CASES["add_not_null"].variables, "constraint": name},
        )
    )  # fmt: skip
    tree = migration_tree.read_tree(tmp_path / "sql")
    assert [finding.rule for finding in migration_lint.lint(tree)] == ["not-null-name"]
    # What lint spares: NOT NULL that is there already has the name.
    do(target, "UPDATE children SET note = '' WHERE note IS NULL", "ALTER TABLE children ALTER note SET NOT NULL")
    taken = f"ALTER TABLE children ADD CONSTRAINT {name} CHECK (note IS NOT NULL) NOT VALID"
    if server.major < 18:
        do(target, taken)
    else:
        with pytest.raises(psycopg2.errors.DuplicateObject):
            do(target, taken)


@pytest.mark.parametrize("pattern", ["rename_column", "split_table"])
def test_a_contract_waits_for_the_rows_that_differ(target: Target, tmp_path: Path, pattern: str) -> None:
    do(target, SCHEMA)
    migrations = applied(target, tmp_path, pattern, 2)
    do(
        target,
        "ALTER TABLE children DISABLE TRIGGER USER",
        "UPDATE children SET room = 'elsewhere', note = 'another' WHERE code IN ('c1', 'c2')",
        "ALTER TABLE children ENABLE TRIGGER USER",
    )
    with pytest.raises(PgopsError, match=r"2 row\(s\) of children"):
        migrate.apply(target, migrations, Selection(), way())


def test_removed_values_come_back(target: Target, tmp_path: Path) -> None:
    do(target, SCHEMA)
    kinds = rows(target, "SELECT id, kind FROM children ORDER BY id")
    migrations = applied(target, tmp_path, "remove_enum_value", 2)
    assert {row["kind"] for row in rows(target, "SELECT DISTINCT kind FROM children")} == {"ONE", "THREE"}
    migrate.revert(target, Reverts(steps=len(migrations)), way())
    assert rows(target, "SELECT id, kind FROM children ORDER BY id") == kinds


@pytest.mark.majors(15, 18, slow=(15,))
@pytest.mark.parametrize(
    "pattern", ["remove_column", "rename_column", "change_type", "split_table", "remove_enum_value"]
)
def test_names_that_need_quotes_stand_in_a_schema_of_their_own(target: Target, tmp_path: Path, pattern: str) -> None:
    name = "Group" + "x" * 20
    do(
        target,
        "CREATE SCHEMA care",
        "CREATE TYPE care.\"Level\" AS ENUM ('ONE', 'TWO', 'THREE')",
        f'CREATE TABLE care."{name}" (id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, "select" varchar(9), '
        '"order" integer, "Level" care."Level" NOT NULL DEFAULT \'ONE\')',
        f'INSERT INTO care."{name}" ("select", "order", "Level") SELECT n::text, n, \'TWO\' FROM generate_series(1, 10) AS n',
    )
    given = {
        "remove_column": {
            "column": "select",
            "type": "varchar(9)",
            "not_null": "false",
            "value": "it's gone",
            "comment": "",
        },
        "rename_column": {"column": "select", "to": "user", "type": "varchar(9)"},
        "change_type": {"column": "order", "not_null": "false"},
        "split_table": {"column": "select", "to": "table", "type": "varchar(9)", "comment": ""},
        "remove_enum_value": {"column": "Level", "enum": "Level"},
    }[pattern]
    before = inventory(target)
    migrations = scaffolded(
        tmp_path / "sql",
        pattern,
        {**CASES[pattern].variables, **given, "table": name, "schema": "care", "phi": "false"},
    )
    migrate.apply(target, migrations, Selection(), way())
    assert differences(target, migrations) == []
    migrate.revert(target, Reverts(steps=len(migrations)), way())
    assert catalog.compare(before, inventory(target), ignore=()) == []
    assert (
        rows(target, f'SELECT count(*) AS n FROM care."{name}" WHERE "select" = "order"::text AND "Level" = \'TWO\'')[
            0
        ]["n"]
        == 10
    )


# --- the example with a mapping ---------------------------------------------------------------------------------------

STATUS = Form(
    "INSERT INTO orders (id, status) VALUES (%(id)s, %(value)s)",
    "UPDATE orders SET status = %(value)s WHERE id = %(id)s",
    "SELECT status FROM orders WHERE id = %(id)s",
    lambda n: ("new", "in_progress", "done", "cancelled")[n % 4],
)
ORDER_STATUS = Form(
    'INSERT INTO orders (id, "orderStatus") VALUES (%(id)s, %(value)s)',
    'UPDATE orders SET "orderStatus" = %(value)s WHERE id = %(id)s',
    'SELECT "orderStatus" FROM orders WHERE id = %(id)s',
    lambda n: ("pending", "processing", "completed", "cancelled")[n % 4],
)
MAPPED = {"new": "pending", "in_progress": "processing", "done": "completed", "lost": "cancelled", None: "cancelled"}


def order_status(folder: Path) -> list[dict[str, Any]]:
    """The three parts of the example as versions that depend on each other."""
    source = ROOT / "docs" / "examples" / "order_status"
    for number, part in enumerate(("1_expand", "2_require", "3_contract")):
        copy = folder / "migrations" / f"2030010100000{number}_order_status_{part[2:]}"
        shutil.copytree(source / part, copy)
        if number:
            text = (copy / "migration.yml").read_text(encoding="utf-8")
            needs = f'depends_on: ["2030010100000{number - 1}"]'
            (copy / "migration.yml").write_text(text.replace("depends_on: []", needs), encoding="utf-8")
    tree = migration_tree.scan_tree(folder)
    assert [*tree.findings, *migration_lint.lint(tree)] == []
    return migration_tree.render(tree)


@pytest.fixture
def orders(target: Target) -> list[str]:
    do(
        target,
        "CREATE TABLE orders (id uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, status text)",
        "INSERT INTO orders (status) SELECT (ARRAY['new', 'in_progress', 'done', 'lost', NULL])[1 + n % 5] "
        "FROM generate_series(1, 2500) AS n",
        "ANALYZE",
    )
    return [row["id"] for row in rows(target, "SELECT id::text FROM orders ORDER BY id LIMIT 100")]


def test_an_order_gets_its_status_in_new_words_while_clients_work(
    target: Target, tmp_path: Path, orders: list[str]
) -> None:
    migrations = order_status(tmp_path / "sql")
    before = {row["id"]: row["status"] for row in rows(target, "SELECT id::text, status FROM orders")}
    quiet = [row for row in before if row not in orders]
    application = Application(target, orders)
    schemas = []
    for number, during in enumerate(((STATUS, STATUS), (STATUS, ORDER_STATUS), (ORDER_STATUS, ORDER_STATUS))):
        schemas.append(inventory(target))
        with application.running(during):
            migrate.apply(target, migrations[: number + 1], Selection(), way())
        assert differences(target, migrations[number : number + 1]) == []
        words = rows(target, 'SELECT id::text, "orderStatus" AS word FROM orders WHERE id::text = ANY (%s)', (quiet,))
        assert {row["id"]: row["word"] for row in words} == {row: MAPPED[before[row]] for row in quiet}
        if number < 2:
            old = {row["id"]: row["status"] for row in rows(target, "SELECT id::text, status FROM orders")}
            assert {row: old[row] for row in quiet} == {row: before[row] for row in quiet}
    for number, during in reversed(list(enumerate(((STATUS,), (STATUS, ORDER_STATUS), (ORDER_STATUS,))))):
        with application.running(during):
            migrate.revert(target, Reverts(version=migrations[number]["version"]), way())
        assert catalog.compare(schemas[number], inventory(target), ignore=()) == []
    back = {row["id"]: row["status"] for row in rows(target, "SELECT id::text, status FROM orders")}
    kept = ("new", "in_progress", "done")
    assert {row: back[row] for row in quiet} == {
        row: before[row] if before[row] in kept else "cancelled" for row in quiet
    }


def test_the_old_status_stays_while_one_order_says_another_in_new_words(
    target: Target, tmp_path: Path, orders: list[str]
) -> None:
    migrations = order_status(tmp_path / "sql")
    migrate.apply(target, migrations[:2], Selection(), way())
    do(
        target,
        "ALTER TABLE orders DISABLE TRIGGER USER",
        f"UPDATE orders SET status = 'unheard of', \"orderStatus\" = 'pending' WHERE id = '{orders[0]}'",
        "ALTER TABLE orders ENABLE TRIGGER USER",
    )
    with pytest.raises(PgopsError, match=r"1 order\(s\) have another status in new words than in old ones"):
        migrate.apply(target, migrations, Selection(), way())
    assert rows(target, "SELECT count(*) AS n FROM orders WHERE status IS NOT NULL")[0]["n"] > 0


# --- the pages --------------------------------------------------------------------------------------------------------


def test_each_pattern_is_tested_and_has_a_page_that_the_list_names() -> None:
    pages = ROOT / "docs" / "patterns"
    assert set(CASES) == set(patterns.declared())
    assert {page.stem for page in pages.glob("*.md")} - {"README"} == set(CASES)
    assert set(re.findall(r"\]\((\w+)\.md\)", (pages / "README.md").read_text(encoding="utf-8"))) == set(CASES)


@pytest.mark.parametrize("pattern", list(CASES))
def test_a_page_shows_the_very_files_and_names_each_variable(pattern: str) -> None:
    text = (ROOT / "docs" / "patterns" / f"{pattern}.md").read_text(encoding="utf-8")
    folder = ROOT / "sql" / "scaffold" / "patterns" / pattern
    shown = dict(re.findall(r"^`(\S+)`\n\n```(?:sql|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert shown == {
        f"{path.parent.name}/{path.name}": without_header(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    own = [name for name in patterns.declared()[pattern] if name not in ("schema", "phi")]
    assert re.findall(r"^\| `new_migration_(\w+)` \|", text, re.MULTILINE) == own


def without_header(path: Path) -> str:
    """Licence lines say nothing to a reader."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(
        line for line in lines if "SPDX-" not in line and "Copyright" not in line and line != "---\n"
    ).lstrip("\n")


def examples() -> dict[str, dict[str, str]]:
    """The variables of the command that each page types."""
    found = {}
    for pattern in CASES:
        text = (ROOT / "docs" / "patterns" / f"{pattern}.md").read_text(encoding="utf-8")
        (block,) = re.findall(r"^```console\n\$ (.*?)^```$", text, re.MULTILINE | re.DOTALL)
        words = shlex.split(block.replace("\\\n> ", " "))
        assert words[:2] == ["ansible-playbook", "new_migration.yml"]
        found[pattern] = {
            key.removeprefix("new_migration_"): str(value)
            for word in words[3::2]
            for key, value in (json.loads(word).items() if word.startswith("{") else [word.split("=", 1)])
        }
    return found


def faults(target: Target, checks: list[dict[str, Any]]) -> list[str]:
    """What verify.yml fails for."""
    try:
        result = verification.verify({target.database: target}, checks=checks)[target.database]
    except PgopsError as error:
        result = error.extra["databases"][target.database]
    return [verification.sentence(found) for found in result["findings"] if found["level"] == "fail"]


def shipped_tree(tree: Path) -> Path:
    for folder in ("migrations", "checks"):
        shutil.copytree(ROOT / "sql" / folder, tree / folder)
    return tree


def there_and_back(
    target: Target,
    tree: Path,
    pattern: str,
    given: dict[str, str],
    *,
    parts: int | None = None,
    before_last: str | None = None,
    look: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The versions of a pattern go up one by one and back, and all is as it was before each.

    :param parts: how many of them; without it all.
    :param before_last: what the operator does before the last; it goes with what it was done to.
    :param look: what is looked at after each step.
    :return: the tree with them, rendered.
    """
    variables = {key: value for key, value in given.items() if key not in ("name", "pattern")}
    new = scaffold.plan(tree, given["name"], pattern=pattern, variables=variables)
    scaffold.write_all(new)
    read = migration_tree.scan_tree(tree)
    assert [*read.findings, *migration_lint.lint(read)] == []
    migrations = migration_tree.render(read)
    schemas: list[dict[str, Any]] = []
    parts = parts or len(new)
    while len(schemas) < parts:
        if before_last is not None and len(schemas) == parts - 1:
            do(target, before_last)
        schemas.append(inventory(target))
        migrate.apply(target, migrations, Selection(steps=1), way())
        look()
    for number, before in reversed(list(enumerate(schemas))):
        migrate.revert(target, Reverts(steps=1), way())
        if before_last is None or number in (0, parts - 1):
            assert catalog.compare(before, inventory(target), ignore=()) == []
        look()
    return migrations


@pytest.mark.begins
@pytest.mark.parametrize(
    "pattern",
    ["remove_column", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "remove_column")],
)
def test_the_example_of_a_page_goes_up_and_back_and_the_platforms_schema_is_verified_at_each_step(
    target: Target, tmp_path: Path, pattern: str
) -> None:
    """On all shipped versions, where columns have privileges of their own, tables policies and triggers."""
    tree = shipped_tree(tmp_path / "sql")
    if pattern == "drop_table":
        # What its page says of a check that asks for the table.
        check = tree / "checks" / "platform_tables.yml"
        text = check.read_text(encoding="utf-8")
        assert "    - performance_metrics\n" in text
        check.write_text(text.replace("    - performance_metrics\n", ""), encoding="utf-8")
    checks = rendered_tree.checks(tree)

    def look() -> None:
        assert faults(target, checks) == []

    given = examples()[pattern]
    assert given["pattern"] == pattern
    if pattern != "drop_table":
        there_and_back(target, tree, pattern, given, look=look)
        return
    # The way back of the second is the backup.
    migrations = there_and_back(target, tree, pattern, given, parts=1, look=look)
    for _ in range(2):
        migrate.apply(target, migrations, Selection(steps=1), way())
        look()


@pytest.mark.slow
@pytest.mark.begins
def test_the_example_of_a_renamed_column_through_the_playbooks(playbook: Playbook) -> None:
    given = {f"new_migration_{key}": value for key, value in examples()["rename_column"].items()}
    playbook.copy_sql()
    assert playbook("new_migration.yml", limit=None, **given).rc == 0
    for _ in range(3):
        done = playbook("migrate.yml", migrate_steps="1")
        assert done.rc == 0, done.output
        assert playbook("verify.yml", verify_verbose="false").rc == 0
    for _ in range(3):
        done = playbook("rollback.yml", rollback_steps="1", rollback_confirm=playbook.database)
        assert done.rc == 0, done.output
        assert playbook("verify.yml", verify_verbose="false").rc == 0


@pytest.mark.begins()
def test_a_renamed_column_keeps_the_privileges_that_new_code_needs(target: Target, tmp_path: Path) -> None:
    given = {
        "name": "rename_phone",
        "table": "users",
        "column": "phone",
        "to": "contactPhone",
        "type": "varchar(20)",
        "phi": "false",
    }
    nurse = rows(
        target,
        "SELECT attacl::text AS given FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'phone'",
    )
    assert "white_cross_nurse=r" in nurse[0]["given"]
    roles = "white_cross_district_admin, white_cross_school_admin, white_cross_nurse, white_cross_counselor"
    there_and_back(
        target,
        shipped_tree(tmp_path / "sql"),
        "rename_column",
        given,
        before_last=f'GRANT SELECT ("contactPhone") ON users TO {roles}',
    )
