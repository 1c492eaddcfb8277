# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the definition of a column, a constraint or a function says."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, type_name, walk

from .locks import Relation
from .session import Column


def column_of(element: Any) -> Column:
    """:return: what a column definition says."""
    kinds = grammar().enums.ConstrType
    found = {constraint.contype for constraint in element.constraints or ()}
    name = type_name(element.typeName) if element.typeName is not None else ""
    not_null = bool(found & {kinds.CONSTR_NOTNULL, kinds.CONSTR_PRIMARY, kinds.CONSTR_IDENTITY}) or "serial" in name
    return Column(name, not_null, kinds.CONSTR_DEFAULT in found)


def given_name(node: Any, table: Relation, keys: tuple[str, ...]) -> str | None:
    """:return: the name that the server gives to an added CHECK or NOT NULL, where it is the first of its kind."""
    kinds, ast = grammar().enums.ConstrType, grammar().ast
    if node.contype == kinds.CONSTR_NOTNULL:
        return f"{table[1]}_{keys[0]}_not_null" if keys else None
    if node.contype != kinds.CONSTR_CHECK:
        return None
    named = {item.fields[-1].sval for item in walk(node.raw_expr) if isinstance(item, ast.ColumnRef)}
    return "_".join([table[1], *(named if len(named) == 1 else ()), "check"])


def checked_not_null(expression: Any) -> list[str]:
    """:return: the columns that an expression wants not to be NULL: x IS NOT NULL, joined by AND, or the opposite under NOT."""
    return _not_null(expression, True)


def _not_null(expression: Any, wanted: bool) -> list[str]:
    ast, enums = grammar().ast, grammar().enums
    if isinstance(expression, ast.BoolExpr):
        if expression.boolop == enums.BoolExprType.NOT_EXPR:
            return _not_null(expression.args[0], not wanted)
        joined = enums.BoolExprType.AND_EXPR if wanted else enums.BoolExprType.OR_EXPR
        if expression.boolop == joined:
            return [name for argument in expression.args for name in _not_null(argument, wanted)]
        return []
    test = enums.NullTestType.IS_NOT_NULL if wanted else enums.NullTestType.IS_NULL
    if isinstance(expression, ast.NullTest) and expression.nulltesttype == test:
        return [expression.arg.fields[-1].sval] if isinstance(expression.arg, ast.ColumnRef) else []
    return []


def set_value(node: Any) -> Any:
    """:return: the value of a SET, its parts with commas; None where it goes back to the default."""
    if node.kind.name != "VAR_SET_VALUE":
        return None
    found = []
    for argument in node.args or ():
        constant = getattr(argument, "val", None)
        values = [getattr(constant, part, None) for part in ("sval", "ival", "fval")]
        found.append(next((str(value) for value in values if value is not None), ""))
    return ", ".join(found)


def header_settings(node: Any) -> tuple[tuple[str, Any], ...]:
    """:return: the settings in the header of CREATE FUNCTION, which hold while it runs."""
    given = [option.arg for option in node.options or () if option.defname == "set"]
    return tuple((item.name.lower(), set_value(item)) for item in given if item.kind.name == "VAR_SET_VALUE")


def body_offset(text: str) -> int:
    """:return: where the first quoted body of a statement begins."""
    for token in grammar().parser.scan(text):
        if token.name == "SCONST":
            return int(token.start)
    return 0
