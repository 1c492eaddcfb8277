# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The application's queries of ``sql/checks/queries``, which a rehearsal runs before and after the versions: one file each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.declared_files import documents
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding, raise_findings
from ansible_collections.whitecross.pgops.plugins.plugin_utils.strict_yaml import (
    Document,
    Keys,
    check_keys,
)

FOLDER = "queries"
_KEYS: Keys = {
    "title": (str, True, ()),
    "query": (str, True, ()),
    "sample": (dict, False, ()),
    "parameters": (dict, False, ()),
}
_SAMPLE_KEYS: Keys = {"table": (str, True, ()), "rows": (int, False, ())}
_PLACE = re.compile(r"%\((\w+)\)s")


def read_queries(directory: str | Path) -> list[dict[str, Any]]:
    """:param directory: the folder that ``pgops_sql`` names; it need not have queries.
    :return: the queries by name: ``name``, ``title``, ``query``, ``sample``, ``parameters``.
    :raises PgopsError: for the first fault, one sentence with file and line."""
    queries, findings = scan_queries(directory)
    raise_findings(findings)
    return queries


def scan_queries(directory: str | Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Read all queries and collect every fault."""
    queries: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for name, file, document in documents(directory, FOLDER, findings):
        before = len(findings)
        if check_keys(document, (), _KEYS, file, findings):
            _query(document, file, findings)
            _parameters(document, file, findings)
        if len(findings) == before:
            data = document.data
            queries.append({
                "name": name, "title": data["title"].strip(), "query": data["query"], "sample": data.get("sample") or {},
                "parameters": data.get("parameters") or {},
            })  # fmt: skip
    return queries, findings


def _query(document: Document, file: str, findings: list[Finding]) -> None:
    line = document.line("query")
    # A parameter by its place, as the grammar knows it.
    text = _PLACE.sub("$1", document.data["query"])
    statements, faults = sql_statements.split(text, file, lambda offset: line + 1 + text.count("\n", 0, offset))
    findings.extend(faults)
    select = sql_statements.grammar().ast.SelectStmt
    if len(statements) != 1 and not faults:
        findings.append(Finding(file, line, "check", f"one query stands in a file, not {len(statements)} statements"))
    elif statements and (not isinstance(statements[0].node, select) or statements[0].node.intoClause is not None):
        findings.append(Finding(file, line, "check", "a query only reads: write a SELECT"))


def _parameters(document: Document, file: str, findings: list[Finding]) -> None:
    data = document.data
    asked, given = set(_PLACE.findall(data["query"])), set(data.get("parameters") or {})
    if given and not data.get("sample"):
        line = document.line("parameters")
        findings.append(Finding(file, line, "check", "'sample' names the table that the parameters are taken from"))
    elif data.get("sample"):
        check_keys(document, ("sample",), _SAMPLE_KEYS, file, findings)
    for name in sorted(asked ^ given):
        why = (
            "is asked for and has no column under 'parameters'"
            if name in asked
            else "has a column, and the query does not ask for it"
        )
        findings.append(Finding(file, document.line("query"), "check", f"parameter {name} {why}"))
