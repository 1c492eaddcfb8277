# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every page of every table and index of a restored copy, by the extension amcheck that is made in it for that.

Counts and hashes read the tables. An index that lacks a row, or holds it in the wrong place, answers queries wrongly and
changes neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control, Progress
from psycopg2 import errorcodes, sql

EXTENSION = "amcheck"
SCHEMA = "pgops_amcheck"
TOLD_PER_TABLE = 3

# Tables and indexes of the application with their TOAST tables, the largest first. Partitioned ones have no pages.
_RELATIONS = """
SELECT c.oid::bigint AS oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name, am.amname::text AS method,
       c.relkind IN ('r', 'm', 't') AS is_table
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_am AS am ON am.oid = c.relam LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
WHERE (c.relkind IN ('r', 'm', 't') AND am.amname = 'heap' OR c.relkind = 'i' AND i.indisvalid AND i.indisready)
  AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS owner WHERE owner.reltoastrelid IN (c.oid, i.indrelid)
                  AND owner.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace))
ORDER BY pg_catalog.pg_relation_size(c.oid) DESC, 2
"""

_INSTALLED = """
SELECT n.nspname::text AS schema, e.extversion::text AS version
FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'
"""


def install(conn: Connection) -> str | None:
    """Make the extension in a copy that is thrown away afterwards, where the backup has not brought it.

    :return: why it cannot be used there, in a few words, or None.
    """
    try:
        if fetch_one(conn, _INSTALLED) is None:
            execute(conn, sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            execute(
                conn,
                sql.SQL("CREATE EXTENSION {} SCHEMA {}").format(sql.Identifier(EXTENSION), sql.Identifier(SCHEMA)),
            )
    except psycopg2.errors.InsufficientPrivilege:
        return "only a superuser may install it, and pgops_restore_user is none"
    except psycopg2.Error as exc:
        return from_psycopg(exc, "it cannot be installed on the scratch server").message
    return None


def corrupted(
    destination: Target, *, jobs: int, application_name: str, progress: Progress, control: Control, database: str
) -> tuple[list[str], list[str], dict[str, int]]:
    """Check every relation, several side by side; :func:`install` has been called.

    Indexes are held against their tables (heapallindexed), unique ones for doubles (from 17). Takes SHARE on a table while one of
    its indexes is checked.

    :param destination: the copy, as a role that may use amcheck.
    :param database: what it is a copy of, for who watches.
    :return: what is wrong, one text a finding without any value of a row; what could not be checked, and why; and how many
        ``tables`` and ``indexes`` were checked, and how many indexes are of a kind that amcheck does not know (``other``).
    :raises Interrupted: asked to end.
    """
    sessions = [connect(destination, application_name=application_name) for _ in range(max(1, jobs))]

    def cancel() -> None:
        for conn in sessions:
            conn.cancel()

    forget = control.on_interrupt(cancel)
    try:
        installed = fetch_one(sessions[0], _INSTALLED)
        assert installed is not None
        version = tuple(int(part) for part in str(installed["version"]).split("."))
        relations = fetch_all(sessions[0], _RELATIONS)
        counts = {"tables": sum(1 for relation in relations if relation["is_table"])}
        known = [relation for relation in relations if _call(relation, version) is not None]
        counts["indexes"] = len(known) - counts["tables"]
        counts["other"] = len(relations) - len(known)
        waiting = iter(list(enumerate(known, 1)))

        def work(conn: Connection) -> list[tuple[bool, str]]:
            found: list[tuple[bool, str]] = []
            for number, relation in waiting:  # shared: a list's iterator hands each entry to one session
                control.check()
                progress.emit(
                    "checking pages (amcheck)",
                    database=database,
                    done=number,
                    total=len(known),
                    unit="relations",
                )
                found += _findings(conn, str(installed["schema"]), relation, version, control)
            return found

        with ThreadPoolExecutor(len(sessions)) as pool:
            found = sorted({finding for part in pool.map(work, sessions) for finding in part})
        return [text for wrong, text in found if wrong], [text for wrong, text in found if not wrong], counts
    finally:
        forget()
        for conn in sessions:
            conn.close()


def _call(relation: dict[str, Any], version: tuple[int, ...]) -> str | None:
    """:return: the function and its arguments behind the relation; None for an index that amcheck does not know."""
    if relation["is_table"]:
        return "verify_heapam({}, check_toast => true)"
    if relation["method"] == "btree":
        unique = ", true" if version >= (1, 4) else ""
        return f"bt_index_parent_check({{}}, true, false{unique})"
    return "gin_index_check({})" if relation["method"] == "gin" and version >= (1, 5) else None


def _findings(
    conn: Connection, schema: str, relation: dict[str, Any], version: tuple[int, ...], control: Control
) -> Iterator[tuple[bool, str]]:
    """:return: whether it is corruption, and it in words."""
    call = _call(relation, version)
    assert call is not None
    place = sql.SQL("{}::oid::regclass").format(sql.Literal(relation["oid"]))
    function = sql.Identifier(schema) + sql.SQL(".") + sql.SQL(call).format(place)
    kind = "table" if relation["is_table"] else "index"
    try:
        rows = fetch_all(conn, sql.SQL("SELECT * FROM ") + function)
    except psycopg2.Error as exc:
        control.check()
        if exc.pgcode in (errorcodes.DATA_CORRUPTED, errorcodes.INDEX_CORRUPTED):
            yield True, from_psycopg(exc, f"{kind} {relation['name']} is corrupted").message
        else:
            yield False, from_psycopg(exc, f"{kind} {relation['name']} cannot be checked").message
        return
    if relation["is_table"]:
        for row in rows[:TOLD_PER_TABLE]:
            yield True, f"table {relation['name']} is corrupted: block {row['blkno']}: {row['msg']}"
        if len(rows) > TOLD_PER_TABLE:
            yield True, f"table {relation['name']}: {len(rows) - TOLD_PER_TABLE} more findings"
