# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which databases of a server a run is for, where a query says so."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Target, connect, execute, fetch_all
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg

_READ_ONLY = "SET default_transaction_read_only = on; SET statement_timeout = '10s'"
_THERE = "SELECT datname::text AS name FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate"


def named_by(target: Target, query: str) -> list[str]:
    """Run the query and take its one column for names of databases.

    Reads only, for 10 s at most; no lock but those of the query.

    :param target: the database in which the query runs, as the role that migrates.
    :return: the names in the query's order, at least one.
    :raises PgopsError: the query fails or has several columns, a name is there twice, or is no database that takes connections.
    """
    asked = f"pgops_databases_query, run in {target.database}"
    with closing(connect(target.with_(owner=None), application_name="pgops databases")) as conn:
        execute(conn, _READ_ONLY)
        try:
            rows = fetch_all(conn, query)
        except psycopg2.Error as exc:
            if exc.pgcode is None and not conn.closed:
                # The driver's own word for a statement that is no query.
                raise PgopsError(f"{asked}, gives no rows; give it a query.", database=target.database) from None
            raise from_psycopg(exc, f"{asked}, failed", database=target.database, statement=query) from None
        there = {str(row["name"]) for row in fetch_all(conn, _THERE)}
    if any(len(row) != 1 for row in rows):
        raise PgopsError(f"{asked}, gives {len(rows[0])} columns; give it one, the names.", database=target.database)
    names = [str(next(iter(row.values()))) for row in rows]
    if not names:
        raise PgopsError(f"{asked}, names no database, so nothing was done.", database=target.database)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PgopsError(f"{asked}, names {twice[0]} more than once.", database=target.database)
    gone = [name for name in names if name not in there]
    if gone:
        raise PgopsError(
            f"{asked}, names {', '.join(gone[:5])}{' and more' if len(gone) > 5 else ''}, which the server has not, or which takes "
            "no connections; nothing was done.",
            database=target.database,
        )
    return names
