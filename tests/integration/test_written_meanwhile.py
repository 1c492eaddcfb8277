# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What clients commit while a way down is under way, and no backup has, does not go with what it drops."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import migrate
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import execute
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import When, do, holding, rows, state, way
from support.tree import TestTree

V1, V2, V3 = (f"2026010100000{n}" for n in (1, 2, 3))
DOWN = "20260101T000000Z-0000dd"
PEOPLE = "CREATE TABLE public.people (id integer PRIMARY KEY, name text);"


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "create_rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);", "DROP TABLE public.rooms;")
    tree.add_sql(V2, "create_people", PEOPLE, "DROP TABLE public.people;")
    return tree


def add_third(tree: TestTree, up: str, down: str) -> None:
    tree.add_sql(V3, "third", up, down)


def applied(target: Any, tree: TestTree, *statements: str) -> dict[str, Any]:
    """:return: what a rollback knows of the backup that was taken after the statements."""
    migrate.apply(target, tree.render(), Selection(), way())
    do(target, *statements)
    return copied(target)


def copied(target: Any) -> dict[str, Any]:
    (row,) = rows(target, "SELECT pg_snapshot_xmax(s)::text::bigint AS xmax FROM pg_current_snapshot() AS s")
    return {"snapshot": {"xmax": row["xmax"], "xip": []}, "path": "/backups/then"}


def down(
    target: Any, taken: dict[str, Any], selection: Reverts | None = None, told: Any = None, **more: Any
) -> dict[str, Any]:
    asked = way(DOWN, **({"progress": told} if told else {}))
    return migrate.revert(target, selection or Reverts(), asked, expected=taken, **more)


def committing(client: Any, part: str = "waiting for pid") -> When:
    """The client commits as soon as the way down tells that it waits for it."""

    def commit() -> None:
        threading.Thread(target=lambda: execute(client, "COMMIT")).start()

    return When(part, commit)


INSERT = "INSERT INTO people SELECT n, 'new' FROM generate_series(1, 50) AS n"


def test_what_a_client_commits_while_the_drop_waits_for_it_stays(target: Any, tree: TestTree) -> None:
    taken = applied(target, tree)
    with holding(target, INSERT, name="the application") as client, pytest.raises(PgopsError) as caught:
        down(target, taken, told=committing(client))
    assert "written since /backups/then was taken, so there is no copy of them: 50 of public.people." in str(
        caught.value
    )
    assert "rollback_lose_writes=true" in (caught.value.hint or "")
    assert caught.value.extra["reason"] == "written_since"
    assert caught.value.extra["not_reverted"] == [V2]
    assert caught.value.extra["loss"] == [{"table": "public.people", "written": 50, "columns": []}]
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 50}]
    # A new backup has them: then they go.
    assert [item["version"] for item in down(target, copied(target))["reverted"]] == [V2]


def test_whoever_lets_them_go_loses_them(target: Any, tree: TestTree) -> None:
    taken = applied(target, tree)
    with holding(target, INSERT, name="the application") as client:
        assert down(target, taken, told=committing(client), lose_writes=True)["reverted"]


def test_what_is_written_while_a_newer_version_goes_stays(target: Any, tree: TestTree) -> None:
    taken = applied(target, tree)
    told = When(f"{V2} create_people: reverted", lambda: do(target, "INSERT INTO rooms VALUES (1), (2)"))
    with pytest.raises(PgopsError, match="2 of public.rooms") as caught:
        down(target, taken, Reverts(steps=2), told)
    assert (caught.value.extra["reverted"], caught.value.extra["not_reverted"]) == ([V2], [V1])
    assert rows(target, "SELECT count(*) AS n FROM rooms") == [{"n": 2}]


def test_what_the_way_down_writes_itself_is_no_clients(target: Any, tree: TestTree) -> None:
    add_third(
        tree,
        "ALTER TABLE public.people ADD COLUMN age integer;",
        "UPDATE public.people SET name = upper(name);\nALTER TABLE public.people ALTER COLUMN id TYPE bigint;\n"
        "ALTER TABLE public.people DROP COLUMN age;",
    )
    taken = applied(target, tree, "INSERT INTO people VALUES (1, 'a', 20)")
    assert [item["version"] for item in down(target, taken, Reverts(steps=3))["reverted"]] == [V3, V2, V1]


@pytest.mark.parametrize(("age", "goes"), [("NULL", True), ("20", False)])
def test_of_a_column_only_values_are_lost(target: Any, tree: TestTree, age: str, goes: bool) -> None:
    add_third(
        tree, 'ALTER TABLE public.people ADD COLUMN "%age" integer;', 'ALTER TABLE public.people DROP COLUMN "%age";'
    )  # fmt: skip
    taken = applied(target, tree, "INSERT INTO people VALUES (1, 'a')")
    with holding(target, f"INSERT INTO people VALUES (2, 'b', {age})", name="the application") as client:
        told = committing(client)
        if goes:
            assert down(target, taken, told=told)["reverted"]
        else:
            with pytest.raises(PgopsError, match="1 of public.people"):
                down(target, taken, told=told)
    assert told.said("waiting for pid")
    assert rows(target, "SELECT count(*) AS n FROM people") == [{"n": 2}]
    assert state(target, V3)["state"] == ("reverted" if goes else "reverting")


def test_a_statement_that_deletes_rows_waits_for_who_writes_there(target: Any, tree: TestTree) -> None:
    add_third(tree, "INSERT INTO public.rooms VALUES (7);", "DELETE FROM public.rooms WHERE id >= 7;")
    taken = applied(target, tree)
    with holding(target, "INSERT INTO rooms VALUES (8)", name="the application") as client:
        told = committing(client)
        with pytest.raises(PgopsError, match="1 of public.rooms"):
            down(target, taken, told=told)
    assert rows(target, "SELECT id FROM rooms ORDER BY id") == [{"id": 7}, {"id": 8}]


def test_behind_clients_that_come_and_go_it_looks_with_the_lock_in_hand(target: Any, tree: TestTree) -> None:
    """Where there is always somebody it stands in line, and whoever was before it may have written."""
    taken = applied(target, tree)
    stop = threading.Event()
    numbers = itertools.count(1)

    def write() -> None:
        while not stop.is_set():
            with holding(target, f"INSERT INTO people VALUES ({next(numbers)}, 'x')") as client:
                stop.wait(0.05)
                execute(client, "COMMIT")

    clients = [threading.Thread(target=write) for _ in range(3)]

    def others_come(first: Any) -> None:
        for client in clients:
            client.start()
        execute(first, "ROLLBACK")

    with holding(target, "LOCK TABLE people IN ROW EXCLUSIVE MODE", name="the application") as first:
        told = When("waiting for pid", lambda: others_come(first))
        try:
            with pytest.raises(PgopsError, match=r"[1-9]\d* of public.people"):
                down(target, taken, told=told)
        finally:
            stop.set()
            for client in clients:
                client.join()


def test_rows_of_a_partition_count_for_its_table(target: Any, tree: TestTree) -> None:
    add_third(
        tree,
        "CREATE TABLE public.logs (at date) PARTITION BY RANGE (at);\n"
        "CREATE TABLE public.logs_2026 PARTITION OF public.logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
        "DROP TABLE public.logs;",
    )
    taken = applied(target, tree)
    writing = "INSERT INTO logs VALUES ('2026-05-01')"
    with holding(target, writing) as client, pytest.raises(PgopsError, match="1 of public.logs"):
        down(target, taken, told=committing(client))
    # The look before the first version sees them too.
    with pytest.raises(PgopsError, match="Nothing was reverted.*1 of public.logs"):
        down(target, taken)
