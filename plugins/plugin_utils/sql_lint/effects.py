# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a statement leaves behind in its session: objects, settings, locks, a transaction begun or ended."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.whitecross.pgops.plugins.plugin_utils.sql_statements import grammar, relation_name, walk

from . import effects_objects
from .definitions import body_offset, set_value
from .locks import referenced
from .procedural import UNKNOWN
from .script import Part
from .session import LONGEST_MS, TIMEOUTS, Function, Seen, Session, Transaction

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
    return Function(node, _do(body), 0, body_offset(part.text), "plpgsql", True)


def _do(body: str) -> str:
    """:return: a DO statement with that body, whatever stands around it in the file."""
    tag = "$pgops$"
    return f"DO {tag}{body}{tag}"


# --- transactions ------------------------------------------------------------------------------------------------------


def _transaction(seen: Seen) -> None:
    session, kind = seen.session, seen.node.kind.name.removeprefix("TRANS_STMT_")
    current = session.transaction
    if kind in ("BEGIN", "START"):
        if current is None:
            session.transaction = Transaction(seen.line, session.objects.copy())
        elif current.runner is not None and current.runner.whole and not current.runner.begins:
            # What the server has made of a query becomes what BEGIN says.
            current.implicit, current.runner = False, None
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
    elif session.transaction is None and current is not None:
        session.reopen(seen.line)


def _set(seen: Seen) -> None:
    node, session = seen.node, seen.session
    kind = node.kind.name
    if kind in ("VAR_RESET_ALL",):
        session.objects.settings.clear()
        session.enter_schema("public")
        return
    set_setting(session, (node.name or "").lower(), set_value(node), bool(node.is_local))


def _discard(seen: Seen) -> None:
    if seen.node.target.name == "DISCARD_ALL":
        seen.session.objects.settings.clear()
        seen.session.enter_schema("public")
        seen.session.advisory = 0


def set_setting(session: Session, name: str, value: Any, local: bool) -> None:
    """Remember a setting; outside of a transaction a local one has no effect."""
    known = value
    if name in TIMEOUTS and value is not None:
        known = milliseconds(value)
        # A variable of psql or of a body: whoever gives it means a limit.
        known = LONGEST_MS if known is None else known
    if local:
        if session.transaction is None:
            if name == "lock_timeout":
                session.lost_timeout = "SET LOCAL outside of a transaction has no effect"
            return
        session.transaction.local[name] = known
        return
    if name == "search_path":
        path = [schema.strip(' "') for schema in str(value or "").split(",")]
        session.enter_schema(next((schema for schema in path if schema not in ("", "$user")), "public"))
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
            setting = getattr(values[0], "sval", None)
            value = getattr(values[1], "sval", None) if values[1] is not None else UNKNOWN
            third = item.args[2]
            local = getattr(getattr(third, "val", None), "boolval", None)
            if isinstance(third, ast.TypeCast):
                local = getattr(third.arg.val, "sval", "f") in ("t", "true")
            if setting:
                set_setting(seen.session, setting.lower(), value, bool(local))


def _lock(seen: Seen) -> None:
    if seen.node.nowait and seen.session.transaction is not None:
        seen.session.transaction.nowait |= {relation_name(relation) for relation in seen.node.relations}


_HANDLERS = {
    **effects_objects.HANDLERS,
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
    "DiscardStmt": _discard,
    "LockStmt": _lock,
}
