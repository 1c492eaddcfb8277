# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a statement leaves behind in its session: objects, settings, locks, a transaction begun or ended."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    grammar,
    relation_name,
    type_name,
    walk,
)

from .locks import Relation, qualified, referenced
from .rows import BOUNDED, size_of
from .script import Part
from .session import TIMEOUTS, Column, Constraint, Function, Seen, Session, Transaction

_UNITS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_ADVISORY = ("pg_advisory_lock", "pg_advisory_xact_lock", "pg_advisory_lock_shared", "pg_advisory_xact_lock_shared")


def apply(seen: Seen) -> None:
    """Remember what the statement did."""
    node, session = seen.node, seen.session
    ast = grammar().ast
    # Before an index is forgotten that goes.
    locks = session.strong_locks(node)
    handler = _HANDLERS.get(type(node).__name__)
    if handler is not None:
        handler(seen)
    if isinstance(node, (ast.SelectStmt, ast.CallStmt)):
        _calls(seen)
    transaction = session.transaction
    if transaction is not None and not seen.handler and not session.only_makes(node):
        parents = referenced(node) if isinstance(node, ast.CreateStmt) else []
        for table, mode in locks:
            if session.existing(table) and table in parents:
                transaction.referenced.setdefault(table, seen.line)
            elif session.existing(table):
                transaction.locked.setdefault(table, (mode, seen.line))
        for new, old in transaction.renamed.items():
            if old in transaction.locked:
                transaction.locked[new] = transaction.locked.pop(old)


def milliseconds(value: Any) -> float | None:
    """:return: a duration of a setting in milliseconds; None for DEFAULT or what is no duration."""
    text = str(value).strip().lower()
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if match is None or (match.group(2) and match.group(2) not in _UNITS):
        return None
    return float(match.group(1)) * _UNITS[match.group(2) or "ms"]


def do_block(node: Any, part: Part) -> Function | None:
    """:return: the body of a DO statement; None where it is in another language than SQL knows."""
    language, body = "plpgsql", None
    for option in node.args or ():
        if option.defname == "language":
            language = option.arg.sval
        elif option.defname == "as":
            body = option.arg.sval
    if body is None or language != "plpgsql":
        return None
    return Function(node, _do(body), 0, _body_offset(part.text), "plpgsql", True)


def _do(body: str) -> str:
    """:return: a DO statement with that body, whatever stands around it in the file."""
    tag = "$pgops$"
    return f"DO {tag}{body}{tag}"


def _body_offset(text: str) -> int:
    """:return: where the first quoted body of a statement begins."""
    for token in grammar().parser.scan(text):
        if token.name == "SCONST":
            return int(token.start)
    return 0


# --- transactions ------------------------------------------------------------------------------------------------------


def _transaction(seen: Seen) -> None:
    session, kind = seen.session, seen.node.kind.name.removeprefix("TRANS_STMT_")
    current = session.transaction
    if kind in ("BEGIN", "START"):
        if current is None:
            session.transaction = Transaction(seen.line, session.objects.copy())
        elif current.implicit:
            current.implicit = False
            current.line = seen.line
    elif kind in ("COMMIT", "PREPARE"):
        session.transaction = None
    elif kind == "ROLLBACK" and current is not None:
        if any(
            name in current.local or session.setting(name) != current.before.settings.get(name)
            for name in ("lock_timeout",)
        ):
            session.lost_timeout = f"the SET lock_timeout of a transaction ends with its ROLLBACK in line {seen.line}"
        session.objects = current.before.copy()
        session.transaction = None
    elif kind == "SAVEPOINT" and current is not None:
        current.savepoints[seen.node.savepoint_name] = (session.objects.copy(), dict(current.local))
    elif kind == "ROLLBACK_TO" and current is not None:
        before = current.savepoints.get(seen.node.savepoint_name)
        if before is not None:
            held = session.setting("lock_timeout")
            session.objects, current.local = before[0].copy(), dict(before[1])
            if session.setting("lock_timeout") != held:
                session.lost_timeout = f"the SET lock_timeout is taken back by the ROLLBACK TO in line {seen.line}"
    if session.transaction is None and current is not None and getattr(seen.node, "chain", False):
        session.transaction = Transaction(seen.line, session.objects.copy())


def _set(seen: Seen) -> None:
    node, session = seen.node, seen.session
    kind = node.kind.name
    if kind in ("VAR_RESET_ALL",):
        session.objects.settings.clear()
        session.enter_schema("public")
        return
    name = (node.name or "").lower()
    value: Any = None
    if kind == "VAR_SET_VALUE" and node.args:
        constant = getattr(node.args[0], "val", None)
        value = next(
            (getattr(constant, part) for part in ("sval", "ival", "fval") if getattr(constant, part, None) is not None),
            None,
        )
    set_setting(session, name, value, bool(node.is_local))


