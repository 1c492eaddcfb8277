# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A failure of an action says its cause itself: Ansible tells the one that it is raised from once more, behind the sentence."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_failure_of_an_action_is_raised_from_another() -> None:
    twice = []
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                silent = node.cause is None or (isinstance(node.cause, ast.Constant) and node.cause.value is None)
                if node.exc.func.id.startswith("Ansible") and not silent:
                    twice.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert twice == []
