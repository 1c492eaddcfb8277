# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The time of the whole suite is kept and told beside earlier runs; part of a suite, and a broken file, change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import suite_times

TESTS = Path(__file__).resolve().parents[1]
RUN: dict[str, Any] = {"seconds": 60.0, "passed": True, "marks": "not slow", "workers": 2, "machine": "here"}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A project of its own with two tests and the hooks of this one."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["slow: x"]\n', encoding="utf-8"
    )
    (tmp_path / "tests").mkdir()
    hooks = "from support.suite_times import pytest_sessionstart, pytest_terminal_summary\n"
    (tmp_path / "tests" / "conftest.py").write_text(hooks, encoding="utf-8")
    (tmp_path / "tests" / "test_it.py").write_text("def test_a(): pass\n\ndef test_b(): pass\n", encoding="utf-8")
    return tmp_path


def pytest_of(folder: Path, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    environment.pop("PYTEST_ADDOPTS", None)
    # A worker of the suite that runs this test is not to be taken for one of the suite that it starts.
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_XDIST")}
    # Of the plugins that are installed only the one that is asked for: each start would load them all.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-p", "no:cacheprovider", *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_whole_run_is_kept_once_and_the_next_is_held_against_it(suite: Path) -> None:
    file = suite / suite_times.FILE
    rc, told = pytest_of(suite, "-n", "2", "-m", "not slow")
    assert rc == 0, told
    assert "no earlier run of this selection on this machine to compare with" in told
    (kept,) = suite_times.read(file)
    assert (kept["marks"], kept["workers"], kept["passed"]) == ("not slow", 2, True)
    rc, told = pytest_of(suite, "-n", "2", "-m", "not slow")
    assert "the median of the last 1 was" in told
    assert len(suite_times.read(file)) == 2


@pytest.mark.parametrize(
    "arguments", [["-k", "test_a"], ["tests/test_it.py"], ["--deselect", "tests/test_it.py::test_a"]]
)
def test_a_part_of_the_suite_is_not_its_time(suite: Path, arguments: list[str]) -> None:
    rc, told = pytest_of(suite, *arguments)
    assert rc == 0, told
    assert "the suite took" not in told
    assert not (suite / suite_times.FILE).exists()


def test_a_folder_that_cannot_be_written_fails_no_test(suite: Path) -> None:
    # A file in the place of the folder: root writes everywhere else.
    (suite / ".local").write_text("")
    rc, told = pytest_of(suite)
    assert rc == 0, told
    assert "its time was not recorded in .local/test-times.jsonl: " in told


def test_a_run_with_a_failure_is_kept_and_compared_with_by_none(suite: Path) -> None:
    (suite / "tests" / "test_red.py").write_text("def test_c(): assert False\n", encoding="utf-8")
    assert pytest_of(suite)[0] == 1
    (kept,) = suite_times.read(suite / suite_times.FILE)
    assert kept["passed"] is False
    assert "no earlier run" in suite_times.sentence({**kept, "passed": True}, [kept])


def test_the_median_is_of_the_last_five_of_the_same_selection_and_machine() -> None:
    times = (900, 10, 20, 30, 40, 50)
    earlier = [{**RUN, "seconds": seconds} for seconds in times]
    for name, value in (("marks", ""), ("workers", 1), ("machine", "there"), ("passed", False)):
        earlier.append({**RUN, "seconds": 1, name: value})
    assert suite_times.sentence(RUN, earlier) == "the suite took 60 s, the median of the last 5 was 30 s (+100 %)"


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "times"
    assert suite_times.record(file, RUN) is None
    with file.open("a") as stream:
        stream.write('{"seconds": 5\n[]\n{"seconds": "x"}\n')
    assert suite_times.read(file) == [RUN]
