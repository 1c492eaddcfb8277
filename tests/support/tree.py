# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""A migration tree of a test's own: folders written as a person would, rendered by the collection's own reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SQL = Path(__file__).resolve().parents[2] / "sql"

# Lint wants a verification of every version; this one finds nothing.
NO_DIFFERENCE = "SELECT 'x' AS object, 'x' AS expected, 'x' AS found WHERE false;\n"


def shipped_chain() -> list[dict[str, Any]]:
    """The shipped migrations, rendered once a process; each call gets a copy of its own."""
    chain: list[dict[str, Any]] = json.loads(_shipped_chain())
    return chain


@cache
def _shipped_chain() -> str:
    from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render

    return json.dumps(render(read_tree(SQL)))


class TestTree:
    """`tree.add("20260101000001", "add_x", steps=[...], files={...})`, then `tree.render()`."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "migrations").mkdir(parents=True, exist_ok=True)

    def add(
        self, version: str, name: str, steps: list[dict[str, Any]], files: Mapping[str, Any] | None = None, **keys: Any
    ) -> Path:
        """Write one migration; a file whose content is not text is written as YAML. Takes the
        place of one of the same version. Returns its folder."""
        for old in (self.folder / "migrations").glob(f"{version}_*"):
            shutil.rmtree(old)
        path = self.folder / "migrations" / f"{version}_{name}"
        path.mkdir()
        metadata = {
            "title": name.replace("_", " "),
            "why": "a test",
            "risk": "low",
            "phi": False,
            "rollback": {"safety": "complete"},
            "steps": steps,
            **keys,
        }
        (path / "migration.yml").write_text(yaml.safe_dump(metadata, sort_keys=False), encoding="utf-8")
        for file, content in (files or {}).items():
            text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
            (path / file).write_text(text, encoding="utf-8")
        return path

    def add_sql(self, version: str, name: str, up: str, down: str, **keys: Any) -> Path:
        """A migration of one step of SQL."""
        return self.add(
            version,
            name,
            [{"sql": {"up": "up.sql.j2", "down": "down.sql.j2"}}],
            {"up.sql.j2": up, "down.sql.j2": down, "verify.sql.j2": NO_DIFFERENCE},
            **keys,
        )

    def render(self, variables: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration_tree import read_tree, render

        return render(read_tree(self.folder), variables)
