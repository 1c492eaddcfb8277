# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a physical proof compares, and the level that it claims; the restore itself is in test_physical_rollback.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import physical_proof
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import connect
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from support.module import call


@pytest.fixture
def beside(server: Any, target: Any, database: str) -> Any:
    """The same database stands for the restored one: two tables, three rows."""
    server.execute(
        "CREATE TABLE a (id int); CREATE TABLE b (id int); INSERT INTO a VALUES (1), (2), (3)", database=database
    )
    return SimpleNamespace(
        control=Control(None), connect=lambda _name: connect(target.as_restore(), application_name="pgops test")
    )


def test_the_level_is_the_one_that_was_reached_and_counts_are_told(beside: Any, database: str) -> None:
    before = {"public.a": (3, 3), "public.b": (0, 0)}
    found = physical_proof._compare(beside, database, before, {**before, "public.b": (0, 1)})
    assert (found["level"], found["compared"], found["moving"]) == (2, 1, ["public.b"])
    assert found["detail"] == "restores, counts of 1 of 2 tables equal, pages sound"


def test_where_every_table_was_written_to_nothing_is_proved(beside: Any, database: str) -> None:
    before = {"public.a": (3, 3), "public.b": (0, 0)}
    after = {"public.a": (3, 4), "public.b": (0, 1)}
    with pytest.raises(PgopsError, match="Each of the 2 tables .* none could be compared; the backup is not proved"):
        physical_proof._compare(beside, database, before, after)


def test_a_table_with_other_rows_than_before_is_named(beside: Any, database: str) -> None:
    before = {"public.a": (4, 3), "public.gone": (1, 1)}
    with pytest.raises(
        PgopsError, match="public.a of .* has 3 rows, the source had 4; the backup is not proved"
    ) as caught:
        physical_proof._compare(beside, database, before, before)
    assert caught.value.extra == {"tables": ["public.a", "public.gone"]}


def test_a_database_without_tables_has_none_to_compare(target: Any, database: str) -> None:
    empty = SimpleNamespace(
        control=Control(None), connect=lambda _name: connect(target.as_restore(), application_name="pgops test")
    )
    assert physical_proof._compare(empty, database, {}, {})["tables"] == 0


def test_a_count_ends_when_the_job_has_to(beside: Any, target: Any) -> None:
    control = Control(None)
    control.request("its time of 1 s is over")
    with pytest.raises(Interrupted, match="its time of 1 s is over"):
        physical_proof._count(target, "pgops test", control)


def test_the_module_refuses_a_level_that_it_does_not_reach_before_it_restores(target: Any) -> None:
    for check_mode in (True, False):
        refused = call("physical_prove", target, check_mode=check_mode, directory="/nowhere", level_required=3)
        assert refused["failed"]
        assert (
            "reaches level 2 (restores) and level 3 (counts and catalog equal) is needed; nothing was restored"
            in refused["msg"]
        )
        assert "backup_engine=logical" in refused["hint"]


def test_migrate_refuses_physical_alone_before_anything_is_backed_up(playbook: Any, server: Any, database: str) -> None:
    playbook.variables |= {"pgops_phases": ["plan", "backup", "prove", "apply"], "backup_engine": "physical"}
    done = playbook("migrate.yml")
    assert done.rc == 2, done.output
    assert "A physical backup is proved to level 2 (restores), and local needs level 4" in done.json["error"]["message"]
    logical, less = done.json["error"]["next"]
    assert "-e backup_engine=logical" in logical
    assert "-e backup_restore_point=true" in logical
    assert "-e backup_level_required=2" in less
    assert server.execute("SELECT to_regnamespace('pgops')", database=database) == [(None,)]
