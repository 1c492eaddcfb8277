# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for what goes, and for names that change (R33 to R40, R58)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from .locks import Relation, qualified
from .rules import WARNING, Found, rule
from .rules_constraints import alterations
from .session import Seen

# Names that no query and no code has to know.
_INNER = ("OBJECT_INDEX", "OBJECT_TABCONSTRAINT", "OBJECT_DOMCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE",
          "OBJECT_STATISTIC_EXT", "OBJECT_EVENT_TRIGGER", "OBJECT_ROLE", "OBJECT_TABLESPACE", "OBJECT_PUBLICATION",
          "OBJECT_SUBSCRIPTION")  # fmt: skip


def _cascades(node: Any) -> bool:
    return bool(node.behavior == grammar().enums.DropBehavior.DROP_CASCADE)


@rule("R33", "AlterTableStmt")
def dropped_column(seen: Seen) -> Iterator[Found]:
    """DROP COLUMN of a table that was there, DROP ATTRIBUTE of a type."""
    node = seen.node
    table = relation_name(node.relation)
    if seen.session.existing(table) and table not in seen.session.objects.types:
        for command in node.cmds or ():
            if command.subtype.name == "AT_DropColumn" and not seen.session.made_column(table, command.name):
                yield Found(f"{table[1]} loses {command.name}, and code that names it fails")


@rule("R34", "DropStmt")
def dropped_table(seen: Seen) -> Iterator[Found]:
    """DROP TABLE of one that was there; a view or materialized view that does not come back in this file."""
    node, kinds = seen.node, grammar().enums.ObjectType
    words = {kinds.OBJECT_TABLE: "table", kinds.OBJECT_MATVIEW: "materialized view", kinds.OBJECT_VIEW: "view"}
    if node.removeType not in words:
        return
    for target in node.objects:
        relation = qualified(target)
        if seen.session.made(relation):
            continue
        if node.removeType == kinds.OBJECT_TABLE:
            yield Found(f"the table {relation[1]} goes with its rows")
        elif relation not in _made_later(seen):
            yield Found(f"the {words[node.removeType]} {relation[1]} goes, and code that names it fails", WARNING)


def _made_later(seen: Seen) -> set[Relation]:
    ast = grammar().ast
    found = set()
    for part in seen.session.parts:
        if isinstance(part.node, ast.ViewStmt):
            found.add(relation_name(part.node.view))
        elif isinstance(part.node, ast.CreateTableAsStmt):
            found.add(relation_name(part.node.into.rel))
    return found


@rule("R35", "DropStmt", "TruncateStmt", "DropdbStmt", "DropOwnedStmt", "AlterTableStmt")
def taken_along(seen: Seen) -> Iterator[Found]:
    """CASCADE, TRUNCATE, DROP DATABASE, DROP OWNED."""
    node, ast, kinds = seen.node, grammar().ast, grammar().enums.ObjectType
    if isinstance(node, ast.DropdbStmt):
        yield Found(f"the database {node.dbname} goes with all that is in it")
    elif isinstance(node, ast.DropOwnedStmt):
        yield Found("DROP OWNED takes every object of the role")
    elif isinstance(node, ast.TruncateStmt):
        tables = [relation_name(relation) for relation in node.relations]
        existing = [table[1] for table in tables if seen.session.existing(table)]
        if existing:
            more = ", and every table that references them" if _cascades(node) else ""
            yield Found(f"TRUNCATE takes all rows of {', '.join(existing)}{more}")
    elif isinstance(node, ast.AlterTableStmt):
        for table, command in alterations(seen):
            if command.subtype.name in ("AT_DropConstraint", "AT_DropColumn") and _cascades(command):
                yield Found(f"CASCADE takes what stands on {command.name} of {table[1]}")
    elif _cascades(node):
        made = node.removeType in (kinds.OBJECT_TABLE, kinds.OBJECT_VIEW, kinds.OBJECT_MATVIEW) and all(
            seen.session.made(qualified(target)) for target in node.objects
        )
        if not made:
            word = node.removeType.name.removeprefix("OBJECT_").lower().replace("_", " ")
            yield Found(f"DROP {word.upper()} ... CASCADE takes what nobody named")
    elif node.removeType == kinds.OBJECT_SCHEMA:
        yield Found(f"the schema {node.objects[0].sval} goes, and code that names it fails", WARNING)


