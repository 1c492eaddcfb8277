# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the bodies of DO blocks and functions: which statements they run, and what EXECUTE puts together as far as it is written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar

from . import row_expressions

# Stands for a name or value that is known only when it runs.
UNKNOWN = "pgops_unknown"
_LOOPS = ("PLpgSQL_stmt_loop", "PLpgSQL_stmt_while", "PLpgSQL_stmt_fori", "PLpgSQL_stmt_fors", "PLpgSQL_stmt_forc",
          "PLpgSQL_stmt_dynfors", "PLpgSQL_stmt_foreach_a")  # fmt: skip
_BRANCHES = ("then_body", "else_body", "stmts", "else_stmts")
FEW_TURNS = 1000
_FORMAT = re.compile(r"%(?:(\d+)\$)?-?\d*([sIL%])")


@dataclass(frozen=True)
class Step:
    """One statement of a body."""

    # sql, dynamic, commit or rollback
    kind: str
    text: str
    # Lines below the one in which the body begins.
    line: int
    loop: bool = False
    # The text tells that the loops around it have few turns.
    few_turns: bool = False
    handler: bool = False
    # The loop around it commits each turn.
    commits: bool = False
    # The branches of IF, CASE and EXCEPTION in which it stands, from the outermost.
    branches: tuple[int, ...] = ()


def steps_of(statement: str) -> list[Step]:
    """:param statement: a DO or CREATE FUNCTION statement in PL/pgSQL.
    :return: what its body runs, in the order in which it is written.
    :raises ValueError: the body is not PL/pgSQL."""
    g = grammar()
    try:
        functions = json.loads(g.parser.parse_plpgsql_json(statement))
    except (g.parser.ParseError, ValueError) as exc:
        raise ValueError(str(exc.args[0]) if exc.args else "not PL/pgSQL") from None
    found: list[Step] = []
    for function in functions:
        body = function.get("PLpgSQL_function", {})
        found += _walk(body.get("action", {}), _constants(body.get("datums", [])), _Around())
    return found


@dataclass(frozen=True)
class _Around:
    loop: bool = False
    few_turns: bool = False
    handler: bool = False
    commits: bool = False
    line: int = 1
    branches: tuple[int, ...] = ()

    def step(self, kind: str, text: str, line: int) -> Step:
        """:return: a statement that stands here."""
        return Step(kind, text, line, self.loop, self.few_turns, self.handler, self.commits, self.branches)


def _constants(datums: list[Any]) -> dict[str, str]:
    """:return: the variables that are declared with a text, and what it is."""
    found = {}
    for datum in datums:
        variable = datum.get("PLpgSQL_var", {})
        query = variable.get("default_val", {}).get("PLpgSQL_expr", {}).get("query")
        if query and variable.get("refname"):
            value = text_of(query, {})
            if value is not None and UNKNOWN not in value:
                found[variable["refname"]] = value
    return found


def _walk(node: Any, constants: dict[str, str], around: _Around) -> Iterator[Step]:
    if isinstance(node, list):
        for item in node:
            yield from _walk(item, constants, around)
        return
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        here = around
        if isinstance(value, dict) and value.get("lineno"):
            here = replace(here, line=value["lineno"])
        if name in _LOOPS:
            few = _few_turns(name, value) and (here.few_turns or not here.loop)
            here = replace(here, loop=True, few_turns=few, commits=_has_commit(value))
        if name == "PLpgSQL_exception_block":
            here = replace(here, handler=True)
        # What an error takes back may not have happened either.
        if name in _BRANCHES or name == "PLpgSQL_exception_block" or (name == "body" and "exceptions" in node):
            here = replace(here, branches=(*here.branches, id(value)))
        if name == "PLpgSQL_stmt_commit":
            yield here.step("commit", "", here.line)
        elif name == "PLpgSQL_stmt_rollback":
            yield here.step("rollback", "", here.line)
        elif name == "PLpgSQL_stmt_assign":
            yield from _assigned(value, constants, here)
        elif name in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors"):
            query = value.get("query", {}).get("PLpgSQL_expr", {}).get("query", "")
            text = text_of(query, constants)
            yield here.step("dynamic", text if text is not None else UNKNOWN, here.line)
            yield from _walk(value.get("body"), constants, here)
        elif name == "PLpgSQL_expr":
            query = str(value.get("query", ""))
            # parseMode 0 is a statement, 2 an expression, 3 and more an assignment.
            text = query if value.get("parseMode", 0) == 0 else f"SELECT {query}"
            if value.get("parseMode", 0) in (0, 2):
                yield here.step("sql", text, around.line)
        else:
            yield from _walk(value, constants, here)


