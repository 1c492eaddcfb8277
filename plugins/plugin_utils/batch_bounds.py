# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Is a statement held to the keys of its batch: both ends of them, inclusive, among the terms that must all be true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    grammar,
    quote,
    relation_name,
    type_name,
    walk,
)

# Casts of a key's value to its own type, or to one that holds the same values. Another may round it: a key that is a
# timestamp, up to '...'::date, leaves that day's rows out.
_SAME_VALUE = frozenset(
    {
        "uuid",
        "text",
        "character varying",
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "timestamp with time zone",
        "timestamp without time zone",
    }
)

# The name before the dot, where there is one, and that of the column.
_Column = tuple["str | None", str]
_FIRST, _LAST = "first", "last"


@dataclass
class _Level:
    """A query without those in it: what it reads, and the terms of its condition.

    :ivar sources: what stands in FROM, and the table that is written, by its name there.
    :ivar confining: the names of those without which a row does not come about; not the far side of an outer join.
    :ivar terms: of WHERE and of inner joins, those that must all be true.
    :ivar same: columns that a join makes equal.
    """

    sources: dict[str, Any] = field(default_factory=dict)
    confining: set[str] = field(default_factory=set)
    terms: list[Any] = field(default_factory=list)
    same: list[tuple[_Column, _Column]] = field(default_factory=list)


