# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Named checks: a query each, and what it has to return where the versions that it needs are applied."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Callable

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.declared import FAIL, WARN, Finding
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control

PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"
STATEMENT_TIMEOUT_MS = 60_000
# How many rows of a check that wants none are told.
TOLD_ROWS = 100


def run(
    conn: Connection, checks: Sequence[Mapping[str, Any]], applied: Collection[str], *, control: Control
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Run each check in a read-only transaction of its own.

    :param checks: ``name``, ``title``, ``versions``, ``level``, ``query``, ``expect``, as the tree has them.
    :param applied: the versions that are applied; a check that needs another one is left out.
    :return: a line a check (``name``, ``title``, ``state``, ``why``), and what is not as expected. A query that fails is a
        finding too.

    Takes ACCESS SHARE on what the queries read.
    """
    lines: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for check in checks:
        control.check()
        found: list[Finding] = []
        lacking = [version for version in check["versions"] if version not in applied]
        why: str | None = f"needs {', '.join(lacking)}" if lacking else None
        if not lacking:
            why, found = _run_one(conn, check, control)
        failed = any(finding.level == FAIL for finding in found)
        state = LEFT_OUT if why else FAILED if failed else PASSED
        findings += found
        lines.append({"name": check["name"], "title": check["title"], "state": state, "why": why})
    return lines, findings


def _run_one(conn: Connection, check: Mapping[str, Any], control: Control) -> tuple[str | None, list[Finding]]:
    """:return: why the check says nothing here, or None; what it found."""
    name = f"check {check['name']}"
    level = FAIL if check.get("level", FAIL) == FAIL else WARN
    try:
        with transaction(conn, f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}"):
            if "uses" in check["expect"]:
                why, found = _plan(conn, check)
            else:
                why, found = None, _rows(conn, check)
    except psycopg2.Error as exc:
        control.check()
        error = from_psycopg(exc, f"The query of {name}", statement=str(check["query"]))
        return None, [Finding(name, FAIL, check["title"], None, "no error", error.message)]
    return why, [
        Finding(name, WARN if attribute == "time" else level, str(thing), attribute, expected, seen)
        for thing, attribute, expected, seen in found
    ]


def _rows(conn: Connection, check: Mapping[str, Any]) -> list[Any]:
    """:return: what differs: object, attribute, expected, found."""
    ((kind, wanted),) = check["expect"].items()
    with conn.cursor() as cursor:
        cursor.execute(check["query"])
        rows = cursor.fetchall()
        width = len(cursor.description or ())
    return list(_KINDS[kind](check, wanted, rows, width))


def _no_rows(check: Mapping[str, Any], wanted: Any, rows: Sequence[Sequence[Any]], width: int) -> Iterator[Any]:
    if width != 3:
        yield check["title"], "columns", "object, expected, found", f"{width} columns"
        return
    for thing, expected, found in rows[:TOLD_ROWS]:
        yield thing, None, expected, found
    if len(rows) > TOLD_ROWS:
        yield check["title"], "rows", "0", f"{len(rows) - TOLD_ROWS} more differences"


def _number(check: Mapping[str, Any], wanted: int, rows: Sequence[Any], width: int) -> Iterator[Any]:
    if len(rows) != wanted:
        yield check["title"], None, f"{wanted} rows", f"{len(rows)} rows"


def _at_least(check: Mapping[str, Any], wanted: int, rows: Sequence[Any], width: int) -> Iterator[Any]:
    if len(rows) < wanted:
        yield check["title"], None, f"at least {wanted} rows", f"{len(rows)} rows"


def _contains(
    check: Mapping[str, Any], wanted: Sequence[str], rows: Sequence[Sequence[Any]], width: int
) -> Iterator[Any]:
    found = {str(row[0]) for row in rows}
    for value in wanted:
        if value not in found:
            yield value, None, "present", f"missing, among {len(found)}"


def _in_order(
    check: Mapping[str, Any], wanted: Mapping[str, Sequence[str]], rows: Sequence[Sequence[Any]], width: int
) -> Iterator[Any]:
    if width != 2:
        yield check["title"], "columns", "name, value", f"{width} columns"
        return
    for name, values in wanted.items():
        found = [str(row[1]) for row in rows if str(row[0]) == name]
        rest = iter(found)
        # Others may stand between them: a later version or an operator added them.
        if not all(value in rest for value in values):
            yield name, None, list(values), found


def _equals(
    check: Mapping[str, Any], wanted: Sequence[Sequence[Any]], rows: Sequence[Sequence[Any]], width: int
) -> Iterator[Any]:
    expected, found = (
        [[_text(value) for value in row] for row in wanted],
        [[_text(value) for value in row] for row in rows],
    )
    for row in expected:
        if row not in found:
            yield check["title"], None, " ".join(row), "missing"
    for row in found:
        if row not in expected:
            yield check["title"], None, "no such row", " ".join(row)


def _text(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


_KINDS: dict[str, Callable[..., Iterator[Any]]] = {
    "no_rows": _no_rows,
    "rows": _number,
    "at_least": _at_least,
    "contains": _contains,
    "in_order": _in_order,
    "equals": _equals,
}

_ESTIMATE = "SELECT coalesce(max(reltuples), -1)::bigint AS rows FROM pg_class WHERE oid = to_regclass(%s)"


def _plan(conn: Connection, check: Mapping[str, Any]) -> tuple[str | None, list[Any]]:
    expect = check["expect"]
    table, rows = expect["from"]["table"], expect["from"]["rows"]
    estimate = (fetch_one(conn, _ESTIMATE, (table,)) or {"rows": -1})["rows"]
    if estimate < rows:
        # A small table is rightly read as a whole.
        known = f"about {estimate} rows" if estimate >= 0 else "no statistics"
        return f"{table} has {known}; plans are judged from {rows}", []
    found: list[Any] = []
    with conn.cursor() as cursor:
        cursor.execute("EXPLAIN (FORMAT JSON) " + check["query"])
        told = (cursor.fetchone() or [None])[0]
        plan = json.loads(told) if isinstance(told, str) else told
        used = sorted(set(_indexes(plan)))
        for names in expect["uses"]:
            if not set(names) & set(used):
                found.append((check["title"], "plan", " or ".join(names), ", ".join(used) or "no index"))
        limit = expect.get("within_ms")
        if limit:
            begun = time.monotonic()
            cursor.execute(check["query"])
            took = (time.monotonic() - begun) * 1000
            if took > limit:
                found.append((check["title"], "time", f"below {limit} ms", f"{took:.0f} ms"))
    return None, found


def _indexes(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "Index Name" in node:
            yield str(node["Index Name"])
        for value in node.values():
            yield from _indexes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _indexes(value)
