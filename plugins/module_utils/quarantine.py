# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way back of rows in quarantine: looked at before the version goes down, done in the step that drops the foreign key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import ledger, look_before
from ansible_collections.whitecross.pgops.plugins.module_utils.before_put_back import Before
from ansible_collections.whitecross.pgops.plugins.module_utils.changing_parts import own_functions
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.integrity import NAMED_ROWS
from ansible_collections.whitecross.pgops.plugins.module_utils.quarantine_conflicts import (
    Conflict,
    conflicts,
    ids_query,
    quarantine_of,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.server_message import primary_message
from ansible_collections.whitecross.pgops.plugins.module_utils.statements import kept_objects, needs_down
from ansible_collections.whitecross.pgops.plugins.module_utils.step_context import StepContext
from psycopg2 import sql

# Columns that both tables have and that a row can be given.
COMMON_COLUMNS = """
SELECT a.attname::text AS name FROM pg_attribute a JOIN pg_attribute q ON q.attname = a.attname
 WHERE a.attrelid = to_regclass(%s) AND q.attrelid = to_regclass(%s) AND a.attnum > 0 AND q.attnum > 0
   AND NOT a.attisdropped AND NOT q.attisdropped AND a.attgenerated = '' ORDER BY a.attnum
"""
# data exception, integrity constraint, privileges and undefined objects, a view's check, what a trigger raises
_OF_THE_ROWS = ("22", "23", "42", "44", "P0")


def refuse_revert(conn: Connection, chosen: Sequence[tuple[ledger.Migration, Mapping[str, Any]]]) -> None:
    """Look whether the rows in quarantine can go back when these versions go down, and write nothing.

    Takes ACCESS SHARE on their tables and those that they refer to. What an earlier part of the same way down drops stands in
    nobody's way by then, and what it may change is left to the put-back.

    :param chosen: the versions with their stored text, in the order in which they go.
    :raises PgopsError: rows cannot go back; table, quarantine, how many, ten of them by id, and the query for all.
    """
    before = Before(own_functions(conn))
    for row, migration in chosen:
        for ordinal in range(len(migration["steps"]), 0, -1):
            if not needs_down(row, ordinal):
                continue
            made = next((step.progress for step in row.steps if step.ordinal == ordinal), {})
            before.add(migration["steps"][ordinal - 1], {*kept_objects(row, ordinal), *made.get("present", [])})
            for entry in reversed(made.get("quarantined", [])):
                if (entry["schema"], entry["relation"]) in before.tables:
                    continue
                _refuse(conn, row.version, migration, entry, before)
                before.filled.add((entry["schema"], entry["relation"]))


def _refuse(
    conn: Connection, version: str, migration: Mapping[str, Any], entry: Mapping[str, Any], before: Before
) -> None:
    database = str(conn.info.dbname)
    with look_before.bounded(conn, migration, f"What keeps rows of {entry['quarantine']} out of {entry['table']}"):
        found = conflicts(conn, entry, before)
        number = _count(conn, entry) if found else 0
    if found:
        raise _error(
            f"Version {version} cannot go down in {database}: of the {number} row(s) in {entry['quarantine']} these cannot go "
            f"back into {entry['table']}: {_sentence(found)}. Nothing of this version was reverted.",
            entry,
            found,
            database,
            version,
        )


def _sentence(found: Sequence[Conflict]) -> str:
    return "; ".join(map(str, found))


def _error(
    message: str,
    entry: Mapping[str, Any],
    found: Sequence[Conflict],
    database: str,
    version: str,
    sqlstate: str | None = None,
) -> PgopsError:
    ways = " ".join(f"List them: {conflict.query}; {conflict.way_out}." for conflict in found)
    return PgopsError(
        message,
        sqlstate=sqlstate,
        database=database,
        object_name=entry["quarantine"],
        hint=f"{ways} Then type the rollback again; a row that is deleted from {entry['quarantine']} does not come back.",
        extra={
            "reason": "quarantine",
            "version": version,
            "quarantine": {
                "table": entry["table"],
                "quarantine": entry["quarantine"],
                "conflicts": [vars(conflict) for conflict in found],
            },
        },
    )


def _count(conn: Connection, entry: Mapping[str, Any]) -> int:
    row = fetch_one(conn, sql.SQL("SELECT count(*) AS number FROM {}").format(quarantine_of(entry)))
    return int(row["number"]) if row else 0


def put_back(context: StepContext, entry: Mapping[str, Any]) -> None:
    """Put the rows of a quarantine back into their table and drop it, in the open transaction.

    :raises PgopsError: somebody came between the look and this; which rows, told as :func:`refuse_revert` does.
    """
    conn, quarantine = context.conn, quarantine_of(entry)
    columns = fetch_all(conn, COMMON_COLUMNS, (entry["table"], entry["quarantine"]))
    if not columns:
        context.tell(f"nothing is put back from {entry['quarantine']} into {entry['table']}: one of the two is gone")
        return
    names = sql.SQL(", ").join(sql.Identifier(row["name"]) for row in columns)
    query = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
        sql.Identifier(entry["schema"], entry["relation"]), names, names, quarantine
    )
    execute(conn, "SAVEPOINT pgops_put_back")
    try:
        rows = execute(conn, query)
    except psycopg2.Error as exc:
        if exc.pgcode is None or exc.pgcode[:2] not in _OF_THE_ROWS:
            raise
        execute(conn, "ROLLBACK TO SAVEPOINT pgops_put_back")
        raise _stopped(context, entry, query.as_string(conn), exc) from None
    execute(conn, "RELEASE SAVEPOINT pgops_put_back")
    execute(conn, sql.SQL("DROP TABLE {}").format(quarantine))
    context.tell(f"{rows} row(s) put back from {entry['quarantine']} into {entry['table']}")


def _stopped(context: StepContext, entry: Mapping[str, Any], statement: str, exc: psycopg2.Error) -> PgopsError:
    """:return: the error of a put-back that failed, with the rows by which it did as far as that can be told."""
    number = _count(context.conn, entry)
    found = conflicts(context.conn, entry)
    told = _sentence(found) or primary_message(exc, statement)
    if not found:
        query = ids_query(context.conn, entry)
        ids = [str(item["id"]) for item in fetch_all(context.conn, query + sql.SQL(f" LIMIT {NAMED_ROWS}"))]
        way_out = f"change what refuses them, or delete them in {entry['quarantine']}"
        found = [Conflict(told, way_out, number, ids, query.as_string(context.conn))]
        told = str(found[0])
    error = _error(
        f"{context.doing} cannot put the {number} row(s) of {entry['quarantine']} back into {entry['table']}: {told} "
        f"(SQLSTATE {exc.pgcode}).",
        entry,
        found,
        context.database,
        context.version,
        exc.pgcode,
    )
    error.statement = statement
    return error
