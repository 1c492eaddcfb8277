# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for columns: new ones that write every row, types that change, types that do not last (R24 to R32, R56, R66)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    grammar,
    relation_name,
    type_name,
    walk,
)

from .locks import Relation, qualified
from .rules import ERROR, NOTE, WARNING, Found, rule
from .rules_constraints import alterations
from .session import Seen

# Those of the server's functions that give another value for each row (pg_proc.provolatile = 'v') and that stand in defaults.
VOLATILE = frozenset(
    [
        "clock_timestamp",
        "currval",
        "gen_random_bytes",
        "gen_random_uuid",
        "gen_salt",
        "lastval",
        "nextval",
        "pg_current_wal_lsn",
        "pg_notify",
        "pg_sleep",
        "random",
        "random_normal",
        "setseed",
        "setval",
        "timeofday",
        "uuid_generate_v1",
        "uuid_generate_v1mc",
        "uuid_generate_v4",
        "uuidv4",
        "uuidv7",
    ]
)
# Those that stand in defaults and do not.
STEADY = frozenset(
    [
        "abs",
        "age",
        "array_append",
        "array_cat",
        "array_length",
        "array_remove",
        "array_to_json",
        "ceil",
        "chr",
        "coalesce",
        "concat",
        "concat_ws",
        "current_database",
        "current_setting",
        "current_schema",
        "current_user",
        "date",
        "date_bin",
        "date_part",
        "date_trunc",
        "decode",
        "digest",
        "encode",
        "extract",
        "floor",
        "format",
        "greatest",
        "int4range",
        "int8range",
        "inet_client_addr",
        "int4multirange",
        "isfinite",
        "json_build_array",
        "json_build_object",
        "jsonb_build_array",
        "jsonb_build_object",
        "jsonb_object",
        "left",
        "length",
        "lower",
        "lpad",
        "ltrim",
        "make_date",
        "make_interval",
        "make_time",
        "make_timestamp",
        "make_timestamptz",
        "md5",
        "mod",
        "now",
        "numrange",
        "nullif",
        "pg_backend_pid",
        "point",
        "power",
        "regexp_replace",
        "repeat",
        "replace",
        "reverse",
        "right",
        "round",
        "rpad",
        "rtrim",
        "session_user",
        "sha256",
        "sign",
        "sqrt",
        "statement_timestamp",
        "string_to_array",
        "substr",
        "substring",
        "timezone",
        "to_char",
        "to_date",
        "to_json",
        "to_jsonb",
        "to_number",
        "to_timestamp",
        "to_tsvector",
        "transaction_timestamp",
        "translate",
        "trim",
        "trunc",
        "tsrange",
        "tstzrange",
        "txid_current",
        "pg_current_xact_id",
        "upper",
        "user",
        "uuid_nil",
        "version",
        "btrim",
    ]
)
_SERIAL = {"serial", "serial2", "serial4", "serial8", "bigserial", "smallserial"}
_STRINGS = ("text", "character varying")