@rule("R36", "AlterTableStmt")
def dropped_constraint(seen: Seen) -> Iterator[Found]:
    """DROP NOT NULL, and DROP CONSTRAINT of one that neither comes back nor has done its duty."""
    commands = list(alterations(seen))
    for table, command in commands:
        name = command.subtype.name
        if name == "AT_DropNotNull":
            if not seen.session.made_column(table, command.name):
                yield Found(f"{command.name} of {table[1]} may be NULL from now on, and code reads it")
        elif name == "AT_DropConstraint" and not _has_done_its_duty(seen, table, command.name, commands):
            yield Found(f"nothing keeps {command.name} of {table[1]} from now on")


def _has_done_its_duty(seen: Seen, table: Relation, name: str, commands: list[tuple[Relation, Any]]) -> bool:
    """:return: whether the file itself made the constraint, another takes its place, or it proved what stands by itself now."""
    objects = seen.session.objects
    if any(relation == table for relation, _ in objects.constraints):
        return True
    if any(relation == table for relation, _ in objects.not_null) or table in objects.attached:
        return True
    later = [command for _, command in commands]
    for part in seen.session.parts:
        if type(part.node).__name__ == "AlterTableStmt" and relation_name(part.node.relation) == table:
            later += part.node.cmds or ()
    return any(command.subtype.name in ("AT_AddConstraint", "AT_SetNotNull") for command in later)


@rule("R37", "RenameStmt", "AlterObjectSchemaStmt", "AlterEnumStmt")
def renamed(seen: Seen) -> Iterator[Found]:
    """A name that code knows changes, and nothing bears the old one."""
    node, ast = seen.node, grammar().ast
    if isinstance(node, ast.AlterEnumStmt):
        if node.oldVal is not None and qualified(node.typeName) not in seen.session.objects.types:
            yield Found(f"the label '{node.oldVal}' becomes '{node.newVal}', and code that writes it fails")
        return
    kind = (node.renameType if isinstance(node, ast.RenameStmt) else node.objectType).name
    if kind in _INNER:
        return
    if node.relation is not None:
        relation = relation_name(node.relation)
        if seen.session.made(relation) or relation in seen.session.objects.types:
            return
        if kind == "OBJECT_COLUMN" and seen.session.made_column(relation, node.subname):
            return
        if isinstance(node, ast.RenameStmt) and _is_swap(seen, relation):
            return
        before = seen.transaction.renamed.get(relation) if seen.transaction is not None else None
        if (before if kind == "OBJECT_COLUMN" else relation) in _borne_again(seen):
            return
        name = f"{node.subname} of {relation[1]}" if getattr(node, "subname", None) else relation[1]
    else:
        name = _named(node.object) if node.object is not None else node.subname
        typed = kind in ("OBJECT_TYPE", "OBJECT_DOMAIN") and isinstance(node.object, (tuple, list))
        if typed and qualified(node.object) in seen.session.objects.types:
            return
        if kind == "OBJECT_FUNCTION" and name in seen.session.objects.functions:
            return
    yield Found(f"the name {name} is gone, and code that uses it fails")


def _named(target: Any) -> str:
    if isinstance(target, (tuple, list)):
        return str(getattr(target[-1], "sval", target[-1]))
    for part in ("names", "objname"):
        if getattr(target, part, None):
            return str(getattr(target, part)[-1].sval)
    return str(getattr(target, "sval", target))


