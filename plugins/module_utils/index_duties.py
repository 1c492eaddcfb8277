# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a table has of an index besides a way to its rows: its replica identity, the order of CLUSTER, statistics of expressions.

A drop takes them along without a word, and a published table without its replica identity refuses every UPDATE and DELETE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import index_build, lock_forecast
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.ledger import transaction
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_modes import ACCESS_EXCLUSIVE
from ansible_collections.whitecross.pgops.plugins.module_utils.lock_wait import LockWait
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import errorcodes, sql

# Of an index as index_definition finds it; its statistics by the text of the column, whose number may be another in the next.
_DUTIES = """
SELECT i.indisreplident AS replica_identity, i.indisclustered AS clustered,
       i.indpred IS NULL AND pg_catalog.pg_index_has_property(i.indexrelid, 'clusterable') AS clusterable,
       (SELECT jsonb_object_agg(pg_catalog.pg_get_indexdef(a.attrelid, a.attnum, true), a.attstattarget) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = i.indexrelid AND a.attnum > 0 AND coalesce(a.attstattarget, -1) <> -1) AS statistics,
       (SELECT string_agg('constraint ' || quote_ident(k.conname) || ' of ' || k.conrelid::regclass, ', ' ORDER BY k.conname)
          FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid) AS constraints,
       (SELECT 'index ' || h.inhparent::regclass FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid) AS parent
  FROM pg_catalog.pg_index i WHERE i.indexrelid = %s
"""
_NULLABLE = """
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid
 WHERE i.indexrelid = %s AND a.attname = ANY (%s) AND NOT a.attnotnull ORDER BY a.attnum
"""

Found = Mapping[str, Any]


def refuse_unfit(context: StepContext, conn: Connection, found: Found, wanted: Mapping[str, Any]) -> None:
    """Before anything is built: can the index be dropped, and the other one be what it is to its table?

    :param found: the index that is to go.
    :raises PgopsError: a constraint or a partitioned index stands on it, or it is the replica identity and the other cannot be.
    """
    duties = _of(conn, found)
    stands = duties["constraints"] or duties["parent"]
    if stands:
        raise _unfit(
            context, found, f"{stands} stands on it", "Replace it in a step of SQL, together with what stands on it."
        )
    why = _why_no_identity(conn, found, wanted) if duties["replica_identity"] else None
    if why:
        raise _unfit(
            context,
            found,
            f"it is the replica identity of {_table(found).as_string(conn)}, and the new one cannot be: {why}",
            "Give the table another replica identity first: "
            f"ALTER TABLE {_table(found).as_string(conn)} REPLICA IDENTITY USING INDEX <a unique one>, or FULL.",
        )


def refuse_drop(context: StepContext, found: Found) -> None:
    """:raises PgopsError: the index that is to go for good is the replica identity of its table."""
    conn = context.conn
    if _of(conn, found)["replica_identity"]:
        raise PgopsError(
            f"{context.doing} failed: index {_name(found)} is the replica identity of {_table(found).as_string(conn)}, which without it "
            "refuses updates and deletes where it is published; it stays.",
            sqlstate=errorcodes.DEPENDENT_OBJECTS_STILL_EXIST,
            database=context.database,
            object_name=_name(found),
            hint=f"ALTER TABLE {_table(found).as_string(conn)} REPLICA IDENTITY DEFAULT (or FULL, where it has no primary key), "
            "then run it again.",
            extra={"reason": "replica_identity"},
        )


def remembered(conn: Connection, found: Found) -> dict[str, Any]:
    """:return: what comes back with the index on the way down: its comment, and what another one may not be able to take."""
    duties = _of(conn, found)
    kept = {name: duties[name] for name in ("clustered", "statistics") if duties[name]}
    return {"comment": found["comment"], **kept}


