# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts and many databases: a canary first, growing batches, stop at the first that fails, who is where at the end."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.podman import ROOT
from support.server import OWNER
from support.site import Playbook, Result
from support.tree import TestTree

V1 = "20260101000000"
# A whole run of a host takes seconds; what it shows of batches needs no backup.
QUICK = ["plan", "apply", "report"]


@pytest.fixture
def fleet(playbook: Playbook) -> Playbook:
    """Five databases on the server, and a tree of one small version that one of them cannot take where a test says so."""
    shutil.rmtree(playbook.copy_sql() / "migrations")
    tree = TestTree(playbook.folder / "sql")
    tree.add_sql(
        V1, "rooms", "CREATE TABLE public.rooms (\n    id integer PRIMARY KEY\n);\n", "DROP TABLE public.rooms;\n"
    )
    playbook.variables["pgops_phases"] = QUICK
    playbook.variables["migrate_health"] = {"pause": 0}
    playbook.variables["migrate_watch"] = 0
    for name in databases(playbook):
        if name != playbook.database:
            playbook.server.create_database(name)
    return playbook


def databases(site: Playbook) -> list[str]:
    return [site.database, *(f"{site.database}_{letter}" for letter in "bcde")]


def one_host_each(site: Playbook) -> list[str]:
    """A host a database, all in staging."""
    site.hosts["staging"] = {f"s{number}": {"pgops_database": name} for number, name in enumerate(databases(site), 1)}
    return list(site.hosts["staging"])


def spoil(site: Playbook, database: str) -> None:
    """There is a table of that name already, of another shape."""
    site.server.execute(
        f"CREATE TABLE public.rooms (note text); ALTER TABLE public.rooms OWNER TO {OWNER}", database=database
    )


def migrated(site: Playbook) -> list[str]:
    """The databases in which the version is applied."""
    found = []
    for name in databases(site):
        (there,) = site.server.execute("SELECT to_regclass('pgops.migration') IS NOT NULL", database=name)
        if there[0] and site.server.execute("SELECT 1 FROM pgops.migration WHERE state = 'applied'", database=name):
            found.append(name)
    return found


def report_of(result: Result) -> dict[str, Any]:
    return json.loads(Path(result.json["report"]).with_suffix(".json").read_text())


def states(result: Result) -> dict[str, str]:
    return {item["database"] or item["host"]: item["state"] for item in report_of(result)["fleet"]}


@pytest.mark.slow
def test_hosts_go_in_batches_behind_the_canary_as_one_run_and_the_first_failure_leaves_the_rest(
    fleet: Playbook,
) -> None:
    one_host_each(fleet)
    _a, b, c, d, e = databases(fleet)
    spoil(fleet, b)
    result = fleet("migrate.yml", limit="staging", migrate_canary="s3", migrate_batches="2,100%")
    assert result.rc == 2, result.output
    # s3 alone, then s1 and s2 side by side; s4 and s5 never.
    assert migrated(fleet) == [fleet.database, c]
    assert states(result) == {
        fleet.database: "migrated", b: "failed", c: "migrated", "s4": "not begun", "s5": "not begun"
    }  # fmt: skip
    assert sorted(result.json["hosts"]) == ["s1", "s2", "s3"], "one run, one file"
    assert len(list((fleet.state / "journal" / "staging").glob("*.jsonl"))) == 1
    assert re.search(rf"^    s2 +{b} +- +failed in apply at {V1}$", result.stdout, re.MULTILINE)
    again = next(command for command in result.json["error"]["next"] if " -l s2" in command)
    assert "migrate_canary" not in again
    assert "migrate_batches" not in again
    assert "<h2>Who is where</h2>" in Path(result.json["report"]).read_text()
    # Mended, the command that was printed takes that host and nobody else; the first one then takes the rest.
    fleet.server.execute("DROP TABLE public.rooms", database=b)
    assert fleet("migrate.yml", limit="s2").rc == 0
    assert migrated(fleet) == [fleet.database, b, c]
    rest = fleet("migrate.yml", limit="staging", migrate_canary="s3", migrate_batches="2,100%")
    assert rest.rc == 0, rest.output
    assert migrated(fleet) == databases(fleet)
    assert states(rest) == {**dict.fromkeys((fleet.database, b, c), "nothing pending"), d: "migrated", e: "migrated"}


def test_databases_go_in_batches_behind_the_canary_and_the_first_failure_leaves_the_rest(fleet: Playbook) -> None:
    _a, b, c, d, e = databases(fleet)
    spoil(fleet, d)
    fleet.variables["pgops_databases_query"] = (
        f"SELECT datname FROM pg_database WHERE datname LIKE '{fleet.database}%' ORDER BY datname"
    )
    result = fleet("migrate.yml", migrate_canary=c, migrate_batches="2")
    assert result.rc == 2, result.output
    assert "local-1: 5 databases by pgops_databases_query" in result.stdout
    # c alone, then two by two.
    assert migrated(fleet) == [fleet.database, b, c]
    assert states(result) == {fleet.database: "migrated", b: "migrated", c: "migrated", d: "failed", e: "untouched"}
    assert f"Not begun: {e}." in result.json["error"]["message"]
    assert result.json["hosts"]["local-1"][c]["apply"]["health"]["findings"] == []
    assert {item["database"]: item["version"] for item in result.json["fleet"]} == {
        fleet.database: V1, b: V1, c: V1, d: None, e: None
    }  # fmt: skip
    assert f"{fleet.database}, {b}, {c}, {d}, {e}: 1 pending, highest risk low" in result.stdout, (
        "told once, not five times"
    )
    again = result.json["error"]["next"][-1]
    assert again == f'ansible-playbook migrate.yml -l local-1 -e \'{{"pgops_databases": ["{d}"]}}\''
    spoilt = fleet("migrate.yml", limit="local-1", pgops_databases=[d])
    assert spoilt.rc == 2
    assert sorted(spoilt.json["hosts"]["local-1"]) == [d], "a list that is given says it all"


