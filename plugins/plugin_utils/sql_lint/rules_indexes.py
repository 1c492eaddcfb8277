# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for indexes, views that hold rows, and whole tables written anew (R05 to R13, R48, R49, R51)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name

from .locks import Relation, qualified
from .rules import NOTE, Found, rule
from .rules_constraints import alterations
from .session import Seen

# What a lock_timeout is for any other statement: a concurrent build waits longer than that for one ordinary report. Up to the
# most that R02 allows it is a note, since a script may have it for the others.
SHORT_MS = {"lock_timeout": 3000, "statement_timeout": 5000}
NOTED_MS = {"lock_timeout": 5000, "statement_timeout": 60_000}


def concurrent_word(node: Any) -> str | None:
    """:return: what a statement does that cannot be done in a transaction; None if it can."""
    ast, kinds = grammar().ast, grammar().enums.ObjectType
    if isinstance(node, ast.IndexStmt) and node.concurrent:
        return "CREATE INDEX CONCURRENTLY"
    if isinstance(node, ast.DropStmt) and node.concurrent:
        return "DROP INDEX CONCURRENTLY"
    if isinstance(node, ast.ReindexStmt):
        if _option(node, "concurrently"):
            return "REINDEX CONCURRENTLY"
        if node.kind.name in ("REINDEX_OBJECT_SCHEMA", "REINDEX_OBJECT_SYSTEM", "REINDEX_OBJECT_DATABASE"):
            return f"REINDEX {node.kind.name.rpartition('_')[2]}"
    if isinstance(node, ast.VacuumStmt) and node.is_vacuumcmd:
        return "VACUUM"
    if isinstance(node, ast.ClusterStmt) and node.relation is None:
        return "CLUSTER of all tables"
    if isinstance(node, ast.CreatedbStmt):
        return "CREATE DATABASE"
    if isinstance(node, ast.DropdbStmt):
        return "DROP DATABASE"
    if isinstance(node, ast.AlterSystemStmt):
        return "ALTER SYSTEM"
    if isinstance(node, ast.DiscardStmt) and node.target.name == "DISCARD_ALL":
        return "DISCARD ALL"
    if isinstance(node, (ast.CreateTableSpaceStmt, ast.DropTableSpaceStmt)):
        return "CREATE and DROP TABLESPACE"
    if isinstance(node, ast.AlterTableStmt) and node.objtype == kinds.OBJECT_TABLE:
        for command in node.cmds or ():
            if command.subtype.name == "AT_DetachPartition" and command.def_.concurrent:
                return "DETACH PARTITION CONCURRENTLY"
    return None


def _option(node: Any, name: str) -> bool:
    for option in node.params or ():
        if option.defname == name:
            value = getattr(option.arg, "sval", None) or getattr(option.arg, "boolval", None)
            number = getattr(option.arg, "ival", None)
            return str(value).lower() not in ("false", "off", "0") and number != 0
    return False


@rule("R05", "IndexStmt")
def blocking_build(seen: Seen) -> Iterator[Found]:
    """CREATE INDEX without CONCURRENTLY; ON ONLY a partitioned table builds nothing, and whether it is one only the catalog tells."""
    node = seen.node
    table = relation_name(node.relation)
    facts = seen.session.table_facts(table)
    builds = node.relation.inh or (facts is not None and not facts.get("partitioned", True))
    if not node.concurrent and builds and seen.session.existing(table):
        yield Found(f"CREATE INDEX on {table[1]} stops every write while it builds", table=table)


@rule("R06", "*")
def in_a_transaction(seen: Seen) -> Iterator[Found]:
    """What PostgreSQL refuses inside of a transaction block."""
    word = concurrent_word(seen.node)
    if word and seen.transaction is not None:
        place = "a block" if seen.procedural else seen.transaction.place
        yield Found(f"{word} cannot run in {place}")


@rule("R06", "DropStmt")
def several_at_once(seen: Seen) -> Iterator[Found]:
    """DROP INDEX CONCURRENTLY is for one index, and knows no CASCADE."""
    node = seen.node
    cascade = node.behavior == grammar().enums.DropBehavior.DROP_CASCADE
    if node.concurrent and (len(node.objects) > 1 or cascade):
        yield Found("DROP INDEX CONCURRENTLY of several indexes, or with CASCADE, is refused (0A000)")


@rule("R07", "IndexStmt")
def if_not_exists(seen: Seen) -> Iterator[Found]:
    """An invalid index is taken for done, unless the name was dropped just before."""
    node = seen.node
    if node.concurrent and node.if_not_exists:
        table = relation_name(node.relation)
        if (table[0], node.idxname) not in seen.session.objects.dropped and seen.session.existing(table):
            yield Found(f"IF NOT EXISTS passes over an invalid index {node.idxname} and reports success")


@rule("R08", "IndexStmt", "ReindexStmt", "DropStmt")
def short_timeout(seen: Seen) -> Iterator[Found]:
    """CREATE INDEX, REINDEX and DROP INDEX CONCURRENTLY under a timeout; in a transaction they are refused, and leave nothing."""
    word = concurrent_word(seen.node)
    if not word or not word.endswith(" CONCURRENTLY") or seen.transaction is not None:
        return
    reasons = {"lock_timeout": "when a transaction is older", "statement_timeout": "when it takes longer"}
    for name, reason in reasons.items():
        limit = seen.session.setting(name)
        if limit and limit <= NOTED_MS[name]:
            message = f"{word} under a {name} of {limit:g} ms leaves an invalid index {reason}"
            yield Found(message, None if limit <= SHORT_MS[name] else NOTE)


