# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What bounds the rows that a statement touches, as far as its text tells.

A statement joins the rows of its target with its sources (FROM, USING, WITH, a query in IN or EXISTS). A row is touched where the
condition holds, so only a condition on a column of the *target* bounds anything; how few rows a source has decides nothing by
itself. Each relation of a statement gets a grade, again and again until none becomes better:

==============================================================  ==========================================================
what is there                                                   the relation of the column is
==============================================================  ==========================================================
no condition; NOT, <>, IS NULL, LIKE, an operator of its own    UNBOUNDED: nobody knows for how many rows it holds
column = value, IN (values), = ANY (values)                     BOUNDED; DOUBTFUL where many rows share a value (status, '', 0)
column = what has no column: a variable, a query of one row     BOUNDED
column = a column of another relation                           as that relation, at best
column = another column of its own, or of an UNBOUNDED one      UNBOUNDED
key BETWEEN a AND b, key > a AND key <= b                       BOUNDED up to a batch; UNBOUNDED above it, and where the ends are
                                                                the first and the last of all (min, max, count, ORDER BY LIMIT 1)
key < n                                                         as BETWEEN 1 AND n: a sequence begins with 1
another column BETWEEN                                          DOUBTFUL
column IN (query)                                               as the query; DOUBTFUL where that has no bound
EXISTS (query)                                                  as the join with it
a AND b                                                         the better of the two
a OR b                                                          the worse
==============================================================  ==========================================================

A source has few rows (it is BOUNDED) by a LIMIT that is one, VALUES, no FROM, an aggregate of all, a series of a batch, by its own
conditions as above, or as a table that this file made and filled with few rows. A query that looks at a row outside of it is run for
each row: its LIMIT bounds nothing. Of an outer join only the side that may be missing is bounded by ON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from . import row_expressions as text
from .locks import Relation
from .session import Session

BOUNDED, DOUBTFUL, UNBOUNDED = "bounded", "doubtful", "unbounded"
_GRADES = [BOUNDED, DOUBTFUL, UNBOUNDED]
# Keys in one statement: up to the first an ordinary batch, above the second none, whatever the table.
ORDINARY_BATCH = 10_000
LARGEST_BATCH = 100_000


class Named(NamedTuple):
    """A name of a WITH."""

    grade: str
    columns: tuple[str, ...] | None
    query: Any


Names = Mapping[str, Named]


def changes(node: Any, session: Session, *, procedural: bool = False) -> Iterator[tuple[Any, str]]:
    """:param node: a statement.
    :param procedural: names may be variables of the block around it.
    :return: each UPDATE, DELETE, MERGE and INSERT ... ON CONFLICT DO UPDATE in it, those in a WITH too, and how many rows that were
        there it may touch: BOUNDED, UNBOUNDED, or DOUBTFUL where a condition is there that may hold for many."""
    yield from _changes(node, session, procedural, {})


def size_of(query: Any, session: Session, *, procedural: bool = False) -> str:
    """:return: how many rows a query returns, as ``changes``."""
    return _Reader(session, procedural).size(query, {})


def locked_by(query: Any, session: Session, *, procedural: bool = False) -> str:
    """:return: how many rows a SELECT ... FOR UPDATE locks, as ``changes``."""
    return _Reader(session, procedural).size(query, {}, whole=True)


def _changes(node: Any, session: Session, procedural: bool, names: Names) -> Iterator[tuple[Any, str]]:
    ast = grammar().ast
    if isinstance(node, tuple):
        for item in node:
            yield from _changes(item, session, procedural, names)
        return
    if not isinstance(node, ast.Node):
        return
    clause = getattr(node, "withClause", None)
    if clause is not None:
        reader = _Reader(session, procedural)
        for cte in clause.ctes or ():
            yield from _changes(cte.ctequery, session, procedural, names)
            names = {**names, cte.ctename: reader.named(cte, names)}
    if isinstance(node, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)) or _updates(node):
        yield node, _Reader(session, procedural, relation_name(node.relation)).touched(node, names)
    for slot in node:
        if slot != "withClause":
            yield from _changes(getattr(node, slot), session, procedural, names)


