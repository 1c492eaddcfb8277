# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which locks a statement asks for, as far as its text tells: tables and modes by PostgreSQL's own rules.

What only the catalog knows (partitions, the table of an index, the other side of a foreign key) is asked for by
``follow`` and found by ``module_utils/lock_forecast.py``. The modes are those of ``AlterTableGetLockLevel`` and its
neighbours in the server; a test runs each kind of statement and compares with ``pg_locks``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import (
    ACCESS_EXCLUSIVE,
    ACCESS_SHARE,
    EXCLUSIVE,
    MODES,
    ROW_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.locks import tables_in
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_lint import procedural
from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    DEFAULT_SCHEMA,
    grammar,
    relation_name,
    walk,
)

# What ALTER TABLE does with less than ACCESS EXCLUSIVE.
_WEAKER = {
    **dict.fromkeys(
        (
            "AT_EnableTrig",
            "AT_EnableAlwaysTrig",
            "AT_EnableReplicaTrig",
            "AT_DisableTrig",
            "AT_EnableTrigAll",
            "AT_DisableTrigAll",
            "AT_EnableTrigUser",
            "AT_DisableTrigUser",
        ),
        SHARE_ROW_EXCLUSIVE,
    ),
    **dict.fromkeys(
        (
            "AT_SetStatistics",
            "AT_ClusterOn",
            "AT_DropCluster",
            "AT_SetOptions",
            "AT_ResetOptions",
            "AT_SetRelOptions",
            "AT_ResetRelOptions",
            "AT_ValidateConstraint",
            "AT_AttachPartition",
            "AT_DetachPartitionFinalize",
        ),
        SHARE_UPDATE_EXCLUSIVE,
    ),
}

# Roles that only the session knows.
_WHOSE = {
    "ROLESPEC_CURRENT_ROLE": "current",
    "ROLESPEC_CURRENT_USER": "current",
    "ROLESPEC_SESSION_USER": "session",
}

Lock = dict[str, Any]


def _lock(name: tuple[str, str], mode: str, *follow: str, part: str | None = None) -> Lock:
    """A lock as it travels to the module; keys without a value are left out, the ledger keeps it with the statement."""
    entry: Lock = {"schema": name[0], "name": name[1], "mode": mode}
    if follow:
        entry["follow"] = list(follow)
    if part:
        entry["part"] = part
    return entry


def locks_of(node: Any, text: str) -> list[Lock]:
    """Tell the locks of a parsed statement.

    :param text: its SQL, for a DO block of which nothing else is known.
    :return: ``schema``, ``name`` and ``mode`` each, and where the catalog has to be asked: ``follow``. With ``children`` the
        partitions and heirs are locked too, with ``table`` the name is an index's, ``guessed`` is read out of a text. With
        ``dependents`` the name is that of what goes by CASCADE, with a word for its kind, and the tables and views are meant that go
        along or lose a part (``part`` is its column, or how many arguments it has); with ``owned`` the name is a role's, and its objects and
        the policies for it are what goes. In the place of the table itself: ``referenced`` and ``referencing``, the tables at the other end of its foreign keys (only
        those of ``part``, a constraint or a column; with ``cascade`` on and on), ``parent``, that it is a partition of, with its default partition,
        ``default``, its own default partition, ``domain``, the tables with a column of that domain.
    """
    return list(_found(node, text))


