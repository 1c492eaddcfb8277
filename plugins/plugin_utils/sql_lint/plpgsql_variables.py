# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The variables of a body in PL/pgSQL, and what one is that is filled in one place only: a first or last key, or all keys of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar


class Definition(NamedTuple):
    """What fills a variable."""

    query: Any
    # The expression of the query; None for a record, which has all of them.
    value: Any


def variables_of(statement: str) -> dict[str, Definition | None]:
    """:param statement: a DO or CREATE FUNCTION statement in PL/pgSQL.
    :return: its arguments, variables and records, each with what fills it; None where several places do, or none that can be read."""
    g = grammar()
    try:
        functions = json.loads(g.parser.parse_plpgsql_json(statement))
    except (g.parser.ParseError, ValueError):
        return {}
    found: dict[str, list[Definition | None]] = {}
    for function in functions:
        body = function.get("PLpgSQL_function", {})
        for datum in body.get("datums", []):
            for variable in datum.values():
                if variable.get("refname"):
                    given = _default(variable)
                    found.setdefault(variable["refname"].lower(), []).extend([given] if given else [])
        for name, definition in _filled(body.get("action", {})):
            found.setdefault(name.lower(), []).append(definition)
    return {name: places[0] if len(places) == 1 else None for name, places in found.items()}


def _default(variable: Mapping[str, Any]) -> Definition | None:
    """:return: what DECLARE fills it with; None for a constant, which is there to be replaced."""
    query = _text(variable.get("default_val", {}))
    definition = _read(f"SELECT {query}")[:1] if query else []
    return definition[0] if definition and not isinstance(definition[0].value, grammar().ast.A_Const) else None


def _filled(node: Any) -> Iterator[tuple[str, Definition | None]]:
    """:return: each variable that a statement fills, with what it is filled with."""
    if isinstance(node, list):
        for item in node:
            yield from _filled(item)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "PLpgSQL_stmt_assign":
                target, sign, rest = _text(value.get("expr", {})).partition(":=")
                if not sign:
                    target, _, rest = target.partition("=")
                yield target.strip(), next(iter(_read(f"SELECT {rest}")), None)
            elif name == "PLpgSQL_stmt_execsql" and value.get("into"):
                yield from _into(_text(value.get("sqlstmt", {})), value.get("target", {}))
            else:
                yield from _filled(value)


def _into(text: str, target: Mapping[str, Any]) -> Iterator[tuple[str, Definition | None]]:
    definitions = _read(text)
    record = target.get("PLpgSQL_rec", {}).get("refname")
    if record:
        yield record, Definition(definitions[0].query, None) if definitions else None
    for place, field in enumerate(target.get("PLpgSQL_row", {}).get("fields", [])):
        yield field["name"], definitions[place] if place < len(definitions) else None


def _text(expression: Mapping[str, Any]) -> str:
    return str(expression.get("PLpgSQL_expr", {}).get("query", ""))


def _read(text: str) -> list[Definition]:
    """:return: each output of a SELECT."""
    g = grammar()
    try:
        (raw,) = g.parser.parse_sql(text)
    except (g.parser.ParseError, ValueError):
        return []
    if not isinstance(raw.stmt, g.ast.SelectStmt):
        return []
    return [Definition(raw.stmt, target.val) for target in raw.stmt.targetList or ()]
