# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What lint finds in pending versions, where it is known how far each database is and how large its tables are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, of_versions
from ansible_collections.whitecross.pgops.plugins.plugin_utils.rendered_tree import lint_findings

ERROR, WARNING = "error", "warning"


def pending_findings(
    directory: Path, variables: Mapping[str, Any], databases: Iterable[Mapping[str, Any]]
) -> list[Finding]:
    """What would refuse a plan, or is to be told with it; an applied version is past changing and is left alone.

    What a version makes is new for those that run with it. A version that stopped half-way is judged as the run did that
    began it, its steps that are done not at all; without a change of its text nothing in it is more than a warning, nor is
    what is committed of it, for it was let begin, and nobody can edit what is done. Elsewhere a table counts by its size in
    the databases themselves.

    :param databases: the plan of each, as the module ``plan`` returns it.
    :return: what is found in any of them, an error before a warning of the same place.
    :raises PgopsError: the tree cannot be read.
    """
    waiting = [found for found in databases if found["pending"]]
    small = _small(waiting)

    @cache
    def linted(together: frozenset[str], sizes: bool) -> list[Finding]:
        return lint_findings(directory, variables, together, small if sizes else ())

    def of_version(version: str, together: frozenset[str]) -> list[Finding]:
        found = of_versions(linted(together, False), [version])
        if small and any(finding.severity == ERROR for finding in found):
            return of_versions(linted(together, True), [version])
        return found

    told: dict[tuple[str, int, str, str], Finding] = {}
    for found in waiting:
        versions = frozenset(str(item["version"]) for item in found["pending"])
        for item in found["pending"]:
            begun = item.get("begun") or {"with": [], "done": [], "mended": True}
            for finding in of_version(str(item["version"]), versions | set(begun["with"])):
                if finding.file in begun["done"]:
                    continue
                past = not begun["mended"] or _is_committed(finding, begun.get("committed") or {})
                as_told = replace(finding, severity=WARNING) if past else finding
                key = (finding.file, finding.line, finding.rule, finding.message)
                if key not in told or told[key].severity != ERROR:
                    told[key] = as_told
    return sorted(told.values())


def _is_committed(finding: Finding, committed: Mapping[str, int | None]) -> bool:
    """:return: whether it is in front of the first statement of its file that is not committed."""
    if finding.file not in committed or finding.line < 1:
        return False
    line = committed[finding.file]
    return line is None or finding.line < line


def _small(databases: Iterable[Mapping[str, Any]]) -> set[str]:
    """:return: the tables that are small wherever they are, each ``schema.name``."""
    # Only here: the parser behind it takes a moment to load.
    from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.session import SMALL_BYTES

    sizes = [(table, size) for found in databases for table, size in (found.get("table_bytes") or {}).items()]
    return {table for table, _ in sizes} - {table for table, size in sizes if size > SMALL_BYTES}