def _found(node: Any, text: str) -> Iterator[Lock]:
    ast, enums = grammar().ast, grammar().enums
    if isinstance(node, ast.AlterTableStmt):
        yield from _alter_table(node)
    elif isinstance(node, ast.CreateStmt):
        yield from _create_table(node)
    elif isinstance(node, ast.IndexStmt):
        yield _lock(relation_name(node.relation), SHARE, *_children(node.relation))
    elif isinstance(node, ast.DropStmt):
        yield from _drop(node)
    elif isinstance(node, ast.DropOwnedStmt):
        for role in node.roles:
            yield _lock(
                ("", role.rolename or ""), ACCESS_EXCLUSIVE, "dependents", "owned", part=_WHOSE.get(role.roletype.name)
            )
    elif isinstance(node, ast.TruncateStmt):
        for relation in node.relations:
            yield _lock(relation_name(relation), ACCESS_EXCLUSIVE, *_children(relation))
            if node.behavior == enums.DropBehavior.DROP_CASCADE:
                yield _lock(relation_name(relation), ACCESS_EXCLUSIVE, *_children(relation), "referencing", "cascade")
    elif isinstance(node, ast.CreateTrigStmt):
        yield _lock(relation_name(node.relation), SHARE_ROW_EXCLUSIVE, *(["children"] if node.row else []))
    elif isinstance(node, (ast.CreatePolicyStmt, ast.AlterPolicyStmt)):
        yield _lock(relation_name(node.table), ACCESS_EXCLUSIVE)
    elif isinstance(node, ast.RuleStmt):
        yield _lock(relation_name(node.relation), ACCESS_EXCLUSIVE)
    elif isinstance(node, ast.RenameStmt):
        yield from _rename(node)
    elif isinstance(node, ast.AlterObjectSchemaStmt):
        if node.relation is not None:
            yield _lock(relation_name(node.relation), ACCESS_EXCLUSIVE)
    elif isinstance(node, ast.CommentStmt):
        yield from _comment(node)
    elif isinstance(node, ast.CreateStatsStmt):
        for relation in node.relations:
            yield _lock(relation_name(relation), SHARE_UPDATE_EXCLUSIVE)
    elif isinstance(node, (ast.CreatePublicationStmt, ast.AlterPublicationStmt)):
        for item in node.pubobjects or ():
            if item.pubtable is not None:
                relation = item.pubtable.relation
                yield _lock(relation_name(relation), SHARE_UPDATE_EXCLUSIVE, *_children(relation))
    elif isinstance(node, ast.RefreshMatViewStmt):
        yield _lock(relation_name(node.relation), EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE)
    elif isinstance(node, ast.LockStmt):
        for relation in node.relations:
            yield _lock(relation_name(relation), MODES[node.mode - 1], *_children(relation))
    elif isinstance(node, ast.AlterDomainStmt):
        names = [part.sval for part in node.typeName]
        # C adds a constraint and O asks for a value: rows are read, writers are kept out meanwhile.
        if node.subtype in ("C", "O"):
            name = (names[-2] if len(names) > 1 else DEFAULT_SCHEMA, names[-1])
            yield _lock(name, SHARE, "domain")
    elif isinstance(node, ast.DoStmt):
        yield from _block(text)
    elif isinstance(node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt, ast.SelectStmt)):
        yield from _rows(node)
    elif isinstance(node, (ast.ViewStmt, ast.CreateTableAsStmt)):
        if isinstance(node, ast.ViewStmt) and node.replace:
            yield _lock(relation_name(node.view), ACCESS_EXCLUSIVE)
        yield from _rows(node.query)


def _block(text: str) -> Iterator[Lock]:
    """What a DO block may lock: tables that its words name, and what it runs by EXECUTE as far as that is written down."""
    for table in tables_in(text):
        yield _lock(table, ACCESS_EXCLUSIVE, "guessed")
    try:
        executed = [step.text for step in procedural.steps_of(text) if step.kind == "dynamic"]
    except ValueError:
        # In another language.
        return
    parser = grammar().parser
    for statement in executed:
        try:
            parsed = parser.parse_sql(statement)
        except parser.ParseError:
            # Put together from what only the server knows.
            continue
        for raw in parsed:
            # Nobody knows whether it comes to this statement.
            for lock in _found(raw.stmt, statement):
                yield {**lock, "follow": list(dict.fromkeys([*lock.get("follow", []), "guessed"]))}


def _children(relation: Any) -> list[str]:
    return ["children"] if relation.inh else []


