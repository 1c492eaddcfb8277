# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which locks a statement takes on tables that are there, as far as its text tells.

PostgreSQL documentation, 13.3.1, and ``AlterTableGetLockLevel`` in the server's ``tablecmds.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import (
    DEFAULT_SCHEMA,
    grammar,
    relation_name,
)

Relation = tuple[str, str]
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
EXCLUSIVE = "EXCLUSIVE"
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"
SHARE = "SHARE"
SHARE_UPDATE_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE"
# Those that stop the writers of a table, or its readers too.
STRONG = {ACCESS_EXCLUSIVE, EXCLUSIVE, SHARE_ROW_EXCLUSIVE, SHARE}

# The ALTER TABLE commands that take less than ACCESS EXCLUSIVE.
_WEAKER = {
    "AT_SetStatistics": SHARE_UPDATE_EXCLUSIVE,
    "AT_ClusterOn": SHARE_UPDATE_EXCLUSIVE,
    "AT_DropCluster": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_SetRelOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetRelOptions": SHARE_UPDATE_EXCLUSIVE,
    "AT_ValidateConstraint": SHARE_UPDATE_EXCLUSIVE,
    "AT_AttachPartition": SHARE_UPDATE_EXCLUSIVE,
    "AT_EnableTrig": SHARE_ROW_EXCLUSIVE,
    "AT_EnableAlwaysTrig": SHARE_ROW_EXCLUSIVE,
    "AT_EnableReplicaTrig": SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigAll": SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigUser": SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrig": SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigAll": SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigUser": SHARE_ROW_EXCLUSIVE,
}
_LOCK_MODES = {5: SHARE, 6: SHARE_ROW_EXCLUSIVE, 7: EXCLUSIVE, 8: ACCESS_EXCLUSIVE}


def qualified(names: Any) -> Relation:
    """:return: schema and name of a dotted name."""
    parts = [part.sval for part in names if hasattr(part, "sval")]
    return (parts[-2] if len(parts) > 1 else DEFAULT_SCHEMA), parts[-1]


def strong_locks(node: Any) -> list[tuple[Relation, str]]:
    """:return: each table on which the statement takes a lock that stops writers, with the lock; itself may have made it."""
    return [(table, mode) for table, mode in _locks(node) if mode in STRONG]


def _locks(node: Any) -> Iterator[tuple[Relation, str]]:
    g = grammar()
    ast, kinds = g.ast, g.enums.ObjectType
    if isinstance(node, ast.AlterTableStmt):
        yield from _altered(node)
    elif isinstance(node, ast.IndexStmt):
        yield relation_name(node.relation), SHARE_UPDATE_EXCLUSIVE if node.concurrent else SHARE
    elif isinstance(node, ast.RenameStmt):
        relation = node.relation
        if relation is not None and node.renameType != kinds.OBJECT_INDEX:
            yield relation_name(relation), ACCESS_EXCLUSIVE
    elif isinstance(node, ast.AlterObjectSchemaStmt):
        if node.relation is not None:
            yield relation_name(node.relation), ACCESS_EXCLUSIVE
    elif isinstance(node, (ast.CreateTrigStmt, ast.RuleStmt)):
        mode = ACCESS_EXCLUSIVE if isinstance(node, ast.RuleStmt) else SHARE_ROW_EXCLUSIVE
        yield relation_name(node.relation), mode
    elif isinstance(node, (ast.CreatePolicyStmt, ast.AlterPolicyStmt)):
        yield relation_name(node.table), ACCESS_EXCLUSIVE
    elif isinstance(node, ast.TruncateStmt):
        for relation in node.relations:
            yield relation_name(relation), ACCESS_EXCLUSIVE
    elif isinstance(node, ast.LockStmt):
        for relation in node.relations:
            if node.mode in _LOCK_MODES:
                yield relation_name(relation), _LOCK_MODES[node.mode]
    elif isinstance(node, ast.DropStmt):
        yield from _dropped(node)
    elif isinstance(node, ast.CreateStmt):
        for parent in node.inhRelations or ():
            yield relation_name(parent), ACCESS_EXCLUSIVE if node.partbound is not None else SHARE_UPDATE_EXCLUSIVE
        for parent in referenced(node):
            yield parent, SHARE_ROW_EXCLUSIVE
    elif (
        isinstance(node, ast.RefreshMatViewStmt)
        and not node.concurrent
        or isinstance(node, ast.ClusterStmt)
        and node.relation is not None
    ):
        yield relation_name(node.relation), ACCESS_EXCLUSIVE
    elif isinstance(node, ast.ReindexStmt) and node.relation is not None:
        # Of an index the table is known to the catalog only.
        concurrent = any(option.defname == "concurrently" for option in node.params or ())
        yield relation_name(node.relation), SHARE_UPDATE_EXCLUSIVE if concurrent else SHARE


