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

A column of a query, and a variable that one place of a block fills, is what its query says of it: max(id) the last key, array_agg(id)
all of them, a number by a window function one that many rows share. In a loop without COMMIT the turns add up: a finding unless they
are few and each changes the rows of one value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name

from . import row_expressions as text
from .locks import Relation
from .row_conditions import Conditions
from .row_scopes import BOUNDED, DOUBTFUL, UNBOUNDED, Named, Names, Scope, best, worst
from .session import Session

_SYSTEM_COLUMNS = ("ctid", "tableoid", "xmin", "xmax", "cmin", "cmax")


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


class _Reader(Conditions):
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
            return worst(*(self._merged(node, when, names) for when in node.mergeWhenClauses))
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
        scope = Scope(names, target=alias)
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

    def size(self, query: Any, names: Names, *, outer: Scope | None = None, whole: bool = False) -> str:
        """:param outer: the relations around the query, where it is run for each of their rows.
        :param whole: what it reads, whether or not it makes one row of all.
        :return: how many rows it returns."""
        ast = grammar().ast
        if isinstance(query, ast.InsertStmt):
            return self.size(query.selectStmt, names) if query.selectStmt is not None else BOUNDED
        if isinstance(query, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            return self.touched(query, self.learned(query, names))
        if not isinstance(query, ast.SelectStmt):
            return UNBOUNDED
        names = self.learned(query, names)
        one = text.aggregates(query)
        if query.valuesLists or (outer is None and not (whole and one) and self.limited(query, names)):
            return BOUNDED
        if query.larg is not None:
            left, right = (self.size(part, names, outer=outer, whole=whole) for part in (query.larg, query.rarg))
            return {"SETOP_INTERSECT": best(left, right), "SETOP_EXCEPT": left}.get(query.op.name, worst(left, right))
        if outer is None and not whole and one:
            return BOUNDED
        made = [self._series(target.val, names) for target in query.targetList or ()]
        if not query.fromClause:
            return worst(*made)
        scope = self.read(query, names, outer)
        return worst(*made, *scope.grades.values())

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

    def learned(self, query: Any, names: Names) -> Names:
        """:return: as ``Conditions.learned``."""
        for cte in query.withClause.ctes or () if query.withClause is not None else ():
            names = {**names, cte.ctename: self.named(cte, names)}
        return names

    def read(self, query: Any, names: Names, outer: Scope | None = None) -> Scope:
        """:return: as ``Conditions.read``."""
        scope = Scope(names, outer)
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
        rows = [
            item for item in text.direct(node) if isinstance(item, ast.FuncCall) and item.funcname[-1].sval == "unnest"
        ]
        queries = [item.subselect for item in text.direct(tuple(rows)) if isinstance(item, ast.SubLink)]
        return worst(*(self.size(query, names, whole=True) for query in queries))

    # --- the relations of a scope ----------------------------------------------------------------------------------------

    def _columns(self, relation: Relation) -> Any:
        facts = self.session.table_facts(relation)
        known = self.session.objects.columns.get(relation)
        if known and self.session.made(relation):
            return (*known, *_SYSTEM_COLUMNS)
        return (*facts["columns"], *_SYSTEM_COLUMNS) if facts and facts.get("columns") else None

    def _enter(self, node: Any, scope: Scope) -> frozenset[str]:
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

    def _join(self, node: Any, scope: Scope) -> frozenset[str]:
        left, right = self._enter(node.larg, scope), self._enter(node.rarg, scope)
        both = left | right
        narrowed = {"JOIN_INNER": both, "JOIN_LEFT": right, "JOIN_RIGHT": left}.get(node.jointype.name, frozenset())
        if node.quals is not None:
            self._where(node.quals, scope, narrowed)
        if node.usingClause or node.isNatural:
            scope.same += [(narrowed & left, right), (narrowed & right, left)]
        return both

    def _where(self, node: Any, scope: Scope, narrowed: frozenset[str] | None = None) -> None:
        g = grammar()
        if isinstance(node, g.ast.BoolExpr) and node.boolop == g.enums.BoolExprType.AND_EXPR:
            for argument in node.args:
                self._where(argument, scope, narrowed)
        elif node is not None:
            scope.conditions.append((node, narrowed))

    def _settle(self, scope: Scope) -> None:
        """What is bounded bounds what is joined with it."""
        for _ in range(len(scope.grades) + 1):
            before = dict(scope.grades)
            for alias, grade in before.items():
                if grade != BOUNDED:
                    wanted = [node for node, narrowed in scope.conditions if narrowed is None or alias in narrowed]
                    joined = [worst(*(before[a] for a in others)) for own, others in scope.same if alias in own]
                    scope.grades[alias] = best(grade, *joined, self.narrowed(wanted, alias, scope))
            if scope.grades == before:
                return