def _alter_table(node: Any) -> Iterator[Lock]:
    g = grammar()
    kinds, objects = g.enums.AlterTableType, g.enums.ObjectType
    table = relation_name(node.relation)
    if node.objtype not in (objects.OBJECT_TABLE, objects.OBJECT_VIEW, objects.OBJECT_MATVIEW):
        # Of an index or a sequence: the readers and writers of its table are not kept waiting by that.
        return
    # The options of a view have no weaker mode than the rest of it.
    weaker = {} if node.objtype == objects.OBJECT_VIEW else _WEAKER
    mode, others = SHARE_UPDATE_EXCLUSIVE, list[Lock]()
    for command in node.cmds or ():
        needed = weaker.get(command.subtype.name, ACCESS_EXCLUSIVE)
        if command.subtype == kinds.AT_AddConstraint:
            needed = _added_constraint(command.def_, others)
        elif command.subtype == kinds.AT_AddColumn:
            for constraint in command.def_.constraints or ():
                _added_constraint(constraint, others)
        elif command.subtype in (kinds.AT_DropConstraint, kinds.AT_DropColumn):
            cascade = command.behavior == g.enums.DropBehavior.DROP_CASCADE
            follow = ["referenced", "children", *(["referencing"] if cascade else [])]
            others.append(_lock(table, ACCESS_EXCLUSIVE, *follow, part=command.name))
            if cascade and command.subtype == kinds.AT_DropColumn:
                others.append(_lock(table, ACCESS_EXCLUSIVE, "dependents", "column", part=command.name))
        elif command.subtype == kinds.AT_AlterColumnType:
            # Foreign keys of the column are made anew.
            others.append(_lock(table, ACCESS_EXCLUSIVE, "referenced", "referencing", part=command.name))
        elif command.subtype == kinds.AT_ValidateConstraint:
            others.append(_lock(table, "ROW SHARE", "referenced", part=command.name))
        elif command.subtype == kinds.AT_AttachPartition:
            others.append(_lock(relation_name(command.def_.name), ACCESS_EXCLUSIVE, "children"))
            others.append(_lock(table, ACCESS_EXCLUSIVE, "default"))
            others.append(_lock(table, SHARE_ROW_EXCLUSIVE, "referenced"))
            others.append(_lock(table, SHARE_ROW_EXCLUSIVE, "referencing"))
        elif command.subtype == kinds.AT_DetachPartition:
            others.append(_lock(relation_name(command.def_.name), ACCESS_EXCLUSIVE, "children"))
            others.append(_lock(table, SHARE_ROW_EXCLUSIVE, "referenced"))
            others.append(_lock(table, ACCESS_EXCLUSIVE, "referencing"))
            others.append(_lock(table, ACCESS_EXCLUSIVE, "default"))
        elif command.subtype == kinds.AT_AddInherit:
            others.append(_lock(relation_name(command.def_), SHARE_UPDATE_EXCLUSIVE))
        elif command.subtype == kinds.AT_DropInherit:
            others.append(_lock(relation_name(command.def_), ACCESS_SHARE))
        elif command.subtype == kinds.AT_SetRelOptions and any(
            option.defname == "user_catalog_table" for option in command.def_ or ()
        ):
            needed = ACCESS_EXCLUSIVE
        mode = max(mode, needed, key=MODES.index)
    moves = {kinds.AT_AttachPartition, kinds.AT_DetachPartition} & {command.subtype for command in node.cmds or ()}
    yield _lock(table, mode, *([] if moves else _children(node.relation)))
    yield from others


def _added_constraint(constraint: Any, others: list[Lock]) -> str:
    """:return: the mode for the table itself; ``others`` gets the table that a foreign key refers to."""
    if constraint.contype != grammar().enums.ConstrType.CONSTR_FOREIGN:
        return ACCESS_EXCLUSIVE
    others.append(_lock(relation_name(constraint.pktable), SHARE_ROW_EXCLUSIVE, "children"))
    return SHARE_ROW_EXCLUSIVE


def _create_table(node: Any) -> Iterator[Lock]:
    ast = grammar().ast
    others: list[Lock] = []
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            for constraint in element.constraints or ():
                _added_constraint(constraint, others)
        elif isinstance(element, ast.Constraint):
            _added_constraint(element, others)
        elif isinstance(element, ast.TableLikeClause):
            others.append(_lock(relation_name(element.relation), ACCESS_SHARE))
    for parent in node.inhRelations or ():
        name = relation_name(parent)
        if node.partbound is not None:
            others.append(_lock(name, ACCESS_EXCLUSIVE, "default"))
            others.append(_lock(name, SHARE_ROW_EXCLUSIVE, "referenced"))
            others.append(_lock(name, SHARE_ROW_EXCLUSIVE, "referencing"))
        others.append(_lock(name, ACCESS_EXCLUSIVE if node.partbound is not None else SHARE_UPDATE_EXCLUSIVE))
    yield from others