def referenced(node: Any) -> list[Relation]:
    """:return: the other tables that the foreign keys of a CREATE TABLE refer to, each once."""
    ast, foreign = grammar().ast, grammar().enums.ConstrType.CONSTR_FOREIGN
    constraints: list[Any] = []
    for element in node.tableElts or ():
        if isinstance(element, ast.ColumnDef):
            constraints += element.constraints or ()
        elif isinstance(element, ast.Constraint):
            constraints.append(element)
    found = dict.fromkeys(relation_name(c.pktable) for c in constraints if c.contype == foreign)
    return [table for table in found if table != relation_name(node.relation)]


def _altered(node: Any) -> Iterator[tuple[Relation, str]]:
    g = grammar()
    kinds = g.enums.ObjectType
    if node.objtype not in (kinds.OBJECT_TABLE, kinds.OBJECT_MATVIEW, kinds.OBJECT_VIEW):
        return
    table = relation_name(node.relation)
    for command in node.cmds or ():
        name = command.subtype.name
        if name == "AT_AddConstraint" and command.def_.contype == g.enums.ConstrType.CONSTR_FOREIGN:
            yield table, SHARE_ROW_EXCLUSIVE
            yield relation_name(command.def_.pktable), SHARE_ROW_EXCLUSIVE
        elif name == "AT_DetachPartition":
            concurrent = command.def_.concurrent
            yield table, SHARE_UPDATE_EXCLUSIVE if concurrent else ACCESS_EXCLUSIVE
            if not concurrent:
                yield relation_name(command.def_.name), ACCESS_EXCLUSIVE
        elif name == "AT_DetachPartitionFinalize":
            yield table, SHARE_UPDATE_EXCLUSIVE
        elif name == "AT_AttachPartition":
            # What becomes a partition is locked too, but nobody works on it by its own name yet.
            yield table, SHARE_UPDATE_EXCLUSIVE
        else:
            yield table, _WEAKER.get(name, ACCESS_EXCLUSIVE)
            for constraint in (command.def_.constraints or ()) if name == "AT_AddColumn" else ():
                if constraint.contype == g.enums.ConstrType.CONSTR_FOREIGN:
                    yield relation_name(constraint.pktable), SHARE_ROW_EXCLUSIVE


def _dropped(node: Any) -> Iterator[tuple[Relation, str]]:
    kinds = grammar().enums.ObjectType
    if node.removeType in (kinds.OBJECT_TABLE, kinds.OBJECT_MATVIEW, kinds.OBJECT_VIEW, kinds.OBJECT_INDEX):
        for target in node.objects:
            yield qualified(target), SHARE_UPDATE_EXCLUSIVE if node.concurrent else ACCESS_EXCLUSIVE
    elif node.removeType in (kinds.OBJECT_TRIGGER, kinds.OBJECT_POLICY, kinds.OBJECT_RULE):
        for target in node.objects:
            yield qualified(target[:-1]), ACCESS_EXCLUSIVE
