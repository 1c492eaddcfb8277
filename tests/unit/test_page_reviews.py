# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each page has an owner, a version, a classification and a next review; one that is overdue is warned of and fails nothing."""

from __future__ import annotations

import datetime
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def load() -> Any:
    spec = importlib.util.spec_from_file_location("page_reviews", ROOT / "tests" / "setup" / "page_reviews.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


page_reviews = load()
ROW = {
    "page": "a.md", "owner": "database team", "version": "0.1.0", "classification": "public",
    "reviewed": datetime.date(2026, 11, 23), "next_review": datetime.date(2027, 11, 23),
}  # fmt: skip


def test_each_page_is_in_the_table_and_the_table_names_no_other() -> None:
    assert page_reviews.faults(page_reviews.read(), page_reviews.pages(ROOT)) == []
    assert {row["owner"] for row in page_reviews.read()} == {"database team"}
    assert "SECURITY.md" in page_reviews.pages(ROOT)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([], "a.md is not in docs/pages.yml"),
        ([ROW, {**ROW, "page": "gone.md"}], "gone.md is in docs/pages.yml and not there"),
        ([ROW, ROW], "a.md is in docs/pages.yml twice"),
        ([{**ROW, "owner": ""}], "has not exactly"),
        ([{name: value for name, value in ROW.items() if name != "next_review"}], "has not exactly"),
        ([{**ROW, "next_review": "soon"}], "next_review is no date after reviewed"),
        ([{**ROW, "next_review": ROW["reviewed"]}], "next_review is no date after reviewed"),
        ([{**ROW, "classification": "secret"}], "classification is none of public, internal"),
        ([{**ROW, "version": "latest"}], "version is none of the collection"),
    ],
)
def test_what_is_wrong_with_the_table_is_told(table: list[dict[str, Any]], told: str) -> None:
    assert any(told in fault for fault in page_reviews.faults(table, ["a.md"]))


def test_an_overdue_review_is_warned_of_and_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = page_reviews.read()
    due = rows[0]["next_review"]
    assert page_reviews.main(today=due) == 0
    assert rows[0]["page"] not in capsys.readouterr().out
    assert page_reviews.main(today=due + datetime.timedelta(days=1)) == 0
    told = capsys.readouterr().out
    assert f"warning: {rows[0]['page']}: its review was due on {due}, by the database team" in told
    # What is wrong fails.
    short = tmp_path / "pages.yml"
    short.write_text(yaml.safe_dump(rows[1:]), encoding="utf-8")
    assert page_reviews.main(short) == 1
    assert f"error: {rows[0]['page']} is not in docs/pages.yml" in capsys.readouterr().out
