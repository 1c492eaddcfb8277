# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every page is found from the index by task, and every link of every page leads to a file and a heading that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "README.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[tuple[Path, str]]:
    """:return: the file and the heading that each link names; the page itself where it names none."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return [((page.parent / target).resolve() if target else page, anchor) for target, anchor in LINK.findall(text)]


def headings(page: Path) -> set[str]:
    """:return: the anchors that the repository's host makes of the headings of a page; the second of a name gets a number."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def lost(page: Path) -> list[str]:
    return [
        f"{page.name}: {target.name}#{anchor}" if target.exists() else f"{page.name}: {target}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in headings(target))
    ]


def test_every_link_of_every_page_leads_somewhere() -> None:
    assert [told for page in PAGES for told in lost(page)] == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One thing\n\n## `code`, and more\n\n## One thing\n", encoding="utf-8")
    page.write_text(
        "# Here\n[a](other.md#one-thing) [b](other.md#code-and-more) [c](#here) [d](other.md#one-thing-1) `[e](x.md)`\n",
        encoding="utf-8",
    )
    assert lost(page) == []
    page.write_text("[a](gone.md) [b](other.md#gone) [c](#gone)\n", encoding="utf-8")
    assert len(lost(page)) == 3


def test_every_page_is_in_the_index_by_task() -> None:
    told = {target for target, _anchor in links(INDEX)}
    pages = {page for page in (ROOT / "docs").glob("*.md") if page != INDEX} | {
        ROOT / "docs" / "patterns" / "README.md"
    }
    assert sorted(str(page.relative_to(ROOT)) for page in pages - told) == []


def test_every_pattern_is_in_the_index_of_patterns() -> None:
    index = ROOT / "docs" / "patterns" / "README.md"
    told = {target for target, _anchor in links(index)}
    assert {page for page in index.parent.glob("*.md") if page != index} - told == set()


def test_the_readme_leads_to_the_index() -> None:
    assert INDEX in {target for target, _anchor in links(ROOT / "README.md")}


def test_the_quick_reference_names_playbooks_and_queries_that_are_there() -> None:
    part = re.search(r"^## Quick reference\n(.*?)(?=^## )", INDEX.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert part
    playbooks = re.findall(r"ansible-playbook (\w+\.yml)", part[1])
    queries = re.findall(r"inspect_query=(\w+)`((?:, `\w+`)*)", part[1])
    named = {name for first, others in queries for name in [first, *re.findall(r"\w+", others)]}
    assert {"status.yml", "migrate.yml", "rollback.yml", "verify.yml", "backup.yml", "stop.yml", "inspect.yml"} <= set(
        playbooks
    )
    assert [name for name in playbooks if not (ROOT / name).is_file()] == []
    assert len(named) == 3
    assert [name for name in sorted(named) if not (ROOT / "sql" / "inspect" / f"{name}.sql").is_file()] == []
    folders = re.findall(r"`((?:sql|inventories)/\w+)", part[1])
    assert folders
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


def test_what_to_do_and_not_to_do_names_rules_that_there_are() -> None:
    page = (ROOT / "docs" / "write-a-migration.md").read_text(encoding="utf-8")
    part = re.search(r"^## Do and do not\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    assert part
    rows = [line for line in part[1].splitlines() if line.startswith("| ") and "lint `" in line]
    named = {
        rule
        for row in rows
        for rule in re.findall(r"`(R\d\d|[a-z]+(?:-[a-z]+)*)`", row.partition("lint ")[2].partition(":")[0])
    }
    rules = set(
        re.findall(r"^\| `([\w-]+)` \|", page + (ROOT / "docs" / "lint.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert len(named) > 10
    assert named - rules == set()


def test_postgresqls_own_pages_are_linked() -> None:
    page = (ROOT / "docs" / "write-a-migration.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(https://www\.postgresql\.org/docs/current/([\w-]+)\.html\)", page))
    assert {"datatype-uuid", "datatype-enum", "gin", "pgtrgm"} <= linked
