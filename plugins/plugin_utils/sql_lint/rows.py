# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a statement changes a bounded number of rows, as far as its text tells."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from .locks import Relation
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
_SUMS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_ORDERS = {"<", "<=", ">", ">="}
# Keys in one statement: up to the first an ordinary batch, above the second none, whatever the table.
ORDINARY_BATCH = 10_000
LARGEST_BATCH = 100_000


def bound_of(node: Any, session: Session, *, procedural: bool = False) -> str:
    """:param node: an UPDATE, DELETE or MERGE.
    :param procedural: names may be variables of the block around it.
    :return: BOUNDED, UNBOUNDED, or DOUBTFUL where a condition is there that may hold for every row."""
    ast = grammar().ast
    reader = _Bounds(session, procedural, relation_name(node.relation), node.withClause)
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


def bound_of_upsert(node: Any, session: Session, *, procedural: bool = False) -> str:
    """:param node: an INSERT.
    :return: how many rows that were there its ON CONFLICT DO UPDATE may change, as ``bound_of``; BOUNDED without one."""
    conflict, source = node.onConflictClause, node.selectStmt
    if conflict is None or conflict.action != grammar().enums.OnConflictAction.ONCONFLICT_UPDATE or source is None:
        return BOUNDED
    reader = _Bounds(session, procedural, relation_name(node.relation), node.withClause)
    if reader.query(source):
        return BOUNDED
    return DOUBTFUL if source.whereClause is not None else UNBOUNDED


def is_limited(node: Any) -> bool:
    """:return: whether a SELECT has a LIMIT that is one: not ALL, nor more than any batch has."""
    if node.limitCount is None:
        return False
    number = _number(node.limitCount)
    return not getattr(node.limitCount, "isnull", False) and (number is None or number <= LARGEST_BATCH)


