# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a version works on the rows that are there: in an empty database it does nothing, without an error.

A blue-green version is applied to an empty copy, and the rows come over as they are. Whatever it would have made of them would be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils import risk_changes
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint.procedural import steps_of
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    Statement,
    grammar,
    relation_name,
    type_name,
    walk,
)

_CATALOGS = ("pg_catalog", "information_schema")
_WRITES = "writes rows"
_UNREAD = "has a DO block that cannot be read, and may write rows"


def row_work(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """:param steps: of a migration, split into statements.
    :return: ``where`` (file and line, or the step) and ``what`` of each thing on its way up that needs the rows, in order."""
    found = []
    for number, step in enumerate(steps, 1):
        if step["kind"] == "backfill":
            found.append({"where": f"step {number}", "what": _WRITES})
            continue
        for statement in step.get("up") or ():
            if isinstance(statement, Statement):
                what = next(_of_statement(statement.node, statement.sql), None)
                if what:
                    found.append({"where": f"{statement.file}:{statement.line}", "what": what})
    return found


def _of_statement(node: Any, sql: str) -> Iterator[str]:
    ast = grammar().ast
    if isinstance(node, ast.DoStmt):
        languages = [part.arg.sval for part in node.args if part.defname == "language"]
        yield from _of_block(sql) if languages in ([], ["plpgsql"]) else (_UNREAD,)
    elif isinstance(node, ast.CallStmt):
        yield "calls a procedure, which may write rows"
    elif isinstance(node, ast.SelectStmt) and risk_changes.calls_unknown(node):
        yield "calls a function that may write rows"
    else:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[str]:
    ast = grammar().ast
    if isinstance(node, ast.TruncateStmt):
        yield f"empties {_named(relation_name(node.relations[0]))}, whose rows come over"
    elif isinstance(node, ast.AlterTableStmt):
        yield from _computed(node)
    elif isinstance(node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.SelectStmt)):
        yield from _of_query(node)
    elif isinstance(node, ast.CreateTableAsStmt):
        # A materialized view is filled anew when the rows have come.
        view = node.objtype == grammar().enums.ObjectType.OBJECT_MATVIEW
        if not view and not node.into.skipData:
            yield from _taken(node, {id(node.into.rel)})


def _of_query(node: Any) -> Iterator[str]:
    ast = grammar().ast
    for item in walk(node):
        if isinstance(item, (ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            yield _WRITES
        elif isinstance(item, ast.InsertStmt):
            # What a WITH of the whole statement reads goes into it, too.
            yield from _taken(node, {id(one.relation) for one in walk(node) if isinstance(one, ast.InsertStmt)})
        elif isinstance(item, ast.SelectStmt) and item.intoClause is not None:
            yield from _taken(node, {id(item.intoClause.rel)})


def _taken(node: Any, written: set[int]) -> Iterator[str]:
    """:param written: the relations that it writes to, by ``id``."""
    ast = grammar().ast
    within = {item.ctename for item in walk(node) if isinstance(item, ast.CommonTableExpr)}
    for item in walk(node):
        if isinstance(item, ast.RangeVar) and id(item) not in written:
            if item.schemaname in _CATALOGS or (item.schemaname is None and item.relname in within):
                continue
            yield f"{_WRITES} that it takes from {_named(relation_name(item))}"
        elif isinstance(item, ast.RangeFunction) and _calls_own(item):
            yield f"{_WRITES} that it takes from a function"


def _computed(node: Any) -> Iterator[str]:
    """A value becomes the new type by its text; what USING would have made of it is not done."""
    g = grammar()
    for command in node.cmds or ():
        if command.subtype == g.enums.AlterTableType.AT_AlterColumnType and command.def_.raw_default is not None:
            value, wanted = command.def_.raw_default, type_name(command.def_.typeName)
            if isinstance(value, g.ast.TypeCast) and type_name(value.typeName) == wanted:
                value = value.arg
            same = isinstance(value, g.ast.ColumnRef) and getattr(value.fields[-1], "sval", None) == command.name
            if not same:
                yield f"computes the values of {command.name} in {_named(relation_name(node.relation))} by USING"


def _of_block(sql: str) -> Iterator[str]:
    g = grammar()
    try:
        steps = steps_of(sql)
    except ValueError:
        yield _UNREAD
        return
    for step in steps:
        try:
            parsed = g.parser.parse_sql(step.text) if step.text else ()
        except (g.parser.ParseError, ValueError):
            if step.kind == "dynamic":
                yield "puts a statement together when it runs, which may write rows"
            # Else an expression of PL/pgSQL.
            continue
        for raw in parsed:
            if step.kind == "dynamic" or not isinstance(raw.stmt, g.ast.SelectStmt):
                yield from _of_statement(raw.stmt, step.text)
            elif _calls_own(raw.stmt):
                yield "calls a function that may write rows"
            elif raw.stmt.intoClause is None:  # else into a variable
                yield from _of_query(raw.stmt)


def _calls_own(node: Any) -> bool:
    """:return: whether a function is called that is not the server's: migrations name the schema."""
    ast = grammar().ast
    names = [item.funcname for item in walk(node) if isinstance(item, ast.FuncCall)]
    return any(len(parts) > 1 and parts[0].sval != "pg_catalog" for parts in names)


def _named(relation: tuple[str, str]) -> str:
    return ".".join(relation)
