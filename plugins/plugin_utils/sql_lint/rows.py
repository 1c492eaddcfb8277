# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a statement changes a bounded number of rows, as far as its text tells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from .session import Session

BOUNDED, DOUBTFUL, UNBOUNDED = "bounded", "doubtful", "unbounded"
# A value of these is shared by many rows.
_FEW_VALUES = (
    "status",
    "state",
    "type",
    "kind",
    "role",
    "category",
    "country",
    "active",
    "enabled",
    "deleted",
    "archived",
    "level",
)
_ORDERS = {"<", "<=", ">", ">="}


def bound_of(node: Any, session: Session, *, procedural: bool = False) -> str:
    """:param node: an UPDATE, DELETE or MERGE.
    :param procedural: names may be variables of the block around it.
    :return: BOUNDED, UNBOUNDED, or DOUBTFUL where a condition is there that may hold for every row."""
    ast = grammar().ast
    reader = _Bounds(session, procedural, [node.withClause] if node.withClause else [])
    if isinstance(node, ast.MergeStmt):
        if isinstance(node.joinCondition, ast.A_Const):
            return UNBOUNDED
        if reader.source(node.sourceRelation):
            return BOUNDED
        # Like DELETE ... USING: a source that nothing bounds matches every row, and no row comes back.
        takes = any(
            when.commandType == grammar().enums.CmdType.CMD_DELETE and when.condition is None
            for when in node.mergeWhenClauses
        )
        return UNBOUNDED if takes else DOUBTFUL
    sources = node.fromClause if isinstance(node, ast.UpdateStmt) else node.usingClause
    if any(reader.source(source) for source in sources or ()):
        return BOUNDED
    if node.whereClause is None:
        return UNBOUNDED
    return reader.condition(node.whereClause)


