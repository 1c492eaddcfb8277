# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for types: those that change in place, and those that do not last (R24, R25, R32, R56)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, type_name

from .locks import Relation
from .rules import ERROR, NOTE, WARNING, Found, rule
from .rules_constraints import alterations
from .session import Seen

_STRINGS = ("text", "character varying")


@rule("R24", "AlterTableStmt")
def changed_type(seen: Seen) -> Iterator[Found]:
    """ALTER COLUMN TYPE that writes the table anew."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AlterColumnType":
            verdict, message = _verdict(seen, table, command)
            if verdict in (ERROR, WARNING) and not _is_length(command):
                yield Found(message, verdict, table)


@rule("R24", "AlterTableStmt")
def changed_collation(seen: Seen) -> Iterator[Found]:
    """Another collation sorts anew: the indexes over the column are built again, where the rows stay. Without COLLATE it becomes
    that of the type."""
    for table, command in alterations(seen):
        if command.subtype.name != "AT_AlterColumnType" or _verdict(seen, table, command)[0] is not None:
            continue
        facts = seen.session.table_facts(table) or {}
        clause = command.def_.collClause
        old = facts.get("columns", {}).get(command.name, {}).get("collation")
        new = clause.collname[-1].sval if clause is not None else "default"
        indexes = [name for name, columns in facts.get("indexes", {}).items() if command.name in (columns or ())]
        if old and old != new and indexes:
            message = f"{command.name} of {table[1]} becomes COLLATE {new}: {', '.join(indexes)} is built while nobody can use the table"
            yield Found(message, table=table)


@rule("R25", "AlterTableStmt")
def changed_length(seen: Seen) -> Iterator[Found]:
    """ALTER COLUMN TYPE to a length or precision that may be shorter."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AlterColumnType" and _is_length(command):
            verdict, message = _verdict(seen, table, command)
            if verdict is not None:
                yield Found(message, verdict, table)


def _is_length(command: Any) -> bool:
    """:return: whether the type has a length that the column's own may be longer than."""
    base, size = _parts(type_name(command.def_.typeName))
    sized = ("character varying", "numeric", "bit varying", "interval")
    return bool(size) and (base in sized or base.startswith("time"))


def _parts(name: str) -> tuple[str, tuple[int, ...]]:
    """:return: a type without its modifiers, and they."""
    size = re.search(r"\(([\d,\s-]+)\)", name)
    base = re.sub(r"\s*\([\d,\s-]+\)", "", name)
    if size and size.group(1).strip() == "6" and base.startswith(("time", "interval")):
        # The most that there is, and what it is without a precision.
        return base, ()
    return base, tuple(int(part) for part in size.group(1).split(",")) if size else ()


def _verdict(seen: Seen, table: Relation, command: Any) -> tuple[str | None, str]:
    """:return: the level, None where nothing is written; and the sentence."""
    new = type_name(command.def_.typeName)
    column = command.name
    old = _old_type(seen, table, column)
    using = command.def_.raw_default
    message = f"{column} of {table[1]} becomes {new}: every row is written anew while nobody can use the table"
    if using is not None and not _is_itself(using, column, command.def_.typeName):
        return ERROR, message
    if old is not None:
        return (None, "") if _is_free(seen, old, new) else (ERROR, message)
    base, size = _parts(new)
    if command.def_.typeName.arrayBounds:
        return ERROR, message
    if base in _STRINGS and not size:
        # From varchar nothing is written; a number would be, and its text does not tell.
        return None, ""
    if _is_length(command) and base != "numeric":
        return (
            WARNING,
            f"where {column} of {table[1]} is longer than {new} or has no length now, every row is read or written",
        )
    if (
        base in ("numeric", "interval", "bit varying", "time without time zone", "time with time zone")
        or base == "inet"
    ):
        return None, ""
    if base.startswith("timestamp"):
        zone = seen.session.setting("timezone")
        if zone is not None:
            return (None, "") if _is_utc(zone) else (ERROR, message)
        return WARNING, f"where TimeZone is not UTC, {column} of {table[1]} becomes {new} in every row"
    return ERROR, message


