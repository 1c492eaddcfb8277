# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which objects a statement makes, changes or drops, as the session remembers them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name

from .definitions import body_offset, checked_not_null, column_of, given_name, header_settings
from .locks import Relation, qualified
from .row_scopes import BOUNDED
from .rows import size_of
from .session import Column, Constraint, Function, Seen, Session


def _make(session: Session, relation: Relation, kind: str, *, perhaps: bool = False) -> None:
    objects = session.objects
    known = relation in objects.relations and relation not in objects.perhaps
    objects.relations[relation] = kind
    if perhaps and not known and relation not in objects.dropped and session.facts is None:
        objects.perhaps.add(relation)
    elif not perhaps:
        objects.perhaps.discard(relation)


def _create_table(seen: Seen) -> None:
    node, session = seen.node, seen.session
    ast, kinds = grammar().ast, grammar().enums.ConstrType
    table = relation_name(node.relation)
    if node.if_not_exists and table not in session.objects.dropped and _facts_have(session, table):
        return
    _make(session, table, "table", perhaps=node.if_not_exists and node.relation.relpersistence != "t")
    if node.partspec is not None:
        session.objects.partitioned.add(table)
        keys = tuple(element.name for element in node.partspec.partParams or ())
        if all(keys):
            session.objects.partition_keys[table] = keys
    columns: dict[str, Column] = {}
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            columns[element.colname] = column_of(element)
            for constraint in element.constraints or ():
                _constraint(session, table, constraint, element.colname, seen.line)
        elif isinstance(element, ast.Constraint):
            _constraint(session, table, element, None, seen.line)
            if element.contype == kinds.CONSTR_PRIMARY:
                for key in element.keys or ():
                    if key.sval in columns:
                        columns[key.sval] = Column(columns[key.sval].type, True)
    session.objects.columns[table] = columns


def _facts_have(session: Session, table: Relation) -> bool:
    return session.table_facts(table) is not None


def _constraint(session: Session, table: Relation, node: Any, column: str | None, line: int = 0) -> None:
    kinds = grammar().enums.ConstrType
    keys = tuple(key.sval for key in node.keys or ()) or ((column,) if column else ())
    if node.contype == kinds.CONSTR_FOREIGN:
        keys = tuple(key.sval for key in node.fk_attrs or ()) or ((column,) if column else ())
        if line:
            session.objects.foreign_keys[table, keys] = line
    not_null: frozenset[str] = frozenset()
    if node.contype == kinds.CONSTR_CHECK:
        not_null = frozenset(checked_not_null(node.raw_expr))
    elif node.contype == kinds.CONSTR_NOTNULL:
        not_null = frozenset(keys)
    elif node.contype in (kinds.CONSTR_PRIMARY, kinds.CONSTR_UNIQUE) and not node.indexname:
        name = (
            node.conname or f"{table[1]}_{'pkey' if node.contype == kinds.CONSTR_PRIMARY else '_'.join(keys) + '_key'}"
        )
        session.objects.index_tables[table[0], name] = table
        session.objects.indexes[table[0], name] = (table, keys)
    valid = not node.skip_validation
    given = node.conname or (given_name(node, table, keys) if column is None else None)
    if given:
        key = (table, given)
        session.objects.dropped_constraints.discard(key)
        session.objects.constraints[key] = Constraint(node.contype.name, keys, not_null, valid, node.raw_expr)
        if not valid and session.transaction is not None and session.existing(table):
            session.transaction.not_valid.add(key)
    if valid and node.contype in (kinds.CONSTR_CHECK, kinds.CONSTR_NOTNULL):
        session.objects.not_null |= {(table, name) for name in not_null}


def _create_as(seen: Seen) -> None:
    kind = "matview" if seen.node.objtype == grammar().enums.ObjectType.OBJECT_MATVIEW else "table"
    made = relation_name(seen.node.into.rel)
    _make(seen.session, made, kind, perhaps=seen.node.if_not_exists)
    _fill(seen, made, seen.node.query)