class _Bounds:
    def __init__(self, session: Session, procedural: bool, withs: Iterable[Any]) -> None:
        self.session, self.procedural = session, procedural
        self.bounded_names: set[str] = set()
        for clause in withs:
            for cte in clause.ctes or ():
                query = cte.ctequery
                changes = not isinstance(query, grammar().ast.SelectStmt)
                if (
                    (changes and bound_of(query, session, procedural=procedural) == BOUNDED)
                    if _is_dml(query)
                    else self.query(query)
                ):
                    self.bounded_names.add(cte.ctename)

    def source(self, node: Any) -> bool:
        """:return: whether a relation that is joined has few rows."""
        ast = grammar().ast
        if isinstance(node, ast.RangeVar):
            return node.relname in self.bounded_names or self.session.made(relation_name(node))
        if isinstance(node, ast.RangeSubselect):
            return self.query(node.subquery)
        if isinstance(node, ast.JoinExpr):
            return self.source(node.larg) or self.source(node.rarg)
        if isinstance(node, ast.RangeFunction):
            return not any(isinstance(n, ast.FuncCall) and n.funcname[-1].sval == "generate_series" for n in walk(node))
        return False

    def query(self, node: Any) -> bool:
        """:return: whether a SELECT returns few rows."""
        ast = grammar().ast
        if not isinstance(node, ast.SelectStmt):
            return False
        if node.limitCount is not None or node.valuesLists:
            return True
        if node.fromClause is None:
            return node.larg is None
        if node.targetList and all(_is_aggregate(target.val) for target in node.targetList) and not node.groupClause:
            return True
        if any(self.source(source) for source in node.fromClause):
            return True
        return node.whereClause is not None and self.condition(node.whereClause) == BOUNDED

    def condition(self, node: Any) -> str:
        """:return: how far a WHERE narrows the rows."""
        ast, enums = grammar().ast, grammar().enums
        if isinstance(node, ast.BoolExpr):
            if node.boolop == enums.BoolExprType.AND_EXPR:
                if _both_ends(node.args):
                    return BOUNDED
                found = [self.condition(argument) for argument in node.args]
                return min(found, key=[BOUNDED, DOUBTFUL, UNBOUNDED].index)
            if node.boolop == enums.BoolExprType.OR_EXPR:
                found = [self.condition(argument) for argument in node.args]
                return max(found, key=[BOUNDED, DOUBTFUL, UNBOUNDED].index)
            return UNBOUNDED
        if isinstance(node, ast.CurrentOfExpr):
            return BOUNDED
        if isinstance(node, ast.SubLink):
            # x IN (SELECT ...)
            kind = node.subLinkType.name
            if kind == "ANY_SUBLINK":
                return BOUNDED if self.query(node.subselect) else DOUBTFUL
            return UNBOUNDED
        if isinstance(node, ast.A_Expr):
            return self._comparison(node)
        return UNBOUNDED

    def _comparison(self, node: Any) -> str:
        ast = grammar().ast
        kind, operator = node.kind.name, node.name[-1].sval if node.name else ""
        column, other = (node.lexpr, node.rexpr)
        if not isinstance(column, (ast.ColumnRef, ast.RowExpr)) and isinstance(other, ast.ColumnRef):
            column, other = other, column
        if not isinstance(column, (ast.ColumnRef, ast.RowExpr)):
            return UNBOUNDED
        name = (
            column.fields[-1].sval if isinstance(column, ast.ColumnRef) and hasattr(column.fields[-1], "sval") else ""
        )
        if kind in ("AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"):
            return BOUNDED if _is_key(name) or self.procedural else DOUBTFUL
        if kind == "AEXPR_IN":
            return DOUBTFUL if operator == "<>" or _few_values(name) else BOUNDED
        if kind == "AEXPR_OP_ANY" and operator == "=":
            if isinstance(other, ast.SubLink) or any(isinstance(item, ast.SubLink) for item in walk(other)):
                inner = next(item for item in walk(other) if isinstance(item, ast.SubLink))
                return BOUNDED if self.query(inner.subselect) else DOUBTFUL
            return BOUNDED
        if kind != "AEXPR_OP":
            return UNBOUNDED
        if operator == "=":
            return self._equal(name, other)
        if operator in ("<", "<=") and _is_key(name) and isinstance(other, ast.A_Const):
            return BOUNDED
        return UNBOUNDED

    def _equal(self, name: str, other: Any) -> str:
        ast = grammar().ast
        if isinstance(other, ast.SubLink):
            return BOUNDED
        if isinstance(other, ast.ColumnRef):
            return BOUNDED if self.procedural else UNBOUNDED
        value = other.arg if isinstance(other, ast.TypeCast) else other
        if isinstance(value, ast.A_Const) and getattr(value.val, "boolval", None) is not None:
            return UNBOUNDED
        if isinstance(value, (ast.A_Const, ast.ParamRef, ast.FuncCall)):
            return DOUBTFUL if _few_values(name) else BOUNDED
        return UNBOUNDED


def _is_dml(node: Any) -> bool:
    ast = grammar().ast
    return isinstance(node, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt))


def _is_aggregate(node: Any) -> bool:
    return isinstance(node, grammar().ast.FuncCall) and node.funcname[-1].sval in ("min", "max", "count", "sum", "avg")


def _is_key(name: str) -> bool:
    lower = name.lower()
    return lower in ("id", "uuid", "key", "pk", "ctid") or lower.endswith(("_id", "id", "_no", "_key"))


def _few_values(name: str) -> bool:
    lower = name.lower()
    return any(lower == word or lower.endswith("_" + word) or lower.startswith("is_") for word in _FEW_VALUES)


def _both_ends(arguments: Iterable[Any]) -> bool:
    """:return: whether one key is held from below and from above."""
    ast = grammar().ast
    below: set[str] = set()
    above: set[str] = set()
    for node in arguments:
        if (
            isinstance(node, ast.A_Expr)
            and node.name
            and node.name[-1].sval in _ORDERS
            and isinstance(node.lexpr, ast.ColumnRef)
        ):
            name = getattr(node.lexpr.fields[-1], "sval", "")
            (below if node.name[-1].sval.startswith(">") else above).add(name)
    return any(_is_key(name) for name in below & above)
