# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Reverting versions: the ones asked for and no others, from the ledger's own text, with the loss told before."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, ledger, migrate, way_back
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.plan import Selection
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from ansible_collections.whitecross.pgops.plugins.module_utils.way_back import Reverts
from support.engine import RUN, InterruptAt, Told, do, fingerprint, rows, state, way
from support.tree import TestTree

V1, V2, V3, V4 = (f"2026010100000{n}" for n in (1, 2, 3, 4))


@pytest.fixture
def tree(tmp_path: Any) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V1, "create_people", "CREATE TABLE public.people (id integer PRIMARY KEY, name text, age integer);",
        "DROP TABLE public.people;",
    )  # fmt: skip
    tree.add_sql(V2, "create_pets", "CREATE TABLE public.pets (id integer PRIMARY KEY);", "DROP TABLE public.pets;")
    tree.add(
        V3,
        "people_status",
        [
            {"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}},
            {"validate": [{"table": "people", "constraint": "people_status"}]},
            {"indexes": "indexes.yml"},
            {"analyze": ["people"]},
        ],
        {
            "up.sql.j2": "ALTER TABLE public.people ADD COLUMN status text;\n"
            "ALTER TABLE public.people ADD CONSTRAINT people_status CHECK (status <> '') NOT VALID;\n",
            "down.sql.j2": "ALTER TABLE public.people DROP CONSTRAINT people_status;\n"
            "ALTER TABLE public.people DROP COLUMN status;\n",
            "indexes.yml": [{"name": "people_status_idx", "table": "people", "columns": [{"column": "status"}], "why": "x"}],
        },
    )  # fmt: skip
    tree.add_sql(V4, "create_rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);", "DROP TABLE public.rooms;")
    return tree


def apply_all(target: Any, tree: TestTree, through: str | None = None) -> None:
    migrate.apply(target, tree.render(), Selection(through), way())


def there(target: Any) -> list[str]:
    found = rows(target, "SELECT version FROM pgops.migration WHERE state = 'applied' ORDER BY 1")
    return [row["version"] for row in found]


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        ({}, [V1, V2, V3]),
        ({"steps": 2}, [V1, V2]),
        ({"keep": V2}, [V1, V2]),
        ({"through": V2}, [V1]),
        ({"version": V2}, [V1, V3, V4]),
        ({"steps": 99}, []),
    ],
)
def test_the_selection_is_what_its_name_says(
    target: Any, tree: TestTree, selection: dict[str, Any], left: list[str]
) -> None:
    apply_all(target, tree)
    shown = way_back.preview_revert(target, Reverts(**selection))
    assert there(target) == [V1, V2, V3, V4]
    result = migrate.revert(
        target, Reverts(**selection), way(), versions=[item["version"] for item in shown["versions"]]
    )
    assert [item["version"] for item in result["reverted"]] == [item["version"] for item in shown["versions"]]
    assert there(target) == left


def test_up_down_up_leaves_the_catalog_as_it_was(target: Any, tree: TestTree) -> None:
    conn = connect(target, application_name="test")
    empty = catalog.fingerprint(catalog.inventory(conn))
    apply_all(target, tree)
    full = catalog.fingerprint(catalog.inventory(conn))
    migrate.revert(target, Reverts(steps=4), way())
    assert catalog.fingerprint(catalog.inventory(conn)) == empty
    apply_all(target, tree)
    assert catalog.fingerprint(catalog.inventory(conn)) == full
    conn.close()


