# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What an environment lets a migration take holds on the way down too, and a hint names a variable that is heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils.pgops_module import LIMIT_OPTIONS
from support.engine import holding, state
from support.module import call
from support.tree import NO_DIFFERENCE, TestTree

ROOT = Path(__file__).resolve().parents[2]
V1, V2 = "20260101000001", "20260101000002"
READER = "SELECT count(*) FROM public.people"


@pytest.fixture
def applied(target: Any, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add(
        V1,
        "people",
        [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}, {"indexes": "indexes.yml"}],
        {
            "up.sql.j2": "CREATE TABLE public.people (id integer PRIMARY KEY, name text);",
            "down.sql.j2": "DROP TABLE public.people;",
            "indexes.yml": [{"name": "people_name", "table": "people", "columns": ["name"], "why": "x"}],
            "verify.sql.j2": NO_DIFFERENCE,
        },
        budgets={"lock_budget_s": 5},
    )
    assert not call("apply", target, migrations=tree.render()).get("failed")


def test_the_drop_of_an_index_has_the_limit_that_its_hint_names(target: Any, applied: None) -> None:
    with holding(target, READER):
        result = call("revert", target, index_timeout=1)
    assert "hit its time limit of 1 s when it dropped index public.people_name" in result["msg"]
    assert (result["reason"], state(target, V1)["reason"]) == ("time_limit", "time_limit")
    # What stands in migration.yml is not read again on the way down.
    assert result["hint"].endswith("-e migrate_index_timeout=SECONDS.")
    result = call("revert", target, index_timeout=60)
    assert [item["version"] for item in result["databases"][target.database]["reverted"]] == [V1]


def test_who_idles_in_the_way_of_a_revert_is_ended_where_it_is_asked_for(
    target: Any, tmp_path: Path, applied: None
) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(
        V2, "age", "ALTER TABLE public.people ADD COLUMN age integer;", "ALTER TABLE public.people DROP COLUMN age;"
    )
    assert not call("apply", target, migrations=tree.render()).get("failed")
    with holding(target, READER, name="a forgotten psql") as conn:
        pid = conn.info.backend_pid
        result = call("revert", target, terminate_idle_after=0.5)
    (reverted,) = result["databases"][target.database]["reverted"]
    assert (reverted["version"], [ended["pid"] for ended in reverted["terminated"]]) == (V2, [pid])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"index_workers": 0}, "migrate_index_workers is 0, and 1 is the least"),
        ({"terminate_idle_after": 0}, "migrate_terminate_idle_after must be more than 0 seconds"),
        ({"throttle": {"replica_lag": 1}}, "migrate_throttle has no 'replica_lag'"),
    ],
)
@pytest.mark.parametrize("module", ["apply", "revert"])
def test_a_limit_that_cannot_be_meant_is_refused_either_way(
    target: Any, module: str, given: dict[str, Any], told: str
) -> None:
    result = call(module, target, check_mode=True, **given)
    assert result["failed"] and told in result["msg"]


def test_both_ways_take_their_limits_from_the_same_variables() -> None:
    tasks = {}
    for role, file, module in (("migrate", "main", "apply"), ("rollback", "down", "revert")):
        (task,) = yaml.safe_load((ROOT / "roles" / role / "tasks" / f"{file}.yml").read_text())
        tasks[module] = {name: task[f"whitecross.pgops.{module}"].get(name, "") for name in LIMIT_OPTIONS}
    for name in LIMIT_OPTIONS:
        assert f"migrate_{name} " in tasks["apply"][name] and f"migrate_{name} " in tasks["revert"][name], name