def _assigned(value: Mapping[str, Any], constants: dict[str, str], around: _Around) -> Iterator[Step]:
    query = str(value.get("expr", {}).get("PLpgSQL_expr", {}).get("query", ""))
    name, sign, rest = query.partition(":=")
    if not sign:
        name, _, rest = query.partition("=")
    text = text_of(rest, constants) if rest.strip() else None
    constants.pop(name.strip(), None)
    if text is not None and text != UNKNOWN:
        constants[name.strip()] = text
    if rest.strip():
        yield around.step("sql", f"SELECT {rest}", around.line)


def _few_turns(loop: str, value: Mapping[str, Any]) -> bool:
    """:return: whether a loop has so few turns that one transaction may hold what they change, a row each: by its numbers, its array, or
    the LIMIT of its query."""

    def expression(name: str) -> Any:
        query = str(value.get(name, {}).get("PLpgSQL_expr", {}).get("query", ""))
        try:
            (raw,) = grammar().parser.parse_sql(query if loop == "PLpgSQL_stmt_fors" else f"SELECT {query}")
        except (grammar().parser.ParseError, ValueError):
            return None
        return raw.stmt if loop == "PLpgSQL_stmt_fors" else raw.stmt.targetList[0].val

    if loop == "PLpgSQL_stmt_fori":
        first, last = (row_expressions.number(expression(name)) for name in ("lower", "upper"))
        return first is not None and last is not None and abs(last - first) < FEW_TURNS
    if loop == "PLpgSQL_stmt_foreach_a":
        return isinstance(expression("expr"), grammar().ast.A_ArrayExpr)
    query = expression("query") if loop == "PLpgSQL_stmt_fors" else None
    if not isinstance(query, grammar().ast.SelectStmt):
        return False
    limit = row_expressions.number(query.limitCount)
    return bool(query.valuesLists) or (limit is not None and limit <= FEW_TURNS)


def _has_commit(node: Any) -> bool:
    if isinstance(node, dict):
        return "PLpgSQL_stmt_commit" in node or any(_has_commit(value) for value in node.values())
    return isinstance(node, list) and any(_has_commit(item) for item in node)


def text_of(expression: str, constants: Mapping[str, str]) -> str | None:
    """:return: the text that an expression makes, with UNKNOWN in the place of what is not written down; None if it is no expression."""
    g = grammar()
    try:
        (raw,) = g.parser.parse_sql(f"SELECT {expression}")
        node = raw.stmt.targetList[0].val
    except (g.parser.ParseError, ValueError, TypeError, AttributeError):
        return None
    return value_of(node, constants)


def value_of(node: Any, constants: Mapping[str, str]) -> str:
    """:return: the text of a parsed expression, as ``text_of``."""
    ast = grammar().ast
    if isinstance(node, ast.A_Const):
        if node.isnull:
            return ""
        for name in ("sval", "ival", "fval"):
            value = getattr(node.val, name, None)
            if value is not None:
                return str(value)
        return UNKNOWN
    if isinstance(node, ast.TypeCast):
        return value_of(node.arg, constants)
    if isinstance(node, ast.A_Expr) and node.name and node.name[-1].sval == "||" and node.lexpr is not None:
        return value_of(node.lexpr, constants) + value_of(node.rexpr, constants)
    if isinstance(node, ast.ColumnRef):
        variable = getattr(node.fields[-1], "sval", None)
        return constants.get(variable, UNKNOWN) if variable else UNKNOWN
    if isinstance(node, ast.FuncCall):
        return _called(node.funcname[-1].sval, [value_of(argument, constants) for argument in node.args or ()])
    return UNKNOWN


def _called(name: str, values: list[str]) -> str:
    if name == "format" and values:
        arguments = iter(values[1:])

        def put(match: re.Match[str]) -> str:
            position, kind = match.groups()
            if kind == "%":
                return "%"
            if position:
                value = values[int(position)] if int(position) < len(values) else UNKNOWN
            else:
                value = next(arguments, UNKNOWN)
            if kind == "L":
                return "'" + value.replace("'", "''") + "'"
            return value

        return _FORMAT.sub(put, values[0])
    if name in ("concat", "concat_ws"):
        return values[0].join(values[1:]) if name == "concat_ws" and values else "".join(values)
    if name in ("quote_ident", "lower", "upper", "trim", "btrim") and values:
        return values[0]
    if name in ("quote_literal", "quote_nullable") and values:
        return "'" + values[0].replace("'", "''") + "'"
    return UNKNOWN