def _discard(seen: Seen) -> None:
    if seen.node.target.name == "DISCARD_ALL":
        seen.session.objects.settings.clear()
        seen.session.enter_schema("public")
        seen.session.advisory = 0


def set_setting(session: Session, name: str, value: Any, local: bool) -> None:
    """Remember a setting; outside of a transaction a local one has no effect."""
    known = milliseconds(value) if name in TIMEOUTS and value is not None else value
    if local:
        if session.transaction is None:
            if name == "lock_timeout":
                session.lost_timeout = "SET LOCAL outside of a transaction has no effect"
            return
        session.transaction.local[name] = known
        return
    if name == "search_path":
        session.enter_schema(str(value).partition(",")[0].strip(' "') if value else "public")
    if session.transaction is not None:
        session.transaction.local.pop(name, None)
    session.objects.settings[name] = known


def _calls(seen: Seen) -> None:
    ast = grammar().ast
    for item in walk(seen.node):
        if not isinstance(item, ast.FuncCall):
            continue
        name = item.funcname[-1].sval
        if name in _ADVISORY:
            seen.session.advisory = seen.session.advisory or seen.line
        elif name == "set_config" and len(item.args or ()) == 3:
            values = [getattr(argument, "val", None) for argument in item.args]
            setting, value = (getattr(values[0], "sval", None), getattr(values[1], "sval", None))
            third = item.args[2]
            local = getattr(getattr(third, "val", None), "boolval", None)
            if isinstance(third, ast.TypeCast):
                local = getattr(third.arg.val, "sval", "f") in ("t", "true")
            if setting:
                set_setting(seen.session, setting.lower(), value, bool(local))


def _lock(seen: Seen) -> None:
    if seen.node.nowait and seen.session.transaction is not None:
        seen.session.transaction.nowait |= {relation_name(relation) for relation in seen.node.relations}


# --- objects -----------------------------------------------------------------------------------------------------------


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


def column_of(element: Any) -> Column:
    """:return: what a column definition says."""
    kinds = grammar().enums.ConstrType
    found = {constraint.contype for constraint in element.constraints or ()}
    name = type_name(element.typeName) if element.typeName is not None else ""
    not_null = bool(found & {kinds.CONSTR_NOTNULL, kinds.CONSTR_PRIMARY, kinds.CONSTR_IDENTITY}) or "serial" in name
    return Column(name, not_null, kinds.CONSTR_DEFAULT in found)


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
    given = node.conname or (_given_name(node, table, keys) if column is None else None)
    if given:
        key = (table, given)
        session.objects.dropped_constraints.discard(key)
        session.objects.constraints[key] = Constraint(node.contype.name, keys, not_null, valid, node.raw_expr)
        if not valid and session.transaction is not None and session.existing(table):
            session.transaction.not_valid.add(key)
    if valid and node.contype in (kinds.CONSTR_CHECK, kinds.CONSTR_NOTNULL):
        session.objects.not_null |= {(table, name) for name in not_null}


def _given_name(node: Any, table: Relation, keys: tuple[str, ...]) -> str | None:
    """:return: the name that the server gives to an added CHECK or NOT NULL, where it is the first of its kind."""
    kinds, ast = grammar().enums.ConstrType, grammar().ast
    if node.contype == kinds.CONSTR_NOTNULL:
        return f"{table[1]}_{keys[0]}_not_null" if keys else None
    if node.contype != kinds.CONSTR_CHECK:
        return None
    named = {item.fields[-1].sval for item in walk(node.raw_expr) if isinstance(item, ast.ColumnRef)}
    return "_".join([table[1], *(named if len(named) == 1 else ()), "check"])


def checked_not_null(expression: Any) -> list[str]:
    """:return: the columns that an expression, joined by AND, wants not to be NULL."""
    ast, enums = grammar().ast, grammar().enums
    if isinstance(expression, ast.BoolExpr) and expression.boolop == enums.BoolExprType.AND_EXPR:
        return [name for argument in expression.args for name in checked_not_null(argument)]
    wanted = isinstance(expression, ast.NullTest) and expression.nulltesttype == enums.NullTestType.IS_NOT_NULL
    if wanted and isinstance(expression.arg, ast.ColumnRef):
        return [expression.arg.fields[-1].sval]
    return []


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
        function = Function(node, text, seen.line, _body_offset(seen.part.text), language, volatile)
        seen.session.objects.functions[name] = function


def _policy(seen: Seen) -> None:
    seen.session.objects.policies.add(relation_name(seen.node.table))


_HANDLERS = {
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
    "DiscardStmt": _discard,
    "LockStmt": _lock,
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
