# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The named checks of ``sql/checks``: one file each with a title, a query and what it has to return."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import (
    Document,
    Keys,
    YamlFault,
    check_keys,
    load,
)

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
LEVELS = ("fail", "warn")
_CHECK_KEYS: Keys = {
    "title": (str, True, ()),
    "versions": (list, True, ()),
    "level": (str, False, LEVELS),
    "query": (str, True, ()),
    "expect": (dict, True, ()),
}
# docs/checks.md explains them.
_KINDS: Keys = {
    "no_rows": (bool, False, ()),
    "rows": (int, False, ()),
    "at_least": (int, False, ()),
    "contains": (list, False, ()),
    "in_order": (dict, False, ()),
    "equals": (list, False, ()),
    "uses": (list, False, ()),
}
_WITH_USES: Keys = {"from": (dict, True, ()), "within_ms": (int, False, ())}
_FROM_KEYS: Keys = {"table": (str, True, ()), "rows": (int, True, ())}


def read_checks(directory: str | Path, versions: Collection[str] = ()) -> list[dict[str, Any]]:
    """Read ``<directory>/checks``.

    :param directory: the folder that ``pgops_sql`` names; it need not have checks.
    :param versions: those of the tree, as for :func:`scan_checks`.
    :return: the checks by name: ``name``, ``title``, ``versions``, ``level``, ``query``, ``expect``.
    :raises PgopsError: for the first fault, one sentence with file and line.
    """
    checks, findings = scan_checks(directory, versions)
    raise_findings(findings)
    return checks


def scan_checks(directory: str | Path, versions: Collection[str] = ()) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Read all checks and collect every fault.

    :param versions: those of the tree. A check may wait for a version that is still to come, later than all of them.
    """
    folder = Path(directory) / "checks"
    checks, findings = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name in ("README.md", "queries", "writes"):
            continue  # folders of declared_queries and declared_writes
        file = f"checks/{path.name}"
        if path.suffix != ".yml" or not NAME.fullmatch(path.stem) or not path.is_file():
            findings.append(Finding(file, 0, "misnamed", "only files <lower_case_name>.yml stand in checks"))
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            findings.append(Finding(file, 0, "symlink", "the file is a link to outside the tree"))
            continue
        try:
            document = load(path.read_text(encoding="utf-8"))
        except YamlFault as exc:
            findings.append(Finding(file, exc.line, "yaml", exc.message))
            continue
        except UnicodeDecodeError:
            findings.append(Finding(file, 0, "file", "the file is not UTF-8"))
            continue
        before = len(findings)
        if check_keys(document, (), _CHECK_KEYS, file, findings):
            _query(document, file, findings)
            _expectation(document, file, findings)
            versions_of(document, file, versions, findings)
        if not any(finding.severity == "error" for finding in findings[before:]):
            data = document.data
            checks.append({
                "name": path.stem,
                "title": data["title"].strip(),
                "versions": written(document),
                "level": data.get("level", "fail"),
                "query": data["query"],
                "expect": data["expect"],
            })  # fmt: skip
    return checks, findings


def written(document: Document) -> list[str]:
    """:return: the versions of a document. A version without quotes is a number to YAML: what counts is how it was written."""
    return [document.written.get(("versions", i), "") for i in range(len(document.data["versions"]))]


def _query(document: Document, file: str, findings: list[Finding]) -> None:
    first = document.line("query")
    statements, faults = sql_statements.split(
        document.data["query"], file, lambda offset: first + 1 + document.data["query"].count("\n", 0, offset)
    )
    findings.extend(faults)
    select = sql_statements.grammar().ast.SelectStmt
    if len(statements) != 1 and not faults:
        findings.append(Finding(file, first, "check", f"a check is one query, not {len(statements)} statements"))
    elif statements and (not isinstance(statements[0].node, select) or statements[0].node.intoClause is not None):
        findings.append(Finding(file, first, "check", "a check only reads: write a SELECT"))


def _expectation(document: Document, file: str, findings: list[Finding]) -> None:
    given = document.data["expect"]
    line = document.line("expect")
    allowed = {**_KINDS, **_WITH_USES} if "uses" in given else _KINDS
    if not check_keys(document, ("expect",), allowed, file, findings):
        return
    kinds = [key for key in given if key in _KINDS]
    if len(kinds) != 1:
        told = " and ".join(kinds) or "nothing"
        findings.append(Finding(file, line, "check", f"a check expects one of {', '.join(_KINDS)}; this one {told}"))
        return
    kind, value = kinds[0], given[kinds[0]]
    shape = {
        "no_rows": value is True,
        "contains": value and _texts(value),
        "in_order": value and isinstance(value, dict) and all(_texts(values) and values for values in value.values()),
        "equals": value and isinstance(value, list) and all(isinstance(row, list) for row in value),
        "uses": value and isinstance(value, list) and all(_texts(names) and names for names in value),
    }.get(kind, True)
    if not shape:
        findings.append(
            Finding(file, document.line("expect", kind), "check", f"'{kind}' is not written as it should be")
        )
    if kind == "uses":
        check_keys(document, ("expect", "from"), _FROM_KEYS, file, findings)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def versions_of(document: Document, file: str, versions: Collection[str], findings: list[Finding]) -> None:
    """Look at the versions that a check waits for. :param versions: those of the tree. :param findings: faults are added to it."""
    for i, version in enumerate(written(document)):
        line = document.line("versions", i)
        if not re.fullmatch(r"[0-9]{14}", version):
            findings.append(Finding(file, line, "check", f"'{version}' is no version: 14 digits"))
        elif versions and version not in versions and version < max(versions):
            text = f"there is no version {version} in this tree, so the check never runs"
            findings.append(Finding(file, line, "check", text, "warning"))
