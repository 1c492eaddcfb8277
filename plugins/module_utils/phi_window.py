# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""While a migration touches PHI every statement is logged, by pgaudit where the server has it, and the settings are put back after.

The settings are the whole cluster's, by ALTER SYSTEM: what ALTER DATABASE sets reaches new sessions only, and the application's
connections stay open for days. Sessions whose role or database has a setting of its own keep that; they are told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

PGAUDIT, LOG_STATEMENT = "pgaudit", "log_statement"
_WANTED = {
    PGAUDIT: {"pgaudit.log": "read, write, ddl, role", "log_connections": "on", "log_disconnections": "on"},
    LOG_STATEMENT: {"log_statement": "all", "log_connections": "on", "log_disconnections": "on"},
}
_LOADED = "SELECT current_setting('shared_preload_libraries') AS libraries"
_BEFORE = """
SELECT w.name, (SELECT f.setting FROM pg_catalog.pg_file_settings f
                 WHERE f.name = w.name AND f.sourcefile LIKE '%%/postgresql.auto.conf' ORDER BY f.seqno DESC LIMIT 1) AS setting
  FROM unnest(%s::text[]) AS w(name)
"""
_EXCEPTIONS = """
SELECT coalesce(d.datname, 'every database') AS database, coalesce(r.rolname, 'every role') AS role
  FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 WHERE EXISTS (SELECT FROM unnest(s.setconfig) c WHERE split_part(c, '=', 1) = ANY(%s)) ORDER BY 1, 2
"""
# No text of a query: it may hold what a patient said.
_SESSIONS = """
SELECT a.usename::text AS user, a.datname::text AS database, a.application_name, coalesce(host(a.client_addr), 'socket') AS client,
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since, coalesce(s.ssl, false) AS tls
  FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_ssl s ON s.pid = a.pid
 WHERE a.backend_type = 'client backend' AND a.datname = ANY(%s) AND a.pid <> pg_backend_pid() ORDER BY a.backend_start
"""
_TRANSIT = """
SELECT current_setting('ssl') AS ssl, (SELECT coalesce(s.ssl, false) FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_backend_pid()) AS own,
       count(*) FILTER (WHERE a.client_addr IS NOT NULL) AS remote,
       count(*) FILTER (WHERE a.client_addr IS NOT NULL AND NOT coalesce(s.ssl, false) AND NOT a.client_addr <<= '127.0.0.0/8'
                          AND a.client_addr <> '::1') AS bare
  FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_ssl s ON s.pid = a.pid WHERE a.backend_type = 'client backend'
"""


def look(conn: Connection) -> dict[str, Any]:
    """What would be set and what stands there now, to be kept outside before anything is changed.

    :return: ``system_identifier``; ``logging``, how; ``before`` by name the value in postgresql.auto.conf, None where there is none.
    :raises PgopsError: this role may not see it.
    """
    try:
        libraries = str((fetch_one(conn, _LOADED) or {}).get("libraries"))
        how = PGAUDIT if PGAUDIT in [name.strip() for name in libraries.split(",")] else LOG_STATEMENT
        before = {row["name"]: row["setting"] for row in fetch_all(conn, _BEFORE, (list(_WANTED[how]),))}
        found = fetch_one(conn, "SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()") or {}
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise _no_right(conn, exc) from None
    return {"system_identifier": found.get("id"), "logging": how, "before": before}


def open_window(conn: Connection, how: str, databases: list[str]) -> dict[str, Any]:
    """Log every statement from now on. :return: see :func:`seen`. :raises PgopsError: this role may not."""
    wanted = _WANTED[how]
    try:
        for name, value in wanted.items():
            execute(conn, sql.SQL("ALTER SYSTEM SET {} = {}").format(_name(name), sql.Literal(value)))
        execute(conn, "SELECT pg_reload_conf()")
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise _no_right(conn, exc) from None
    own = fetch_all(conn, _EXCEPTIONS, (list(wanted),))
    return {**seen(conn, databases), "exceptions": [f"{row['role']} in {row['database']}" for row in own]}


def close_window(conn: Connection, before: Mapping[str, Any], databases: list[str]) -> dict[str, Any]:
    """Put back what stood there. Doing it twice changes nothing.

    :param before: as :func:`look` found it.
    :return: see :func:`seen`. :raises PgopsError: this role may not.
    """
    try:
        for name, value in before.items():
            if value is None:
                execute(conn, sql.SQL("ALTER SYSTEM RESET {}").format(_name(name)))
            else:
                execute(conn, sql.SQL("ALTER SYSTEM SET {} = {}").format(_name(name), sql.Literal(value)))
        execute(conn, "SELECT pg_reload_conf()")
    except psycopg2.errors.InsufficientPrivilege as exc:
        raise _no_right(conn, exc) from None
    return seen(conn, databases)


def seen(conn: Connection, databases: list[str]) -> dict[str, Any]:
    """:return: ``at``; ``sessions`` of others in these databases; ``encryption_in_transit`` in a sentence."""
    found = fetch_one(conn, _TRANSIT) or {}
    own = "encrypted" if found["own"] else "not encrypted"
    told = f"ssl is {found['ssl']}, this session is {own}, {found['bare']} of {found['remote']} sessions come from elsewhere without TLS"
    now = (
        fetch_one(conn, """SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS at""")
        or {}
    )
    return {"at": now["at"], "sessions": fetch_all(conn, _SESSIONS, (databases,)), "encryption_in_transit": told}


def _name(name: str) -> sql.Composable:
    return sql.SQL(".").join(map(sql.Identifier, name.split(".")))


def _no_right(conn: Connection, exc: psycopg2.Error) -> PgopsError:
    return PgopsError(
        f"Role {conn.info.user} may not have the statements of a migration of PHI logged ({str(exc).splitlines()[0]}).",
        sqlstate="42501",
        database=conn.info.dbname,
        hint="Name a superuser with pgops_restore_user, or switch the server's own audit logging on and set audit_phi_logging=false.",
    )
