# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for rows: whole tables in one statement, and rows that change under a lock (R41 to R43)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from .locks import strong_locks
from .row_scopes import BOUNDED, DOUBTFUL, UNBOUNDED
from .rows import changes, locked_by
from .rules import WARNING, Found, rule
from .session import Seen
from .tools import LEDGERS

_ROWS = ("UpdateStmt", "DeleteStmt", "MergeStmt", "InsertStmt", "SelectStmt", "CreateTableAsStmt", "CopyStmt")


def _changes(seen: Seen) -> Iterator[tuple[Any, str]]:
    """:return: each statement that changes rows that were there, those in a WITH or a COPY too, with how many."""
    for node, bound in changes(seen.node, seen.session, procedural=seen.procedural):
        if seen.session.existing(relation_name(node.relation)):
            yield node, bound


@rule("R41", *_ROWS)
def whole_table(seen: Seen) -> Iterator[Found]:
    """Rows of a whole table in one statement, or in one transaction of a loop. INSERT ... ON CONFLICT DO UPDATE locks each row that it
    meets, also one that its WHERE leaves as it is."""
    for node, bound in _changes(seen):
        table = relation_name(node.relation)
        word = type(node).__name__.removesuffix("Stmt").upper()
        if word == "INSERT":
            if bound == UNBOUNDED:
                yield Found(f"ON CONFLICT DO UPDATE may change every row of {table[1]} in one statement", table=table)
            elif bound == DOUBTFUL:
                yield Found(f"ON CONFLICT DO UPDATE may change many rows of {table[1]}", WARNING, table)
        elif bound == UNBOUNDED:
            yield Found(f"{word} of {table[1]} may change every row in one statement", table=table)
        elif bound == DOUBTFUL:
            yield Found(f"the condition of {word} may hold for many rows of {table[1]}", WARNING, table)
        elif seen.loop and not _one_row(node) and not (seen.few_turns and _by_value(node)):
            yield Found(
                f"the loop changes {table[1]} in batches but never commits: one transaction locks all", table=table
            )


def _by_value(node: Any) -> bool:
    """:return: whether it changes the rows of one value, as a turn of a loop has it."""
    g = grammar()
    where = getattr(node, "whereClause", None)
    if isinstance(where, g.ast.BoolExpr) and where.boolop == g.enums.BoolExprType.AND_EXPR:
        parts = where.args
    else:
        parts = (where,)
    return any(
        isinstance(part, g.ast.A_Expr)
        and part.kind.name == "AEXPR_OP"
        and part.name[-1].sval == "="
        and isinstance(part.rexpr, g.ast.ColumnRef)
        for part in parts
    )


def _one_row(node: Any) -> bool:
    """A loop over rows that changes one by its key is bounded by the loop."""
    ast = grammar().ast
    where = getattr(node, "whereClause", None)
    return (
        isinstance(where, ast.A_Expr)
        and where.kind.name == "AEXPR_OP"
        and isinstance(where.rexpr, (ast.A_Const, ast.ParamRef))
    )


@rule("R41", "SelectStmt")
def whole_table_locked(seen: Seen) -> Iterator[Found]:
    """SELECT ... FOR UPDATE of every row."""
    node = seen.node
    if (
        node.lockingClause
        and node.fromClause
        and locked_by(node, seen.session, procedural=seen.procedural) == UNBOUNDED
    ):
        source = node.fromClause[0]
        if isinstance(source, grammar().ast.RangeVar) and seen.session.existing(relation_name(source)):
            yield Found(f"it locks every row of {source.relname}", table=relation_name(source))


@rule("R42", *_ROWS)
def rows_under_a_lock(seen: Seen) -> Iterator[Found]:
    """Rows change in the transaction that has locked a table for a schema change."""
    held = _held(seen)
    if not held:
        return
    table, (mode, line) = held
    for node, bound in _changes(seen):
        if isinstance(node, grammar().ast.InsertStmt) or node.relation.relname.lower() in LEDGERS:
            continue
        message = f"rows of {node.relation.relname} change while {mode} on {table[1]} of line {line} is held"
        yield Found(message, WARNING if bound == BOUNDED else None, table=relation_name(node.relation))
    ast = grammar().ast
    if isinstance(seen.node, ast.InsertStmt):
        source = seen.node.selectStmt
        if source is not None and source.fromClause and source.limitCount is None and _reads_existing(seen, source):
            yield Found(f"rows are copied while {mode} on {table[1]} of line {line} is held", table=table)


@rule(
    "R43",
    "AlterTableStmt",
    "VacuumStmt",
    "SelectStmt",
    "IndexStmt",
    "CreateTableAsStmt",
    "CopyStmt",
    "RefreshMatViewStmt",
)
def slow_under_a_lock(seen: Seen) -> Iterator[Found]:
    """Something that takes its time runs in the transaction that has locked a table."""
    held = _held(seen)
    if not held:
        return
    table, (mode, line) = held
    ast, node = grammar().ast, seen.node
    slow = None
    if isinstance(node, ast.SelectStmt):
        if _sleeps(node):
            slow = "pg_sleep"
        elif node.fromClause and node.limitCount is None and _reads_existing(seen, node) and _whole(node):
            slow = "a query over a whole table"
    elif isinstance(node, ast.IndexStmt):
        if seen.session.existing(relation_name(node.relation)) and not node.concurrent:
            slow = "an index build"
    elif isinstance(node, ast.AlterTableStmt):
        # Of the table itself it is R19.
        validates = any(command.subtype.name == "AT_ValidateConstraint" for command in node.cmds or ())
        other = relation_name(node.relation)
        if validates and seen.session.existing(other) and seen.transaction and other not in seen.transaction.locked:
            slow = f"VALIDATE of {other[1]}"
    elif isinstance(node, ast.VacuumStmt):
        slow = None if node.is_vacuumcmd else "ANALYZE"
    elif isinstance(node, ast.CreateTableAsStmt):
        if _reads_existing(seen, node.query):
            slow = "a copy of a table"
    else:
        slow = "COPY" if isinstance(node, ast.CopyStmt) else "REFRESH"
    if slow:
        yield Found(f"{slow} runs while {mode} on {table[1]} of line {line} is held", table=table)


def _held(seen: Seen) -> Any:
    """:return: a table that the transaction has locked for a schema change, with lock and line."""
    transaction = seen.transaction
    if transaction is None or seen.handler:
        return None
    own = {table for table, _ in strong_locks(seen.node)}
    return next(((table, held) for table, held in transaction.locked.items() if table not in own), None) or next(
        iter(transaction.locked.items()), None
    )


def _sleeps(node: Any) -> bool:
    ast = grammar().ast
    return any(isinstance(item, ast.FuncCall) and item.funcname[-1].sval.startswith("pg_sleep") for item in walk(node))


def _whole(node: Any) -> bool:
    """:return: whether it counts or sorts a whole table: without a condition at all."""
    return node.whereClause is None


def _reads_existing(seen: Seen, node: Any) -> bool:
    ast = grammar().ast
    for item in walk(node):
        if not isinstance(item, ast.RangeVar) or item.schemaname in ("pg_catalog", "information_schema"):
            continue
        if not item.relname.startswith("pg_") and seen.session.existing(relation_name(item)):
            return True
    return False
