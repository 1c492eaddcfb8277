# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a server count its statements by pg_stat_statements, as far as that goes without a restart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import preloaded_libraries
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, Target, connect, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from psycopg2 import sql

EXTENSION = "pg_stat_statements"
_SETTING = preloaded_libraries.SETTING
_SERVER = """
SELECT r.rolsuper AS superuser, r.rolname::text AS role, pg_catalog.pg_is_in_recovery() AS standby,
       EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = %(extension)s) AS available
  FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
"""
# What the files say is what the next start takes, also where somebody has changed them since the last one.
_LIBRARIES = """
SELECT current_setting(%(setting)s) AS running,
       coalesce((SELECT f.setting FROM pg_catalog.pg_file_settings AS f WHERE f.name = %(setting)s ORDER BY f.seqno DESC LIMIT 1), '') AS written,
       (SELECT s.source FROM pg_catalog.pg_settings AS s WHERE s.name = %(setting)s) AS source
"""
_INSTALLED = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = %(extension)s) AS there"


def enable(targets: Sequence[Target], *, check: bool = False) -> dict[str, dict[str, Any]]:
    """Write the library into the server's configuration and create the extension in each database.

    What is in ``shared_preload_libraries`` stays there, in its order. The server is not restarted: until somebody does, nothing is counted.

    :param targets: databases of one server; all is done as their restore role, which has to be a superuser.
    :param check: write nothing.
    :return: by database ``statements`` (what was or would be run), ``libraries`` (as the next start takes them), ``before`` (as they were),
        ``restart`` (whether one is needed).
    :raises PgopsError: a standby, a role that is no superuser, a server without the library, or one whose start command sets it.

    Takes no lock on any table.
    """
    first, *_ = targets
    with closing(connect(first.maintenance(), application_name="pgops query statistics")) as conn:
        _refuse_unfit(conn, first)
        found = fetch_one(conn, _LIBRARIES, {"setting": _SETTING}) or {}
        running, written = (preloaded_libraries.names(found[name]) for name in ("running", "written"))
        # Given when the server was started, it counts whatever a file says.
        if found["source"] == "command line":
            written = running
        on_server: list[sql.Composable] = []
        if not _has(written):
            if found["source"] == "command line":
                raise PgopsError(
                    f"{_SETTING} of {first} is set by the command that starts the server, so nothing written into a file counts.",
                    hint=f"Add {EXTENSION} there, restart the server in a window, then run this again.",
                )
            on_server.append(_alter_system([*written, EXTENSION]))
        _run(conn, first, [sql.SQL("LOAD {}").format(sql.Literal(EXTENSION))] if on_server and not check else [])
        done = {target.database: _create(target, check=check) for target in targets}
        _run(conn, first, [] if check else on_server)
        texts = [statement.as_string(conn) for statement in on_server]
    libraries = [*written, *([EXTENSION] if on_server else [])]
    return {
        database: {
            "statements": [*created, *(texts if number == 0 else [])],
            "libraries": libraries,
            "before": written,
            "restart": not _has(running),
        }
        for number, (database, created) in enumerate(done.items())
    }


def _refuse_unfit(conn: Connection, target: Target) -> None:
    found = fetch_one(conn, _SERVER, {"extension": EXTENSION}) or {}
    if not found["superuser"]:
        raise PgopsError(
            f"Role {found['role']} is no superuser of {target.host}, and only one may switch {EXTENSION} on.",
            hint="Name one with -e pgops_restore_user=ROLE. A managed server has no superuser: there it is a parameter of its provider.",
        )
    if found["standby"]:
        raise PgopsError(
            f"{target.host} is a standby; an extension is created on the primary, and each standby has its own settings."
        )
    if not found["available"]:
        raise PgopsError(
            f"{target.host} has no {EXTENSION}: with it in {_SETTING} the server would not start again.",
            hint="Install the package of PostgreSQL's contrib modules there, such as postgresql-contrib, then run this again.",
        )


def _create(target: Target, *, check: bool) -> list[str]:
    """:return: the statement that makes the extension where it is missing."""
    with closing(connect(target.as_restore(), application_name="pgops query statistics")) as conn:
        if (fetch_one(conn, _INSTALLED, {"extension": EXTENSION}) or {}).get("there"):
            return []
        statement = sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(EXTENSION))
        _run(conn, target, [] if check else [statement])
        return [statement.as_string(conn)]


def _run(conn: Connection, target: Target, statements: Sequence[sql.Composable]) -> None:
    for statement in statements:
        try:
            with conn.cursor() as cursor:
                cursor.execute(statement)
        except psycopg2.Error as exc:
            text = statement.as_string(conn)
            raise from_psycopg(exc, f"{text} failed on {target}", statement=text, database=target.database) from None


def _alter_system(libraries: Sequence[str]) -> sql.Composable:
    # Each a literal of its own: one literal with commas in it would be the name of one library, and the server would not start again.
    names = sql.SQL(", ").join(map(sql.Literal, libraries))
    return sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(_SETTING), names)


def _has(libraries: Sequence[str]) -> bool:
    return EXTENSION in map(preloaded_libraries.bare, libraries)