class Bounds:
    """The bounds of one statement of a backfill.

    :param node: the parsed statement.
    :param table: (schema, name) of the table that is walked.
    :param columns: of the key.
    """

    def __init__(self, node: Any, table: tuple[str, str], columns: Sequence[str]) -> None:
        self._node, self._table, self._columns = node, table, tuple(columns)
        ast = grammar().ast
        self._queries = {part.ctename: part.ctequery for part in walk(node) if isinstance(part, ast.CommonTableExpr)}
        self._levels: dict[int, _Level] = {}

    @property
    def fault(self) -> str | None:
        """What is wrong, None where each batch changes rows of its own keys only, and passes none of them over."""
        ast = grammar().ast
        changing = [part for part in walk(self._node) if isinstance(part, _changing())]
        if not all(self._is_held(part) for part in changing or [self._node]):
            return f"{self._bounded()}: {self._as_written()}"
        used = {id(part) for part in walk(self._node) if isinstance(part, ast.ParamRef)}
        if used - set(self._in_bounds()):
            return f"{self._bounded()}, and these stand nowhere else: {self._as_written()}"
        return None

    @property
    def rows(self) -> str | None:
        """Which rows of the table the statement counts when it has run: ``all``, each that has a key of the batch, ``own``,
        some of these, or None where it counts others."""
        node, ast = self._node, grammar().ast
        if not isinstance(node, (ast.UpdateStmt, ast.DeleteStmt)) or not self._is_walked(node.relation):
            return None
        level = self._level(node)
        bounds = [term for term in level.terms if _ends(term)]
        alone = len(level.sources) == 1 and len(bounds) == len(level.terms)
        return "all" if alone and node.withClause is None else "own"

    def _bounded(self) -> str:
        what = "a backfill must be bounded by $1 and $2"
        if len(self._columns) > 1:
            first, last = self._numbers()
            what = f"a backfill by {len(self._columns)} columns must be bounded by ({first}) and ({last})"
        return f"{what}, the first and the last key of a batch (both inclusive)"

    def _as_written(self) -> str:
        names = ", ".join(map(quote, self._columns))
        first, last = self._numbers()
        if len(self._columns) > 1:
            names, first, last = (f"({values})" for values in (names, first, last))
        return f"WHERE {names} BETWEEN {first} AND {last}, and what else must hold with AND"

    def _numbers(self) -> tuple[str, str]:
        count = len(self._columns)
        first, last = (", ".join(f"${number}" for number in range(start, start + count)) for start in (1, count + 1))
        return first, last

    # What holds a statement.

    def _is_held(self, node: Any) -> bool:
        """:return: whether what a query changes, or returns, belongs to the keys of the batch."""
        ast = grammar().ast
        if isinstance(node, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)) and self._is_walked(node.relation):
            return self._is_bounded(node) or self._is_linked(node)
        return self._is_confined(node, frozenset())

    def _is_confined(self, node: Any, seen: frozenset[str]) -> bool:
        """:return: whether the query is bounded itself, or reads nothing but what one that is bounded gives."""
        ast = grammar().ast
        if isinstance(node, ast.InsertStmt):
            return node.selectStmt is not None and self._is_confined(node.selectStmt, seen)
        if isinstance(node, ast.SelectStmt) and node.larg is not None:
            return self._is_confined(node.larg, seen) and self._is_confined(node.rarg, seen)
        if not isinstance(node, _with_level()):
            return False
        level = self._level(node)
        return (
            self._is_bounded(node)
            or any(self._gives_bounded(level.sources[name], seen) for name in level.confining)
            or any(self._is_confined(query, seen) for query, _ in _subqueries(level.terms))
        )

    def _gives_bounded(self, source: Any, seen: frozenset[str]) -> bool:
        ast = grammar().ast
        if isinstance(source, ast.RangeSubselect):
            return self._is_confined(source.subquery, seen)
        name = source.relname if isinstance(source, ast.RangeVar) and source.schemaname is None else None
        if name is None or name not in self._queries or name in seen:
            return False
        return self._is_confined(self._queries[name], seen | {name})

    def _is_linked(self, node: Any) -> bool:
        """:return: whether the rows of the table that change are those, by their keys, which a bounded query gives."""
        level = self._level(node)
        target = _name_of(node.relation)
        for query, tested in _subqueries(level.terms):
            if [column[1] for column in tested] == list(self._columns) and self._is_confined(query, frozenset()):
                return True
        same = {pair for first, second in _same(level) for pair in ((first, second), (second, first))}
        for name in level.confining - {target}:
            keys = ({other[0] for mine, other in same if mine in ((target, key), (None, key))} for key in self._columns)
            if all(name in others for others in keys) and self._gives_bounded(level.sources[name], frozenset()):
                return True
        return False

    def _is_bounded(self, node: Any) -> bool:
        """:return: whether the condition of this very query has both ends, on the key of the table that is walked."""
        level = self._level(node)
        walked = {name for name, source in level.sources.items() if self._is_walked(source)}
        return any(
            bool(walked) if name is None else name in walked or self._same_key(level, name, walked)
            for name in self._bound_names(level)
        )

    def _same_key(self, level: _Level, name: str, walked: set[str]) -> bool:
        same = {pair for first, second in _same(level) for pair in ((first, second), (second, first))}
        return any(all(((name, key), (table, key)) in same for key in self._columns) for table in walked)

    def _bound_names(self, level: _Level) -> Iterator[str | None]:
        """:return: the names of the sources that both ends of the batch bound; None where none is written."""
        ends: dict[str | None, set[str]] = {}
        for term in level.terms:
            for end, name in self._key_ends(term):
                ends.setdefault(name, set()).add(end)
        return (name for name, found in ends.items() if found == {_FIRST, _LAST})

    def _key_ends(self, term: Any) -> Iterator[tuple[str, str | None]]:
        """:return: the ends at which a term holds the key, and the name of the table there."""
        count = len(self._columns)
        whole = {_FIRST: [*range(1, count + 1)], _LAST: [*range(count + 1, 2 * count + 1)]}
        for end, columns, numbers in _ends(term):
            tables = {table for table, _ in columns}
            if [name for _, name in columns] == list(self._columns) and len(tables) == 1 and numbers == whole[end]:
                yield end, tables.pop()

    def _in_bounds(self) -> Iterator[int]:
        """:return: the parameters that are one end of a pair of bounds, by ``id``."""
        ast = grammar().ast
        for node in walk(self._node):
            if not isinstance(node, _with_level()) or (isinstance(node, ast.SelectStmt) and node.larg is not None):
                continue
            level = self._level(node)
            bound = set(self._bound_names(level))
            for term in level.terms:
                if any(name in bound for _, name in self._key_ends(term)):
                    yield from (id(part) for part in walk(term) if isinstance(part, ast.ParamRef))

    def _is_walked(self, source: Any) -> bool:
        if not isinstance(source, grammar().ast.RangeVar):
            return False
        if source.schemaname is None:
            return bool(source.relname == self._table[1]) and source.relname not in self._queries
        return relation_name(source) == self._table

    # How a query is written.

    def _level(self, node: Any) -> _Level:
        if id(node) not in self._levels:
            self._levels[id(node)] = _level_of(node)
        return self._levels[id(node)]


def _changing() -> tuple[Any, ...]:
    ast = grammar().ast
    return (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)


def _with_level() -> tuple[Any, ...]:
    ast = grammar().ast
    return (ast.SelectStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)


def _level_of(node: Any) -> _Level:
    ast = grammar().ast
    level = _Level()
    if isinstance(node, ast.SelectStmt):
        sources, condition = node.fromClause or (), node.whereClause
    elif isinstance(node, ast.UpdateStmt):
        sources, condition = (node.relation, *(node.fromClause or ())), node.whereClause
    elif isinstance(node, ast.DeleteStmt):
        sources, condition = (node.relation, *(node.usingClause or ())), node.whereClause
    else:
        sources, condition = (node.relation, node.sourceRelation), node.joinCondition
    for source in sources:
        _add_source(level, source, confining=True)
    level.terms += _terms(condition)
    return level


