# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which states of the catalog a statement brings about, and nothing else: where they hold already it has nothing to do.

PostgreSQL takes the lock of ALTER TABLE before it looks, ACCESS EXCLUSIVE for all that is told here. Whether they hold
``module_utils/catalog_states.py`` looks up.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    DEFAULT_SCHEMA,
    grammar,
    qualified_name,
    relation_name,
)

State = dict[str, Any]

# What a way down may find as it was before its version: see module_utils/states_before.py.
_TURNED = ("not_null", "default", "row_security", "forced_row_security")


def parts_of(node: Any, text: str) -> dict[str, Any] | None:
    """Take an ALTER TABLE apart, so that one of its parts can be left out.

    :param text: the statement as it was written; pieces of it are returned.
    :return: ``table`` (``ALTER TABLE public.students``) and ``parts``, each with its ``sql`` and its ``state``, None where
        it has none; None for a statement without a part that turns NOT NULL, a default or row level security on or off.
    """
    g = grammar()
    if not isinstance(node, g.ast.AlterTableStmt) or node.objtype != g.enums.ObjectType.OBJECT_TABLE:
        return None
    schema, table = relation_name(node.relation)
    states = [_of_command(command) for command in node.cmds or ()]
    turned = [
        {"schema": schema, "table": table, **state} if state and state["kind"] in _TURNED else None for state in states
    ]
    if not any(turned):
        return None
    tokens = [token for token in g.parser.scan(text) if token.name not in ("C_COMMENT", "SQL_COMMENT")]
    first = _after_the_table([text[token.start : token.end + 1] for token in tokens])
    pieces: list[list[Any]] = [[]]
    depth = 0
    for token in tokens[first:]:
        word = text[token.start : token.end + 1]
        depth += (word in ("(", "[")) - (word in (")", "]"))
        if word == "," and not depth:
            pieces.append([])
        elif word != ";":
            pieces[-1].append(token)
    if len(pieces) != len(turned):
        return None
    written = [text[piece[0].start : piece[-1].end + 1] for piece in pieces]
    return {
        "table": text[tokens[0].start : tokens[first - 1].end + 1],
        "parts": [{"sql": part, "state": state} for part, state in zip(written, turned)],
    }


def _after_the_table(words: list[str]) -> int:
    """:return: the position of the first word of the first part."""
    position = 2
    while words[position].upper() in ("IF", "EXISTS", "ONLY", "("):
        position += 1
    while words[position + 1] == ".":
        position += 2
    position += 1
    while words[position] in ("*", ")"):
        position += 1
    return position


def states_of(node: Any) -> list[State]:
    """Tell the states that a parsed statement brings about.

    :return: ``kind``, ``schema``, ``table``, ``there`` and mostly ``name`` each, a default also its ``expression``, and
        ``unqualified`` where the table is named without its schema; none where any part of the statement does something that
        is not told by a state.
    """
    ast = grammar().ast
    if isinstance(node, ast.AlterTableStmt):
        return _altered(node)
    if isinstance(node, ast.DropStmt):
        return _dropped(node)
    return []


def renames_of(node: Any) -> list[State]:
    """:return: the tables and materialized views (``to``, ``to_schema``) and columns (``column``, ``to``) to which a parsed statement
    gives other names."""
    g = grammar()
    kinds = g.enums.ObjectType
    relations = (kinds.OBJECT_TABLE, kinds.OBJECT_MATVIEW)
    if isinstance(node, g.ast.AlterObjectSchemaStmt) and node.objectType in relations:
        schema, table = relation_name(node.relation)
        return [{"schema": schema, "table": table, "to_schema": node.newschema}]
    if not isinstance(node, g.ast.RenameStmt):
        return []
    if node.renameType == kinds.OBJECT_COLUMN and node.relationType == kinds.OBJECT_TABLE:
        schema, table = relation_name(node.relation)
        return [{"schema": schema, "table": table, "column": node.subname, "to": node.newname}]
    if node.renameType in relations:
        schema, table = relation_name(node.relation)
        return [{"schema": schema, "table": table, "to": node.newname}]
    return []


