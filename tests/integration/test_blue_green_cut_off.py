# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change-over that was killed leaves: clients that wait, names that are swapped already; and who comes back to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green,
    blue_green_state,
    blue_green_versions,
    ledger,
    migrate,
    pgbouncer,
    swap,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support import pool as pools
from support.blue_green import AGAIN, RUN, WIDE, change_of, fill, prepared, slots, versions
from support.tree import TestTree

BIG = "ALTER TABLE {{ schema }}.students ALTER COLUMN id TYPE bigint;\n"


class Killed(BaseException):
    """Ends the work as a kill does: what it would do at its end is left out."""


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    return TestTree(tmp_path / "sql")


@pytest.fixture
def migrations(server: Any, target: Any, tree: TestTree) -> list[dict[str, Any]]:
    """A filled database and a version that would take two hours if it were made where clients are."""
    made = versions(tree, BIG, expected_seconds=7200, phi=True)
    fill(server, target, made, rows=20)
    return made


@pytest.fixture(autouse=True)
def _given_up(server: Any, target: Any) -> Iterator[None]:
    """A subscription keeps its database from being dropped, and its workers are few."""
    yield
    blue_green.give_up(change_of(server, target, AGAIN))


def cut_off(server: Any, target: Any, migrations: list[dict[str, Any]], step: str, **more: Any) -> None:
    """Prepared, and changed over by a run that is killed behind a step."""
    prepared(server, target, migrations)

    def after(done: str) -> None:
        if done == step:
            raise Killed

    with pytest.MonkeyPatch.context() as dead:
        dead.setattr(swap.Swap, "_lift", lambda self, mark: False)
        dead.setattr(blue_green, "_go_on", lambda change: None)
        dead.setattr(pgbouncer, "resume", lambda pool: None)
        with pytest.raises(Killed):
            blue_green.change_over(change_of(server, target, AGAIN, after=after, **more), migrations, confirmed=True)


def run_of(database: str) -> ledger.Run:
    return migrate.run_of(AGAIN, {"playbook": "blue_green"}, database)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("step", "stage"),
    [
        ("fence: commit", "begin"),
        ("swap: commit", "change_over"),
        ("pool paused", "give_up"),
        ("swap: commit", "begin"),
        ("pool paused", "prepare"),
    ],
)
def test_clients_that_a_killed_change_over_keeps_waiting_go_on(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], bouncer: pools.Bouncer, step: str, stage: str
) -> None:  # fmt: skip
    pool = pgbouncer.declared(target, bouncer.settings)
    cut_off(server, target, migrations, step, pool=pool)
    assert bouncer.paused(database)
    if stage == "prepare":
        done = prepared(server, target, migrations, pool=pool)
    else:
        asked = {
            "begin": lambda change: blue_green.begin(change, migrations),
            "change_over": lambda change: blue_green.change_over(change, migrations, confirmed=True),
            "give_up": blue_green.give_up,
        }
        done = asked[stage](change_of(server, target, AGAIN, pool=pool))
    assert not bouncer.paused(database)
    assert any("they go on" in told for told in done["told"])


def test_behind_the_renames_a_console_that_is_silent_stops_nothing(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    pool = pgbouncer.declared(target, {"host": "127.0.0.1", "port": 1, "connect_timeout": 1})
    cut_off(server, target, migrations, "swap: commit")
    change = change_of(server, target, AGAIN, pool=pool)
    begun = blue_green.begin(change, migrations)
    assert begun["state"] == "changed_over" and "console" in begun["told"][0]
    done = blue_green.change_over(change, migrations, confirmed=True)
    assert done["versions"] == [WIDE] and done["left"] is None and slots(server, database) == 0


def test_a_pause_of_somebody_else_is_not_ended_by_who_prepares(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], bouncer: pools.Bouncer
) -> None:
    bouncer.say(f'PAUSE "{database}"')
    done = prepared(server, target, migrations, pool=pgbouncer.declared(target, bouncer.settings))
    assert bouncer.paused(database) and done["state"] == "ready"
    bouncer.say(f'RESUME "{database}"')
    looked = blue_green.give_up(change_of(server, target, AGAIN), check_only=True)
    assert (looked["state"], looked["changed"], looked["removed"]) == ("ready", True, [])
    assert looked["green"] == done["green"] and looked["link"]["there"]["slot"], "all that is told of one that is ready"


