# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What a module of the collection tells back beside its result."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import pgops_module
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target
from support.module import call

ROOT = Path(__file__).parents[2] / "collections"
START = (
    "import runpy; runpy.run_module('ansible_collections.whitecross.pgops.plugins.modules.plan', run_name='__main__')"
)


def test_the_tree_is_not_told_back_to_whom_it_came_from() -> None:
    """1.8 MB of it made most of the time of a run with nothing pending."""
    given = {
        "host": "127.0.0.1",
        "port": "1",
        "databases": ["white_cross"],
        "migrations": [{"version": "20260101000000", "why": "a text of the tree"}],
        "variables": {"school": "a text of the tree"},
    }
    done = subprocess.run(
        [sys.executable, "-c", START], input=json.dumps({"ANSIBLE_MODULE_ARGS": given}), cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["failed"] and "nothing listens there" in told["msg"]
    assert told["invocation"]["module_args"]["databases"] == ["white_cross"]
    assert "a text of the tree" not in done.stdout


def test_the_traceback_of_a_defect_shows_no_error_of_the_server_before_it() -> None:
    """Ansible shows it, and the server's DETAIL repeats a row."""

    def work() -> dict[str, Any]:
        try:
            raise psycopg2.Error("duplicate key\nDETAIL:  Key (name)=(Sentinella) already exists.")
        except psycopg2.Error:
            return {}["defect"]

    with pytest.raises(KeyError) as caught:
        pgops_module.run(SimpleNamespace(_name="apply"), work)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(caught.value))
    assert "defect" in shown and "Sentinella" not in shown


NOWHERE = Target(database="a", host="127.0.0.1", port="1")


@pytest.mark.parametrize(
    ("name", "named", "options"),
    [
        ("prove", "backup", {"path": "/b"}),
        ("drill", "backup", {"backup": "/b", "directory": "/d"}),
        ("restore", "backup", {"backup": "/b", "directory": "/d"}),
        ("restore_table", "backup", {"from": "/b", "table": "t"}),
        ("restore_database", "dump", {"from": "/b"}),
        ("backup_copy", "backup", {"path": "/b", "places": []}),
        ("lost_writes", "kept database", {"kept": "a_before"}),
        ("swap", "database to swap in", {"to": "a_restored"}),
    ],
)
def test_what_is_one_databases_is_not_taken_for_two(name: str, named: str, options: dict[str, Any]) -> None:
    told = call(name, NOWHERE, databases=["a", "b"], **options)
    assert told["failed"]
    assert told["msg"] == f"One {named} is named and there are 2 databases."
    assert told["hint"] == "Name one with -e pgops_database=NAME."


@pytest.mark.parametrize(
    ("name", "options", "said", "hint"),
    [
        ("prove", {}, "There is no backup of a in {0}/a.", "backup.yml"),
        ("backup_copy", {"places": []}, "There is no backup of a in {0}/a.", "backup.yml"),
        ("drill", {}, "There is no backup of a in {0}/a.", "backup.yml"),
    ],
)
def test_where_there_is_nothing_to_work_on_it_is_said(
    name: str, options: dict[str, Any], said: str, hint: str, tmp_path: Path
) -> None:
    told = call(name, NOWHERE, directory=str(tmp_path), **options)
    assert told["failed"]
    assert told["msg"] == said.format(tmp_path)
    assert hint in told["hint"]


def test_a_swap_without_a_database_to_swap_in_is_refused() -> None:
    told = call("swap", NOWHERE)
    assert told["failed"]
    assert told["msg"] == "No database is named to take the place of a."


@pytest.mark.parametrize(("name", "variable"), [("apply", "migrate_reconnect"), ("revert", "rollback_reconnect")])
@pytest.mark.parametrize("seconds", [-1, "nan"])
def test_a_budget_below_nothing_is_refused_before_the_database_is_asked(
    name: str, variable: str, seconds: float | str
) -> None:
    told = call(name, NOWHERE, reconnect=seconds)
    assert told["failed"]
    assert told["msg"] == f"{variable} must be 0 seconds or more; 0 never connects again."
