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