def _updates(node: Any) -> bool:
    g = grammar()
    conflict = node.onConflictClause if isinstance(node, g.ast.InsertStmt) else None
    return conflict is not None and conflict.action == g.enums.OnConflictAction.ONCONFLICT_UPDATE


def _best(*grades: str) -> str:
    return min(grades, key=_GRADES.index, default=UNBOUNDED)


def _worst(*grades: str) -> str:
    return max(grades, key=_GRADES.index, default=BOUNDED)


@dataclass
class _Scope:
    """The relations of one statement or query, by the names that its columns go by."""

    names: Names
    outer: _Scope | None = None
    target: str | None = None
    grades: dict[str, str] = field(default_factory=dict)
    # None where nobody knows them all.
    columns: dict[str, frozenset[str] | None] = field(default_factory=dict)
    queries: dict[str, Any] = field(default_factory=dict)
    relations: dict[str, Relation] = field(default_factory=dict)
    # Each with the relations that it can narrow, None for all.
    conditions: list[tuple[Any, frozenset[str] | None]] = field(default_factory=list)

    def add(self, alias: str, grade: str, columns: Any = None, query: Any = None) -> None:
        self.grades[alias] = grade
        self.columns[alias] = None if columns is None else frozenset(columns)
        if query is not None:
            self.queries[alias] = query

    def grade(self, alias: str) -> str:
        scope: _Scope | None = self
        while scope is not None:
            if alias in scope.grades:
                return scope.grades[alias]
            scope = scope.outer
        return UNBOUNDED

    def query(self, alias: str) -> Any:
        return self.queries.get(alias) or (self.outer.query(alias) if self.outer is not None else None)

    def owner(self, ref: Any) -> str | None:
        """:return: the relation of a column; None where no relation here can have it, as of a variable."""
        fields = [part.sval for part in ref.fields if hasattr(part, "sval")]
        scope: _Scope | None = self
        if len(fields) > 1:
            while scope is not None and fields[-2] not in scope.columns:
                scope = scope.outer
            return fields[-2] if scope is not None else None
        name = fields[-1] if fields else ""
        while scope is not None:
            known = next((alias for alias, columns in scope.columns.items() if columns and name in columns), None)
            unknown = [alias for alias, columns in scope.columns.items() if columns is None]
            if known or unknown:
                return known or (scope.target if scope.target in unknown else unknown[0])
            scope = scope.outer
        return None

    def is_known(self, name: str) -> bool:
        """:return: whether a relation is known to have a column of that name."""
        here = any(columns and name in columns for columns in self.columns.values())
        return here or (self.outer is not None and self.outer.is_known(name))


