# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A migration of one ``indexes`` step, and two tables with rows for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from support.engine import do
from support.tree import TestTree

VERSION = "20260101000001"
PEOPLE_NAME: dict[str, Any] = {
    "name": "people_name", "table": "people", "columns": [{"column": "name"}], "why": "a test",
}  # fmt: skip
PETS_NAME: dict[str, Any] = {"name": "pets_name", "table": "pets", "columns": [{"column": "name"}], "why": "a test"}


def people_and_pets(target: Any, folder: Path) -> TestTree:
    """:return: an empty tree of migrations; the tables are made, one of them with 2,000 rows."""
    do(
        target,
        "CREATE TABLE people (id integer PRIMARY KEY, name text, gone boolean)",
        "CREATE TABLE pets (id integer PRIMARY KEY, name text)",
        "INSERT INTO people SELECT n, 'p' || n, false FROM generate_series(1, 2000) n",
    )
    return TestTree(folder / "sql")


def wanted(tree: TestTree, *given: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    """:param keys: more of migration.yml. :return: the rendered tree with one version that builds these indexes."""
    files = {"indexes.yml": [copy.deepcopy(index) for index in given]}
    tree.add(VERSION, "add_indexes", [{"indexes": "indexes.yml"}], files, **keys)
    return tree.render()
