# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
"""Holds docs/pages.yml against the pages there are, and warns of those whose review is overdue; only the former fails."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "pages.yml"
KEYS = {"page", "owner", "version", "classification", "reviewed", "next_review"}
CLASSIFICATIONS = ("public", "internal")


def pages(root: Path) -> list[str]:
    """:return: the pages that people read, by their paths; a changelog is made by a tool and reviewed with each release."""
    found = [root / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "tests/README.md")]
    return [str(page.relative_to(root)) for page in [*found, *sorted((root / "docs").rglob("*.md"))] if page.is_file()]


def read(path: Path = TABLE) -> list[dict[str, Any]]:
    """:return: the rows of the table."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8")))


def faults(table: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[str]:
    """:param known: the pages there are. :return: what is wrong with the table."""
    named = [str(row.get("page")) for row in table]
    found = [f"{page} is not in docs/pages.yml" for page in known if page not in named]
    found += [f"{page} is in docs/pages.yml and not there" for page in named if page not in known]
    found += [f"{page} is in docs/pages.yml twice" for page in sorted(set(named)) if named.count(page) > 1]
    for row in table:
        page = row.get("page")
        if set(row) != KEYS or not all(row.values()):
            found.append(f"{page}: its row has not exactly {', '.join(sorted(KEYS))}")
            continue
        dates = (row["reviewed"], row["next_review"])
        if not all(isinstance(date, datetime.date) for date in dates) or dates[0] >= dates[1]:
            found.append(f"{page}: next_review is no date after reviewed")
        if row["classification"] not in CLASSIFICATIONS:
            found.append(f"{page}: classification is none of {', '.join(CLASSIFICATIONS)}")
        if not re.fullmatch(r"\d+\.\d+\.\d+", str(row["version"])):
            found.append(f"{page}: version is none of the collection")
    return found


def overdue(table: Sequence[Mapping[str, Any]], today: datetime.date) -> list[str]:
    """:return: a warning for each page whose next review is past; on its day it is not."""
    return [
        f"{row['page']}: its review was due on {row['next_review']}, by the {row['owner']}"
        for row in table
        if row["next_review"] < today
    ]


def main(table: Path = TABLE, today: datetime.date | None = None) -> int:
    """:param today: the date to go by, that of this machine where none is given. :return: 1 where the table is wrong, 0 else."""
    found = faults(read(table), pages(ROOT))
    for fault in found:
        print(f"error: {fault}")
    if not found:
        for warning in overdue(read(table), today or datetime.datetime.now(datetime.UTC).date()):
            print(f"warning: {warning}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
