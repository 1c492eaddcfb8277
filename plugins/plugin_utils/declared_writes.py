# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the application writes, of ``sql/checks/writes``: done on a restored copy and taken back, never on a live database."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import named_checks, sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_files import documents
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import Document, Keys, check_keys

FOLDER = "writes"
_KEYS: Keys = {"title": (str, True, ()), "versions": (list, True, ()), "statements": (str, True, ())}


def read_writes(directory: str | Path) -> list[dict[str, Any]]:
    """:param directory: the folder that ``pgops_sql`` names; it need not have any.
    :return: the writes by name: ``name``, ``title``, ``versions``, ``statements`` (texts).
    :raises PgopsError: for the first fault, one sentence with file and line."""
    writes, findings = scan_writes(directory)
    raise_findings(findings)
    return writes


def scan_writes(directory: str | Path, versions: Collection[str] = ()) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Read all writes and collect every fault.

    :param versions: those of the tree, as for :func:`named_checks.scan_checks`."""
    writes: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for name, file, document in documents(directory, FOLDER, findings):
        before = len(findings)
        statements: list[str] = []
        if check_keys(document, (), _KEYS, file, findings):
            statements = _statements(document, file, findings)
            named_checks.versions_of(document, file, versions, findings)
        if not any(finding.severity == "error" for finding in findings[before:]):
            writes.append({
                "name": name, "title": document.data["title"].strip(), "versions": named_checks.written(document), "statements": statements,
            })  # fmt: skip
    return writes, findings


def _statements(document: Document, file: str, findings: list[Finding]) -> list[str]:
    first, text = document.line("statements"), document.data["statements"]
    statements, faults = sql_statements.split(text, file, lambda offset: first + 1 + text.count("\n", 0, offset))
    findings.extend(faults)
    ast = sql_statements.grammar().ast
    if not statements and not faults:
        findings.append(Finding(file, first, "check", "there is no statement in it"))
    for statement in statements:
        if not isinstance(statement.node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.SelectStmt)) or (
            isinstance(statement.node, ast.SelectStmt) and statement.node.intoClause is not None
        ):
            text = "only INSERT, UPDATE, DELETE and SELECT stand here; they are done on a copy and taken back"
            findings.append(Finding(file, statement.line, "check", text))
    return [statement.sql for statement in statements]
