# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The statements of a backfill: one a batch, bounded by its keys, and a way back or a word on why there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import sql_statements
from ansible_collections.whitecross.pgops.plugins.plugin_utils.batch_bounds import Bounds
from ansible_collections.whitecross.pgops.plugins.plugin_utils.findings import Finding
from ansible_collections.whitecross.pgops.plugins.plugin_utils.migration import METADATA, Migration
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import Statement


def render(
    migration: Migration, source: Mapping[str, Any], step: dict[str, Any], statements: Any, findings: list[Finding]
) -> None:
    """Put the statements of a backfill in the place of their files.

    :param source: the step as it was read.
    :param step: grows.
    :param statements: gives the statements of a file.
    """
    key = (source["key"],) if isinstance(source["key"], str) else tuple(source["key"])
    table = (str(source["schema"]), str(source["table"]))
    for name in ("statement", "down"):
        step[name] = _batch(migration, source[name], table, key, statements, findings) if source[name] else None
    if "remaining" in source:
        step["remaining"] = _remaining(migration, source["remaining"], statements, findings)


def _batch(
    migration: Migration,
    name: str,
    table: tuple[str, str],
    key: tuple[str, ...],
    statements: Any,
    findings: list[Finding],
) -> Statement | None:
    """The one statement of a backfill, bounded by both ends of the batch.

    :param table: (schema, name) of the table that is walked.
    :param key: its columns.
    """
    file = migration.location(name)
    found: list[Statement] = statements(name)
    if not found:
        return None
    if len(found) > 1:
        findings.append(
            Finding(file, found[1].line, "backfill", "a backfill is one statement; the engine loops over the batches")
        )
        return None
    bounds = Bounds(found[0].node, table, key)
    if bounds.fault:
        findings.append(Finding(file, found[0].line, "backfill", bounds.fault))
    return replace(found[0], rows=bounds.rows)


def _remaining(migration: Migration, name: str, statements: Any, findings: list[Finding]) -> Statement | None:
    """The query that counts the rows that are still to be changed."""
    found: list[Statement] = statements(name)
    if not found:
        return None
    node = found[0].node
    if (
        len(found) > 1
        or not isinstance(node, sql_statements.grammar().ast.SelectStmt)
        or node.intoClause is not None
        or sql_statements.parameters(found[0])
    ):
        fault = "'remaining' is one SELECT that returns the number of rows that are still to be changed"
        findings.append(Finding(migration.location(name), found[0].line, "backfill", fault))
    return found[0]


def check_way_back(migration: Migration, steps: Sequence[Mapping[str, Any]], findings: list[Finding]) -> None:
    """Refuse a backfill of which nobody says how its rows come back.

    It has a down of its own, or is ``irreversible``, or the migration says under ``rollback.stays`` what stays, or a way
    down of the migration names what it wrote: a column that is dropped, say, takes its values along.

    :param steps: rendered, in the order of the migration's.
    """
    if migration.rollback.get("safety") != "complete":
        return
    downs = " ".join(statement.sql for step in steps for statement in _downs(step))
    for source, step in zip(migration.steps, steps, strict=True):
        statement = step.get("statement") if step["kind"] == "backfill" else None
        if statement is None or step["down"] is not None or "irreversible" in step:
            continue
        written = _written(statement)
        left = [name for name in written if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", downs)]
        if left or not written:
            what = f"'{left[0]}'" if left else "what it does"
            fault = (
                f"the backfill has no 'down' although rollback.safety is 'complete', and no way down names {what}; write "
                "one, or say under 'irreversible' why the rows keep what they got"
            )
            findings.append(Finding(migration.location(METADATA), source["line"], "down-missing", fault))


def _downs(step: Mapping[str, Any]) -> list[Statement]:
    down = step.get("down")
    return [*down] if isinstance(down, list) else [down] if down is not None else []


def _written(statement: Statement) -> list[str]:
    """:return: the columns that a statement sets and the tables into or from which it puts or takes rows."""
    ast = sql_statements.grammar().ast
    found = []
    for node in sql_statements.walk(statement.node):
        if isinstance(node, ast.UpdateStmt):
            found += [target.name for target in node.targetList]
        elif isinstance(node, (ast.InsertStmt, ast.DeleteStmt)):
            found.append(node.relation.relname)
    return list(dict.fromkeys(found))
