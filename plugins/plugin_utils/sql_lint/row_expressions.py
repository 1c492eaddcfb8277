# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the text of an expression tells of the rows behind it: numbers, limits, the column that is compared, how many rows share a value."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar

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
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
# What keeps apart nearly all that was apart.
_SAME_ROWS = {"lower", "upper", "trim", "btrim", "ltrim", "rtrim", "md5", "abs"}
_AGGREGATES = {"min", "max", "count", "sum", "avg", "array_agg", "string_agg", "bool_or", "bool_and", "every"}
_AGGREGATES |= {"json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "bit_or", "bit_and", "any_value"}
# Many rows for one, as many as their arguments say.
_SERIES = ("generate_series", "generate_subscripts")
# Types that put the rows of a whole day, or half of the table, together.
_COARSE_TYPES = ("date", "bool", "time")


class Comparison(NamedTuple):
    """A column on the left, whatever way it was written."""

    column: Any
    sign: str
    other: Any


def comparison(node: Any) -> Iterator[Comparison]:
    """:param node: an A_Expr of one operator.
    :return: it, and it the other way round, where a column stands alone."""
    sign = node.name[-1].sval
    if sign in _TURNED:
        for column, word, other in ((node.lexpr, sign, node.rexpr), (node.rexpr, _TURNED[sign], node.lexpr)):
            found = compared(column)
            if found is not None:
                yield Comparison(found, word, other)


def compared(node: Any) -> Any:
    """:return: the ColumnRef whose value decides, also under lower() or a cast; None where there is none."""
    ast = grammar().ast
    while True:
        if isinstance(node, ast.ColumnRef):
            return node if hasattr(node.fields[-1], "sval") else None
        if (
            isinstance(node, ast.TypeCast)
            and node.typeName.names[-1].sval not in _COARSE_TYPES
            or isinstance(node, ast.CollateClause)
        ):
            node = node.arg
        elif (
            isinstance(node, ast.CoalesceExpr)
            or isinstance(node, ast.FuncCall)
            and node.funcname[-1].sval in _SAME_ROWS
            and node.args
        ):
            node = node.args[0]
        else:
            return None


def column_name(ref: Any) -> str:
    """:return: the last word of a ColumnRef."""
    return str(getattr(ref.fields[-1], "sval", ""))


def is_key(name: str) -> bool:
    """:return: whether a column of that name counts the rows."""
    lower = name.lower()
    return lower in ("id", "uuid", "key", "pk", "ctid") or lower.endswith(("_id", "id", "_no", "_key"))


def shared(name: str, value: Any) -> bool:
    """:return: whether many rows have a value of that column, or that very value where it is a default: '' or 0."""
    lower = name.lower()
    if any(lower == word or lower.endswith("_" + word) or lower.startswith("is_") for word in _FEW_VALUES):
        return True
    ast = grammar().ast
    while isinstance(value, ast.TypeCast):
        value = value.arg
    if isinstance(value, ast.A_Const) and not value.isnull and not is_key(name):
        return getattr(value.val, "sval", None) == "" or getattr(value.val, "ival", None) == 0
    return False


def is_boolean(node: Any) -> bool:
    """:return: whether it is TRUE or FALSE."""
    ast = grammar().ast
    while isinstance(node, ast.TypeCast):
        node = node.arg
    return isinstance(node, ast.A_Const) and getattr(node.val, "boolval", None) is not None


def number(node: Any) -> float | None:
    """:return: what a constant is as a number, also one in quotes; None where it is none."""
    ast = grammar().ast
    while isinstance(node, ast.TypeCast):
        node = node.arg
    if isinstance(node, ast.A_Expr) and node.name and node.name[-1].sval in _SUMS:
        left, right = 0.0 if node.lexpr is None else number(node.lexpr), number(node.rexpr)
        return _SUMS[node.name[-1].sval](left, right) if left is not None and right is not None else None
    constant = getattr(node, "val", None) if isinstance(node, ast.A_Const) else None
    for name in ("ival", "fval", "sval"):
        value = getattr(constant, name, None)
        if value is not None:
            text = str(value).strip().replace("_", "")
            return float(text) if re.fullmatch(r"[+-]?\d{1,30}(\.\d*)?([eE][+-]?\d{1,2})?", text) else None
    return None


def direct(node: Any) -> Iterator[Any]:
    """:return: the node and what is beneath it, a query as itself but not what is in it."""
    ast = grammar().ast
    if isinstance(node, tuple):
        for item in node:
            yield from direct(item)
    elif isinstance(node, ast.Node):
        yield node
        if isinstance(node, ast.SubLink):
            yield from direct(node.testexpr)
        elif not isinstance(node, ast.SelectStmt):
            for slot in node:
                yield from direct(getattr(node, slot))


def aggregates(query: Any) -> bool:
    """:return: whether a SELECT makes one row of all."""
    ast = grammar().ast
    if query.groupClause:
        return False
    return any(
        isinstance(item, ast.FuncCall) and item.over is None and item.funcname[-1].sval in _AGGREGATES
        for target in query.targetList or ()
        for item in direct(target.val)
    )


def series(node: Any) -> list[Any]:
    """:return: the calls in it that make rows of numbers."""
    ast = grammar().ast
    return [item for item in direct(node) if isinstance(item, ast.FuncCall) and item.funcname[-1].sval in _SERIES]


def named_outputs(query: Any) -> tuple[str, ...] | None:
    """:return: the columns that a query has for who reads it; None where the text does not tell."""
    ast = grammar().ast
    if not isinstance(query, ast.SelectStmt):
        targets = getattr(getattr(query, "returningClause", None), "exprs", None) or getattr(
            query, "returningList", None
        )
    else:
        while query.larg is not None:
            query = query.larg
        if query.valuesLists:
            return tuple(f"column{place}" for place, _ in enumerate(query.valuesLists[0], 1))
        targets = query.targetList
    found = []
    for target in targets or ():
        value = target.val
        while isinstance(value, ast.TypeCast):
            value = value.arg
        if target.name:
            found.append(target.name)
        elif isinstance(value, ast.ColumnRef):
            if not hasattr(value.fields[-1], "sval"):
                return None
            found.append(value.fields[-1].sval)
        elif isinstance(value, ast.FuncCall):
            found.append(value.funcname[-1].sval)
        else:
            found.append("?column?")
    return tuple(found)


def output(query: Any, column: str) -> Any:
    """:return: the expression behind a column of a query; None where it is not one that the text has."""
    names = named_outputs(query) if isinstance(query, grammar().ast.SelectStmt) and query.targetList else None
    return query.targetList[names.index(column)].val if names and column in names else None