@rule("R10", "IndexStmt", "DropStmt", "ReindexStmt", "AlterTableStmt")
def advisory_wait(seen: Seen) -> Iterator[Found]:
    """A blocking advisory lock around a concurrent build."""
    word = concurrent_word(seen.node)
    if word and "CONCURRENTLY" in word and seen.session.advisory:
        yield Found(f"who waits for the pg_advisory_lock of line {seen.session.advisory} deadlocks with {word}")


@rule("R11", "DropStmt")
def blocking_drop(seen: Seen) -> Iterator[Found]:
    """DROP INDEX without CONCURRENTLY."""
    node = seen.node
    if node.removeType != grammar().enums.ObjectType.OBJECT_INDEX or node.concurrent:
        return
    for target in node.objects:
        index = qualified(target)
        if seen.session.existing(seen.session.table_of(index)):
            yield Found(f"DROP INDEX {index[1]} waits for, and stops, every query of its table")


@rule("R12", "ReindexStmt")
def blocking_reindex(seen: Seen) -> Iterator[Found]:
    """REINDEX without CONCURRENTLY."""
    node = seen.node
    if _option(node, "concurrently"):
        return
    name = node.relation.relname if node.relation is not None else node.name or "everything"
    table: Relation | None = None
    if node.relation is not None:
        table = relation_name(node.relation)
        table = seen.session.table_of(table)
        if seen.session.made(table):
            return
    yield Found(f"REINDEX of {name} stops the writes, and the queries that use it", table=table)


@rule("R13", "VacuumStmt", "ClusterStmt")
def written_anew(seen: Seen) -> Iterator[Found]:
    """VACUUM FULL and CLUSTER."""
    node, ast = seen.node, grammar().ast
    if isinstance(node, ast.ClusterStmt):
        table = relation_name(node.relation) if node.relation is not None else None
        if table is None or seen.session.existing(table):
            yield Found(f"CLUSTER copies {table[1] if table else 'every clustered table'}", table=table)
        return
    full = False
    for option in node.options or ():
        if option.defname == "full":
            value = getattr(option.arg, "sval", None) or getattr(option.arg, "boolval", True)
            full = str(value).lower() not in ("false", "off", "0") and getattr(option.arg, "ival", 1) != 0
    if node.is_vacuumcmd and full:
        tables = [relation_name(r.relation) for r in node.rels or () if r.relation is not None]
        if not tables:
            yield Found("VACUUM FULL copies every table")
        for copied in tables:
            if seen.session.existing(copied):
                yield Found(f"VACUUM FULL copies {copied[1]}", table=copied)


@rule("R47", "AlterTableStmt")
def blocking_detach(seen: Seen) -> Iterator[Found]:
    """DETACH PARTITION without CONCURRENTLY."""
    for table, command in alterations(seen):
        if command.subtype.name == "AT_DetachPartition" and not command.def_.concurrent:
            child = relation_name(command.def_.name)
            if seen.session.existing(child):
                yield Found(f"DETACH PARTITION of {child[1]} stops every partition of {table[1]}")


@rule("R48", "IndexStmt")
def partitioned_parent(seen: Seen) -> Iterator[Found]:
    """An index of a partitioned table, of which only the catalog or the file itself knows."""
    node = seen.node
    table = relation_name(node.relation)
    facts = seen.session.table_facts(table)
    partitioned = table in seen.session.objects.partitioned or bool(facts and facts.get("partitioned"))
    if partitioned and node.relation.inh and (node.concurrent or seen.session.existing(table)):
        word = "is refused there (0A000)" if node.concurrent else "stops every partition at once"
        yield Found(f"{table[1]} is partitioned, and this index build {word}")


@rule("R49", "RefreshMatViewStmt")
def blocking_refresh(seen: Seen) -> Iterator[Found]:
    """REFRESH without CONCURRENTLY."""
    view = relation_name(seen.node.relation)
    if not seen.node.concurrent and seen.session.existing(view):
        yield Found(f"REFRESH of {view[1]} stops its readers until it is done", table=view)
    facts = seen.session.table_facts(view)
    if seen.node.concurrent and facts is not None and not facts.get("unique_index"):
        yield Found(f"{view[1]} has no unique index over all rows, without which CONCURRENTLY is refused")


@rule("R51", "AlterTableStmt", "AlterTableMoveAllStmt", "AlterDatabaseStmt")
def moved(seen: Seen) -> Iterator[Found]:
    """SET TABLESPACE, LOGGED, UNLOGGED, ACCESS METHOD."""
    node, ast = seen.node, grammar().ast
    if isinstance(node, ast.AlterTableMoveAllStmt):
        yield Found(f"every table of the tablespace {node.orig_tablespacename} is copied")
        return
    if isinstance(node, ast.AlterDatabaseStmt):
        if any(option.defname == "tablespace" for option in node.options or ()):
            yield Found(f"the whole database {node.dbname} is copied, and nobody may be connected")
        return
    words = {"AT_SetTableSpace": "SET TABLESPACE", "AT_SetLogged": "SET LOGGED", "AT_SetUnLogged": "SET UNLOGGED",
             "AT_SetAccessMethod": "SET ACCESS METHOD"}  # fmt: skip
    table = relation_name(node.relation)
    table = seen.session.table_of(table)
    for command in node.cmds or ():
        word = words.get(command.subtype.name)
        if word and seen.session.existing(table):
            yield Found(f"{word} copies {table[1]}", table=table)
