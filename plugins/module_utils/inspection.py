# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the catalog that a person asks for by name; what it runs comes from sql/inspect."""

from __future__ import annotations

import re
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import query_statistics, server_log
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from psycopg2 import errorcodes

# A look at a busy server must neither queue behind DDL nor keep a snapshot for long.
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 30_000
_NAME = "pgops inspect"
# A line of a query that reads what an extension brings; it is missing, or its library is not loaded.
_EXTENSION = re.compile(r"^-- Extension: (\w+)$", re.MULTILINE)
_NOT_THERE = ("42P01", "55000")
# A line of a query that reads what other sessions do, which a plain role sees only of itself.
_SEES_OTHERS = "-- Sees others"
# A line of a query that counts rows: one that a policy hides is missing from a count without a word.
_READS_ROWS = "-- Reads rows"
# A line of it that names the version that makes the last of what it reads, and what the server says where that is not
# there: no table, no column, no type, or a column of another type, which has no such operator.
_MADE_BY = re.compile(r"^-- Made by: (\d+)$", re.MULTILINE)
_NOT_MADE = (
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_COLUMN,
    errorcodes.UNDEFINED_OBJECT,
    errorcodes.UNDEFINED_FUNCTION,
    errorcodes.DATATYPE_MISMATCH,
)
# A line of a query that stands for the server's log of a run.
_SERVER_LOG = "-- Server log"
_LOG_COLUMNS = ("at", "severity", "sqlstate", "database", "application", "message")
_ENABLE = " Or -e inspect_enable_statistics=true, which writes both and leaves only the restart to do."
_MAY_SEE = "SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may"


def inspect(target: Target, query: str, parameters: dict[str, Any], *, name: str) -> dict[str, Any]:
    """Run one query in a read-only transaction, which is rolled back.

    :param query: the SQL, with ``%(name)s`` where a parameter goes and ``%%`` for a percent sign
    :param parameters: their values; passed as values, never put into the text
    :param name: the name of the query, for errors
    :return: ``{"columns": [names], "rows": [{column: value}]}``; a value that JSON does not know is its text
    :raises PgopsError: the query failed, would write (SQLSTATE 25006) or took longer than 30 s; what it counts is not there;
        the role does not see every row of it

    Takes ACCESS SHARE on what the query reads, and waits for it 1 s at most.
    """
    if _SERVER_LOG in query.splitlines():
        return _server_log(target, str(parameters["run"]))
    conn = _seeing(target) if _SEES_OTHERS in query.splitlines() else connect(target, application_name=_NAME)
    reads_rows = _READS_ROWS in query.splitlines()
    try:
        execute(conn, f"SET lock_timeout = {LOCK_TIMEOUT_MS}; SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        conn.set_session(readonly=True, autocommit=False)
        with conn.cursor() as cursor:
            cursor.execute(query, parameters)
            columns = [column.name for column in cursor.description or ()]
            rows = [dict(zip(columns, map(_plain, row))) for row in cursor.fetchall()]
        conn.rollback()
    except psycopg2.Error as exc:
        extension = _EXTENSION.search(query)
        if extension and exc.pgcode in _NOT_THERE:
            raise _without(extension.group(1), name, target) from None
        if reads_rows:
            raise _not_counted(exc, query, name, target) from None
        failed = f"The query {name} failed on {target}"
        raise from_psycopg(exc, failed, statement=query, database=target.database) from None
    finally:
        conn.close()
    return {"columns": columns, "rows": rows}


def _server_log(target: Target, run_id: str) -> dict[str, Any]:
    """:return: the lines of a run in the server's log, from warnings on; what is not there or not shown has a line of its own.
    :raises PgopsError: the log cannot be read; says why, and what to do to have it.
    """
    found = server_log.look(target, run_id)
    if found.why_not:
        raise PgopsError(
            f"The server's log of run {run_id} was not looked at in {target}, because {found.why_not}.",
            database=target.database,
            hint=f"To have it: {found.hint}" if found.hint else None,
        )
    lines = [server_log.told(entry) for entry in found.entries if entry.severity in ("WARNING", *server_log.ERRORS)]
    lines += [{"message": f"not in what was read: {gap}"} for gap in found.gaps]
    others = len(found.entries) - sum(entry.severity in ("WARNING", *server_log.ERRORS) for entry in found.entries)
    if others:
        lines.append({"message": f"{others} further lines, such as logged statements, are not shown"})
    return {
        "columns": list(_LOG_COLUMNS),
        "rows": [{column: line.get(column) for column in _LOG_COLUMNS} for line in lines],
    }


def _seeing(target: Target) -> Connection:
    """:return: a session of the first of migrator and restore role that sees what others do; the migrator's where neither does."""
    conn = connect(target.with_(owner=None), application_name=_NAME)
    if target.restore_user in (None, target.user) or (fetch_one(conn, _MAY_SEE) or {}).get("may"):
        return conn
    try:
        other = connect(target.as_restore(), application_name=_NAME)
    except PgopsError:
        return conn
    if (fetch_one(other, _MAY_SEE) or {}).get("may"):
        conn.close()
        return other
    other.close()
    return conn


def _without(extension: str, name: str, target: Target) -> PgopsError:
    """The extension of a query is not there; making it so takes a restart, which is nobody's to do unasked."""
    return PgopsError(
        f"The query {name} needs the extension {extension} in {target}, and it is not there.",
        database=target.database,
        hint=f"As a superuser: ALTER SYSTEM SET shared_preload_libraries = '{extension}'; (with those that are in it already), restart the "
        f"server in a window, then CREATE EXTENSION {extension};"
        + (_ENABLE if extension == query_statistics.EXTENSION else ""),
    )


def _not_counted(exc: psycopg2.Error, query: str, name: str, target: Target) -> PgopsError:
    """Whoever made the tables may have made others than the query counts, and its role may see less than all of them."""
    made_by = _MADE_BY.search(query)
    error = from_psycopg(exc, f"The query {name} counts nothing in {target}", statement=query, database=target.database)
    if exc.pgcode in _NOT_MADE and made_by:
        error.hint = f"What it counts is there from version {made_by.group(1)} on: migrate.yml applies it, adopt.yml --check shows what is there."
    elif exc.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
        error.hint = f"It has to read every row: preflight.yml says what the role {target.user} lacks for backups, which read them too."
    return error


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
