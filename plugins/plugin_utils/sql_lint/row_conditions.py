# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a condition narrows the rows of a relation: the table of decisions stands in ``rows``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from . import row_expressions as text
from .locks import Relation
from .plpgsql_variables import Definition
from .row_scopes import BOUNDED, DOUBTFUL, UNBOUNDED, Names, Scope, best, worst
from .session import Session

# Keys in one statement: up to the first an ordinary batch, above the second none, whatever the table.
ORDINARY_BATCH = 10_000
LARGEST_BATCH = 100_000
_DEEPEST = 6
_COLLECTING = ("array_agg", "string_agg", "json_agg", "jsonb_agg")
# How many rows there are, or the last number of a sequence, as the server keeps it.
_COUNTS = ("reltuples", "n_live_tup", "last_value")


class Conditions(ABC):
    """Reads conditions; what they ask of queries is told by who reads those."""

    def __init__(self, session: Session, procedural: bool, table: Relation | None = None) -> None:
        self.session, self.procedural = session, procedural
        self.table, self.depth = table, 0
        # The definitions that are looked into.
        self.asked: list[Definition] = []
        facts = session.table_facts(table) if table is not None else None
        # 0 where nobody knows.
        self.rows = int(facts["rows"]) if facts is not None else 0

    def few(self, number: float) -> bool:
        """:return: whether so many keys are a batch; of a table that the catalog knows it is not half of its rows or more."""
        whole = 0 < self.rows <= 2 * number
        return number <= ORDINARY_BATCH or (number <= LARGEST_BATCH and not whole)

    @abstractmethod
    def size(self, query: Any, names: Names, *, outer: Scope | None = None, whole: bool = False) -> str:
        """:return: how many rows a query returns."""

    @abstractmethod
    def read(self, query: Any, names: Names, outer: Scope | None = None) -> Scope:
        """:param names: those of its own WITH among them.
        :return: the relations of a query with their grades."""

    @abstractmethod
    def learned(self, query: Any, names: Names) -> Names:
        """:return: the names with those of the query's own WITH."""

    # --- conditions ----------------------------------------------------------------------------------------------------

    def narrowed(self, nodes: list[Any], alias: str, scope: Scope) -> str:
        """:return: how far conditions narrow a relation together."""
        spans = [self._span(lower, upper, alias, scope) for lower, upper in self._both_ends(nodes, alias, scope)]
        return best(*spans, *(self._condition(node, alias, scope) for node in nodes))

    def _condition(self, node: Any, alias: str, scope: Scope) -> str:
        """:return: how far a condition narrows a relation."""
        ast, enums = grammar().ast, grammar().enums
        if isinstance(node, ast.BoolExpr):
            if node.boolop == enums.BoolExprType.AND_EXPR:
                return self.narrowed(list(node.args), alias, scope)
            if node.boolop == enums.BoolExprType.OR_EXPR:
                return worst(*(self._condition(argument, alias, scope) for argument in node.args))
            return UNBOUNDED
        if isinstance(node, ast.CurrentOfExpr):
            return BOUNDED
        if isinstance(node, ast.SubLink):
            return self._asks(node, alias, scope)
        if not isinstance(node, ast.A_Expr):
            return UNBOUNDED
        kind, sign = node.kind.name, node.name[-1].sval if node.name else ""
        if kind == "AEXPR_OP" and isinstance(node.lexpr, ast.RowExpr) and isinstance(node.rexpr, ast.RowExpr):
            pairs = zip(node.lexpr.args, node.rexpr.args, strict=False)
            return best(*(self._equal(a, b, alias, scope) for a, b in pairs)) if sign == "=" else UNBOUNDED
        if kind in ("AEXPR_OP", "AEXPR_NOT_DISTINCT"):
            if sign == "=" or kind == "AEXPR_NOT_DISTINCT":
                sides = ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr))
                return best(*(self._equal(column, other, alias, scope) for column, other in sides))
            return self._below(node, alias, scope)
        if kind == "AEXPR_IN" and sign == "=":
            return worst(*(self._equal(node.lexpr, value, alias, scope) for value in node.rexpr))
        if kind == "AEXPR_OP_ANY" and sign == "=":
            queries = [item.subselect for item in text.direct(node.rexpr) if isinstance(item, ast.SubLink)]
            queries += self._collected(node.rexpr, scope)
            among = [self._among(query, scope) for query in queries]
            return worst(self._equal(node.lexpr, node.rexpr, alias, scope), *among)
        if kind in ("AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"):
            column = self._own(node.lexpr, alias, scope)
            if column is None:
                return UNBOUNDED
            if not text.is_key(column) and not self.procedural:
                return DOUBTFUL
            lower, upper = node.rexpr
            return self._span(lower, upper, alias, scope)
        return UNBOUNDED

    def _own(self, node: Any, alias: str, scope: Scope) -> str | None:
        """:return: the name of the column that is compared, where it is one of the relation."""
        ref = text.compared(node)
        return text.column_name(ref) if ref is not None and scope.owner(ref) == alias else None

    def _equal(self, column: Any, other: Any, alias: str, scope: Scope) -> str:
        name = self._own(column, alias, scope)
        if name is None or text.is_boolean(other):
            return UNBOUNDED
        known = self._known(other, alias, scope, name)
        if self._numbered(text.compared(column), scope):
            # A place among others of its kind: each kind has one.
            return worst(known, DOUBTFUL)
        return worst(known, DOUBTFUL) if text.shared(name, other) else known

    def _known(self, value: Any, alias: str, scope: Scope, left: str) -> str:
        """:return: how many values an expression has over all rows: as the relations of its columns."""
        ast = grammar().ast
        grades = [BOUNDED]
        for ref in walk(value):
            if not isinstance(ref, ast.ColumnRef) or not hasattr(ref.fields[-1], "sval"):
                continue
            owner = scope.owner(ref)
            inside = any(isinstance(item, ast.SubLink) for item in text.direct(value))
            if owner is None or (len(ref.fields) == 1 and (inside or self._variable(ref, left, scope))):
                continue
            grades.append(UNBOUNDED if owner == alias else scope.grade(owner))
        return worst(*grades)

    def _definition(self, ref: Any, scope: Scope) -> Definition | None:
        """:return: what stands behind a column of a query, or a variable that is filled in one place."""
        fields = [part.sval for part in ref.fields if hasattr(part, "sval")]
        variables = self.session.variables or {}
        if len(fields) == 1 and fields[0] in variables:
            return variables[fields[0]]
        owner = scope.owner(ref)
        record = variables.get(fields[-2]) if len(fields) == 2 and owner is None else None
        query = scope.query(owner) if owner is not None else (record.query if record is not None else None)
        value = text.output(query, fields[-1]) if query is not None and fields else None
        return Definition(query, value) if value is not None else None

    def _collected(self, node: Any, scope: Scope) -> list[Any]:
        """:return: the queries behind columns and variables that hold an array of all their rows."""
        refs = [item for item in text.direct(node) if isinstance(item, grammar().ast.ColumnRef)]
        found = [self._definition(ref, scope) for ref in refs]
        return [d.query for d in found if d is not None and d.query.fromClause and _collects(d.query)]

    def _numbered(self, ref: Any, scope: Scope) -> bool:
        """:return: whether a column is made by a window function."""
        definition = self._definition(ref, scope)
        return definition is not None and getattr(definition.value, "over", None) is not None

    def _variable(self, ref: Any, left: str, scope: Scope) -> bool:
        """A variable with the name of the column is the column in SQL, and refused (42702) in PL/pgSQL."""
        name = text.column_name(ref)
        if self.session.variables is not None:
            return name != left and name in self.session.variables
        return self.procedural and name != left and not scope.is_known(name)

    def _among(self, query: Any, scope: Scope) -> str:
        """:return: how far IN (SELECT ...) narrows the rows; with a LIMIT of everything not at all."""
        outer = scope if self._looks_out(query, scope) else None
        size = self.size(query, scope.names, outer=outer, whole=_collects(query))
        if size != UNBOUNDED:
            return size
        reads = [relation_name(item) for item in walk(query) if isinstance(item, grammar().ast.RangeVar)]
        if query.whereClause is None and self.table in reads:
            # The table's own rows, all of them.
            return UNBOUNDED
        return DOUBTFUL if query.limitCount is None and query.fromClause and outer is None else UNBOUNDED

    def _looks_out(self, query: Any, scope: Scope) -> bool:
        """:return: whether a query has a column of a relation outside of it, by that relation's name."""
        ast = grammar().ast
        inside = {
            item.alias.aliasname if item.alias is not None else getattr(item, "relname", "")
            for item in walk(query)
            if isinstance(item, (ast.RangeVar, ast.RangeSubselect, ast.RangeFunction))
        }
        refs = [item.fields for item in walk(query) if isinstance(item, ast.ColumnRef) and len(item.fields) > 1]
        around: set[str] = set()
        outer: Scope | None = scope
        while outer is not None:
            around |= set(outer.grades)
            outer = outer.outer
        return any(getattr(fields[-2], "sval", "") in around - inside for fields in refs)

    def _asks(self, node: Any, alias: str, scope: Scope) -> str:
        """IN (SELECT ...) and EXISTS (SELECT ...)."""
        ast, kind, query = grammar().ast, node.subLinkType.name, node.subselect
        if kind == "ANY_SUBLINK" and (not node.operName or node.operName[-1].sval == "="):
            tested = node.testexpr.args if isinstance(node.testexpr, ast.RowExpr) else (node.testexpr,)
            names = [name for item in tested if (name := self._own(item, alias, scope)) is not None]
            if not names:
                return UNBOUNDED
            among = self._among(query, scope)
            return worst(among, DOUBTFUL) if all(text.shared(name, None) for name in names) else among
        if kind == "EXISTS_SUBLINK" and query.fromClause and query.larg is None and self.depth < _DEEPEST:
            # Each level asks the next for each of its relations.
            self.depth += 1
            inner = self.read(query, self.learned(query, scope.names), scope)
            joined = alias not in inner.grades and query.whereClause is not None
            found = self._condition(query.whereClause, alias, inner) if joined else UNBOUNDED
            self.depth -= 1
            return found
        return UNBOUNDED

    # --- ends ----------------------------------------------------------------------------------------------------------

    def _both_ends(self, nodes: list[Any], alias: str, scope: Scope) -> list[tuple[Any, Any]]:
        """:return: the two ends of each key that is held from below and from above."""
        below: dict[str, Any] = {}
        above: dict[str, Any] = {}
        for node in nodes:
            if not isinstance(node, grammar().ast.A_Expr) or node.kind.name != "AEXPR_OP" or node.lexpr is None:
                continue
            for column, sign, other in text.comparison(node):
                name = text.column_name(column)
                if sign != "=" and text.is_key(name) and scope.owner(column) == alias:
                    (below if sign.startswith(">") else above).setdefault(name, other)
                    break
        return [(end, above[name]) for name, end in below.items() if name in above]

    def _below(self, node: Any, alias: str, scope: Scope) -> str:
        for column, sign, other in text.comparison(node) if node.lexpr is not None else ():
            name = text.column_name(column)
            if sign.startswith("<") and text.is_key(name) and scope.owner(column) == alias:
                ast = grammar().ast
                batch = isinstance(other, ast.SubLink) and self._ends_a_batch(other.subselect, scope.names)
                if batch or text.number(other) is not None:
                    # A sequence begins with 1.
                    return self._span(None, other, alias, scope)
        return UNBOUNDED

    def _ends_a_batch(self, query: Any, names: Names) -> bool:
        """:return: whether a query of one key looks for the last of a batch: after OFFSET rows, or among a LIMIT of them."""
        offset = text.number(query.limitOffset)
        if query.limitOffset is not None:
            return offset is None or self.few(offset)
        return bool(query.fromClause) and self.size(query, names, whole=True) == BOUNDED and query.limitCount is None

    def _span(self, lower: Any, upper: Any, alias: str, scope: Scope) -> str:
        """:return: how far a key between two ends narrows the rows; ends that only the run knows count as a batch's."""
        first, last = 1.0 if lower is None else text.number(lower), text.number(upper)
        if first is not None and last is not None:
            return BOUNDED if self.few(abs(last - first)) else UNBOUNDED
        from_the_first = first is not None or self._end_of_all(lower, "min", scope)
        return UNBOUNDED if from_the_first and self._end_of_all(upper, "max", scope) else BOUNDED

    def _end_of_all(self, node: Any, word: str, scope: Scope) -> bool:
        """:return: whether the first or last key of a whole table is in it, in a query or a column of one."""
        ast = grammar().ast
        if isinstance(node, ast.MinMaxExpr) and (node.op.name == "IS_LEAST") == (word == "max"):
            # The nearer of several ends: each must be one.
            return all(self._end_of_all(argument, word, scope) for argument in node.args)
        if isinstance(node, ast.SubLink):
            query = node.subselect
            value = query.targetList[0].val if isinstance(query, ast.SelectStmt) and query.targetList else None
            return self._extreme(query, value, word, scope.names)
        if isinstance(node, ast.ColumnRef) and hasattr(node.fields[-1], "sval"):
            found = self._definition(node, scope)
            return found is not None and found.value is not None and self._defined_by_all(found, word, scope)
        if isinstance(node, tuple):
            return any(self._end_of_all(item, word, scope) for item in node)
        return isinstance(node, ast.Node) and any(self._end_of_all(getattr(node, s), word, scope) for s in node)

    def _defined_by_all(self, found: Definition, word: str, scope: Scope) -> bool:
        if any(found.value is one.value for one in self.asked):
            # A variable whose own query asks for it.
            return False
        self.asked.append(found)
        try:
            if found.query.fromClause:
                return self._extreme(found.query, found.value, word, scope.names)
            # v := (SELECT ...)
            return isinstance(found.value, grammar().ast.SubLink) and self._end_of_all(found.value, word, scope)
        finally:
            self.asked.pop()

    def _extreme(self, query: Any, value: Any, word: str, names: Names) -> bool:
        ast = grammar().ast
        words = ("max", "count") if word == "max" else ("min",)
        if any(isinstance(i, ast.FuncCall) and i.funcname[-1].sval in words for i in text.direct(value)):
            return self.size(query, names, whole=True) == UNBOUNDED
        columns = [i for i in text.direct(value) if isinstance(i, ast.ColumnRef)]
        if word == "max" and any(text.column_name(i) in _COUNTS for i in columns):
            return True
        order = query.sortClause[0].sortby_dir.name if query.sortClause else ""
        if text.number(query.limitCount) != 1 or query.limitOffset is not None or not order:
            return False
        reads = self.read(query, self.learned(query, names))
        down = order == "SORTBY_DESC"
        return down == (word == "max") and worst(*reads.grades.values()) == UNBOUNDED


def _collects(query: Any) -> bool:
    """:return: whether it puts many values into one: array_agg() and the like."""
    ast = grammar().ast
    targets = query.targetList or () if isinstance(query, ast.SelectStmt) else ()
    calls = [item for target in targets for item in text.direct(target.val) if isinstance(item, ast.FuncCall)]
    return any(call.funcname[-1].sval in _COLLECTING for call in calls)
