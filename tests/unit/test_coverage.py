# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/coverage.md promises no more than there is: each number in one row, each test and each file that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coverage.md"

# chapter -> its numbers; those that are left out belong to a later version.
CHAPTERS = {
    1: range(1, 33),
    2: range(1, 123),
    3: range(1, 29),
    4: range(1, 18),
    5: range(1, 22),
    6: range(1, 23),
    7: range(1, 46),
    8: range(1, 33),
    9: range(1, 37),
    10: range(1, 18),
    11: range(1, 22),
    12: range(1, 26),
    13: range(1, 11),
    14: range(1, 33),
    15: range(1, 25),
    16: range(1, 24),
    17: range(1, 19),
}
OWED = [f"R{chapter}.{number}" for chapter, numbers in CHAPTERS.items() for number in numbers]
NOT_YET = re.compile(r"\bnot yet: (?P<missing>.*)")
SPAN = re.compile(r"R(?P<chapter>\d+)\.(?P<first>\d+)(-R(?P=chapter)\.(?P<last>\d+))?")
TEST = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)`")


def rows(page: str) -> list[list[str]]:
    """:return: the cells of each row of a table, without headings."""
    lines = [line for line in page.splitlines() if line.startswith("| R")]
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]


def span(cell: str) -> list[str]:
    """:return: the numbers of a row: ``R2.1`` is one, ``R2.1-R2.3`` three; none where it is written otherwise."""
    found = SPAN.fullmatch(cell)
    if found is None:
        return []
    last = int(found["last"] or found["first"])
    return [f"R{found['chapter']}.{number}" for number in range(int(found["first"]), last + 1)]


@cache
def functions(file: Path) -> set[str]:
    """:return: the names that pytest collects from a file, read without importing it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def faults(page: str) -> list[str]:
    """:return: where the page promises what is not there, or keeps silent about what is owed."""
    found = []
    told = rows(page)
    found += [f"{cells[0]} is no number and no span of numbers" for cells in told if not span(cells[0])]
    numbers = [number for cells in told for number in span(cells[0])]
    found += [f"{number}: {numbers.count(number)} rows" for number in OWED if numbers.count(number) != 1]
    found += [f"{number} is owed by nobody" for number in numbers if number not in OWED]
    for cells in told:
        number = cells[0]
        if len(cells) != 4 or not all(cells):
            found.append(f"{number}: {len(cells)} cells, or an empty one")
            continue
        _, _, where, shown = cells
        for path in re.findall(r"`([^`]+)`", where):
            if not (ROOT / path).exists():
                found.append(f"{number}: there is no {path}")
        tests = TEST.findall(shown)
        for file, name in tests:
            if not (ROOT / file).is_file() or name not in functions(ROOT / file):
                found.append(f"{number}: there is no test {file}::{name}")
        missing = NOT_YET.search(shown)
        if len(re.findall(r"::", shown)) != len(tests):
            found.append(f"{number}: a test is not written as `tests/…/test_x.py::test_name`")
        if missing is None and not tests:
            found.append(f"{number}: neither a test nor 'not yet: what is missing'")
        if missing is not None and len(missing["missing"]) < 10:
            found.append(f"{number}: 'not yet' does not say what is missing")
        if missing is None and where == "-":
            found.append(f"{number}: it lives nowhere")
    return found


def test_every_owed_number_has_one_row_whose_tests_exist() -> None:
    assert faults(PAGE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("pattern", "change", "told"),
    [
        (r"^\| R1\.1 \|.*\n", "", "R1.1: 0 rows"),
        (r"^(\| R3\.1 \|.*\n)", r"\1\1", "R3.1: 2 rows"),
        (r"^\| R1\.1 \|", "| R1.33 |", "R1.33 is owed by nobody"),
        (r"^\| R2\.18-R2\.22 \|", "| R2.18-R2.21 |", "R2.22: 0 rows"),
        (r"^\| R2\.18-R2\.22 \|", "| R2.18-R2.23 |", "R2.23: 2 rows"),
        (r"^\| R2\.18-R2\.22 \|", "| R2.22-R2.18 |", "R2.22-R2.18 is no number"),
        (r"^\| R2\.18-R2\.22 \|", "| R2.18-R3.22 |", "R2.18-R3.22 is no number"),
        (r"^\| R10\.17 \|", "| R10.17-R10.18 |", "R10.18 is owed by nobody"),
        (r"^(\| R6\.5 \|.*::)\w+", r"\1test_that_nobody_wrote", "::test_that_nobody_wrote"),
        (
            r"^(\| R6\.5 \|.*)tests/\w+/\w+\.py",
            r"\1tests/unit/test_nowhere.py",
            "there is no test tests/unit/test_nowhere",
        ),
        (r"^(\| R6\.5 \|.*)`tests/\w+/", r"\1`", "a test is not written as"),
        (r"^(\| R6\.5 \|.*)`playbooks/migrate.yml`", r"\1`playbooks/gone.yml`", "R6.5: there is no playbooks/gone.yml"),
        (r"^(\| R6\.5 \|.*\| )`tests/.*$", r"\1nothing |", "R6.5: neither a test nor"),
        (r"^(\| R14\.30 \|.*not yet:).*$", r"\1 so |", "R14.30: 'not yet' does not say"),
        (r"^(\| R6\.5 \|[^|]*\|)[^|]*\|", r"\1 - |", "R6.5: it lives nowhere"),
        (r"^(\| R6\.5 \|)[^|]*\|", r"\1", "R6.5: 3 cells"),
    ],
)
def test_each_kind_of_fault_is_seen(pattern: str, change: str, told: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    changed, count = re.subn(pattern, change, page, count=1, flags=re.MULTILINE)
    assert count == 1
    found = faults(changed)
    assert any(told in fault for fault in found), found


def test_a_function_inside_another_or_of_another_name_is_no_test(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text("def test_a(): ...\ndef helper():\n    def test_b(): ...\n")
    assert functions(file) == {"test_a"}
