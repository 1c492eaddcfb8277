# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""What is remembered of a tree is that tree's, and nobody else reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible import constants
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.plugin_utils import rendered_tree as remembered
from support.tree import TestTree

V1 = "20260101000001"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ansible keeps what is its own, of this test alone."""
    monkeypatch.setattr(constants.config, "get_config_value", lambda name: str(tmp_path / "home"))
    return tmp_path / "home" / "whitecross.pgops"


@pytest.fixture
def tree(tmp_path: Path) -> TestTree:
    """One version."""
    made = TestTree(tmp_path / "sql")
    made.add_sql(V1, "add_a", "CREATE TABLE a (id uuid PRIMARY KEY);", "DROP TABLE a;")
    return made


def sql_of(tree: TestTree, variables: dict | None = None) -> str:
    (migration,) = remembered.rendered_tree(tree.folder, variables or {})
    return str(migration["steps"][0]["up"][0]["sql"])


def test_what_is_remembered_is_what_would_be_made(tree: TestTree, home: Path) -> None:
    first = remembered.rendered_tree(tree.folder, {})
    assert first == tree.render()
    assert remembered.rendered_tree(tree.folder, {}) == json.loads(json.dumps(first))
    (entry,) = home.iterdir()
    assert (entry.stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_second_reader_takes_the_entry(tree: TestTree, home: Path) -> None:
    sql_of(tree)
    (entry,) = home.iterdir()
    entry.write_text(entry.read_text().replace("CREATE TABLE a", "CREATE TABLE told_by_the_entry"))
    assert "told_by_the_entry" in sql_of(tree)


def test_an_edit_is_another_entry(tree: TestTree, home: Path) -> None:
    sql_of(tree)
    up = next(tree.folder.rglob("up.sql.j2"))
    kept = up.stat()
    # The same length at the same time: only the content tells.
    up.write_text(up.read_text().replace("TABLE a", "TABLE b"))
    os.utime(up, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert "TABLE b" in sql_of(tree)
    assert len(list(home.iterdir())) == 2


def test_a_file_more_is_another_entry_and_its_fault_is_told(tree: TestTree, home: Path) -> None:
    sql_of(tree)
    stray = next(tree.folder.rglob("up.sql.j2")).with_name("stray.sql.j2")
    stray.write_text("SELECT 1;")
    for _ in range(2):
        with pytest.raises(PgopsError, match=r"stray\.sql\.j2"):
            sql_of(tree)
    assert len(list(home.iterdir())) == 1


def test_a_link_in_the_place_of_a_file_is_no_old_acquaintance(tree: TestTree, home: Path, tmp_path: Path) -> None:
    sql_of(tree)
    up = next(tree.folder.rglob("up.sql.j2"))
    up.rename(tmp_path / "outside.sql.j2")
    up.symlink_to(tmp_path / "outside.sql.j2")
    with pytest.raises(PgopsError, match="link"):
        sql_of(tree)


def test_values_of_variables_are_not_written_down(tmp_path: Path, home: Path) -> None:
    tree = TestTree(tmp_path / "sql")
    tree.add_sql(V1, "add_a", "CREATE TABLE a (id uuid DEFAULT '{{ of }}');", "DROP TABLE a;", variables={"of": "x"})
    assert "DEFAULT 'mine'" in sql_of(tree, {"of": "mine"})
    assert not home.exists()


@pytest.mark.parametrize("left", ["", "{", "\x00"])
def test_half_an_entry_is_made_again(tree: TestTree, home: Path, left: str) -> None:
    wanted = sql_of(tree)
    (entry,) = home.iterdir()
    entry.write_text(left)
    assert sql_of(tree) == wanted
    assert entry.read_text() != left


def test_a_home_that_cannot_be_written_costs_time_only(tree: TestTree, home: Path) -> None:
    home.parent.write_text("a file where the folder should be")
    assert "CREATE TABLE a" in sql_of(tree)


def test_old_entries_go(tree: TestTree, home: Path) -> None:
    up = next(tree.folder.rglob("up.sql.j2"))
    for number in range(remembered.KEPT + 3):
        up.write_text(f"CREATE TABLE t{number} (id uuid PRIMARY KEY);")
        sql_of(tree)
    assert len(list(home.iterdir())) == remembered.KEPT


def test_lint_is_remembered_beside_it(tree: TestTree, home: Path) -> None:
    up = next(tree.folder.rglob("up.sql.j2"))
    up.write_text("CREATE TABLE IF NOT EXISTS a (id uuid PRIMARY KEY);")
    first = remembered.lint_findings(tree.folder, {})
    assert "if-not-exists" in [finding.rule for finding in first]
    assert remembered.lint_findings(tree.folder, {}) == first
    assert [path.name.partition("-")[0] for path in home.iterdir()] == ["lint"]