def _is_swap(seen: Seen, relation: Relation) -> bool:
    """:return: whether another column, or table, takes the name in the same transaction, or this one takes that of another."""
    node, transaction, ast = seen.node, seen.transaction, grammar().ast
    if transaction is None:
        return False
    column = node.subname or ""
    taken = (relation, node.newname) if column else ((relation[0], node.newname), "")
    if taken in transaction.freed:
        return True
    for part in seen.session.parts:
        later = part.node
        if isinstance(later, ast.TransactionStmt):
            break
        if not isinstance(later, ast.RenameStmt) or later.relation is None or bool(later.subname) != bool(column):
            continue
        if later.newname == (column or relation[1]) and (not column or relation_name(later.relation) == relation):
            return True
    return False


def _borne_again(seen: Seen) -> set[Relation]:
    """:return: the names that a view or another table takes on in the same transaction."""
    ast = grammar().ast
    found: set[Relation] = set()
    if seen.transaction is None:
        return found
    for part in seen.session.parts:
        node = part.node
        if isinstance(node, ast.TransactionStmt):
            break
        if isinstance(node, ast.ViewStmt):
            found.add(relation_name(node.view))
        elif isinstance(node, ast.RenameStmt) and node.relation is not None:
            found.add((relation_name(node.relation)[0], node.newname))
    return found


@rule("R38", "AlterEnumStmt")
def label_without_a_place(seen: Seen) -> Iterator[Found]:
    """ADD VALUE without BEFORE or AFTER."""
    node = seen.node
    if node.oldVal is not None or node.newValNeighbor or seen.session.engine:
        return
    if qualified(node.typeName) not in seen.session.objects.types:
        yield Found(f"'{node.newVal}' sorts behind all other labels of {qualified(node.typeName)[1]}", WARNING)


@rule("R38", "*")
def label_used_at_once(seen: Seen) -> Iterator[Found]:
    """A new label in the transaction that adds it."""
    transaction, ast = seen.transaction, grammar().ast
    if transaction is None or not transaction.labels or isinstance(seen.node, (ast.CommentStmt, ast.AlterEnumStmt)):
        return
    words = {node.sval for node in walk(seen.node) if isinstance(getattr(node, "sval", None), str)}
    for label, enum in transaction.labels.items():
        if label in words or any(f"'{label}'" in word for word in words):
            place = "this transaction" if transaction.runner is None or seen.session.engine else transaction.place
            yield Found(
                f"the label '{label}' is added to {enum} in {place} and cannot be used before its commit (55P04)"
            )


@rule("R39", "CreateEnumStmt")
def new_enum(seen: Seen) -> Iterator[Found]:
    """A new enum type."""
    yield Found(f"no label of {qualified(seen.node.typeName)[1]} can ever be dropped")


@rule("R40", "CreateDomainStmt", "AlterDomainStmt")
def domain(seen: Seen) -> Iterator[Found]:
    """A domain with a constraint, or one that gets it."""
    node, ast = seen.node, grammar().ast
    if isinstance(node, ast.CreateDomainStmt):
        if any(c.contype.name in ("CONSTR_CHECK", "CONSTR_NOTNULL") for c in node.constraints or ()):
            yield Found(f"the domain {qualified(node.domainname)[1]} has a constraint, which cannot be changed online")
        return
    name = qualified(node.typeName)
    if name in seen.session.objects.types:
        return
    kind = str(getattr(node.subtype, "value", node.subtype))
    validated = node.def_ is not None and not node.def_.skip_validation
    if (kind == "C" and validated) or kind == "O":
        yield Found(f"every table that uses {name[1]} is read under a lock")


@rule("R58", "CreateStmt")
def created_anew(seen: Seen) -> Iterator[Found]:
    """DROP TABLE and CREATE TABLE of one name."""
    table = relation_name(seen.node.relation)
    line = seen.session.objects.dropped.get(table)
    if line is not None and table not in seen.session.objects.dropped_own:
        yield Found(f"{table[1]} was dropped in line {line}, and begins without rows")
