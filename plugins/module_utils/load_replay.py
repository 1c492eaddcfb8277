# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The application's own queries before and after a migration, on the copy: which plans change, and what becomes slower.

Parameters are sampled from the data, once, and stay in this process: no message, no record and no log has a value. Of a query of
pg_stat_statements nobody knows the parameters; it is planned for any (PostgreSQL 16 and later) and not run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql

ROUNDS = 3
TIMEOUT_S = 30
# A query that is over sooner is as fast as a machine happens to be.
NOTICED_S = 0.005
GENERIC_FROM = 16
DEFAULT_SAMPLE = 5

# Of a large table a share of its pages is enough, and all of them would take as long as the table is large.
_SAMPLE = (
    "SELECT {columns} FROM {table} {share} WHERE {present} ORDER BY hashtextextended(({columns})::text, 0) LIMIT {rows}"
)
_SIZE = "SELECT greatest(reltuples, 0)::bigint AS rows FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)"
WHOLE_UP_TO = 100_000

_STATEMENTS = """
SELECT s.queryid::text AS name, s.query FROM {schema}.pg_stat_statements AS s
 WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   AND s.query ~* '^\\s*(select|with)\\M' AND s.query !~* '\\m(pg_catalog|information_schema|pgops)\\M|\\m(from|join)\\s+pg_'
   AND s.userid <> ALL (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY (%s))
 ORDER BY s.total_exec_time DESC LIMIT %s
"""
_EXTENSION = """
SELECT n.nspname::text AS schema FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_stat_statements'
"""

# What of a plan is its shape. Costs, rows, widths and conditions with their constants are not.
_SHAPE = ("Node Type", "Strategy", "Join Type", "Relation Name", "Index Name", "CTE Name", "Subplan Name")


@dataclass
class Look:
    """What one query was at one time.

    :ivar seconds: the median of the best of each parameter's rounds; None where it was not run.
    :ivar error: SQLSTATE where it fails.
    """

    shape: list[str] = field(default_factory=list)
    seconds: float | None = None
    error: str | None = None


@dataclass
class Query:
    """A query, and the values that it is run with; these are nowhere else."""

    name: str
    title: str
    text: str
    parameters: list[dict[str, Any]] | None
    before: Look | None = None
    after: Look | None = None


def declared(conn: Connection, queries: Sequence[Mapping[str, Any]]) -> tuple[list[Query], list[str]]:
    """:param queries: of ``sql/checks/queries``, each with ``name``, ``title``, ``query``, ``sample`` and ``parameters``.
    :return: those for whose tables there is data, with parameters sampled; and why others are left out.

    Reads the tables under ACCESS SHARE."""
    found, told = [], []
    for entry in queries:
        parameters: list[dict[str, Any]] | None = [{}]
        if entry.get("parameters"):
            try:
                parameters = _sampled(conn, entry)
            except psycopg2.Error as exc:
                told.append(
                    f"query {entry['name']} is left out: its parameters cannot be sampled (SQLSTATE {exc.pgcode})"
                )
                continue
            if not parameters:
                told.append(
                    f"query {entry['name']} is left out: {entry['sample']['table']} has no row to take parameters from"
                )
                continue
        found.append(Query(str(entry["name"]), str(entry["title"]), str(entry["query"]), parameters))
    return found, told


def _sampled(conn: Connection, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = list(entry["parameters"])
    columns = [sql.Identifier(str(entry["parameters"][name])) for name in names]
    schema, _, table = str(entry["sample"]["table"]).rpartition(".")
    where = sql.Identifier(schema or "public", table)
    size = fetch_one(conn, _SIZE, (where.as_string(conn),))
    rows = int(size["rows"]) if size else 0
    share = "" if rows <= WHOLE_UP_TO else f"TABLESAMPLE system ({max(0.01, 100 * WHOLE_UP_TO / rows):.4f})"
    query = sql.SQL(_SAMPLE).format(
        columns=sql.SQL(", ").join(columns),
        table=where,
        share=sql.SQL(share),
        present=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(column) for column in columns),
        rows=sql.Literal(int(entry["sample"].get("rows") or DEFAULT_SAMPLE)),
    )
    with conn.cursor() as cursor:
        cursor.execute(query)
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def recorded(conn: Connection, most: int, own: Sequence[str] = ()) -> list[Query]:
    """:param conn: to the database in use, where pg_stat_statements has what its clients ask.
    :param most: how many, by the time that they take in all.
    :param own: roles that no application is, such as that of the backups.
    :return: the queries, without their constants; none without the extension, or before PostgreSQL 16."""
    place = fetch_one(conn, _EXTENSION)
    if most <= 0 or place is None or server_version(conn)[0] < GENERIC_FROM:
        return []
    statement = sql.SQL(_STATEMENTS).format(schema=sql.Identifier(place["schema"]))
    return [
        Query(row["name"], "of pg_stat_statements", row["query"], None)
        for row in fetch_all(conn, statement, (list(own), most))
    ]


