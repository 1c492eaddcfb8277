# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rows that are past the time for which a policy keeps them: archived, deleted and audited, batch by batch.

A batch's file is whole on the disk before its transaction commits, and the row of the audit is written in that very transaction. Whatever
is cut off leaves at most a file of rows that are still in their table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, ledger_rights, locks, row_archive
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import Interrupted, PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from ansible_collections.whitecross.pgops.plugins.module_utils.row_archive import Archive
from psycopg2 import errorcodes, sql

EVENT = "rows_retired"
LOCK_TIMEOUT_MS = 1000
# A day's rows never go before the day is over everywhere.
LEAST_YEARS = 1

_TABLE = """
SELECT c.oid::bigint AS oid, CASE WHEN c.relispartition THEN 'partition' ELSE c.relkind::text END AS kind, a.atttypid::regtype::text AS type,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_table_privilege(c.oid, 'DELETE') AS may,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, current_user::text AS role
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = %(schema)s AND c.relname = %(table)s
"""
# Every key that points at the table, whatever it says of a row that goes: none of its rows goes along.
_KEYS = """
SELECT n.nspname::text AS schema, c.relname::text AS name,
       array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number ORDER BY u.place) AS columns,
       array(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number ORDER BY u.place) AS targets
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.confrelid = %s AND k.conparentid = 0 ORDER BY 1, 2
"""
_TYPES = ("date", "timestamp without time zone", "timestamp with time zone")


@dataclass(frozen=True)
class Rule:
    """What a policy says of one table.

    :ivar column: whose time counts; a row without one is kept.
    :ivar years: for which a row is kept, whole days of UTC.
    """

    table: str
    column: str
    years: int
    why: str
    schema: str = "public"

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Way:
    """How rows go.

    :ivar directory: of the archives, on the host where the module runs; ``encrypt_to`` public keys, none for plain files.
    :ivar ends_at: by ``time.monotonic()``.
    """

    run: ledger.Run
    directory: str
    encrypt_to: Sequence[str]
    batch_size: int
    ends_at: float
    progress: Progress
    control: Control
    lock_wait_s: float = 30.0


@dataclass
class _Found:
    rule: Rule
    due: sql.Composable
    free: sql.Composable
    told: dict[str, Any] = field(default_factory=dict)


def look(target: Target, rules: Sequence[Rule], *, run_id: str, control: Control) -> dict[str, Any]:
    """Count what is due. Takes ACCESS SHARE on one table at a time.

    :return: ``tables``, each with ``table``, ``due``, ``referenced`` (kept, since others point at them), ``oldest`` and ``cutoff``.
    :raises PgopsError: a table or column that is not there, one that may not be deleted from, or that is not for this.
    """
    with closing(connect(target, application_name=f"{locks.application_name(run_id)} retention")) as conn:
        return {"tables": [_look(conn, rule, control).told for rule in rules], "changed": False}


def retire(target: Target, rules: Sequence[Rule], way: Way) -> dict[str, Any]:
    """Archive, delete and audit what is due, table after table, in the order of the policy.

    Takes ROW EXCLUSIVE on a table, locks its rows of one batch, and passes over rows that somebody holds.

    :return: as :func:`look`, with ``deleted``, ``files`` and ``seconds`` of each table, and ``ended``.
    :raises PgopsError: see :func:`look`, or a batch failed: nothing of it is deleted. ``extra`` has what was done before.
    :raises Interrupted: asked to end, between two batches; the same.
    """
    name = f"{locks.application_name(way.run.id)} retention"
    with closing(connect(target, application_name=name)) as conn:
        found = [_look(conn, rule, way.control) for rule in rules]
        result: dict[str, Any] = {"tables": [one.told for one in found], "changed": False, "ended": "done"}
        if not any(one.told["due"] for one in found):
            return result
        with locks.RunnerLock(conn, wait_s=way.lock_wait_s, control=way.control):
            if ledger.schema_version(conn) == ledger.SCHEMA_VERSION:
                ledger_rights.check(conn)
            else:
                ledger.ensure(conn)
            archive = Archive(way.directory, target.database, way.run.id, list(way.encrypt_to))
            try:
                for number, rule in enumerate(rules):
                    # Anew: what pointed at its rows may have gone with an earlier rule.
                    one = _look(conn, rule, way.control)
                    result["tables"][number] = one.told
                    _retire(conn, one, archive, way, result)
                    result["changed"] = result["changed"] or bool(one.told["deleted"])
            except PgopsError as error:
                error.extra["databases"] = {target.database: result}
                raise
    return result


def _look(conn: Connection, rule: Rule, control: Control) -> _Found:
    control.check()
    row: dict[str, Any] | None = fetch_one(
        conn, _TABLE, {"schema": rule.schema, "table": rule.table, "column": rule.column}
    )
    _refuse(conn, rule, row)
    assert row is not None
    cutoff = fetch_one(
        conn,
        "SELECT (pg_catalog.date_trunc('day', pg_catalog.clock_timestamp()) - pg_catalog.make_interval(years => %s))::text AS at",
        (rule.years,),
    )
    at = str((cutoff or {})["at"])
    column = sql.Identifier("t", rule.column)
    due = sql.SQL("{} < {}::timestamptz").format(column, sql.Literal(at))
    free = sql.SQL(" AND ").join(
        [sql.SQL("true"), *(_not_pointed_at(key) for key in fetch_all(conn, _KEYS, (row["oid"],)))]
    )
    counted = fetch_one(
        conn,
        sql.SQL(
            "SELECT count(*) FILTER (WHERE {free}) AS due, count(*) FILTER (WHERE NOT ({free})) AS referenced, min({column})::text AS oldest "
            "FROM {table} AS t WHERE {due}"
        ).format(free=free, column=column, table=sql.Identifier(rule.schema, rule.table), due=due),
    )
    told = {"table": rule.full_name, "column": rule.column, "years": rule.years, "cutoff": at, **(counted or {}),
            "deleted": 0, "files": [], "seconds": 0.0}  # fmt: skip
    return _Found(rule, due, free, told)


