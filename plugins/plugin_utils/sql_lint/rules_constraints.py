# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for constraints that read a table under the lock that adds them (R14, R16 to R23, R46)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name

from .definitions import checked_not_null, column_of
from .locks import Relation
from .partition_bounds import proves
from .rules import ERROR, NOTE, WARNING, Found, rule
from .session import Seen, Session

_SERIAL = {"serial": "integer", "bigserial": "bigint", "smallserial": "smallint"}
_SERIAL |= {"serial4": "integer", "serial8": "bigint", "serial2": "smallint"}


def alterations(seen: Seen) -> Iterator[tuple[Relation, Any]]:
    """:return: the commands of an ALTER TABLE on a table that was there before."""
    node = seen.node
    if node.objtype == grammar().enums.ObjectType.OBJECT_TABLE:
        table = relation_name(node.relation)
        if seen.session.existing(table):
            for command in node.cmds or ():
                yield table, command


def added(seen: Seen) -> Iterator[tuple[Relation, Any, Any]]:
    """:return: each constraint that is added to a table that was there, with the new column that it is written at, or None."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_AddConstraint":
            yield table, command.def_, None
        elif command.subtype.name == "AT_AddColumn":
            for constraint in command.def_.constraints or ():
                yield table, constraint, command.def_


def _kind(constraint: Any) -> str:
    return str(constraint.contype.name)


@rule("R14", "AlterTableStmt")
def foreign_key(seen: Seen) -> Iterator[Found]:
    """A foreign key that is validated at once. At a new column without a default every row has NULL: nothing is read (measured)."""
    for table, constraint, column in added(seen):
        if _kind(constraint) != "CONSTR_FOREIGN" or constraint.skip_validation:
            continue
        filled = column is None or any(
            _kind(c) in ("CONSTR_DEFAULT", "CONSTR_GENERATED") for c in column.constraints or ()
        )
        fresh = column is None and _all_fresh(seen, table, [key.sval for key in constraint.fk_attrs or ()])
        if filled and not fresh:
            yield Found(f"FOREIGN KEY reads every row of {table[1]} while the writes of both tables wait", table=table)
    for table, command in alterations(seen):
        # Only a foreign key can be so, since 18.
        if command.subtype.name == "AT_AlterConstraint" and _becomes_enforced(command.def_):
            yield Found(f"ENFORCED reads every row of {table[1]} while the writes of both tables wait", table=table)


def _becomes_enforced(definition: Any) -> bool:
    return bool(getattr(definition, "alterEnforceability", False) and definition.is_enforced)


def _all_fresh(seen: Seen, table: Relation, keys: list[str]) -> bool:
    """:return: whether a column of the key was added in this very statement, so that every row has NULL there."""
    new = {
        command.def_.colname
        for _, command in alterations(seen)
        if command.subtype.name == "AT_AddColumn"
        and not any(
            _kind(c) in ("CONSTR_DEFAULT", "CONSTR_GENERATED", "CONSTR_IDENTITY")
            for c in command.def_.constraints or ()
        )
    }
    return bool(new & set(keys))


@rule("R17", "AlterTableStmt", "CreateStmt")
def key_types(seen: Seen) -> Iterator[Found]:
    """Both columns are known to the file, or to the catalog, and differ."""
    node = seen.node
    table = relation_name(node.relation)
    own: dict[str, str] = {}
    keys: list[tuple[Any, str | None]] = []
    ast = grammar().ast
    elements = node.tableElts if isinstance(node, ast.CreateStmt) else [command.def_ for command in node.cmds or ()]
    for element in elements or ():
        if isinstance(element, ast.ColumnDef) and element.typeName is not None and element.colname:
            own[element.colname] = _type(element)
            keys += [(c, element.colname) for c in element.constraints or () if _kind(c) == "CONSTR_FOREIGN"]
        elif isinstance(element, ast.Constraint) and _kind(element) == "CONSTR_FOREIGN":
            keys.append((element, None))
    for constraint, column in keys:
        parent = relation_name(constraint.pktable)
        mine = [column] if column else [key.sval for key in constraint.fk_attrs or ()]
        theirs = [key.sval for key in constraint.pk_attrs or ()] or _primary_key(seen, parent)
        for here, there in zip(mine, theirs, strict=False):
            left = own.get(str(here)) or _known_type(seen, table, str(here))
            right = own.get(there) if parent == table else _known_type(seen, parent, there)
            if left and right and left != right:
                yield Found(f"{table[1]}.{here} is {left}, and {parent[1]}.{there} is {right}")


def _type(element: Any) -> str:
    name = column_of(element).type
    return _SERIAL.get(name, name)


def _known_type(seen: Seen, table: Relation, column: str) -> str | None:
    known = seen.session.objects.columns.get(table, {}).get(column)
    if known is not None:
        return _SERIAL.get(known.type, known.type)
    facts = seen.session.table_facts(table)
    return str(facts["columns"][column]["type"]) if facts and column in facts.get("columns", {}) else None


def _primary_key(seen: Seen, table: Relation) -> list[str]:
    for (relation, _), constraint in seen.session.objects.constraints.items():
        if relation == table and constraint.kind == "CONSTR_PRIMARY":
            return list(constraint.columns)
    index = seen.session.objects.indexes.get((table[0], f"{table[1]}_pkey"))
    if index is not None and index[0] == table:
        return list(index[1])
    facts = seen.session.table_facts(table)
    return list(facts.get("primary_key") or []) if facts else []


@rule("R18", "AlterTableStmt")
def check(seen: Seen) -> Iterator[Found]:
    """A CHECK that is validated at once, also one written at a new column."""
    for table, constraint, _ in added(seen):
        if _kind(constraint) == "CONSTR_CHECK" and not constraint.skip_validation:
            yield Found(f"CHECK reads every row of {table[1]} while nobody can use the table", table=table)


@rule("R19", "AlterTableStmt")
def validated_at_once(seen: Seen) -> Iterator[Found]:
    """VALIDATE CONSTRAINT under the lock of another command."""
    transaction = seen.transaction
    commands = list(alterations(seen))
    others = [c for _, c in commands if c.subtype.name != "AT_ValidateConstraint"]
    for table, command in commands:
        if command.subtype.name != "AT_ValidateConstraint":
            continue
        held = transaction.locked.get(table) if transaction is not None and not seen.handler else None
        if held:
            message = f"VALIDATE reads every row of {table[1]} while {held[0]} of line {held[1]} is held"
            yield Found(message, table=table)
        elif others:
            yield Found(f"VALIDATE reads every row of {table[1]} under the lock of the other commands", table=table)


@rule("R20", "AlterTableStmt")
def set_not_null(seen: Seen) -> Iterator[Found]:
    """SET NOT NULL without anything that proves it, and ADD CONSTRAINT ... NOT NULL (18) that is validated at once."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_SetNotNull":
            column = command.name
            left = _without_what_goes(seen)
            if left.column_is_not_null(table, column) or _checked_in_the_catalog(left, table, column):
                continue
            proof = _proved_elsewhere(seen, table, column)
            if proof is None:
                message = (
                    f"unless a constraint that is gone later proves it, SET NOT NULL reads every row of {table[1]}"
                )
                yield Found(message, NOTE, table)
            elif not proof:
                yield Found(f"SET NOT NULL reads every row of {table[1]} while nobody can use the table", table=table)
    for table, constraint, column in added(seen):
        if _kind(constraint) != "CONSTR_NOTNULL" or constraint.skip_validation:
            continue
        if column is not None and any(getattr(c, "generated_kind", "") == "v" for c in column.constraints):
            message = f"NOT NULL of a VIRTUAL column reads every row of {table[1]} while nobody can use the table"
            yield Found(message, table=table)
        elif column is None:
            names = [key.sval for key in constraint.keys or ()]
            if not all(seen.session.column_is_not_null(table, name) for name in names):
                yield Found(f"NOT NULL reads every row of {table[1]} while nobody can use the table", table=table)


