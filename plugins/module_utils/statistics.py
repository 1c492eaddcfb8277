# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""ANALYZE that is believed only when the server says that it happened.

By a role without the right ANALYZE warns and succeeds; last_analyze tells the truth. Where track_counts is off nobody keeps it:
there the right counts, and that it is not proved is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import sql

_NOW = """
SELECT clock_timestamp()::text AS at FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
_LAST = """
SELECT coalesce(pg_stat_get_last_analyze_time(c.oid) >= %s::timestamptz, false) AS done, c.relkind::text AS kind,
       pg_get_userbyid(c.relowner)::text AS owner, current_setting('track_counts')::boolean AS counts,
       pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE'){maintain} AS may
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_database d ON d.datname = current_database()
 WHERE n.nspname = %s AND c.relname = %s
"""
# The server has no such privilege before.
_MAINTAIN_SINCE = (17, 0)
_MAINTAIN = " OR has_table_privilege(c.oid, 'MAINTAIN')"
_ALL = """
SELECT n.nspname::text AS schema, c.relname::text AS "table" FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops')
   AND n.nspname NOT LIKE 'pg\\_toast%%' AND n.nspname NOT LIKE 'pg\\_temp%%'
 ORDER BY 1, 2
"""


def all_tables(conn: Connection) -> list[tuple[str, str]]:
    """:return: (schema, table) of every table and materialised view of the users, in order."""
    return [(row["schema"], row["table"]) for row in fetch_all(conn, _ALL, ())]


def analyze(
    conn: Connection,
    tables: Sequence[tuple[str, str]],
    *,
    doing: str,
    before: Callable[[str], None] = lambda name: None,
    after: Callable[[str], None] = lambda name: None,
    unproved: Callable[[str], None] = lambda told: None,
) -> list[str]:
    """Analyse each table and prove it. Takes SHARE UPDATE EXCLUSIVE on one table at a time.

    :param doing: names the work in the error.
    :param before: told the table's name before it is analysed, ``after`` when it is done.
    :param unproved: told once, in a sentence, on which tables the server does not say that it was done.
    :return: names of the tables, in order; those that are gone by now are left out.
    :raises PgopsError: the role may not analyse a table, or the server did not do it.
    """
    done, untold = [], []
    maintains = server_version(conn) >= _MAINTAIN_SINCE
    last = _LAST.format(maintain=_MAINTAIN if maintains else "")
    for schema, table in tables:
        name = f"{schema}.{table}"
        started = fetch_one(conn, _NOW, (schema, table))
        if started is None:
            continue
        before(name)
        try:
            execute(conn, sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table)))
        except psycopg2.Error as exc:
            if exc.pgcode is None:
                raise
            raise from_psycopg(exc, f"{doing} failed at {name}", statement=f"ANALYZE {name}") from None
        finally:
            after(name)
        found = fetch_one(conn, last, (started["at"], schema, table))
        # A partitioned table has no statistics entry of its own before 18.
        if found is not None and not found["done"] and found["kind"] in ("r", "m"):
            if found["counts"] or not found["may"]:
                raise PgopsError(
                    f"{doing} failed: the server did not analyze {name}, most likely for want of rights.",
                    sqlstate="42501",
                    database=conn.info.dbname,
                    object_name=name,
                    hint=f"Run it as the table's owner {found['owner']}"
                    + (f", or GRANT MAINTAIN ON {name} to this role." if maintains else "."),
                )
            untold.append(name)
        done.append(name)
    if untold:
        unproved(
            f"ANALYZE ran without an error on {', '.join(untold)}, and track_counts is off, so the server does not say whether it was done. "
            "So that it does: ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()"
        )
    return done


def refresh(
    target: Target,
    tables: Sequence[str] | None,
    *,
    run_id: str,
    progress: Progress,
    control: Control,
    check_mode: bool = False,
) -> dict[str, Any]:
    """Analyze the tables of a database, all of them where ``tables`` is None, telling how far it is.

    :param tables: ``schema.table`` each.
    :return: ``analyzed`` (names), ``seconds``, and ``unproved``, a sentence, where the server does not say that it was done.
    :raises PgopsError: see :func:`analyze`.
    :raises Interrupted: asked to end between two tables.
    """
    conn = connect(target, application_name=f"pgops {run_id}")
    started = time.monotonic()
    try:
        names = all_tables(conn) if tables is None else [_split(name) for name in tables]
        if check_mode:
            return {"analyzed": [".".join(name) for name in names], "seconds": 0.0}
        count = 0

        def before(name: str) -> None:
            control.check()
            progress.emit(f"analyzing {name}", database=target.database, done=count, total=len(names), unit="tables")

        def after(name: str) -> None:
            nonlocal count
            count += 1

        told: list[str] = []
        doing = f"ANALYZE in {target.database}"
        done = analyze(conn, names, doing=doing, before=before, after=after, unproved=told.append)
        unproved = {"unproved": told[0]} if told else {}
        return {"analyzed": done, "seconds": round(time.monotonic() - started, 3), **unproved}
    finally:
        conn.close()


def _split(name: str) -> tuple[str, str]:
    schema, _, table = name.partition(".")
    return (schema, table) if table else ("public", schema)