@pytest.mark.slow
def test_where_two_hosts_fail_the_printed_commands_take_the_failed_ones_and_nobody_else(fleet: Playbook) -> None:
    a, b, c, d, _e = databases(fleet)
    fleet.hosts["staging"] = {"s1": {"pgops_databases": [a, b]}, "s2": {"pgops_databases": [c, d]}}
    spoil(fleet, a)
    spoil(fleet, c)
    result = fleet("migrate.yml", limit="staging")
    assert result.rc == 2, result.output
    assert states(result) == {a: "failed", b: "untouched", c: "failed", d: "untouched"}
    commands = [command for command in result.json["error"]["next"] if "pgops_databases" in command]
    assert commands == [
        f"""ansible-playbook migrate.yml -l {host} -e '{{"pgops_databases": ["{name}"]}}'"""
        for host, name in (("s1", a), ("s2", c))
    ]
    for name, command in zip((a, c), commands, strict=True):
        assert f"next: {command}" in result.stdout
        fleet.server.execute("DROP TABLE public.rooms", database=name)
        subprocess.run(shlex.split(command), cwd=fleet.folder, env=fleet.environment(), check=True, capture_output=True)
    assert migrated(fleet) == [a, c]


@pytest.mark.slow
def test_a_canary_that_was_not_well_is_judged_again_until_somebody_goes_on_all_the_same(fleet: Playbook) -> None:
    a, b, c, _d, _e = databases(fleet)
    fleet.variables["pgops_databases"] = [a, b, c]
    unwell = f"SELECT 1 / (CASE WHEN current_database() = '{b}' THEN 0 ELSE 1 END)"
    fleet.variables["migrate_health"] = {"pause": 0, "probe": unwell}
    for _run in range(2):
        result = fleet("migrate.yml", migrate_canary=b)
        assert result.rc == 2, result.output
        assert states(result) == {a: "untouched", b: "not well", c: "untouched"}
        assert migrated(fleet) == [b]
    all_the_same = result.json["error"]["next"][0]
    assert all_the_same == "ansible-playbook migrate.yml -l local -e migrate_batches=10%,30%,100%"
    subprocess.run(
        shlex.split(all_the_same), cwd=fleet.folder, env=fleet.environment(), check=True, capture_output=True
    )
    assert migrated(fleet) == [a, b, c]


@pytest.mark.slow
def test_a_canary_host_that_was_not_well_is_judged_again_although_nothing_is_pending_there(fleet: Playbook) -> None:
    one_host_each(fleet)
    a, b, _c, _d, _e = databases(fleet)
    fleet.variables["migrate_health"] = {
        "pause": 0, "probe": f"SELECT 1 / (CASE WHEN current_database() = '{b}' THEN 0 ELSE 1 END)"
    }  # fmt: skip
    limit = {"limit": "s1,s2"}
    first = fleet("migrate.yml", **limit, migrate_canary="s2")
    assert (first.rc, states(first)) == (2, {"s1": "not begun", b: "not well"}), first.output
    again = fleet("migrate.yml", **limit, migrate_canary="s2")
    assert (again.rc, states(again)) == (2, {"s1": "not begun", b: "not well"}), again.output
    assert again.json["error"]["next"] == ["ansible-playbook migrate.yml -l s1,s2 -e migrate_batches=10%,30%,100%"]
    assert migrated(fleet) == [b]
    fleet.variables["migrate_health"] = {"pause": 0}
    well = fleet("migrate.yml", **limit, migrate_canary="s2")
    assert (well.rc, states(well)) == (0, {a: "migrated", b: "nothing pending"}), well.output


ASK_TO_STOP = """
import pathlib, sys
from ansible_collections.whitecross.pgops.plugins.plugin_utils.journal import Journal
(path,) = pathlib.Path(sys.argv[1], "journal", "local").glob("*.jsonl")
Journal(sys.argv[1], "local", path.stem).ask_to_stop("ada")
"""


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_before_its_apply_leaves_all_untouched_and_none_failed(fleet: Playbook) -> None:
    a, b, *_rest = databases(fleet)
    fleet.variables["pgops_databases"] = [a, b]
    # The last thing before the apply.
    fleet.variables["hooks_stop"] = [
        {
            "argv": [sys.executable, "-c", ASK_TO_STOP, str(fleet.state)],
            "environment": {"PYTHONPATH": str(ROOT / "collections")},
        }
    ]
    fleet.variables["hooks_start"] = [{"argv": ["true"]}]
    result = fleet("migrate.yml")
    assert result.rc == 2, result.output
    assert "apply was not begun: ada asked this run to stop" in result.json["error"]["message"]
    assert states(result) == {a: "untouched", b: "untouched"}