def _fill(seen: Seen, table: Relation, query: Any) -> None:
    """A table that the file made is a source of few rows, unless many are put into it."""
    if seen.session.made(table) and size_of(query, seen.session, procedural=seen.procedural) != BOUNDED:
        seen.session.objects.filled.add(table)


def _insert(seen: Seen) -> None:
    if seen.node.selectStmt is not None:
        _fill(seen, relation_name(seen.node.relation), seen.node.selectStmt)


def _select_into(seen: Seen) -> None:
    if seen.node.intoClause is not None and not seen.procedural:
        made = relation_name(seen.node.intoClause.rel)
        _make(seen.session, made, "table")
        _fill(seen, made, seen.node)


def _view(seen: Seen) -> None:
    _make(seen.session, relation_name(seen.node.view), "view")


def _sequence(seen: Seen) -> None:
    _make(seen.session, relation_name(seen.node.sequence), "sequence")


def _index(seen: Seen) -> None:
    node, objects = seen.node, seen.session.objects
    table = relation_name(node.relation)
    columns = tuple(element.name or "" for element in node.indexParams or ())
    name = node.idxname or f"{table[1]}_{'_'.join(columns)}_idx"
    objects.index_tables[table[0], name] = table
    objects.indexes[table[0], name] = (table, columns)


def _alter(seen: Seen) -> None:
    node, session = seen.node, seen.session
    table = relation_name(node.relation)
    objects = session.objects
    for command in node.cmds or ():
        name = command.subtype.name
        if name == "AT_AddColumn":
            column = command.def_
            objects.columns[table] = {**objects.columns.get(table, {}), column.colname: column_of(column)}
            for constraint in column.constraints or ():
                _constraint(session, table, constraint, column.colname, seen.line)
        elif name == "AT_ColumnDefault":
            columns = objects.columns.get(table, {})
            if command.name in columns:
                changed = replace(columns[command.name], has_default=command.def_ is not None)
                objects.columns[table] = {**columns, command.name: changed}
        elif name == "AT_DropColumn":
            objects.columns[table] = {k: v for k, v in objects.columns.get(table, {}).items() if k != command.name}
        elif name == "AT_AddConstraint":
            _constraint(session, table, command.def_, None)
            if command.def_.contype.name == "CONSTR_FOREIGN" and session.transaction is not None:
                session.transaction.foreign_keys += 1
        elif name == "AT_AttachPartition":
            objects.attached.add(relation_name(command.def_.name))
        elif name == "AT_ValidateConstraint":
            key = (table, command.name)
            known = objects.constraints.get(key)
            objects.validated.add(key)
            if known is not None:
                objects.constraints[key] = replace(known, valid=True)
                objects.not_null |= {(table, column) for column in known.not_null}
        elif name == "AT_DropConstraint":
            objects.drop_constraint(table, command.name)
        elif name == "AT_SetNotNull":
            objects.not_null.add((table, command.name))
            objects.set_not_null.add((table, command.name))
        elif name == "AT_DropNotNull":
            objects.not_null.discard((table, command.name))
            objects.set_not_null.discard((table, command.name))


def _drop(seen: Seen) -> None:
    node, objects, kinds = seen.node, seen.session.objects, grammar().enums.ObjectType
    if node.removeType in (
        kinds.OBJECT_TABLE,
        kinds.OBJECT_VIEW,
        kinds.OBJECT_MATVIEW,
        kinds.OBJECT_INDEX,
        kinds.OBJECT_SEQUENCE,
    ):
        for target in node.objects:
            relation = qualified(target)
            if objects.relations.pop(relation, None) is not None and relation not in objects.perhaps:
                objects.dropped_own.add(relation)
            objects.perhaps.discard(relation)
            objects.filled.discard(relation)
            objects.columns.pop(relation, None)
            objects.index_tables.pop(relation, None)
            objects.indexes.pop(relation, None)
            objects.dropped[relation] = seen.line
    elif node.removeType in (kinds.OBJECT_TYPE, kinds.OBJECT_DOMAIN):
        for target in node.objects:
            objects.types.pop(qualified(target.names), None)