def named_aside_of(node: Any) -> list[State]:
    """:return: what else has another name or schema after a parsed statement, in the shape of what a statement destroys."""
    g = grammar()
    kinds = g.enums.ObjectType
    if isinstance(node, g.ast.AlterEnumStmt):
        schema, name = qualified_name(node.typeName)
        return [{"kind": "enum_value", "schema": schema, "type": name, "name": node.oldVal}] if node.oldVal else []
    if not isinstance(node, (g.ast.RenameStmt, g.ast.AlterObjectSchemaStmt)):
        return []
    renamed = isinstance(node, g.ast.RenameStmt)
    kind = node.renameType if renamed else node.objectType
    if kind in (kinds.OBJECT_TYPE, kinds.OBJECT_DOMAIN):
        schema, name = qualified_name(node.object)
        return [{"kind": "type", "schema": schema, "name": name}]
    if kind in (kinds.OBJECT_FUNCTION, kinds.OBJECT_PROCEDURE, kinds.OBJECT_ROUTINE):
        schema, name = qualified_name(node.object.objname)
        return [{"kind": "function", "schema": schema, "name": name}]
    if not renamed:
        return []
    if kind == kinds.OBJECT_INDEX:
        schema, name = relation_name(node.relation)
        return [{"kind": "index", "schema": schema, "name": name}]
    if kind == kinds.OBJECT_SCHEMA:
        return [{"kind": "schema", "schema": None, "name": node.subname}]
    words = {kinds.OBJECT_TABCONSTRAINT: "constraint", kinds.OBJECT_TRIGGER: "trigger", kinds.OBJECT_POLICY: "policy"}
    if kind not in words:
        return []
    schema, table = relation_name(node.relation)
    found = [{"kind": words[kind], "schema": schema, "table": table, "name": node.subname}]
    if kind == kinds.OBJECT_TABCONSTRAINT:
        # The index of a key has its name, and gets the other one with it.
        found.append({"kind": "index", "schema": schema, "name": node.subname})
    return found


def _altered(node: Any) -> list[State]:
    if node.objtype != grammar().enums.ObjectType.OBJECT_TABLE:
        return []
    schema, table = relation_name(node.relation)
    parts = [_of_command(command) for command in node.cmds or ()]
    told = [part for part in parts if part is not None]
    where = {"schema": schema, "table": table, **_path(node.relation.schemaname is None)}
    return [{**where, **part} for part in told] if len(told) == len(parts) else []


def _path(unqualified: bool) -> State:
    """Which table a name without a schema means, only the session knows that runs it: its search_path, its temporary tables."""
    return {"unqualified": True} if unqualified else {}


def _of_command(command: Any) -> State | None:
    kinds = grammar().enums.AlterTableType
    always: dict[Any, State] = {
        kinds.AT_SetNotNull: {"kind": "not_null", "name": command.name, "there": True},
        kinds.AT_DropNotNull: {"kind": "not_null", "name": command.name, "there": False},
        kinds.AT_EnableRowSecurity: {"kind": "row_security", "there": True},
        kinds.AT_DisableRowSecurity: {"kind": "row_security", "there": False},
        kinds.AT_ForceRowSecurity: {"kind": "forced_row_security", "there": True},
        kinds.AT_NoForceRowSecurity: {"kind": "forced_row_security", "there": False},
    }
    # Without IF EXISTS what is not there is an error, which nobody wants to miss.
    if_exists: dict[Any, State] = {
        kinds.AT_DropColumn: {"kind": "column", "name": command.name, "there": False},
        kinds.AT_DropConstraint: {"kind": "constraint", "name": command.name, "there": False},
    }
    if command.subtype == kinds.AT_ColumnDefault:
        return _default(command)
    if command.subtype == kinds.AT_AddColumn and command.missing_ok:
        return {"kind": "column", "name": command.def_.colname, "there": True}
    if command.subtype in if_exists and command.missing_ok:
        return if_exists[command.subtype]
    return always.get(command.subtype)


def _default(command: Any) -> State | None:
    g = grammar()
    given = command.def_
    if given is None:
        return {"kind": "default", "name": command.name, "there": False}
    # NULL is what a column has that has no default, unless its type is a domain that has one.
    if isinstance(given, g.ast.A_Const) and given.isnull:
        return None
    return {"kind": "default", "name": command.name, "there": True, "expression": g.print(given)}


def _dropped(node: Any) -> list[State]:
    kinds = grammar().enums.ObjectType
    words = {kinds.OBJECT_TRIGGER: "trigger", kinds.OBJECT_POLICY: "policy", kinds.OBJECT_RULE: "rule"}
    if node.removeType not in words or not node.missing_ok:
        return []
    states = []
    for target in node.objects:
        names = [part.sval for part in target]
        schema = names[-3] if len(names) > 2 else DEFAULT_SCHEMA
        where = {"schema": schema, "table": names[-2], **_path(len(names) < 3)}
        states.append({**where, "kind": words[node.removeType], "name": names[-1], "there": False})
    return states
