# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rules for how a lock is asked for, and for what else its transaction holds (R01 to R04, R15, R44, R54, R55)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name

from .locks import Relation, referenced, strong_locks
from .procedural import UNKNOWN
from .rules import NOTE, Found, rule
from .rules_constraints import added
from .session import LONGEST_MS, Seen


def _asked(seen: Seen) -> list[tuple[Relation, str]]:
    """:return: the strong locks on tables that were there and that the transaction does not hold yet."""
    transaction = seen.transaction
    held = {table for table in transaction.nowait} if transaction else set()
    return [(t, mode) for t, mode in strong_locks(seen.node) if seen.session.existing(t) and t not in held]


def _limit(seen: Seen) -> tuple[float | None, float | None]:
    """:return: lock_timeout as the file sets it, and the limit that holds, both in milliseconds."""
    limits = [seen.session.setting(name) for name in ("lock_timeout", "statement_timeout", "transaction_timeout")]
    effective = [limit for limit in limits if limit]
    return limits[0], min(effective) if effective else None


@rule("R01", "*")
def no_lock_timeout(seen: Seen) -> Iterator[Found]:
    """A strong lock without any limit to the wait."""
    own, limit = _limit(seen)
    if (
        own is None
        and limit is None
        and not seen.session.lost_timeout
        and not _is_lock(seen)
        and not seen.session.sets_timeout_later
    ):
        for table, mode in _asked(seen)[:1]:
            yield Found(f"{mode} on {table[1]} is asked for without a lock_timeout")


@rule("R02", "*")
def long_lock_timeout(seen: Seen) -> Iterator[Found]:
    """A limit that is none."""
    own, limit = _limit(seen)
    if own is not None and (limit is None or limit > LONGEST_MS) and not _is_lock(seen):
        for table, mode in _asked(seen)[:1]:
            word = "is 0, which means none" if own == 0 else f"is {own / 1000:g} s"
            yield Found(f"{mode} on {table[1]} is asked for while lock_timeout {word}")


@rule("R03", "*")
def no_statement_timeout(seen: Seen) -> Iterator[Found]:
    """A strong lock in a session without a statement_timeout."""
    if seen.session.setting("statement_timeout") is None:
        for table, mode in _asked(seen)[:1]:
            yield Found(f"{mode} on {table[1]} in a session without a statement_timeout")


@rule("R04", "*")
def ineffective_lock_timeout(seen: Seen) -> Iterator[Found]:
    """A lock_timeout that is set too late, or holds no more."""
    own, limit = _limit(seen)
    if own is not None or limit is not None or _is_lock(seen):
        return
    for table, mode in _asked(seen)[:1]:
        if seen.session.lost_timeout:
            yield Found(f"{mode} on {table[1]} is asked for without a lock_timeout: {seen.session.lost_timeout}")
        elif seen.session.sets_timeout_later:
            yield Found(f"{mode} on {table[1]} is asked for before the lock_timeout is set")


def _is_lock(seen: Seen) -> bool:
    return isinstance(seen.node, grammar().ast.LockStmt)


@rule("R15", "AlterTableStmt")
def foreign_keys_together(seen: Seen) -> Iterator[Found]:
    """Two foreign keys in one transaction."""
    number = sum(1 for _, constraint, _ in added(seen) if constraint.contype.name == "CONSTR_FOREIGN")
    before = seen.transaction.foreign_keys if seen.transaction is not None else 0
    if number and number + before > 1:
        yield Found(
            f"the {'transaction' if before else 'statement'} adds {number + before} foreign keys and keeps all their tables locked"
        )


@rule("R44", "*")
def tables_together(seen: Seen) -> Iterator[Found]:
    """Strong locks on several tables in one transaction."""
    transaction = seen.transaction
    if seen.handler or seen.session.only_makes(seen.node):
        return
    asked = [table for table, _ in seen.session.strong_locks(seen.node) if seen.session.existing(table)]
    if isinstance(seen.node, grammar().ast.CreateStmt):
        parents = [table for table in referenced(seen.node) if seen.session.existing(table)]
        asked = [table for table in asked if table not in parents]
        yield from _parents_together(seen, parents)
    if seen.dynamic and seen.loop and any(UNKNOWN in part for table in asked for part in table):
        yield Found("the loop locks one table after another in one transaction")
    if transaction is None or not asked:
        return
    if isinstance(seen.node, grammar().ast.LockStmt) and not seen.node.nowait:
        first, *more = dict.fromkeys(asked)
        if any(table not in transaction.locked for table in more):
            yield Found(f"{more[-1][1]} is asked for while {first[1]} is held")
            return
    others = [table for table in transaction.locked if table not in asked]
    if others and any(table not in transaction.locked for table in asked):
        line = transaction.locked[others[0]][1]
        new = next(table for table in asked if table not in transaction.locked)
        yield Found(f"{new[1]} is asked for while {others[0][1]} of line {line} is held")


def _parents_together(seen: Seen, parents: list[Relation]) -> Iterator[Found]:
    """A new table that refers to several, or one more new table in the transaction."""
    held = seen.transaction.referenced if seen.transaction is not None else {}
    both = list(dict.fromkeys([*held, *parents]))
    if len(both) > 1 and any(table not in held for table in parents):
        line = held.get(both[0], seen.line)
        message = (
            f"writers of {both[-1][1]} are stopped while SHARE ROW EXCLUSIVE on {both[0][1]} of line {line} is held"
        )
        yield Found(message, NOTE)


@rule("R54", "LockStmt")
def lock_without_limit(seen: Seen) -> Iterator[Found]:
    """LOCK TABLE that may wait for ever, or outside of a transaction."""
    node = seen.node
    tables = [relation_name(relation) for relation in node.relations]
    strong = [table for table, _ in strong_locks(node) if seen.session.existing(table)]
    _, limit = _limit(seen)
    if seen.transaction is None:
        yield Found(f"LOCK TABLE {tables[0][1]} outside of a transaction is refused (25P01)")
    elif strong and not node.nowait and (limit is None or limit > LONGEST_MS):
        yield Found(f"LOCK TABLE {strong[0][1]} waits without a limit")


@rule("R55", "TransactionStmt")
def pairs(seen: Seen) -> Iterator[Found]:
    """BEGIN inside of a transaction, COMMIT outside of one."""
    kind = seen.node.kind.name.removeprefix("TRANS_STMT_")
    current: Any = seen.transaction
    if seen.session.engine or seen.procedural:
        return
    if kind in ("BEGIN", "START") and current is not None:
        if current.runner is not None and current.runner.whole and not current.runner.begins:
            # What the server makes of a query of several statements is no transaction until one says so.
            return
        place = f"that of line {current.line}" if current.runner is None else f"{current.runner.tool}'s own"
        yield Found(f"{kind} inside of a transaction, {place}, is only a warning: the next COMMIT ends both")
    elif kind in ("COMMIT", "ROLLBACK", "PREPARE") and current is None:
        yield Found(f"{kind} without a BEGIN is only a warning")
    elif kind == "PREPARE":
        yield Found("PREPARE TRANSACTION keeps every lock until somebody ends it, over a restart too")