def _rename(seen: Seen) -> None:
    node, objects = seen.node, seen.session.objects
    if node.relation is not None and seen.session.transaction is not None:
        seen.session.transaction.freed.add((relation_name(node.relation), node.subname or ""))
    if node.renameType.name == "OBJECT_TABCONSTRAINT":
        table = relation_name(node.relation)
        before, after = (table, node.subname), (table, node.newname)
        if before in objects.constraints:
            objects.constraints[after] = objects.constraints.pop(before)
        if before in objects.validated:
            objects.validated ^= {before, after}
    if node.relation is not None and node.renameType.name in (
        "OBJECT_TABLE",
        "OBJECT_VIEW",
        "OBJECT_MATVIEW",
        "OBJECT_INDEX",
    ):
        old = relation_name(node.relation)
        new = (old[0], node.newname)
        if seen.session.transaction is not None and not node.subname:
            seen.session.transaction.renamed[new] = old
        registers: tuple[dict[Relation, Any], ...] = (
            objects.relations,
            objects.columns,
            objects.index_tables,
            objects.indexes,
        )
        for known in registers:
            if old in known:
                known[new] = known.pop(old)
        for own in (objects.perhaps, objects.filled):
            if old in own:
                own ^= {old, new}


def _enum(seen: Seen) -> None:
    seen.session.objects.types[qualified(seen.node.typeName)] = "enum"


def _alter_enum(seen: Seen) -> None:
    node, session = seen.node, seen.session
    if (
        node.oldVal is None
        and session.transaction is not None
        and qualified(node.typeName) not in session.objects.types
    ):
        session.transaction.labels[node.newVal] = qualified(node.typeName)[1]


def _domain(seen: Seen) -> None:
    checked = any(c.contype.name in ("CONSTR_CHECK", "CONSTR_NOTNULL") for c in seen.node.constraints or ())
    seen.session.objects.types[qualified(seen.node.domainname)] = "checked domain" if checked else "domain"


def _statements(found: Any) -> list[Any]:
    """:return: the statements of a body that the parser has read, which it nests in lists."""
    if isinstance(found, (tuple, list)):
        return [statement for item in found for statement in _statements(item)]
    ast = grammar().ast
    if isinstance(found, ast.ReturnStmt):
        return []
    return [found]


def _function(seen: Seen) -> None:
    node = seen.node
    language, body, volatile = "sql", None, True
    for option in node.options or ():
        if option.defname == "language":
            language = option.arg.sval
        elif option.defname == "as":
            body = option.arg[0].sval if isinstance(option.arg, tuple) else getattr(option.arg, "sval", None)
        elif option.defname == "volatility":
            volatile = option.arg.sval == "volatile"
    name = node.funcname[-1].sval
    if node.sql_body is not None:
        # BEGIN ATOMIC ... END, or RETURN: parsed already.
        found = node.sql_body if isinstance(node.sql_body, tuple) else (node.sql_body,)
        body = ";\n".join(grammar().print(item) for item in _statements(found))
        language = "sql"
    if body is not None:
        text = seen.part.text if language == "plpgsql" and not seen.procedural else body
        offset = body_offset(seen.part.text)
        function = Function(node, text, seen.line, offset, language, volatile, header_settings(node))
        seen.session.objects.functions[name] = function


def _policy(seen: Seen) -> None:
    seen.session.objects.policies.add(relation_name(seen.node.table))


HANDLERS = {
    "CreateStmt": _create_table,
    "CreateTableAsStmt": _create_as,
    "InsertStmt": _insert,
    "SelectStmt": _select_into,
    "ViewStmt": _view,
    "CreateSeqStmt": _sequence,
    "IndexStmt": _index,
    "AlterTableStmt": _alter,
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "CreateEnumStmt": _enum,
    "AlterEnumStmt": _alter_enum,
    "CreateDomainStmt": _domain,
    "CreateFunctionStmt": _function,
    "CreatePolicyStmt": _policy,
}
