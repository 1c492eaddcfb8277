# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SECURITY.md says of each role of the script what it may do, and names no test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def missing_tests(page: str) -> list[str]:
    """:return: the tests that the page names and that nobody has written."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    return [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file()
        or not re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]


def test_each_test_that_the_page_names_is_there() -> None:
    assert missing_tests(PAGE) == []
    assert len(re.findall(r"`tests/", PAGE)) > 15


def test_a_test_that_is_not_there_is_seen() -> None:
    assert missing_tests("`tests/unit/test_security_page.py::test_nobody_wrote`, `tests/unit/none.py::test_x`") == [
        "tests/unit/test_security_page.py::test_nobody_wrote",
        "tests/unit/none.py::test_x",
    ]


def test_each_role_of_the_script_has_its_row() -> None:
    script = (ROOT / "sql" / "rights" / "least_privilege.sql").read_text(encoding="utf-8")
    roles = [name for name in re.findall(r"\\set (\w+) white_cross_", script)]
    assert len(roles) == 6
    assert [name for name in roles if not re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE)] == []
