# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Roles that a copy on the scratch server cannot be without: those of its policies and user mappings, which are restored whoever owns it.

They are refused by name before anything is made, or made for as long as the copy is there: without login, password or membership, so that
nobody can do anything by them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store, catalog
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from psycopg2 import sql

# By its comment a role is known as ours, also to the next run when this one is killed.
MARK = "pgops: made for a copy of a backup, dropped with it"
_LOCK = "SELECT {}(hashtextextended('pgops scratch roles', 0)){}"

# One that is ours may go at any moment.
_MISSING = """
SELECT wanted.name AS name, r.oid IS NOT NULL AS ours FROM unnest(%s::text[]) AS wanted (name)
LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = wanted.name
WHERE r.oid IS NULL OR pg_catalog.shobj_description(r.oid, 'pg_authid') = %s ORDER BY 1
"""
_OURS = "SELECT rolname::text AS name FROM pg_catalog.pg_roles WHERE pg_catalog.shobj_description(oid, 'pg_authid') = %s ORDER BY 1"


def missing(conn: Connection, backup: Backup, *, superuser: bool) -> list[str]:
    """:param superuser: whether it is restored by one; user mappings are left out by others.
    :return: the roles that a copy needs and the server lacks."""
    found: set[str] = set()
    for key, entry in backup_store.read_catalog(backup).items():
        kind = catalog.kind_of(key)
        if kind == "policy":
            found.update(str(role) for role in entry.get("roles") or [])
        elif kind == "user mapping" and superuser:
            found.add(str(entry["user"]))
    rows = fetch_all(conn, _MISSING, (sorted(found - {"public"}), MARK))
    return [str(row["name"]) for row in rows]


def refuse(names: list[str], backup: Backup, place: str) -> None:
    """:param place: the scratch server. :raises PgopsError: there is one."""
    if not names:
        return
    database = backup.manifest["database"]
    raise PgopsError(
        f"{backup.path} has policies for roles that {place} lacks: {', '.join(names)}; nothing was restored.",
        database=database,
        object_name=names[0],
        hint="-e backup_scratch_roles=create makes them for as long as the copy is there; or there: "
        + "; ".join(f'CREATE ROLE "{name}" NOLOGIN' for name in names),
        extra={"missing_roles": names},
    )


@contextlib.contextmanager
def made(maintenance: Target, names: list[str], application_name: str) -> Iterator[None]:
    """The roles are there in the block, and gone behind it; so are those that killed runs have left.

    Others that need them at the same time share a lock; the last one drops them. Nothing is done where none is named.

    :raises PgopsError: they cannot be made.
    """
    if not names:
        yield
        return
    with contextlib.closing(connect(maintenance, application_name=application_name)) as conn:
        _lock(conn, "pg_advisory_lock_shared")
        try:
            _make(conn, names, maintenance.host)
            yield
        finally:
            _drop_for_sure(conn, maintenance, application_name)


def _lock(conn: Connection, function: str) -> dict[str, Any]:
    return fetch_one(conn, _LOCK.format(function, "::text AS got")) or {}


def _make(conn: Connection, names: list[str], host: str) -> None:
    execute(conn, "BEGIN")
    try:
        execute(conn, "SELECT pg_advisory_xact_lock(hashtextextended('pgops makes scratch roles', 0))")
        # Another copy may have come before.
        for row in fetch_all(conn, _MISSING, (names, MARK)):
            if row["ours"]:
                continue
            name = sql.Identifier(row["name"])
            execute(conn, sql.SQL("CREATE ROLE {} NOLOGIN").format(name))
            execute(conn, sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(MARK)))
        execute(conn, "COMMIT")
    except psycopg2.Error as exc:
        execute(conn, "ROLLBACK")
        raise from_psycopg(
            exc, f"The roles {', '.join(names)} cannot be made on {host}; nothing was restored"
        ) from None


def _drop_for_sure(conn: Connection, maintenance: Target, application_name: str) -> None:
    # Over a fresh connection: the old one may be what failed. Its end frees the lock.
    conn.close()
    with (
        contextlib.suppress(PgopsError, psycopg2.Error),
        contextlib.closing(connect(maintenance, application_name=application_name)) as fresh,
    ):
        if _lock(fresh, "pg_try_advisory_lock")["got"] != "true":
            return
        for row in fetch_all(fresh, _OURS, (MARK,)):
            with contextlib.suppress(psycopg2.Error):
                execute(fresh, sql.SQL("DROP ROLE {}").format(sql.Identifier(row["name"])))