def _drop(node: Any) -> Iterator[Lock]:
    g = grammar()
    kinds = g.enums.ObjectType
    cascade = node.behavior == g.enums.DropBehavior.DROP_CASCADE
    for target in node.objects:
        if cascade:
            yield from _dropped_along(node.removeType, target)
        if node.removeType in (kinds.OBJECT_TRIGGER, kinds.OBJECT_POLICY, kinds.OBJECT_RULE):
            children = ["children"] if node.removeType == kinds.OBJECT_TRIGGER else []
            yield _lock(_named(target[:-1]), ACCESS_EXCLUSIVE, *children)
        elif node.removeType == kinds.OBJECT_INDEX:
            mode = SHARE_UPDATE_EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE
            yield _lock(_named(target), mode, "table", "children")
        elif node.removeType == kinds.OBJECT_TABLE:
            yield _lock(_named(target), ACCESS_EXCLUSIVE, "children")
            yield _lock(_named(target), ACCESS_EXCLUSIVE, "parent")
            more = ["referencing"] if cascade else []
            yield _lock(_named(target), ACCESS_EXCLUSIVE, "referenced", "children", *more)
        elif node.removeType in (kinds.OBJECT_VIEW, kinds.OBJECT_MATVIEW, kinds.OBJECT_SEQUENCE):
            yield _lock(_named(target), ACCESS_EXCLUSIVE)


def _dropped_along(kind: Any, target: Any) -> Iterator[Lock]:
    """The tables and views of which CASCADE takes something away, or that go as a whole."""
    kinds = grammar().enums.ObjectType
    routines = (kinds.OBJECT_FUNCTION, kinds.OBJECT_PROCEDURE, kinds.OBJECT_ROUTINE, kinds.OBJECT_AGGREGATE)
    if kind in (kinds.OBJECT_TABLE, kinds.OBJECT_VIEW, kinds.OBJECT_MATVIEW, kinds.OBJECT_SEQUENCE):
        yield _lock(_named(target), ACCESS_EXCLUSIVE, "dependents", "relation")
    elif kind in (kinds.OBJECT_TYPE, kinds.OBJECT_DOMAIN):
        yield _lock(_named(target.names), ACCESS_EXCLUSIVE, "dependents", "type")
    elif kind in routines:
        # The arguments of the others are not all told.
        known = kind == kinds.OBJECT_FUNCTION and not target.args_unspecified
        count = str(len(target.objargs or ())) if known else None
        yield _lock(_named(target.objname), ACCESS_EXCLUSIVE, "dependents", "function", part=count)
    elif kind in (kinds.OBJECT_SCHEMA, kinds.OBJECT_EXTENSION):
        word = "schema" if kind == kinds.OBJECT_SCHEMA else "extension"
        yield _lock(("", target.sval), ACCESS_EXCLUSIVE, "dependents", word)


def _named(names: tuple[Any, ...]) -> tuple[str, str]:
    parts = [part.sval for part in names]
    return (parts[-2] if len(parts) > 1 else DEFAULT_SCHEMA), parts[-1]


def _rename(node: Any) -> Iterator[Lock]:
    kinds = grammar().enums.ObjectType
    if node.relation is None or node.renameType == kinds.OBJECT_INDEX or node.relationType == kinds.OBJECT_INDEX:
        return
    children = _children(node.relation) if node.renameType != kinds.OBJECT_TABLE else []
    yield _lock(relation_name(node.relation), ACCESS_EXCLUSIVE, *children)


def _comment(node: Any) -> Iterator[Lock]:
    kinds = grammar().enums.ObjectType
    if node.objtype in (kinds.OBJECT_TABLE, kinds.OBJECT_VIEW, kinds.OBJECT_MATVIEW):
        yield _lock(_named(node.object), SHARE_UPDATE_EXCLUSIVE)
    elif node.objtype == kinds.OBJECT_COLUMN:
        yield _lock(_named(node.object[:-1]), SHARE_UPDATE_EXCLUSIVE)


def _rows(node: Any) -> Iterator[Lock]:
    """What reads and writes rows; names of a WITH are no tables and found nowhere."""
    ast = grammar().ast
    written = {
        id(item.relation)
        for item in walk(node)
        if isinstance(item, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt))
    }
    for item in walk(node):
        if isinstance(item, ast.RangeVar):
            yield _lock(relation_name(item), ROW_EXCLUSIVE if id(item) in written else ACCESS_SHARE, *_children(item))
