# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for new columns: what writes every row, and what is refused (R27 to R31, R40, R66)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    grammar,
    relation_name,
    walk,
)

from .definitions import column_of
from .locks import Relation, qualified
from .rules import WARNING, Found, rule
from .rules_constraints import alterations
from .session import Column, Seen

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


@rule("R31", "AlterTableStmt")
def required_later(seen: Seen) -> Iterator[Found]:
    """DROP DEFAULT of a NOT NULL column that this file adds, as Django writes it: code that does not know the column cannot insert."""
    added: dict[str, Column] = {}
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn":
            added[command.def_.colname] = column_of(command.def_)
    known = seen.session.objects
    for table, command in alterations(seen):
        name = command.name
        if command.subtype.name != "AT_ColumnDefault" or command.def_ is not None:
            continue
        column = added.get(name) or known.columns.get(table, {}).get(name)
        if column is None or not column.has_default or not (column.not_null or (table, name) in known.not_null):
            continue
        if not _optional_again(seen, table, name):
            message = f"without its default {name} is asked for in every INSERT: code that does not know it cannot insert into {table[1]} (23502)"
            yield Found(message)


def _optional_again(seen: Seen, table: Relation, column: str) -> bool:
    """:return: whether a later statement gives the column another default, lets it be NULL, or drops it."""
    for part in seen.session.parts:
        if type(part.node).__name__ != "AlterTableStmt" or relation_name(part.node.relation) != table:
            continue
        for command in part.node.cmds or ():
            kind = command.subtype.name
            again = kind in ("AT_DropNotNull", "AT_AddIdentity", "AT_DropColumn")
            if command.name == column and (again or kind == "AT_ColumnDefault" and command.def_ is not None):
                return True
    return False


@rule("R40", "AlterTableStmt")
def checked_domain(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN of a domain with a constraint."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn" and command.def_.typeName is not None:
            name = qualified(command.def_.typeName.names)
            own = seen.session.objects.types.get(name)
            known = (seen.session.facts or {}).get("domains", {}).get(".".join(name))
            if own == "checked domain" or (own is None and known):
                message = f"{command.def_.colname} is of the domain {name[1]}, which has a constraint: every row is written anew"
                yield Found(message, table=table)


@rule("R66", "AlterTableStmt")
def added_again(seen: Seen) -> Iterator[Found]:
    """ADD COLUMN IF NOT EXISTS of a column that is known to be there."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddColumn" and command.missing_ok:
            facts = seen.session.table_facts(table) or {}
            name = command.def_.colname
            if seen.session.made_column(table, name) or name in facts.get("columns", {}):
                yield Found(f"{table[1]} has {name} already, and ACCESS EXCLUSIVE is taken for nothing")
