# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""test_migration.yml: up, down, up in a throw-away database, compared, never in production."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.whitecross.pgops.plugins.module_utils import up_down_up
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from support.engine import When, rows, way
from support.podman import ROOT
from support.tree import TestTree, shipped_chain

V1, V2 = "20260101000001", "20260101000002"


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;")
    return tree


def databases(server: Any) -> set[str]:
    return {name for (name,) in server.execute("SELECT datname FROM pg_database")}


VERSIONS = sorted(path.name.split("_")[0] for path in (ROOT / "sql" / "migrations").iterdir() if path.is_dir())


@pytest.mark.parametrize(
    "version",
    # The way back of every version is also taken by R14_7_17 in test_white_cross_chain.py.
    [pytest.param(version, marks=[] if version == VERSIONS[14] else [pytest.mark.slow]) for version in VERSIONS],
)
def test_every_shipped_version_goes_up_down_and_up(target: Any, server: Any, version: str) -> None:
    before = databases(server)
    found = up_down_up.run(target, shipped_chain(), version, way())
    assert (found["passed"], found["after_down"], found["after_again"]) == (True, [], [])
    assert databases(server) == before
    assert rows(target, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgops'") == []


def test_a_version_that_says_that_it_has_no_way_back_is_refused_before_it_is_tried(
    target: Any, server: Any, tree: TestTree
) -> None:
    tree.add_sql(
        V2,
        "one_way",
        "CREATE TABLE public.other (id integer);",
        "DROP TABLE public.other;",
        rollback={"safety": "none", "stays": "all of it"},
    )
    before = databases(server)
    with pytest.raises(PgopsError, match="declares safety: none .all of it., so there is no way down to try") as caught:
        up_down_up.run(target, tree.render(), V2, way())
    assert "rollback_strategy" not in str(caught.value)
    assert databases(server) == before


def test_a_down_that_leaves_something_is_seen(target: Any, tree: TestTree) -> None:
    up = "ALTER TABLE public.people ADD COLUMN a integer;\nCREATE INDEX IF NOT EXISTS left_over ON public.people (id);"
    tree.add_sql(V2, "leaves", up, "ALTER TABLE public.people DROP COLUMN a;")
    found = up_down_up.run(target, tree.render(), V2, way())
    assert found["passed"] is False
    assert "left_over" in found["after_down"][0]
    tree.add_sql(
        V2,
        "leaves",
        up,
        "ALTER TABLE public.people DROP COLUMN a;",
        rollback={"safety": "partial", "stays": "left_over"},
    )
    assert up_down_up.run(target, tree.render(), V2, way())["passed"] is True


def test_a_failing_down_leaves_no_database(target: Any, server: Any, tree: TestTree) -> None:
    before = databases(server)
    tree.add_sql(V2, "broken", "CREATE TABLE public.pets (id integer);", "SELECT 1/0;")
    with pytest.raises(PgopsError, match="division by zero"):
        up_down_up.run(target, tree.render(), V2, way())
    assert databases(server) == before


def test_an_unknown_version_is_refused(target: Any, tree: TestTree) -> None:
    with pytest.raises(PgopsError, match=f"no version {V2} in the tree; it holds {V1}"):
        up_down_up.run(target, tree.render(), V2, way())


def test_the_playbook(playbook: Any, tmp_path: Path) -> None:
    tree = TestTree(playbook.folder / "own sql")
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "SELECT 1;")
    playbook.variables["pgops_sql"] = str(tree.folder)
    rc, stdout, document = playbook("test_migration.yml", test_migration_version=V1)
    assert rc != 0
    assert "differs after its way down" in document["error"]["message"] and "public.people" in stdout
    tree.add_sql(V1, "people", "CREATE TABLE public.people (id integer PRIMARY KEY);", "DROP TABLE public.people;")
    result = playbook("test_migration.yml", test_migration_version=V1)
    assert result.rc == 0, result.output
    assert "PASSED" in result.stdout and "changed=0" in result.stdout
    refused = playbook("test_migration.yml", limit="production", test_migration_version=V1)
    assert refused.rc != 0
    assert "not tested in production" in refused.json["error"]["message"]
    unnamed = playbook("test_migration.yml")
    assert unnamed.rc != 0
    assert f"-e test_migration_version={V1}" in unnamed.json["error"]["message"]


def test_a_connection_that_is_lost_means_that_the_test_begins_again(target: Any, server: Any, tree: TestTree) -> None:
    tree.add_sql(V2, "lost", "CREATE TABLE public.lost (id integer);", "DROP TABLE public.lost;")
    before = databases(server)
    cut_off = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname LIKE 'pgops\\_verify\\_%' "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    told = When("public.lost", lambda: server.execute(cut_off))
    with pytest.raises(PgopsError, match="the connection to .* was lost") as caught:
        up_down_up.run(target, tree.render(), V2, way(progress=told))
    assert caught.value.hint == (
        "Run it again when the server is back: the test begins again, in a new throw-away database."
    )
    assert databases(server) == before