class _Reader:
    def __init__(self, session: Session, procedural: bool, table: Relation | None = None) -> None:
        self.session, self.procedural = session, procedural
        facts = session.table_facts(table) if table is not None else None
        # 0 where nobody knows.
        self.rows = int(facts["rows"]) if facts is not None else 0

    def few(self, number: float) -> bool:
        """:return: whether so many keys are a batch; of a table that the catalog knows it is not half of its rows or more."""
        whole = 0 < self.rows <= 2 * number
        return number <= ORDINARY_BATCH or (number <= LARGEST_BATCH and not whole)

    # --- statements ----------------------------------------------------------------------------------------------------

    def touched(self, node: Any, names: Names) -> str:
        """:return: how many rows that were there a statement touches."""
        ast = grammar().ast
        if isinstance(node, ast.InsertStmt):
            query = node.selectStmt
            if query is None or self.size(query, names) == BOUNDED:
                return BOUNDED
            return DOUBTFUL if query.whereClause is not None else UNBOUNDED
        if isinstance(node, ast.MergeStmt):
            return _worst(*(self._merged(node, when, names) for when in node.mergeWhenClauses))
        sources = node.fromClause if isinstance(node, ast.UpdateStmt) else node.usingClause
        return self._target(node, sources or (), [node.whereClause], names)

    def _merged(self, node: Any, when: Any, names: Names) -> str:
        enums = grammar().enums
        if when.commandType not in (enums.CmdType.CMD_UPDATE, enums.CmdType.CMD_DELETE):
            return BOUNDED
        if when.matchKind.name == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
            # Each row for which no source has one.
            return self._target(node, (), [when.condition], names)
        return self._target(node, (node.sourceRelation,), [node.joinCondition, when.condition], names)

    def _target(self, node: Any, sources: tuple[Any, ...], conditions: list[Any], names: Names) -> str:
        relation = node.relation
        alias = relation.alias.aliasname if relation.alias is not None else relation.relname
        scope = _Scope(names, target=alias)
        scope.add(alias, UNBOUNDED, self._columns(relation_name(relation)))
        for source in sources:
            self._enter(source, scope)
        for condition in conditions:
            self._where(condition, scope)
        self._settle(scope)
        return scope.grades[alias]

    # --- queries -------------------------------------------------------------------------------------------------------

    def named(self, cte: Any, names: Names) -> Named:
        """:return: what is known of a name of a WITH."""
        columns = tuple(item.sval for item in cte.aliascolnames or ()) or text.named_outputs(cte.ctequery)
        # It may name itself: it has few rows if it begins with few and each step has.
        inside = {**names, cte.ctename: Named(BOUNDED, columns, None)}
        return Named(self.size(cte.ctequery, inside), columns, cte.ctequery)

    def size(self, query: Any, names: Names, *, outer: _Scope | None = None, whole: bool = False) -> str:
        """:param outer: the relations around the query, where it is run for each of their rows.
        :param whole: what it reads, whether or not it makes one row of all.
        :return: how many rows it returns."""
        ast = grammar().ast
        if isinstance(query, ast.InsertStmt):
            return self.size(query.selectStmt, names) if query.selectStmt is not None else BOUNDED
        if isinstance(query, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            return self.touched(query, self._with(query, names))
        if not isinstance(query, ast.SelectStmt):
            return UNBOUNDED
        names = self._with(query, names)
        one = text.aggregates(query)
        if query.valuesLists or (outer is None and not (whole and one) and self.limited(query, names)):
            return BOUNDED
        if query.larg is not None:
            left, right = (self.size(part, names, outer=outer, whole=whole) for part in (query.larg, query.rarg))
            return {"SETOP_INTERSECT": _best(left, right), "SETOP_EXCEPT": left}.get(query.op.name, _worst(left, right))
        if outer is None and not whole and one:
            return BOUNDED
        made = [self._series(target.val, names) for target in query.targetList or ()]
        if not query.fromClause:
            return _worst(*made)
        scope = self._read(query, names, outer)
        return _worst(*made, *scope.grades.values())

    def limited(self, query: Any, names: Names) -> bool:
        """:return: whether a SELECT has a LIMIT that is one: not ALL, nor the number of all rows, nor more than any batch has."""
        ast, limit = grammar().ast, query.limitCount
        if limit is None or getattr(limit, "isnull", False):
            return False
        known = text.number(limit)
        if known is not None:
            return self.few(known)
        queries = [item.subselect for item in text.direct(limit) if isinstance(item, ast.SubLink)]
        return not any(text.aggregates(inner) and self.size(inner, names, whole=True) != BOUNDED for inner in queries)

    def _with(self, query: Any, names: Names) -> Names:
        for cte in query.withClause.ctes or () if query.withClause is not None else ():
            names = {**names, cte.ctename: self.named(cte, names)}
        return names

    def _read(self, query: Any, names: Names, outer: _Scope | None = None) -> _Scope:
        scope = _Scope(names, outer)
        for source in query.fromClause or ():
            self._enter(source, scope)
        self._where(query.whereClause, scope)
        self._settle(scope)
        return scope

    def _series(self, node: Any, names: Names) -> str:
        """:return: how many rows a call makes: of a series as its ends say, of a query as that."""
        ast = grammar().ast
        for call in text.series(node):
            ends = [text.number(argument) for argument in (call.args or ())[:2]]
            if len(ends) < 2 or ends[0] is None or ends[1] is None or not self.few(abs(ends[1] - ends[0])):
                return UNBOUNDED
        rows = [item for item in text.direct(node) if isinstance(item, ast.FuncCall) and item.funcname[-1].sval == "unnest"]
        queries = [item.subselect for item in text.direct(tuple(rows)) if isinstance(item, ast.SubLink)]
        return _worst(*(self.size(query, names, whole=True) for query in queries))

    # --- the relations of a scope ----------------------------------------------------------------------------------------

    def _columns(self, relation: Relation) -> Any:
        facts = self.session.table_facts(relation)
        known = self.session.objects.columns.get(relation)
        if known and self.session.made(relation):
            return tuple(known)
        return tuple(facts["columns"]) if facts and facts.get("columns") else None

    def _enter(self, node: Any, scope: _Scope) -> frozenset[str]:
        """Add what a FROM names. :return: its names."""
        ast = grammar().ast
        if isinstance(node, ast.JoinExpr):
            return self._join(node, scope)
        if isinstance(node, ast.RangeTableSample):
            return self._enter(node.relation, scope)
        given = getattr(node, "alias", None)
        columns = tuple(item.sval for item in given.colnames or ()) if given is not None else ()
        if isinstance(node, ast.RangeVar):
            alias = given.aliasname if given is not None else node.relname
            named = scope.names.get(node.relname) if node.schemaname is None else None
            if named is not None:
                scope.add(alias, named.grade, columns or named.columns, named.query)
            else:
                relation = relation_name(node)
                few = self.session.made(relation) and relation not in self.session.objects.filled
                scope.add(alias, BOUNDED if few else UNBOUNDED, columns or self._columns(relation))
                scope.relations[alias] = relation
            return frozenset({alias})
        # Without a name nobody can refer to it.
        alias = given.aliasname if given is not None else f" {len(scope.grades)}"
        if isinstance(node, ast.RangeSubselect):
            query = node.subquery
            known = text.named_outputs(query)
            if columns and known:
                columns = (*columns, *known[len(columns) :])
            scope.add(alias, self.size(query, scope.names), columns or known, query)
        elif isinstance(node, ast.RangeFunction):
            defined = tuple(item.colname for item in node.coldeflist or ())
            scope.add(alias, self._series(node.functions, scope.names), (*columns, *defined, alias))
        else:
            # XMLTABLE and JSON_TABLE, of a text that somebody has written.
            scope.add(alias, BOUNDED)
        return frozenset({alias})

    def _join(self, node: Any, scope: _Scope) -> frozenset[str]:
        left, right = self._enter(node.larg, scope), self._enter(node.rarg, scope)
        both = left | right
        narrowed = {"JOIN_INNER": both, "JOIN_LEFT": right, "JOIN_RIGHT": left}.get(node.jointype.name, frozenset())
        if node.quals is not None:
            self._where(node.quals, scope, narrowed)
        if node.usingClause or node.isNatural:
            # The same columns on both sides, each as good as the other.
            best = _best(*(_worst(*(scope.grades[alias] for alias in side)) for side in (left, right)))
            for alias in narrowed:
                scope.grades[alias] = _best(scope.grades[alias], best)
        return both

    def _where(self, node: Any, scope: _Scope, narrowed: frozenset[str] | None = None) -> None:
        g = grammar()
        if isinstance(node, g.ast.BoolExpr) and node.boolop == g.enums.BoolExprType.AND_EXPR:
            for argument in node.args:
                self._where(argument, scope, narrowed)
        elif node is not None:
            scope.conditions.append((node, narrowed))

    def _settle(self, scope: _Scope) -> None:
        """What is bounded bounds what is joined with it."""
        for _ in range(len(scope.grades) + 1):
            before = dict(scope.grades)
            for alias, grade in before.items():
                if grade != BOUNDED:
                    wanted = [node for node, narrowed in scope.conditions if narrowed is None or alias in narrowed]
                    scope.grades[alias] = _best(grade, self._all(wanted, alias, scope))
            if scope.grades == before:
                return

    # --- conditions ----------------------------------------------------------------------------------------------------

    def _all(self, nodes: list[Any], alias: str, scope: _Scope) -> str:
        """:return: how far conditions narrow a relation together."""
        spans = [self._span(lower, upper, alias, scope) for lower, upper in self._both_ends(nodes, alias, scope)]
        return _best(*spans, *(self._condition(node, alias, scope) for node in nodes))

    def _condition(self, node: Any, alias: str, scope: _Scope) -> str:
        """:return: how far a condition narrows a relation."""
        ast, enums = grammar().ast, grammar().enums
        if isinstance(node, ast.BoolExpr):
            if node.boolop == enums.BoolExprType.AND_EXPR:
                return self._all(list(node.args), alias, scope)
            if node.boolop == enums.BoolExprType.OR_EXPR:
                return _worst(*(self._condition(argument, alias, scope) for argument in node.args))
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
            return _best(*(self._equal(a, b, alias, scope) for a, b in pairs)) if sign == "=" else UNBOUNDED
        if kind in ("AEXPR_OP", "AEXPR_NOT_DISTINCT"):
            if sign == "=" or kind == "AEXPR_NOT_DISTINCT":
                sides = ((node.lexpr, node.rexpr), (node.rexpr, node.lexpr))
                return _best(*(self._equal(column, other, alias, scope) for column, other in sides))
            return self._below(node, alias, scope)
        if kind == "AEXPR_IN" and sign == "=":
            return _worst(*(self._equal(node.lexpr, value, alias, scope) for value in node.rexpr))
        if kind == "AEXPR_OP_ANY" and sign == "=":
            queries = [item.subselect for item in text.direct(node.rexpr) if isinstance(item, ast.SubLink)]
            among = [self._among(query, scope) for query in queries]
            return _worst(self._equal(node.lexpr, node.rexpr, alias, scope), *among)
        if kind in ("AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM"):
            column = self._own(node.lexpr, alias, scope)
            if column is None:
                return UNBOUNDED
            if not text.is_key(column) and not self.procedural:
                return DOUBTFUL
            return self._span(*node.rexpr, alias, scope)
        return UNBOUNDED

    def _own(self, node: Any, alias: str, scope: _Scope) -> str | None:
        """:return: the name of the column that is compared, where it is one of the relation."""
        ref = text.compared(node)
        return text.column_name(ref) if ref is not None and scope.owner(ref) == alias else None

    def _equal(self, column: Any, other: Any, alias: str, scope: _Scope) -> str:
        name = self._own(column, alias, scope)
        if name is None or text.is_boolean(other):
            return UNBOUNDED
        known = self._known(other, alias, scope, name)
        return _worst(known, DOUBTFUL) if text.shared(name, other) else known

    def _known(self, value: Any, alias: str, scope: _Scope, left: str) -> str:
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
        return _worst(*grades)

    def _variable(self, ref: Any, left: str, scope: _Scope) -> bool:
        name = text.column_name(ref)
        if self.session.variables is not None:
            return name in self.session.variables
        return self.procedural and name != left and not scope.is_known(name)

    def _among(self, query: Any, scope: _Scope) -> str:
        """:return: how far IN (SELECT ...) narrows the rows; with a LIMIT of everything not at all."""
        outer = scope if self._looks_out(query, scope) else None
        size = self.size(query, scope.names, outer=outer, whole=_collects(query))
        if size != UNBOUNDED:
            return size
        return DOUBTFUL if query.limitCount is None and query.fromClause and outer is None else UNBOUNDED

    def _looks_out(self, query: Any, scope: _Scope) -> bool:
        """:return: whether a query has a column of a relation outside of it, by that relation's name."""
        ast = grammar().ast
        inside = {
            item.alias.aliasname if item.alias is not None else getattr(item, "relname", "")
            for item in walk(query)
            if isinstance(item, (ast.RangeVar, ast.RangeSubselect, ast.RangeFunction))
        }
        refs = [item.fields for item in walk(query) if isinstance(item, ast.ColumnRef) and len(item.fields) > 1]
        around: set[str] = set()
        outer: _Scope | None = scope
        while outer is not None:
            around |= set(outer.grades)
            outer = outer.outer
        return any(getattr(fields[-2], "sval", "") in around - inside for fields in refs)

    def _asks(self, node: Any, alias: str, scope: _Scope) -> str:
        """IN (SELECT ...) and EXISTS (SELECT ...)."""
        ast, kind, query = grammar().ast, node.subLinkType.name, node.subselect
        if kind == "ANY_SUBLINK" and (not node.operName or node.operName[-1].sval == "="):
            tested = node.testexpr.args if isinstance(node.testexpr, ast.RowExpr) else (node.testexpr,)
            names = [name for item in tested if (name := self._own(item, alias, scope)) is not None]
            if not names:
                return UNBOUNDED
            among = self._among(query, scope)
            return _worst(among, DOUBTFUL) if all(text.shared(name, None) for name in names) else among
        if kind == "EXISTS_SUBLINK" and query.fromClause and query.larg is None:
            inner = self._read(query, self._with(query, scope.names), scope)
            if alias not in inner.grades and query.whereClause is not None:
                return self._condition(query.whereClause, alias, inner)
        return UNBOUNDED

    # --- ends ----------------------------------------------------------------------------------------------------------

    def _both_ends(self, nodes: list[Any], alias: str, scope: _Scope) -> list[tuple[Any, Any]]:
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

    def _below(self, node: Any, alias: str, scope: _Scope) -> str:
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

    def _span(self, lower: Any, upper: Any, alias: str, scope: _Scope) -> str:
        """:return: how far a key between two ends narrows the rows; ends that only the run knows count as a batch's."""
        first, last = 1.0 if lower is None else text.number(lower), text.number(upper)
        if first is not None and last is not None:
            return BOUNDED if self.few(abs(last - first)) else UNBOUNDED
        from_the_first = first is not None or self._end_of_all(lower, "min", scope)
        return UNBOUNDED if from_the_first and self._end_of_all(upper, "max", scope) else BOUNDED

    def _end_of_all(self, node: Any, word: str, scope: _Scope) -> bool:
        """:return: whether the first or last key of a whole table is in it, in a query or a column of one."""
        ast = grammar().ast
        for item in text.direct(node):
            if isinstance(item, ast.SubLink) and isinstance(item.subselect, ast.SelectStmt):
                query = item.subselect
                value = query.targetList[0].val if query.targetList else None
                if self._extreme(query, value, word, scope.names):
                    return True
            elif isinstance(item, ast.ColumnRef):
                owner = scope.owner(item)
                query = scope.query(owner) if owner is not None else None
                value = text.output(query, text.column_name(item)) if query is not None else None
                if value is not None and self._extreme(query, value, word, scope.names):
                    return True
        return False

    def _extreme(self, query: Any, value: Any, word: str, names: Names) -> bool:
        ast = grammar().ast
        words = ("max", "count") if word == "max" else ("min",)
        if any(isinstance(i, ast.FuncCall) and i.funcname[-1].sval in words for i in text.direct(value)):
            return self.size(query, names, whole=True) == UNBOUNDED
        order = query.sortClause[0].sortby_dir.name if query.sortClause else ""
        if text.number(query.limitCount) != 1 or query.limitOffset is not None or not order:
            return False
        reads = self._read(query, self._with(query, names))
        down = order == "SORTBY_DESC"
        return down == (word == "max") and _worst(*reads.grades.values()) == UNBOUNDED


def _collects(query: Any) -> bool:
    """:return: whether it puts many values into one: array_agg()."""
    ast = grammar().ast
    targets = query.targetList or () if isinstance(query, ast.SelectStmt) else ()
    calls = [item for target in targets for item in text.direct(target.val) if isinstance(item, ast.FuncCall)]
    return any(call.funcname[-1].sval == "array_agg" for call in calls)