def test_another_list_than_the_confirmed_one_is_refused(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    with pytest.raises(PgopsError, match=f"{V3} was confirmed, and it would be {V4} by now"):
        migrate.revert(target, Reverts(), way(), versions=[V3])
    assert there(target) == [V1, V2, V3, V4]


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (
            {"version": V1},
            (
                f"{V1} cannot be reverted alone .* version {V3} uses its table public.people; "
                f"-e rollback_through={V1} reverts {V4}, {V3}, {V2}, {V1}, in this order"
            ),
        ),
        ({"keep": "20260101000009"}, "20260101000009 is not applied"),
        ({"steps": 0}, "give 1 or more"),
        ({"steps": 1, "keep": V1}, "rollback_steps and rollback_keep were given"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    target: Any, tree: TestTree, selection: dict[str, Any], told: str
) -> None:
    apply_all(target, tree)
    with pytest.raises(PgopsError, match=told):
        migrate.revert(target, Reverts(**selection), way())
    assert there(target) == [V1, V2, V3, V4]


def test_a_declared_dependency_is_one(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V4, "create_rooms", "CREATE TABLE public.rooms (id integer PRIMARY KEY);", "DROP TABLE public.rooms;",
        depends_on=[V2],
    )  # fmt: skip
    apply_all(target, tree)
    with pytest.raises(PgopsError, match=f"version {V4} declares that it depends on it"):
        migrate.revert(target, Reverts(version=V2), way())


def test_a_one_way_version_is_refused_and_the_restore_named(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V4, "lose", "DROP TABLE public.pets;", "SELECT 1;", rollback={"safety": "none", "stays": "pets are gone"}
    )
    apply_all(target, tree)
    with pytest.raises(PgopsError, match="pets are gone.*rollback_strategy=restore"):
        migrate.revert(target, Reverts(), way())


def test_the_loss_is_counted_before(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    do(
        target,
        "INSERT INTO people (id, status) SELECT n, CASE WHEN n <= 3 THEN 'x' END FROM generate_series(1, 5) n",
        "INSERT INTO pets SELECT generate_series(1, 2)",
    )
    loss = way_back.preview_revert(target, Reverts(through=V2))["loss"]
    assert loss == [
        {"table": "public.people", "rows": None, "columns": {"status": 3}, "some_rows": False, "version": V3},
        {"table": "public.pets", "rows": 2, "columns": {}, "some_rows": False, "version": V2},
    ]
    assert way_back.preview_revert(target, Reverts())["loss"] == []


def snapshot(target: Any) -> dict[str, Any]:
    """What a backup keeps of its snapshot."""
    (row,) = rows(target, "SELECT pg_snapshot_xmax(s)::text::bigint AS xmax FROM pg_current_snapshot() AS s")
    return {"xmax": row["xmax"], "xip": []}


def test_rows_written_since_the_backup_are_not_lost_without_a_word(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    do(target, "INSERT INTO people VALUES (1, 'a', 20, 'new'), (2, 'b', 20, NULL); INSERT INTO pets VALUES (1)")
    taken = {"snapshot": snapshot(target), "path": "/backups/then"}
    # The same number of rows and of values as then: only the rows themselves know better.
    do(target, "UPDATE people SET status = 'closed' WHERE id = 1")
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, Reverts(through=V2), way(), expected=taken)
    assert "there is no copy of them: 1 of public.people. " in caught.value.message
    assert "/backups/then" in caught.value.message
    assert there(target) == [V1, V2, V3, V4]
    assert rows(target, "SELECT status FROM people WHERE id = 1") == [{"status": "closed"}]
    # A table that stays may be written to.
    assert migrate.revert(target, Reverts(version=V2), way(), expected=taken)["reverted"]
    assert migrate.revert(target, Reverts(version=V3), way(), expected=taken, lose_writes=True)["reverted"]
    assert there(target) == [V1, V4]


def test_what_moved_since_the_backup_stops_the_revert(target: Any, tree: TestTree) -> None:
    apply_all(target, tree, V3)
    head = ledger_head(target)
    apply_all(target, tree)
    with pytest.raises(PgopsError) as caught:
        migrate.revert(target, Reverts(keep=V3), way(), expected={"ledger_head": head})
    assert f"Nothing was reverted in {target.database}: since its backup was proved, the ledger (version {V4}" in str(
        caught.value
    )
    assert there(target) == [V1, V2, V3, V4]
    assert migrate.revert(target, Reverts(keep=V3), way(), expected={"ledger_head": ledger_head(target)})["reverted"]


def ledger_head(target: Any) -> str:
    with connect(target, application_name="test") as conn:
        return ledger.read(conn).head


def test_it_goes_without_the_files(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    shutil.rmtree(tree.folder)
    migrate.revert(target, Reverts(steps=4), way())
    assert rows(target, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


def test_a_version_reverted_alone_may_be_applied_again(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    migrate.revert(target, Reverts(version=V2), way())
    result = migrate.apply(target, tree.render(), Selection(), way())
    assert [item["version"] for item in result["applied"]] == [V2]


def test_a_failed_version_is_taken_back_as_far_as_it_came(target: Any, tree: TestTree) -> None:
    tree.add(
        V4,
        "half",
        [{"sql": {"up": "a.sql.j2", "down": "a_down.sql.j2"}}, {"sql": {"up": "b.sql.j2", "down": "b_down.sql.j2"}}],
        {
            "a.sql.j2": "CREATE TABLE public.half (id integer);", "a_down.sql.j2": "DROP TABLE public.half;",
            "b.sql.j2": "SELECT 1/0;", "b_down.sql.j2": "DROP TABLE public.never_made;",
        },
    )  # fmt: skip
    with pytest.raises(PgopsError):
        apply_all(target, tree)
    result = migrate.revert(target, Reverts(), way())
    assert [(item["version"], item["state"]) for item in result["reverted"]] == [(V4, "reverted")]
    assert rows(target, "SELECT to_regclass('public.half') IS NULL AS gone") == [{"gone": True}]
    assert there(target) == [V1, V2, V3]


def test_an_interrupted_way_down_goes_on_and_apply_refuses_meanwhile(target: Any, tree: TestTree) -> None:
    apply_all(target, tree, V3)
    control = Control()
    with pytest.raises(Interrupted, match=r"Reverted in this run: none; not reverted: .* \(stopped at step 1 of 4\)"):
        migrate.revert(target, Reverts(), way(control=control, progress=InterruptAt(control, "DROP CONSTRAINT")))
    assert state(target, V3)["state"] == "reverting"
    assert rows(target, "SELECT to_regclass('public.people_status_idx') IS NULL AS gone") == [{"gone": True}]
    with pytest.raises(PgopsError, match="half reverted"):
        apply_all(target, tree)
    migrate.revert(target, Reverts(), way())
    assert state(target, V3)["state"] == "reverted"
    assert (
        rows(target, "SELECT attname FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'status'")
        == []
    )


def test_a_version_that_is_half_reverted_is_not_passed_over(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    control = Control()
    with pytest.raises(Interrupted):
        migrate.revert(
            target, Reverts(version=V3), way(control=control, progress=InterruptAt(control, "DROP CONSTRAINT"))
        )
    before = fingerprint(target)
    for passing in (Reverts(), Reverts(steps=1)):
        match = (
            f"version {V3} is half reverted, and this rollback would revert {V4} in its place; finish that one first"
        )
        with pytest.raises(PgopsError, match=match):
            way_back.preview_revert(target, passing)
        with pytest.raises(PgopsError, match=match) as caught:
            migrate.revert(target, passing, way())
        assert (caught.value.extra["reason"], caught.value.extra["version"]) == ("reverting", V3)
    assert (fingerprint(target), there(target)) == (before, [V1, V2, V4])
    migrate.revert(target, Reverts(version=V3), way())
    assert there(target) == [V1, V2, V4]


def test_a_failing_down_says_where(target: Any, tree: TestTree) -> None:
    # What a block puts together, no look before it can see.
    block = "DO $$ BEGIN EXECUTE format('DROP TABLE public.%I', 'rooms'); END $$;"
    tree.add_sql(V4, "create_rooms", "CREATE TABLE public.rooms (id integer);", block)
    apply_all(target, tree)
    do(target, "CREATE VIEW public.v AS SELECT id FROM public.rooms")
    with pytest.raises(PgopsError, match="Step 1 of 1 .* on the way down") as caught:
        migrate.revert(target, Reverts(steps=2), way())
    assert caught.value.sqlstate == "2BP01"
    assert caught.value.location == f"{V4}_create_rooms/down.sql.j2:1"
    assert caught.value.extra["not_reverted"] == [V4, V3]
    do(target, "DROP VIEW public.v")
    migrate.revert(target, Reverts(steps=2), way())
    assert there(target) == [V1, V2]


def test_what_stands_on_a_table_that_cannot_be_dropped_is_named(target: Any, tree: TestTree) -> None:
    """As a step says it that no look before could see to: one after a block that puts its statements together."""
    tree.add_sql(
        V4, "create_rooms",
        'CREATE TABLE public."Rooms" (id integer PRIMARY KEY); '
        'CREATE TABLE public.beds (id integer PRIMARY KEY, room integer REFERENCES public."Rooms");',
        "DO $$ BEGIN EXECUTE format('ALTER TABLE public.%I ALTER COLUMN room DROP NOT NULL', 'beds'); END $$; "
        'DROP TABLE public.beds; DROP TABLE public."Rooms";',
    )  # fmt: skip
    apply_all(target, tree)
    do(
        target,
        'CREATE TABLE public.lockers (id integer PRIMARY KEY, "roomId" integer CONSTRAINT of_room REFERENCES public."Rooms")',
        'CREATE VIEW public.free AS SELECT id FROM public."Rooms"',
    )
    with pytest.raises(PgopsError, match="Rooms") as caught:
        migrate.revert(target, Reverts(), way())
    assert caught.value.sqlstate == "2BP01"
    # Its own child, which goes first, is no obstacle.
    assert caught.value.hint == (
        'On "public"."Rooms" stands: lockers ("roomId") through of_room; the view free. Drop what is named, or take back '
        "the version that made it, then run it again."
    )
    do(target, "DROP VIEW public.free", "ALTER TABLE public.lockers DROP CONSTRAINT of_room")
    migrate.revert(target, Reverts(), way())
    assert there(target) == [V1, V2, V3]


def test_what_is_gone_already_is_skipped_and_told(target: Any, tree: TestTree) -> None:
    apply_all(target, tree)
    do(target, "DROP TABLE public.rooms")
    result = migrate.revert(target, Reverts(), way())
    assert (result["reverted"][0]["left"], result["reverted"][0]["already"]) == ([], ["table public.rooms"])


def test_a_column_that_is_gone_already_is_skipped_and_told(target: Any, tree: TestTree) -> None:
    apply_all(target, tree, V3)
    do(target, "ALTER TABLE public.people DROP COLUMN status")
    told = Told()
    result = migrate.revert(target, Reverts(), way(progress=told))
    # With the column went what stood on it.
    gone = ["index public.people_status_idx", "constraint public.people.people_status", "column public.people.status"]
    assert set(result["reverted"][0]["already"]) == set(gone)
    assert result["reverted"][0]["left"] == []
    with closing(connect(target, application_name="test")) as conn:
        (detail,) = [json.loads(row["detail"]) for row in ledger.audit_rows(conn) if row["event"] == "reverted"]
    assert (detail["left"], set(detail["already"])) == ([], set(gone))
    assert [text for text in told.texts if "gone" in text] == [f"{name} is gone already: skipped" for name in gone]
    assert there(target) == [V1, V2]


def test_an_index_that_is_gone_already_is_skipped_and_told(target: Any, tree: TestTree) -> None:
    apply_all(target, tree, V3)
    do(target, "DROP INDEX public.people_status_idx")
    told = Told()
    result = migrate.revert(target, Reverts(), way(progress=told))
    assert "index public.people_status_idx" in result["reverted"][0]["already"]
    assert result["reverted"][0]["left"] == []
    assert [text for text in told.texts if "gone" in text] == [
        "index public.people_status_idx is gone already: skipped"
    ]
    assert there(target) == [V1, V2]


def test_a_rollback_is_audited_with_how_the_version_was(target: Any, tree: TestTree) -> None:
    tree.add_sql(V4, "fails", "SELECT 1/0;", "SELECT 1;")
    with pytest.raises(PgopsError):
        apply_all(target, tree)
    migrate.revert(target, Reverts(), way())
    migrate.revert(target, Reverts(), way())
    with connect(target, application_name="test") as conn:
        chain = ledger.audit_rows(conn)
    assert ledger.broken_link(chain) is None
    found = [(row["event"], row["version"], row["run_id"]) for row in chain if "revert" in row["event"]]
    assert found == [
        ("revert_started", V4, RUN), ("reverted", V4, RUN), ("revert_started", V3, RUN), ("reverted", V3, RUN),
    ]  # fmt: skip
    states = [json.loads(row["detail"])["from"] for row in chain if row["event"] == "revert_started"]
    assert states == ["failed", "applied"]


def test_a_constraint_of_an_earlier_version_is_marked_not_valid_again(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3, "add_check", "ALTER TABLE public.people ADD CONSTRAINT adult CHECK (age > 17) NOT VALID;",
        "ALTER TABLE public.people DROP CONSTRAINT adult;",
    )  # fmt: skip
    tree.add(V4, "validate_it", [{"validate": [{"table": "people", "constraint": "adult"}]}])
    apply_all(target, tree)
    validated = "SELECT convalidated AS v FROM pg_constraint WHERE conname = 'adult'"
    assert rows(target, validated) == [{"v": True}]
    migrate.revert(target, Reverts(), way())
    assert rows(target, validated) == [{"v": False}]


def test_of_constraints_those_that_were_valid_before_stay_and_no_others(target: Any, tree: TestTree) -> None:
    tree.add_sql(
        V3, "add_check", "ALTER TABLE public.people ADD CONSTRAINT adult CHECK (age > 17) NOT VALID;",
        "ALTER TABLE public.people DROP CONSTRAINT adult;",
    )  # fmt: skip
    apply_all(target, tree, V3)
    do(target, "ALTER TABLE public.people VALIDATE CONSTRAINT adult")
    own = [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}]
    constraints = [{"table": "people", "constraint": name} for name in ("adult", "alive")]
    tree.add(
        V4,
        "validate_them",
        [*own, {"validate": constraints}],
        {
            "up.sql.j2": "ALTER TABLE public.people ADD CONSTRAINT alive CHECK (age < 150) NOT VALID;",
            "down.sql.j2": "ALTER TABLE public.people DROP CONSTRAINT alive;",
        },
    )
    apply_all(target, tree)
    (reverted,) = migrate.revert(target, Reverts(), way())["reverted"]
    # The other one went with the step that made it.
    assert (reverted["left"], reverted["already"]) == (["constraint public.people.adult"], [])
    assert rows(
        target,
        "SELECT conname::text AS name FROM pg_constraint WHERE conrelid = 'public.people'::regclass AND contype = 'c'",
    ) == [{"name": "adult"}]


def test_nothing_applied_means_nothing_to_revert(target: Any) -> None:
    assert way_back.preview_revert(target, Reverts())["versions"] == []
    assert migrate.revert(target, Reverts(), way())["reverted"] == []
