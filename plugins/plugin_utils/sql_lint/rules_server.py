# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for what keeps data sound, for the server's settings and for others' sessions (R50, R52, R59, R61, R67, R68)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from .locks import Relation
from .rules import NOTE, WARNING, Found, rule
from .rules_constraints import alterations
from .session import Seen


@rule("R50", "AlterTableStmt")
def row_security_without_policy(seen: Seen) -> Iterator[Found]:
    """ENABLE ROW LEVEL SECURITY where the file makes no policy for the table."""
    ast = grammar().ast
    for table, command in alterations(seen):
        if command.subtype.name != "AT_EnableRowSecurity":
            continue
        later = {
            relation_name(part.node.table) for part in seen.session.parts if isinstance(part.node, ast.CreatePolicyStmt)
        }
        facts = seen.session.table_facts(table)
        if table not in seen.session.objects.policies | later and not (facts and facts.get("policies")):
            yield Found(f"{table[1]} has no policy here: everybody but its owner sees no row at all")


@rule("R52", "AlterTableStmt")
def disabled_triggers(seen: Seen) -> Iterator[Found]:
    """DISABLE TRIGGER ALL; others are a warning, and a note where the file enables them again."""
    for table, command in alterations(seen):
        name = command.subtype.name
        if name == "AT_DisableTrigAll" or (
            name == "AT_DisableTrig" and (command.name or "").startswith("RI_Constraint")
        ):
            yield Found(f"the foreign keys of {table[1]} are off, and orphans stay")
        elif name in ("AT_DisableTrigUser", "AT_DisableTrig"):
            level = NOTE if _enabled_again(seen, table, command.name) else WARNING
            yield Found(f"what {command.name or 'the triggers'} of {table[1]} would keep up does not happen", level)


def _enabled_again(seen: Seen, table: Relation, trigger: str | None) -> bool:
    later = [part.node for part in seen.session.parts if isinstance(part.node, grammar().ast.AlterTableStmt)]
    return any(
        command.subtype.name in ("AT_EnableTrig", "AT_EnableTrigUser") and command.name == trigger
        for node in later
        if relation_name(node.relation) == table
        for command in node.cmds or ()
    )


@rule("R52", "VariableSetStmt", "SelectStmt", "AlterRoleSetStmt", "AlterDatabaseSetStmt")
def replica_role(seen: Seen) -> Iterator[Found]:
    """session_replication_role = replica."""
    ast = grammar().ast
    node: Any = seen.node
    if isinstance(node, (ast.AlterRoleSetStmt, ast.AlterDatabaseSetStmt)):
        node = node.setstmt
    if isinstance(node, ast.VariableSetStmt):
        values = [getattr(getattr(argument, "val", None), "sval", "") for argument in node.args or ()]
        if (node.name or "").lower() == "session_replication_role" and "replica" in [value.lower() for value in values]:
            yield Found("foreign keys and triggers of every table are off in this session")
        return
    for item in walk(node):
        if isinstance(item, ast.FuncCall) and item.funcname[-1].sval == "set_config" and len(item.args or ()) > 1:
            words = [getattr(getattr(argument, "val", None), "sval", "") for argument in item.args[:2]]
            if words == ["session_replication_role", "replica"]:
                yield Found("foreign keys and triggers of every table are off in this session")


@rule("R59", "IndexStmt")
def doubtful_index(seen: Seen) -> Iterator[Found]:
    """A hash index, or one of many columns."""
    node = seen.node
    if node.accessMethod == "hash":
        yield Found(f"{node.idxname or 'the index'} is a hash index")
    elif len(node.indexParams or ()) > 3 and not node.unique:
        yield Found(f"{node.idxname or 'the index'} has {len(node.indexParams)} columns")


@rule("R61", "AlterTableStmt", "CreateStmt", "IndexStmt")
def without_schema(seen: Seen) -> Iterator[Found]:
    """A table that is named without its schema."""
    if not seen.node.relation.schemaname and seen.node.relation.relpersistence != "t":
        yield Found(f"{seen.node.relation.relname} is looked for in search_path")


@rule("R67", "AlterSystemStmt")
def server_settings(seen: Seen) -> Iterator[Found]:
    """ALTER SYSTEM."""
    yield Found(f"ALTER SYSTEM changes {seen.node.setstmt.name or 'every setting'} of the whole cluster")


@rule("R68", "SelectStmt")
def ended_sessions(seen: Seen) -> Iterator[Found]:
    """pg_terminate_backend over the sessions that there are."""
    ast = grammar().ast
    names = {node.relname for node in walk(seen.node) if isinstance(node, ast.RangeVar)}
    if not names & {"pg_stat_activity", "pg_locks"}:
        return
    for node in walk(seen.node):
        if isinstance(node, ast.FuncCall) and node.funcname[-1].sval in ("pg_terminate_backend", "pg_cancel_backend"):
            level = None if node.funcname[-1].sval == "pg_terminate_backend" else WARNING
            yield Found(f"{node.funcname[-1].sval}() over the sessions that there are", level)