def _checked_in_the_catalog(session: Session, table: Relation, column: str) -> bool:
    """:return: whether a valid CHECK of the table says so together with other things."""
    checks = (session.table_facts(table) or {}).get("checks") or {}
    gone = session.objects.dropped_constraints
    return any(
        column in checked_not_null(_expression(text)) for name, text in checks.items() if (table, name) not in gone
    )


def _without_what_goes(seen: Seen) -> Session:
    """:return: what is known once this statement has dropped constraints, which it does before anything else."""
    gone = [(table, c.name) for table, c in alterations(seen) if c.subtype.name == "AT_DropConstraint"]
    if not gone:
        return seen.session
    left = replace(seen.session, objects=seen.session.objects.copy())
    for table, name in gone:
        left.objects.drop_constraint(table, name)
    return left


# How people name a CHECK (column IS NOT NULL), and what else stands in such a name.
_PROOF = re.compile(r"no[tn]_?null|(?:^|_)(?:null|nn|present|presence|required|filled|mandatory)(?=_|$)")
_FILLING = {"", "is", "has", "be", "must", "c", "ck", "chk", "check", "con", "constraint", "tmp", "temp"}


def _proved_elsewhere(seen: Seen, table: Relation, column: str) -> bool | None:
    """A constraint of an earlier file was validated in this one, or goes in a later statement once it has done its duty: its
    name tells whether it is about this column. :return: None where the name tells the column only."""
    objects = _without_what_goes(seen).objects
    if seen.session.table_facts(table) is not None:
        return False
    if any(key[0] == table and key not in objects.constraints for key in objects.validated):
        return True
    found: bool | None = False
    for part in seen.session.parts:
        if type(part.node).__name__ != "AlterTableStmt" or relation_name(part.node.relation) != table:
            continue
        for command in part.node.cmds or ():
            # What this file itself has made is known better than by its name.
            if command.subtype.name == "AT_DropConstraint" and (table, command.name) not in objects.constraints:
                told = _named_for(command.name, table[1], column)
                found = told if found is False else found or told
    return found