@rule("R27", "AlterTableStmt")
def volatile_default(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN with a default that differs by row. A stable one such as now() is kept in the catalog (measured)."""
    for table, command in alterations(seen):
        if command.subtype.name != "AT_AddColumn":
            continue
        for constraint in command.def_.constraints or ():
            if constraint.contype.name == "CONSTR_DEFAULT":
                yield from _default(seen, table, command.def_.colname, constraint.raw_expr)


def _default(seen: Seen, table: Relation, column: str, expression: Any) -> Iterator[Found]:
    ast = grammar().ast
    for node in walk(expression):
        if not isinstance(node, ast.FuncCall):
            continue
        name = node.funcname[-1].sval
        answer = _is_volatile(seen, name)
        if answer:
            yield Found(
                f"the default {name}() of {column} is volatile and writes every row of {table[1]} anew", table=table
            )
        elif answer is None:
            yield Found(
                f"if {name}() is volatile, the default of {column} writes every row of {table[1]} anew", WARNING, table
            )


def _is_volatile(seen: Seen, name: str) -> bool | None:
    """:return: whether a function differs by row; None where nobody here knows it."""
    known = seen.session.objects.functions.get(name)
    if known is not None:
        if not known.volatile:
            return False
        # One expression in SQL is inlined, and counts as what it is (measured).
        if known.language == "sql" and known.text.upper().count("SELECT") == 1 and " FROM " not in known.text.upper():
            called = re.findall(r"(\w+)\s*\(", known.text)
            return any(word.lower() in VOLATILE for word in called)
        return True
    facts = (seen.session.facts or {}).get("functions", {}).get(name)
    if facts:
        return bool(facts["volatile"])
    if name in VOLATILE:
        return True
    return False if name in STEADY else None


@rule("R29", "AlterTableStmt")
def serial(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN serial, or GENERATED AS IDENTITY."""
    for table, command in alterations(seen):
        if command.subtype.name != "AT_AddColumn":
            continue
        column = command.def_
        identity = any(c.contype.name == "CONSTR_IDENTITY" for c in column.constraints or ())
        if identity or (column.typeName is not None and column.typeName.names[-1].sval in _SERIAL):
            word = "identity" if identity else "serial"
            yield Found(f"the {word} column {column.colname} writes every row of {table[1]} anew", table=table)


@rule("R30", "AlterTableStmt")
def generated(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN GENERATED STORED, and SET EXPRESSION of one (17)."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn":
            for constraint in command.def_.constraints or ():
                if constraint.contype.name == "CONSTR_GENERATED" and getattr(constraint, "generated_kind", "s") != "v":
                    message = f"the stored column {command.def_.colname} is computed for every row of {table[1]}"
                    yield Found(message, table=table)
        elif command.subtype.name == "AT_SetExpression":
            yield Found(f"SET EXPRESSION computes {command.name} for every row of {table[1]}", table=table)


@rule("R31", "AlterTableStmt")
def required(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN NOT NULL without anything to put there."""
    for table, command in alterations(seen):
        if command.subtype.name != "AT_AddColumn":
            continue
        kinds = {constraint.contype.name for constraint in command.def_.constraints or ()}
        filled = kinds & {"CONSTR_DEFAULT", "CONSTR_IDENTITY", "CONSTR_GENERATED"}
        serial_type = command.def_.typeName is not None and command.def_.typeName.names[-1].sval in _SERIAL
        if kinds & {"CONSTR_NOTNULL", "CONSTR_PRIMARY"} and not filled and not serial_type:
            yield Found(f"{command.def_.colname} is NOT NULL without a default: refused where {table[1]} has rows")


@rule("R40", "AlterTableStmt")
def checked_domain(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN of a domain with a constraint."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn" and command.def_.typeName is not None:
            name = qualified(command.def_.typeName.names)
            if seen.session.objects.types.get(name) == "checked domain":
                message = f"{command.def_.colname} is of the domain {name[1]}, which has a constraint: every row is written anew"
                yield Found(message, table=table)


@rule("R66", "AlterTableStmt")
def added_again(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN IF NOT EXISTS of a column that is known to be there."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn" and command.missing_ok:
            facts = seen.session.table_facts(table) or {}
            name = command.def_.colname
            if name in seen.session.objects.columns.get(table, {}) or name in facts.get("columns", {}):
                yield Found(f"{table[1]} has {name} already, and ACCESS EXCLUSIVE is taken for nothing")


# --- types -------------------------------------------------------------------------------------------------------------


@rule("R24", "AlterTableStmt")
def changed_type(seen: Seen) -> Iterator[Found]:
    """ALTER COLUMN TYPE that writes the table anew."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AlterColumnType":
            verdict, message = _verdict(seen, table, command)
            if verdict in (ERROR, WARNING) and not _is_length(command):
                yield Found(message, verdict, table)


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
    if _is_length(command):
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