def _old_type(seen: Seen, table: Relation, column: str) -> str | None:
    known = seen.session.objects.columns.get(table, {}).get(column)
    if known is not None:
        return known.type
    facts = seen.session.table_facts(table)
    return str(facts["columns"][column]["type"]) if facts and column in facts.get("columns", {}) else None


def _is_itself(using: Any, column: str, target: Any) -> bool:
    """:return: whether USING is the column, or the column cast to its new type."""
    ast = grammar().ast
    if isinstance(using, ast.TypeCast) and type_name(using.typeName) == type_name(target):
        using = using.arg
    return isinstance(using, ast.ColumnRef) and getattr(using.fields[-1], "sval", None) == column


def _is_utc(zone: Any) -> bool:
    return str(zone).strip().upper() in ("UTC", "ETC/UTC", "GMT", "ZULU", "0", "UCT")


def _is_free(seen: Seen, old: str, new: str) -> bool:
    """:return: whether a change of type writes nothing (measured; ATColumnChangeRequiresRewrite in the server)."""
    if old == new:
        return True
    (was, had), (becomes, has) = _parts(old), _parts(new)
    if was in _STRINGS and becomes in _STRINGS:
        return not has or (bool(had) and has[0] >= had[0])
    if was == becomes == "numeric":
        if not has or not had:
            return not has
        scale_was, scale = (had + (0,))[1], (has + (0,))[1]
        return scale == scale_was and has[0] >= had[0]
    if was == becomes and (was.startswith(("time", "interval")) or was == "bit varying"):
        return not has or (bool(had) and has[0] >= had[0])
    if was == "cidr" and becomes == "inet":
        return True
    if was.startswith("timestamp") and becomes.startswith("timestamp") and had == has:
        zone = seen.session.setting("timezone") or (seen.session.facts or {}).get("timezone")
        return _is_utc(zone)
    return False


def _new_columns(seen: Seen) -> Iterator[tuple[Relation, Any, bool]]:
    """:return: each new column, and whether its table was there."""
    ast = grammar().ast
    node = seen.node
    table = relation_name(node.relation)
    if isinstance(node, ast.CreateStmt):
        for element in node.tableElts or ():
            if isinstance(element, ast.ColumnDef) and element.typeName is not None:
                yield table, element, False
    else:
        for command in node.cmds or ():
            if command.subtype.name == "AT_AddColumn" and command.def_.typeName is not None:
                yield table, command.def_, seen.session.existing(table)


@rule("R32", "CreateStmt", "AlterTableStmt")
def json_type(seen: Seen) -> Iterator[Found]:
    """A column of the type json; on a table in use the queries that compare rows fail at once."""
    for table, column, existing in _new_columns(seen):
        if type_name(column.typeName) == "json":
            yield Found(f"{table[1]}.{column.colname} is json, which has no equality", ERROR if existing else None)


@rule("R56", "CreateStmt", "AlterTableStmt")
def types_that_last(seen: Seen) -> Iterator[Found]:
    """Small keys, char(n), money, timestamp without a zone."""
    ast = grammar().ast
    keys: set[str] = set()
    if isinstance(seen.node, ast.CreateStmt):
        for element in seen.node.tableElts or ():
            if isinstance(element, ast.Constraint) and element.contype.name == "CONSTR_PRIMARY":
                keys |= {key.sval for key in element.keys or ()}
    for table, column, _ in _new_columns(seen):
        name = type_name(column.typeName)
        primary = column.colname in keys or any(c.contype.name == "CONSTR_PRIMARY" for c in column.constraints or ())
        where = f"{table[1]}.{column.colname} is {name}"
        if name in ("serial", "serial4", "smallserial", "serial2") or (primary and name in ("integer", "smallint")):
            yield Found(f"{where}: it runs out of numbers")
        elif name.startswith("character(") and name != "character(1)":
            yield Found(f"{where}: it is padded with blanks", WARNING)
        elif name == "money":
            yield Found(f"{where}: its digits follow lc_monetary", WARNING)
        elif name.startswith("timestamp") and name.endswith("without time zone"):
            yield Found(f"{where}: it has no zone", NOTE)