def look(conn: Connection, queries: Sequence[Query], *, after: bool, control: Control) -> None:
    """Run and plan each query and keep what was seen. :param after: whether the versions are applied by now."""
    execute(conn, "SET max_parallel_workers_per_gather = 0")
    for query in queries:
        control.check()
        seen = _look(conn, query)
        if after:
            query.after = seen
        else:
            query.before = seen


def _look(conn: Connection, query: Query) -> Look:
    seen = Look()
    try:
        with (
            transaction(conn, f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{TIMEOUT_S}s'"),
            conn.cursor() as cursor,
        ):
            if query.parameters is None:
                cursor.execute("EXPLAIN (GENERIC_PLAN, FORMAT JSON) " + query.text)
                seen.shape = _shape(cursor.fetchall()[0][0][0]["Plan"])
                return seen
            times = []
            for values in query.parameters:
                # Without values psycopg2 leaves every % alone.
                given = values or None
                cursor.execute("EXPLAIN (FORMAT JSON) " + query.text, given)
                shape = _shape(cursor.fetchall()[0][0][0]["Plan"])
                seen.shape = seen.shape or shape
                best = []
                for _round in range(ROUNDS):
                    began = time.perf_counter()
                    cursor.execute(query.text, given)
                    best.append(time.perf_counter() - began)
                times.append(min(best))
            seen.seconds = statistics.median(times)
    except psycopg2.Error as exc:
        if conn.closed:
            raise
        seen.error = exc.pgcode or "08000"
    return seen


def _shape(plan: Mapping[str, Any], depth: int = 0) -> list[str]:
    """:return: a line for each node of a plan, indented by its depth."""
    words = [str(plan[name]) for name in _SHAPE if plan.get(name)]
    lines = ["  " * depth + " ".join(words)]
    for child in plan.get("Plans") or []:
        lines += _shape(child, depth + 1)
    return lines


def compare(queries: Sequence[Query], limit: float) -> list[dict[str, Any]]:
    """:param limit: by how much a query may become slower before it is a regression.
    :return: each query with name, title, plan_changed, lost (lines of the old plan that are gone) and came, ratio, before and after in
        seconds, regression (why it is one, or None). No value of a parameter."""
    found = []
    for query in queries:
        if query.before is None or query.after is None:
            continue
        before, after = query.before, query.after
        lost = [line.strip() for line in before.shape if line not in after.shape]
        came = [line.strip() for line in after.shape if line not in before.shape]
        ratio = after.seconds / before.seconds if before.seconds and after.seconds is not None else None
        why = None
        if after.error and not before.error:
            why = f"fails afterwards (SQLSTATE {after.error})"
        elif ratio is not None and ratio > limit and (after.seconds or 0) >= NOTICED_S:
            why = f"takes {ratio:.1f} times as long"
        found.append({
            "name": query.name, "title": query.title, "plan_changed": bool(lost or came), "lost": lost, "came": came,
            "ratio": None if ratio is None else round(ratio, 2), "before": before.seconds, "after": after.seconds, "regression": why,
        })  # fmt: skip
    return found


def sentences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """:return: a sentence for each regression, without a full stop."""
    told = []
    for entry in found:
        if entry["regression"]:
            plan = (
                f"; its plan had {', '.join(entry['lost'])} and has {', '.join(entry['came'])}" if entry["lost"] else ""
            )
            told.append(f"query {entry['name']} ({entry['title']}) {entry['regression']}{plan}")
    return told