def _named_for(name: str, table: str, column: str) -> bool | None:
    """:return: whether a constraint's name says that the column is not NULL; None where it names the column only."""
    parts = column.lower().split("_")
    tables = set(table.lower().split("_"))
    words = set(_PROOF.sub("_", name.lower()).split("_")) - _FILLING
    others = {word for word in words if word not in parts and not {word, f"{word}s"} & tables}
    if _PROOF.search(name.lower()):
        return not others or bool(words & set(parts))
    return None if set(parts) <= words else False


@rule("R21", "AlterTableStmt")
def unique(seen: Seen) -> Iterator[Found]:
    """UNIQUE and PRIMARY KEY that build their index, also at a new column."""
    for table, constraint, _ in added(seen):
        if _kind(constraint) in ("CONSTR_UNIQUE", "CONSTR_PRIMARY") and not constraint.indexname:
            word = "UNIQUE" if _kind(constraint) == "CONSTR_UNIQUE" else "PRIMARY KEY"
            yield Found(f"{word} builds an index of {table[1]} while nobody can use the table", table=table)


@rule("R22", "AlterTableStmt")
def nullable_primary_key(seen: Seen) -> Iterator[Found]:
    """PRIMARY KEY USING INDEX over a column that may be NULL."""
    for table, constraint, _ in added(seen):
        if _kind(constraint) != "CONSTR_PRIMARY" or not constraint.indexname:
            continue
        known = seen.session.objects.indexes.get((table[0], constraint.indexname))
        facts = seen.session.table_facts(table)
        columns = list(known[1]) if known else list(((facts or {}).get("indexes") or {}).get(constraint.indexname, []))
        unproved = [name for name in columns if not seen.session.column_is_not_null(table, name)]
        if columns and not unproved:
            continue
        nullable = facts is not None or any(name in seen.session.objects.columns.get(table, {}) for name in unproved)
        if not columns and facts is None:
            yield Found(
                f"a primary key of {table[1]} reads every row where one of its columns may be NULL", NOTE, table
            )
        elif unproved:
            message = f"{', '.join(unproved)} of {table[1]} may be NULL: the primary key reads every row for it"
            yield Found(message, ERROR if nullable else NOTE, table)


@rule("R23", "AlterTableStmt")
def exclude(seen: Seen) -> Iterator[Found]:
    """EXCLUDE on a table in use."""
    for table, constraint, _ in added(seen):
        if _kind(constraint) == "CONSTR_EXCLUSION":
            yield Found(f"EXCLUDE builds an index of {table[1]} while nobody can use the table", table=table)


@rule("R46", "AlterTableStmt")
def attached(seen: Seen) -> Iterator[Found]:
    """ATTACH PARTITION of a table with rows, without a valid CHECK that names the key and proves both its bounds."""
    node = seen.node
    if node.objtype != grammar().enums.ObjectType.OBJECT_TABLE:
        return
    for command in node.cmds or ():
        if command.subtype.name != "AT_AttachPartition":
            continue
        child = relation_name(command.def_.name)
        if seen.session.made(child):
            continue
        if command.def_.bound.is_default and seen.session.facts:
            continue
        proof = _bounds_proved(seen, relation_name(node.relation), child, command.def_.bound)
        if proof is None:
            message = f"unless a CHECK of {child[1]} proves all its bounds, ATTACH PARTITION reads every row of it"
            yield Found(message, WARNING, child)
        elif not proof:
            yield Found(f"ATTACH PARTITION reads every row of {child[1]} while it is locked", table=child)


def _bounds_proved(seen: Seen, parent: Relation, child: Relation, bound: Any) -> bool | None:
    """:return: whether a valid CHECK of the table proves the bounds; None where one may."""
    objects, facts = seen.session.objects, seen.session.table_facts(child)
    if any(table == child and (table, name) not in objects.constraints for table, name in objects.validated):
        # It was made in an earlier file, and nobody here knows what it says.
        return True
    expressions = [
        constraint.expression
        for (table, _), constraint in objects.constraints.items()
        if table == child and constraint.valid and constraint.kind == "CONSTR_CHECK"
    ]
    for name, text in ((facts or {}).get("checks") or {}).items():
        if (child, name) not in objects.dropped_constraints:
            expressions.append(_expression(text))
    if bound.is_default:
        return bool(expressions)
    keys = objects.partition_keys.get(parent) or (seen.session.table_facts(parent) or {}).get("partition_key")
    proof = proves(expressions, bound, keys)
    if proof and facts is not None and keys and len(keys) == 1:
        return not _may_be_null(seen, child, keys[0], expressions)
    return proof


def _expression(text: str) -> Any:
    """:return: the expression of a constraint as the catalog writes it."""
    (raw,) = grammar().parser.parse_sql(f"ALTER TABLE t ADD {text}")
    return raw.stmt.cmds[0].def_.raw_expr


def _may_be_null(seen: Seen, table: Relation, column: str, expressions: list[Any]) -> bool:
    """A CHECK holds for NULL, which is in no partition but the one FOR VALUES IN (NULL)."""
    return not seen.session.column_is_not_null(table, column) and not any(
        column in checked_not_null(expression) for expression in expressions
    )
