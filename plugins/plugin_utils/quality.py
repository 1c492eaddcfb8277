# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ten criteria of quality for a migration tree, as a score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import OF_SQL, Finding

# Each rule of lint belongs to one of them; one finding loses it. docs/write-a-migration.md lists them.
_RISK = "Its risk in production is declared and bounded"
CRITERIA: dict[str, frozenset[str]] = {
    "Every change is a migration that can be read": frozenset(
        [
            "file",
            "file-twice",
            "file-unused",
            "symlink",
            "psql-command",
            "syntax",
            "template",
            "undefined-variable",
            "unknown-key",
            "unknown-variable",
            "variable",
            "wrong-type",
            "yaml",
        ]
    ),
    "Names are proper": frozenset(
        ["duplicate-index", "file-name", "identifier-length", "misnamed", "not-null-name", "version-twice"]
    ),
    "Each way up has its way down": frozenset(
        ["cascade", "down-missing", "empty", "file-missing", "label-mapping", "one-drop", "remove-labels", "rollback"]
    ),
    "A second run changes nothing": frozenset(["if-not-exists"]),
    "Foreign keys are sound": frozenset(
        ["foreign-key-rules", "foreign-key-types", "not-validated", "placeholder", "validate-unknown"]
    ),
    "Indexes are there and hold nobody up": frozenset(
        ["foreign-key-index", "index-blocking", "index-clock", "index-replaces"]
    ),
    "Rows change apart from the schema": frozenset(["backfill", "data-apart", "enum-value-used"]),
    "What a version did, and took back, can be tested": frozenset(
        ["check", "verify", "verify-columns", "verify-missing"]
    ),
    "The order is declared": frozenset(["depends-on"]),
    _RISK: frozenset(
        [
            "column-rewrite",
            "constraint-blocking",
            "destructive",
            "missing-key",
            "statement-refused",
            "step-kind",
            "wrong-value",
        ]
    ),
}


def score(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """:return: each criterion with ``title``, ``met``, and ``rules``: those that lost it."""
    broken = {finding.rule for finding in findings}
    # What the rules for SQL find is a risk in production.
    numbered = {rule for rule in broken if OF_SQL.fullmatch(rule)}
    lost = {title: (rules & broken) | (numbered if title == _RISK else set()) for title, rules in CRITERIA.items()}
    return [{"title": title, "met": not rules, "rules": sorted(rules)} for title, rules in lost.items()]