def _add_source(level: _Level, source: Any, *, confining: bool) -> set[str]:
    """:return: the names that it adds."""
    ast, kinds = grammar().ast, grammar().enums.JoinType
    if not isinstance(source, ast.JoinExpr):
        name = _name_of(source)
        level.sources[name] = source
        if confining:
            level.confining.add(name)
        return {name}
    inner = source.jointype == kinds.JOIN_INNER
    left = _add_source(level, source.larg, confining=confining and (inner or source.jointype == kinds.JOIN_LEFT))
    right = _add_source(level, source.rarg, confining=confining and (inner or source.jointype == kinds.JOIN_RIGHT))
    if inner and confining:
        level.terms += _terms(source.quals)
        for column in source.usingClause or ():
            level.same += [((one, column.sval), (other, column.sval)) for one in left for other in right]
    return left | right


def _name_of(source: Any) -> str:
    """:return: the name by which the query speaks of a source."""
    alias = getattr(source, "alias", None)
    if alias is not None:
        return str(alias.aliasname)
    return str(getattr(source, "relname", None) or f"nameless {id(source)}")


def _terms(condition: Any) -> list[Any]:
    """:return: what must all be true for a condition to be."""
    ast, kinds = grammar().ast, grammar().enums.BoolExprType
    if condition is None:
        return []
    if isinstance(condition, ast.BoolExpr) and condition.boolop == kinds.AND_EXPR:
        return [term for part in condition.args for term in _terms(part)]
    return [condition]


def _ends(term: Any) -> list[tuple[str, list[_Column], list[int]]]:
    """:return: of a comparison of columns with parameters: the end at which it holds them, these columns and these parameters."""
    ast, kinds = grammar().ast, grammar().enums.A_Expr_Kind
    if not isinstance(term, ast.A_Expr):
        return []
    if term.kind == kinds.AEXPR_BETWEEN:
        pairs = [(_FIRST, term.lexpr, term.rexpr[0]), (_LAST, term.lexpr, term.rexpr[1])]
    elif term.kind == kinds.AEXPR_OP and term.lexpr is not None:
        sides = {">=": (_FIRST, _LAST), "<=": (_LAST, _FIRST)}.get(term.name[-1].sval)
        if sides is None:
            return []
        pairs = [(sides[0], term.lexpr, term.rexpr), (sides[1], term.rexpr, term.lexpr)]
    else:
        return []
    found = []
    for end, compared, value in pairs:
        columns, numbers = _columns(compared), _parameters(value)
        if columns and numbers:
            found.append((end, columns, numbers))
    return found


def _columns(node: Any) -> list[_Column]:
    """:return: the column, or those of a row; none where it is anything else."""
    ast = grammar().ast
    parts = node.args if isinstance(node, ast.RowExpr) else (node,)
    found: list[_Column] = []
    for part in parts:
        names = [getattr(name, "sval", None) for name in part.fields] if isinstance(part, ast.ColumnRef) else [None]
        if names[-1] is None:
            return []
        found.append((names[-2] if len(names) > 1 else None, str(names[-1])))
    return found


def _parameters(node: Any) -> list[int]:
    """:return: the number of the parameter, or those of a row; none where it is anything else."""
    ast = grammar().ast
    found = []
    for part in node.args if isinstance(node, ast.RowExpr) else (node,):
        if isinstance(part, ast.TypeCast) and type_name(part.typeName) in _SAME_VALUE:
            part = part.arg
        if not isinstance(part, ast.ParamRef):
            return []
        found.append(int(part.number))
    return found


def _same(level: _Level) -> Iterator[tuple[_Column, _Column]]:
    """:return: the columns that the query makes equal."""
    ast, kinds = grammar().ast, grammar().enums.A_Expr_Kind
    yield from level.same
    for term in level.terms:
        if isinstance(term, ast.A_Expr) and term.kind == kinds.AEXPR_OP and term.name[-1].sval == "=":
            yield from zip(_columns(term.lexpr), _columns(term.rexpr), strict=False)


def _subqueries(terms: Sequence[Any]) -> Iterator[tuple[Any, list[_Column]]]:
    """:return: the queries of ``IN (SELECT ...)`` and ``EXISTS (SELECT ...)`` among the terms, and the columns before IN."""
    ast, kinds = grammar().ast, grammar().enums.SubLinkType
    for term in terms:
        if not isinstance(term, ast.SubLink):
            continue
        # Without an operator = ANY is written as IN.
        operator = term.operName[-1].sval if term.operName else "="
        if term.subLinkType == kinds.EXISTS_SUBLINK:
            yield term.subselect, []
        elif term.subLinkType == kinds.ANY_SUBLINK and operator == "=":
            yield term.subselect, _columns(term.testexpr)