def hand_over(context: StepContext, conn: Connection, found: Found, other: Found) -> None:
    """Make another index of the table what this one is to it. Does nothing where it is nothing.

    Takes ACCESS EXCLUSIVE on the table for a moment where it is the replica identity, else SHARE UPDATE EXCLUSIVE.

    :raises PgopsError: the table was not to be had within the budget, or the other index cannot be that.
    """
    duties = _of(conn, found)
    if duties["replica_identity"]:
        statement = sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}").format(
            _table(found), sql.Identifier(other["name"])
        )
        context.tell(f"making index {_name(other)} the replica identity of {_table(found).as_string(conn)}")
        _patiently(context, conn, found, statement)
    _set(context, conn, other, duties)
    if duties["clustered"] and not _of(conn, other)["clustered"]:
        context.note(
            f"CLUSTER went by index {_name(found)}, and cannot go by the new one: {_table(found).as_string(conn)} has none now"
        )


def give_back(context: StepContext, found: Found, kept: Mapping[str, Any]) -> None:
    """:param kept: of :func:`remembered`; what another index of the table has become since is left to it."""
    _set(context, context.conn, found, kept)


def _set(context: StepContext, conn: Connection, index: Found, duties: Mapping[str, Any]) -> None:
    now = _of(conn, index)
    full = sql.Identifier(index["index_schema"], index["name"])
    if duties.get("clustered") and now["clusterable"] and not now["clustered"]:
        statement = sql.SQL("ALTER TABLE {} CLUSTER ON {}").format(_table(index), sql.Identifier(index["name"]))
        _alter(context, conn, index, statement, "letting CLUSTER go by")
    targets = duties.get("statistics") or {}
    for number, column in enumerate(index["columns"], 1):
        target = targets.get(column["column"])
        if target is not None and (now["statistics"] or {}).get(column["column"]) != target:
            statement = sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                full, sql.Literal(number), sql.Literal(target)
            )
            _alter(context, conn, index, statement, "setting the statistics target of")


def _alter(context: StepContext, conn: Connection, index: Found, statement: sql.Composed, doing: str) -> None:
    telling = f"{doing} index {_name(index)}"
    given = (str(index["index_schema"]), str(index["name"]))
    index_build.alter(context, conn, given, statement, telling=telling, failing=f"was {telling}")


def _patiently(context: StepContext, conn: Connection, found: Found, statement: sql.Composed) -> None:
    wanted = {"schema": str(found["schema"]), "name": str(found["table"]), "mode": ACCESS_EXCLUSIVE}

    def attempt() -> None:
        with transaction(conn):
            execute(conn, context.limits(context.budget("statement_timeout_s")))
            execute(conn, statement)

    wait = LockWait(
        conn, context.monitor, lock_forecast.forecast(conn, {0: [wanted]}).get(0, []), context.budget("lock_timeout_ms"),
        context.budget("lock_budget_s"), context.doing, context.control, context.tell, context.database, sleep=context.sleep,
    )  # fmt: skip
    try:
        wait.run(attempt)
    except psycopg2.Error as exc:
        if exc.pgcode is None:
            raise
        text = statement.as_string(conn)
        raise from_psycopg(exc, f"{context.doing} failed", statement=text, database=context.database) from None


def _why_no_identity(conn: Connection, found: Found, wanted: Mapping[str, Any]) -> str | None:
    """:return: what PostgreSQL asks of a replica identity and this index has not."""
    if not wanted.get("unique"):
        return "it is not unique"
    if wanted.get("where"):
        return "it leaves rows out"
    names = [str(column.get("column") or "") for column in wanted["columns"]]
    if not all(names):
        return "it has an expression"
    nullable = [row["name"] for row in fetch_all(conn, _NULLABLE, (found["oid"], names))]
    return f"{', '.join(nullable)} may be null" if nullable else None


def _unfit(context: StepContext, found: Found, why: str, hint: str) -> PgopsError:
    return PgopsError(
        f"{context.doing} failed: index {_name(found)} cannot be replaced, {why}; nothing was built in its place.",
        sqlstate=errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE,
        database=context.database,
        object_name=_name(found),
        hint=hint,
        extra={"reason": "index_duties"},
    )


def _of(conn: Connection, index: Found) -> dict[str, Any]:
    return fetch_one(conn, _DUTIES, (index["oid"],)) or dict.fromkeys(
        ("replica_identity", "clustered", "clusterable", "statistics", "constraints", "parent")
    )


def _table(index: Found) -> sql.Identifier:
    return sql.Identifier(index["schema"], index["table"])


def _name(index: Found) -> str:
    return f"{index['index_schema']}.{index['name']}"