def _refuse(conn: Connection, rule: Rule, row: Mapping[str, Any] | None) -> None:
    told = f"The policy of {rule.full_name} cannot be kept in {conn.info.dbname}: "
    if rule.years < LEAST_YEARS:
        raise PgopsError(
            f"{told}it keeps rows for {rule.years} years, and {LEAST_YEARS} is the least.", object_name=rule.full_name
        )
    if rule.schema == "pgops":
        raise PgopsError(
            f"{told}the ledger and its audit are not for it.",
            object_name=rule.full_name,
            hint="The audit is archived by audit_checkpoint.yml, which leaves a checkpoint that it can be verified from.",
        )
    if row is None:
        raise PgopsError(
            f"{told}there is no such table.", sqlstate=errorcodes.UNDEFINED_TABLE, object_name=rule.full_name
        )
    # A key that points at a partition is its parent's: what hangs on a row would go along unseen.
    if row["kind"] != "r":
        raise PgopsError(
            f"{told}it is no table of its own; of a partitioned one detach the partitions that are past it, and drop them.",
            object_name=rule.full_name,
        )
    if row["type"] not in _TYPES:
        what = f"is {row['type']}" if row["type"] else "is not there"
        raise PgopsError(
            f"{told}its column {rule.column} {what}, and a date or a timestamp is wanted.", object_name=rule.full_name
        )
    if not row["may"]:
        raise PgopsError(
            f"{told}role {row['role']} may not read and delete its rows; its owner is {row['owner']}.",
            sqlstate=errorcodes.INSUFFICIENT_PRIVILEGE,
            object_name=rule.full_name,
        )


def _not_pointed_at(key: Mapping[str, Any]) -> sql.Composed:
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier("o", own), sql.Identifier("t", other))
        for own, other in zip(key["columns"], key["targets"])
    )
    other = sql.Identifier(key["schema"], key["name"])
    return sql.SQL("NOT EXISTS (SELECT FROM {} AS o WHERE {})").format(other, same)


def _retire(conn: Connection, found: _Found, archive: Archive, way: Way, result: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        while found.told["due"] > found.told["deleted"]:
            way.control.check()
            if time.monotonic() >= way.ends_at:
                result["ended"] = "its time was over"
                return
            rows = _batch(conn, found, archive, way)
            if not rows:
                return
            found.told["deleted"] += rows
            way.progress.emit(
                f"retiring rows of {found.rule.full_name}",
                database=conn.info.dbname, done=found.told["deleted"], total=found.told["due"], unit="rows",
            )  # fmt: skip
    except psycopg2.Error as exc:
        raise from_psycopg(
            exc,
            f"The rows of {found.rule.full_name} in {conn.info.dbname} that are past their time stay, but for {found.told['deleted']:,}",
            database=conn.info.dbname,
        ) from None
    finally:
        found.told["seconds"] = round(time.monotonic() - began, 3)


def _batch(conn: Connection, found: _Found, archive: Archive, way: Way) -> int:
    table = sql.Identifier(found.rule.schema, found.rule.table)
    # By the place of a row, which nobody changes while its lock is held; a row that somebody holds waits for the next run.
    pick = sql.SQL(
        "SELECT t.ctid::text AS place FROM ONLY {table} AS t WHERE {due} AND {free} ORDER BY {column} LIMIT {number} FOR UPDATE SKIP LOCKED"
    ).format(
        table=table, due=found.due, free=found.free, column=sql.Identifier("t", found.rule.column),
        number=sql.Literal(way.batch_size),
    )  # fmt: skip
    # By a statement of its own, which sees what came to point at a row before it was locked; nothing comes after that.
    delete = sql.SQL(
        "DELETE FROM ONLY {table} AS t WHERE t.ctid = ANY(%s::tid[]) AND {free} RETURNING {line} AS row"
    ).format(table=table, free=found.free, line=row_archive.line_of(conn, table, "t"))
    written = None
    try:
        with transaction(
            conn,
            f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SET LOCAL synchronous_commit = on; {row_archive.WRITTEN_AS}",
        ):
            places = [str(row["place"]) for row in fetch_all(conn, pick)]
            rows = [str(row["row"]) for row in fetch_all(conn, delete, (places,))]
            if not rows:
                return 0
            written = archive.write(found.rule.schema, found.rule.table, rows)
            detail = {
                "table": found.rule.full_name,
                "column": found.rule.column,
                "years": found.rule.years,
                "cutoff": found.told["cutoff"],
                "why": found.rule.why,
                **written,
            }
            ledger.append_audit(conn, EVENT, run_id=way.run.id, detail=detail)
    except (psycopg2.Error, PgopsError, OSError) as exc:
        # Where nobody knows whether it was committed, the file stays.
        if written is not None and not conn.closed and not isinstance(exc, Interrupted):
            archive.remove(written)
        raise
    found.told["files"].append(written["file"])
    return len(rows)


def rules_of(given: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """:param given: the policy as the controller has read it.
    :return: its rules, in their order."""
    return [
        Rule(
            str(one["table"]),
            str(one["column"]),
            int(one["years"]),
            str(one["why"]),
            str(one.get("schema") or "public"),
        )
        for one in given
    ]
