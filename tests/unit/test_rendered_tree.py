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
from ansible_collections.whitecross.pgops.plugins.module_utils.private_store import PrivateStore
from ansible_collections.whitecross.pgops.plugins.plugin_utils import migration_tree
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
    tamper(home)
    assert "told_by_the_entry" in sql_of(tree)


def tamper(home: Path) -> Path:
    """Its text tells whether it was taken."""
    (entry,) = home.iterdir()
    entry.write_text(entry.read_text().replace("CREATE TABLE a", "CREATE TABLE told_by_the_entry"))
    return entry


@pytest.mark.parametrize("of", ["entry", "folder"])
@pytest.mark.parametrize("mode", [0o620, 0o604, 0o777])
def test_what_others_may_touch_is_not_believed(tree: TestTree, home: Path, of: str, mode: int) -> None:
    sql_of(tree)
    entry = tamper(home)
    (entry if of == "entry" else home).chmod(mode if of == "entry" else mode | 0o700)
    assert "told_by_the_entry" not in sql_of(tree)


def test_what_is_another_users_is_not_believed(tree: TestTree, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql_of(tree)
    tamper(home)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert "told_by_the_entry" not in sql_of(tree)


def test_a_link_is_no_entry(tree: TestTree, home: Path, tmp_path: Path) -> None:
    sql_of(tree)
    entry = tamper(home)
    entry.rename(tmp_path / "elsewhere.json")
    entry.symlink_to(tmp_path / "elsewhere.json")
    assert "told_by_the_entry" not in sql_of(tree)


def test_the_entry_of_other_files_under_this_name_is_not_taken(tree: TestTree, home: Path) -> None:
    sql_of(tree)
    entry = tamper(home)
    entry.write_text(entry.read_text().replace('"key": "', '"key": "0'))
    assert "told_by_the_entry" not in sql_of(tree)


@pytest.mark.parametrize("put_back", [False, True], ids=["saved", "saved and put back"])
def test_what_is_saved_while_it_is_read_is_not_remembered(
    tree: TestTree, home: Path, monkeypatch: pytest.MonkeyPatch, put_back: bool
) -> None:
    up = next(tree.folder.rglob("up.sql.j2"))
    reviewed, read_tree = up.read_text(), migration_tree.read_tree

    def meanwhile(directory: Path) -> migration_tree.Tree:
        up.write_text("CREATE TABLE nobody_reviewed_this (id uuid PRIMARY KEY);")
        read = read_tree(directory)
        if put_back:
            up.write_text(reviewed)
        return read

    monkeypatch.setattr(migration_tree, "read_tree", meanwhile)
    assert "nobody_reviewed_this" in sql_of(tree)
    monkeypatch.setattr(migration_tree, "read_tree", read_tree)
    assert not home.exists()
    up.write_text(reviewed)
    assert sql_of(tree) == reviewed.rstrip(";")


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


def test_a_tree_with_a_link_is_read_each_time(tree: TestTree, home: Path) -> None:
    up = next(tree.folder.rglob("up.sql.j2"))
    for number in range(2):
        target = up.with_name(f".{number}.sql")
        target.write_text(f"CREATE TABLE t{number} (id uuid PRIMARY KEY);")
        up.unlink()
        up.symlink_to(target.name)
        assert f"TABLE t{number}" in sql_of(tree)
    assert not home.exists()


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


@pytest.mark.parametrize("left", ["", "{", "\x00", "null", "[]", '{"key": "x"}', "[1]"])
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
    for number in range(PrivateStore.kept + 3):
        up.write_text(f"CREATE TABLE t{number} (id uuid PRIMARY KEY);")
        sql_of(tree)
    assert len(list(home.iterdir())) == PrivateStore.kept


def test_lint_is_remembered_beside_it(tree: TestTree, home: Path) -> None:
    up = next(tree.folder.rglob("up.sql.j2"))
    up.write_text("CREATE TABLE IF NOT EXISTS a (id uuid PRIMARY KEY);")
    first = remembered.lint_findings(tree.folder, {})
    assert "if-not-exists" in [finding.rule for finding in first]
    assert remembered.lint_findings(tree.folder, {}) == first
    assert [path.name.partition("-")[0] for path in home.iterdir()] == ["lint"]