class _Bounds:
    def __init__(self, session: Session, procedural: bool, table: Relation, withs: Any) -> None:
        self.session, self.procedural = session, procedural
        facts = session.table_facts(table)
        # 0 where nobody knows.
        self.rows = int(facts["rows"]) if facts is not None else 0
        self.bounded_names: set[str] = set()
        self._learn(withs)

    def _learn(self, clause: Any) -> None:
        """Which names of a WITH have few rows."""
        for cte in clause.ctes or () if clause is not None else ():
            query = cte.ctequery
            if (
                bound_of(query, self.session, procedural=self.procedural) == BOUNDED
                if _is_dml(query)
                else self.query(query)
            ):
                self.bounded_names.add(cte.ctename)

    def few(self, number: float) -> bool:
        """:return: whether so many keys are a batch; of a table that the catalog knows it is not half of its rows or more."""
        whole = 0 < self.rows <= 2 * number
        return number <= ORDINARY_BATCH or (number <= LARGEST_BATCH and not whole)

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
            series = [n for n in walk(node) if isinstance(n, ast.FuncCall) and n.funcname[-1].sval == "generate_series"]
            ends = [[_number(argument) for argument in call.args[:2]] for call in series]
            return all(None not in pair and self.few(abs(pair[-1] - pair[0])) for pair in ends)
        return False

    def query(self, node: Any) -> bool:
        """:return: whether a SELECT returns few rows."""
        ast = grammar().ast
        if not isinstance(node, ast.SelectStmt):
            return False
        self._learn(node.withClause)
        number = _number(node.limitCount)
        if node.valuesLists or (is_limited(node) and (number is None or self.few(number))):
            return True
        if node.fromClause is None:
            return node.larg is None or (self.query(node.larg) and self.query(node.rarg))
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
                if any(self._span(lower, upper) == BOUNDED for lower, upper in _both_ends(node.args)):
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
                return self._among(node.subselect)
            return UNBOUNDED
        if isinstance(node, ast.A_Expr):
            return self._comparison(node)
        return UNBOUNDED

    def _comparison(self, node: Any) -> str:
        ast = grammar().ast
        kind, sign = node.kind.name, node.name[-1].sval if node.name else ""
        column, other = (node.lexpr, node.rexpr)
        if not isinstance(column, (ast.ColumnRef, ast.RowExpr)) and isinstance(other, ast.ColumnRef):
            column, other = other, column
        if not isinstance(column, (ast.ColumnRef, ast.RowExpr)):
            return UNBOUNDED
        name = (
            column.fields[-1].sval if isinstance(column, ast.ColumnRef) and hasattr(column.fields[-1], "sval") else ""
        )
        if kind in ("AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"):
            if not _is_key(name) and not self.procedural:
                return DOUBTFUL
            return self._span(*other)
        if kind == "AEXPR_IN":
            return DOUBTFUL if sign == "<>" or _few_values(name) else BOUNDED
        if kind == "AEXPR_OP_ANY" and sign == "=":
            if isinstance(other, ast.SubLink) or any(isinstance(item, ast.SubLink) for item in walk(other)):
                inner = next(item for item in walk(other) if isinstance(item, ast.SubLink))
                return self._among(inner.subselect)
            return BOUNDED
        if kind != "AEXPR_OP":
            return UNBOUNDED
        if sign == "=":
            return self._equal(name, other)
        if sign in ("<", "<=") and _is_key(name) and (isinstance(other, ast.A_Const) or _number(other) is not None):
            # A sequence begins with 1.
            return self._span(None, other)
        return UNBOUNDED

    def _among(self, query: Any) -> str:
        """:return: how far IN (SELECT ...) narrows the rows; with a LIMIT of everything not at all."""
        if self.query(query):
            return BOUNDED
        return DOUBTFUL if query.limitCount is None else UNBOUNDED

    def _span(self, lower: Any, upper: Any) -> str:
        """:return: how far a key between two ends narrows the rows; ends that only the run knows count as a batch's."""
        first, last = 1.0 if lower is None else _number(lower), _number(upper)
        if first is not None and last is not None:
            return BOUNDED if self.few(abs(last - first)) else UNBOUNDED
        from_the_first = first is not None or self._end_of_all(lower, "min")
        return UNBOUNDED if from_the_first and self._end_of_all(upper, "max") else BOUNDED

    def _end_of_all(self, node: Any, word: str) -> bool:
        """:return: whether it is (SELECT min(id) FROM t), or max: the first or last key of a whole table."""
        ast = grammar().ast
        if not isinstance(node, ast.SubLink) or len(node.subselect.targetList or ()) != 1:
            return False
        query, value = node.subselect, node.subselect.targetList[0].val
        if isinstance(value, ast.CoalesceExpr):
            value = value.args[0]
        if not isinstance(value, ast.FuncCall) or value.funcname[-1].sval != word:
            return False
        few = any(self.source(source) for source in query.fromClause or ())
        return not few and (query.whereClause is None or self.condition(query.whereClause) == UNBOUNDED)

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


def _both_ends(arguments: Iterable[Any]) -> list[tuple[Any, Any]]:
    """:return: the two ends of each key that is held from below and from above."""
    ast = grammar().ast
    below: dict[str, Any] = {}
    above: dict[str, Any] = {}
    for node in arguments:
        if (
            isinstance(node, ast.A_Expr)
            and node.name
            and node.name[-1].sval in _ORDERS
            and isinstance(node.lexpr, ast.ColumnRef)
        ):
            name = getattr(node.lexpr.fields[-1], "sval", "")
            (below if node.name[-1].sval.startswith(">") else above)[name] = node.rexpr
    return [(end, above[name]) for name, end in below.items() if name in above and _is_key(name)]


def _number(node: Any) -> float | None:
    """:return: what a constant is as a number, also one in quotes; None where it is none."""
    ast = grammar().ast
    while isinstance(node, ast.TypeCast):
        node = node.arg
    if isinstance(node, ast.A_Expr) and node.name and node.name[-1].sval in _SUMS and node.lexpr is not None:
        left, right = _number(node.lexpr), _number(node.rexpr)
        return _SUMS[node.name[-1].sval](left, right) if left is not None and right is not None else None
    constant = getattr(node, "val", None) if isinstance(node, ast.A_Const) else None
    for name in ("ival", "fval", "sval"):
        value = getattr(constant, name, None)
        if value is not None:
            return float(value) if re.fullmatch(r"[+-]?\d{1,30}(\.\d+)?", str(value)) else None
    return None
