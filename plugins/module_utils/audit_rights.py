# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gives the audit an owner of its own: who migrates may then add rows and read them, and neither change nor drop anything of it."""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import audit_verifier, ledger
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

_FOUND = """
SELECT c.relowner::regrole::text AS owner, pg_catalog.pg_get_userbyid(n.nspowner)::text AS schema_owner,
       (SELECT pg_catalog.pg_get_userbyid(m.relowner)::text FROM pg_catalog.pg_class m
         WHERE m.relnamespace = n.oid AND m.relname = 'migration') AS migrator,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS audit_owner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgops' AND c.relname = 'audit'
"""
_TABLES = """
SELECT c.relname::text AS name FROM pg_catalog.pg_class c
 WHERE c.relnamespace = 'pgops'::regnamespace AND c.relname IN ('audit', 'audit_checkpoint') AND c.relkind = 'r' ORDER BY 1
"""
_BEYOND = """
SELECT a.privilege_type::text AS right, r.rolname::text AS grantee
  FROM pg_catalog.pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
 WHERE c.oid = to_regclass(%s) AND a.privilege_type NOT IN ('SELECT', 'INSERT') AND a.grantee <> c.relowner
"""
_MAY_READ = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %(role)s) AS there,
       CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %(role)s)
            THEN has_schema_privilege(%(role)s, 'pgops', 'USAGE') AND has_table_privilege(%(role)s, 'pgops.audit', 'SELECT') END AS may
"""


def protect(conn: Connection, owner: str, auditor: str | None, *, check: bool = False) -> dict[str, Any]:
    """Hand schema, table and trigger function to ``owner``, in one transaction. Takes ACCESS EXCLUSIVE on ``pgops.audit``, briefly.

    :param conn: of a superuser, or a role that may do all of it.
    :param owner: a role without login; it is made where it is missing. Whoever is a member of it could switch the triggers off.
    :param auditor: a role that may only read; it has to be there.
    :param check: tell what would be done.
    :return: ``owner``, ``migrator``, ``changed`` and what was ``done``.
    :raises PgopsError: there is no audit, a role is the wrong one, or a right is missing.
    """
    name = conn.info.dbname
    if ledger.schema_version(conn) == 0:
        raise PgopsError(f"Database {name} has no audit yet; the first migration makes it.", database=name)
    found = fetch_one(conn, _FOUND) or {}
    migrator = str(found["migrator"])
    _refuse(conn, owner, migrator, auditor)
    done: list[str] = []
    if not (fetch_one(conn, _MAY_READ, {"role": owner}) or {}).get("there"):
        done.append(f"role {owner} made, without login")
    beyond = fetch_all(conn, _BEYOND, ("pgops.audit",))
    if found["audit_owner"] != owner or found["schema_owner"] != owner or beyond:
        done.append(f"pgops.audit and its schema belong to {owner}; {migrator} may read and add rows")
    if auditor and not (fetch_one(conn, _MAY_READ, {"role": auditor}) or {}).get("may"):
        done.append(f"{auditor} may read pgops.audit")
    if done and not check:
        try:
            with ledger.transaction(conn, "SET LOCAL lock_timeout = '5s'"):
                _hand_over(conn, owner, migrator, auditor)
        except psycopg2.errors.InsufficientPrivilege as exc:
            raise PgopsError(
                f"Role {conn.info.user} may not give the audit of {name} its own owner ({str(exc).splitlines()[0]}); nothing was changed.",
                sqlstate="42501",
                database=name,
                hint="Name a superuser with pgops_restore_user; where there is none, the audit stays with the role that migrates.",
            ) from None
    return {"owner": owner, "migrator": migrator, "auditor": auditor, "changed": bool(done), "done": done}


def _refuse(conn: Connection, owner: str, migrator: str, auditor: str | None) -> None:
    name = conn.info.dbname
    if owner == migrator:
        raise PgopsError(
            f"{owner} migrates database {name}, and its audit is to belong to another role.", database=name
        )
    member = fetch_one(
        conn,
        "SELECT pg_has_role(m.oid, o.oid, 'MEMBER') AS yes FROM pg_catalog.pg_roles m, pg_catalog.pg_roles o "
        "WHERE m.rolname = %s AND o.rolname = %s",
        (migrator, owner),
    )
    if member and member["yes"]:
        told = f"{migrator} is a member of {owner}, and so could switch the triggers of the audit off"
        raise PgopsError(f"{told}; name another role.", database=name)
    if auditor and not (fetch_one(conn, _MAY_READ, {"role": auditor}) or {}).get("there"):
        quoted = sql.Identifier(auditor).as_string(conn)
        raise PgopsError(
            f"There is no role {auditor} on the server of {name}.", database=name, hint=f"CREATE ROLE {quoted} LOGIN;"
        )


def _hand_over(conn: Connection, owner: str, migrator: str, auditor: str | None) -> None:
    names = {"owner": sql.Identifier(owner), "migrator": sql.Identifier(migrator)}

    def do(text: str, **more: sql.Composable) -> None:
        execute(conn, sql.SQL(text).format(**names, **more))

    if not (fetch_one(conn, _MAY_READ, {"role": owner}) or {}).get("there"):
        do("CREATE ROLE {owner} NOLOGIN")
    # The owner of a schema may drop any table in it, whoever owns that.
    do("ALTER SCHEMA pgops OWNER TO {owner}")
    do("GRANT USAGE, CREATE ON SCHEMA pgops TO {migrator}")
    for row in fetch_all(conn, _TABLES):
        table = sql.Identifier("pgops", str(row["name"]))
        do("ALTER TABLE {table} OWNER TO {owner}", table=table)
        do("REVOKE ALL ON {table} FROM PUBLIC, {migrator}", table=table)
        for given in fetch_all(conn, _BEYOND, (f"pgops.{row['name']}",)):
            right, role = sql.SQL(str(given["right"])), sql.Identifier(str(given["grantee"]))
            do("REVOKE {right} ON {table} FROM {role} CASCADE", right=right, table=table, role=role)
        do("GRANT SELECT, INSERT ON {table} TO {migrator}", table=table)
    do("ALTER FUNCTION pgops.refuse_audit_change() OWNER TO {owner}")
    for name in audit_verifier.TRIGGERS:
        do("ALTER TABLE pgops.audit ENABLE ALWAYS TRIGGER {trigger}", trigger=sql.Identifier(name))
    if auditor:
        do("GRANT USAGE ON SCHEMA pgops TO {auditor}", auditor=sql.Identifier(auditor))
        for row in fetch_all(conn, _TABLES):
            table = sql.Identifier("pgops", str(row["name"]))
            do("GRANT SELECT ON {table} TO {auditor}", table=table, auditor=sql.Identifier(auditor))
