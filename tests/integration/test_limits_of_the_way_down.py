# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What an environment lets a migration take holds on the way down too, and a hint names a variable that is heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.whitecross.pgops.plugins.module_utils import up_down_up
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.pgops_module import LIMIT_OPTIONS
from ansible_collections.whitecross.pgops.plugins.modules.revert import SECONDS
from support.engine import holding, state, way
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


SLOW = ("CREATE TABLE public.visits (id integer PRIMARY KEY);", "SELECT pg_sleep(1.5);\nDROP TABLE public.visits;")


@pytest.fixture
def slow(tmp_path: Path) -> TestTree:
    """A version whose way down takes longer than it may."""
    tree = TestTree(tmp_path / "slow sql")
    tree.add_sql(V2, "visits", *SLOW, budgets={"statement_timeout_s": 1})
    return tree


def test_a_statement_has_the_limit_that_its_hint_names_and_not_its_file_s(target: Any, slow: TestTree) -> None:
    assert not call("apply", target, migrations=slow.render()).get("failed")
    result = call("revert", target)
    assert "on the way down" in result["msg"] and "hit its time limit of 1 s" in result["msg"]
    assert (result["reason"], state(target, V2)["reason"]) == ("time_limit", "time_limit")
    # It goes by the text that was stored, so what would be edited is heard by nobody.
    assert "raise budgets." not in result["hint"]
    assert (
        "-e rollback_statement_timeout=SECONDS" in result["hint"] and "-e rollback_strategy=restore" in result["hint"]
    )
    assert result["larger"] == {"rollback_statement_timeout": 2}
    result = call("revert", target, statement_timeout=2)
    assert [item["version"] for item in result["databases"][target.database]["reverted"]] == [V2]


def test_the_locks_have_the_budget_that_their_hint_names(target: Any, applied: None, tmp_path: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    age = "ALTER TABLE public.people {} COLUMN age{};"
    tree.add_sql(V2, "age", age.format("ADD", " integer"), age.format("DROP", ""), budgets={"lock_budget_s": 1})
    assert not call("apply", target, migrations=tree.render()).get("failed")
    with holding(target, READER):
        result = call("revert", target)
        assert "did not get its locks in 1 s" in result["msg"] and "the reporting job" in result["msg"]
        assert result["hint"].endswith("give it longer: -e rollback_lock_budget=SECONDS.")
        result = call("revert", target, lock_budget=2)
        assert "did not get its locks in 2 s" in result["msg"]
    assert not call("revert", target).get("failed")


def test_in_a_try_on_a_copy_the_file_is_what_the_next_try_reads(target: Any, slow: TestTree) -> None:
    with pytest.raises(PgopsError) as caught:
        up_down_up.run(target, slow.render(), V2, way())
    assert "on the way down" in caught.value.message
    assert caught.value.hint == "Split the step, or raise budgets.statement_timeout_s in its migration.yml."
    assert "larger" not in caught.value.extra
    slow.add_sql(V2, "visits", *SLOW, budgets={"statement_timeout_s": 2})
    assert up_down_up.run(target, slow.render(), V2, way())["passed"]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, 2_147_484])
def test_a_limit_that_the_server_does_not_take_is_refused(target: Any, name: str, value: int) -> None:
    result = call("revert", target, check_mode=True, **{name: value})
    assert result["msg"].startswith(f"rollback_{name} is {value}, and it takes 1 to 2147483 seconds")


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
    down = yaml.safe_load((ROOT / "roles/rollback/tasks/down.yml").read_text())[0]["whitecross.pgops.revert"]
    for name in SECONDS:
        assert f"rollback_{name} " in down[name], name
    for name in LIMIT_OPTIONS:
        assert f"migrate_{name} " in tasks["apply"][name] and f"migrate_{name} " in tasks["revert"][name], name