def test_who_looks_behind_the_renames_is_led_to_the_end_and_no_way_there_loses_the_versions(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    cut_off(server, target, migrations, "comment restored")
    change = change_of(server, target, AGAIN)
    looked = blue_green.status(change)
    assert (looked["state"], looked["why"]) == ("changed_over", None)
    assert "was changed over by a run that was cut off" in looked["told"][0]
    assert blue_green.change_over(change, migrations, confirmed=False)["state"] == "changed_over"
    with pytest.raises(PgopsError, match="was changed over by a run that was cut off") as caught:
        prepared(server, target, migrations)
    assert caught.value.extra["reason"] == "over"
    assert blue_green.give_up(change, check_only=True)["state"] == "changed_over"
    assert slots(server, database) == 1
    # Nothing is left to be given up: it is brought to its end, and told as a change-over is.
    done = blue_green.give_up(change, run=run_of(database))
    assert (done["state"], done["versions"], done["left"], done["resumed"]) == ("changed_over", [WIDE], None, True)
    assert "nothing is left to give up" in done["told"][0]
    (declared,) = [one for one in migrations if one["version"] == WIDE]
    assert done["planned"][0]["rendered_checksum"] == declared["rendered_checksum"] and done["planned"][0]["phi"]
    assert done["applied"][0]["run_id"] == RUN and done["tables"] == ["public.students"]
    assert slots(server, database) == 0
    assert server.execute(f"SELECT playbook, result FROM pgops.run WHERE id = '{AGAIN}'", database=database) == [
        ("blue_green", "changed_over")
    ]


def test_a_run_that_the_ledger_does_not_take_leaves_no_slot(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]]
) -> None:
    cut_off(server, target, migrations, "swap: commit")
    server.execute(
        "ALTER TABLE pgops.run ADD CONSTRAINT not_today CHECK (result IS DISTINCT FROM 'changed_over')",
        database=database,
    )
    over = blue_green.change_over(change_of(server, target, AGAIN), migrations, confirmed=True, run=run_of(database))
    assert over["versions"] == [WIDE] and over["left"] is None and slots(server, database) == 0
    assert any("the ledger does not name this run" in told and "not_today" in told for told in over["told"])
    with closing(server.connect(database)) as conn:
        assert not blue_green_state.has_marker(conn)


def test_of_two_databases_the_one_that_is_over_keeps_the_other_from_nothing(
    server: Any, target: Any, database: str, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    """The same command goes to both of them again."""
    change = change_of(server, target, AGAIN)
    with pytest.raises(PgopsError, match="nothing to change") as caught:
        blue_green.begin(change, migrations)
    assert caught.value.extra["reason"] == "not_prepared"
    prepared(server, target, migrations)
    blue_green.change_over(change, migrations, confirmed=True)
    # What comes behind it is applied online, and is not this playbook's.
    tree.add_sql(
        "20260101000002", "behind", "CREATE TABLE {{ schema }}.behind (id int PRIMARY KEY);\n",
        "DROP TABLE {{ schema }}.behind;\n",
    )  # fmt: skip
    made = tree.render()
    begun, again = blue_green.begin(change, made), blue_green.change_over(change, made, confirmed=True)
    assert (begun["state"], again["state"], again["changed"]) == ("none", "none", False)
    assert "no version is pending that is to be changed over to" in begun["told"][0]
    planned = blue_green_versions.planned(blue_green_versions.looking(target, AGAIN), made)
    assert planned["pending"] == []


def test_what_a_later_online_version_lacks_keeps_no_change_from_its_preparation(
    target: Any, migrations: list[dict[str, Any]], tree: TestTree
) -> None:
    tree.add_sql(
        "20260101000002", "behind", "CREATE EXTENSION no_such_extension;\n", "DROP EXTENSION no_such_extension;\n"
    )  # fmt: skip
    planned = blue_green_versions.planned(blue_green_versions.looking(target, AGAIN), tree.render())
    assert [one["version"] for one in planned["pending"]] == [WIDE]


@pytest.mark.few(1)
@pytest.mark.parametrize("state", ["prepared", "not yet"])
def test_what_a_version_would_take_in_the_live_database_is_asked_of_no_window(
    server: Any, target: Any, migrations: list[dict[str, Any]], state: str
) -> None:
    if state == "prepared":
        prepared(server, target, migrations)
    (planned,) = blue_green_versions.planned(blue_green_versions.looking(target, AGAIN), migrations)["pending"]
    assert planned["version"] == WIDE
    assert (planned["expected_seconds"], planned["expected_for_rows"], planned["to_be_split"]) == (None, None, False)
