# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What keeps a fence from being put up or taken away, told before the first write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from ansible_collections.whitecross.pgops.plugins.module_utils import legacy_fence
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.legacy_ledger import SEQUELIZE, LegacyLedger
from psycopg2 import sql

# Through a role that it is a member of a login may do what is not taken from itself. The owner of the database is a member
# of pg_database_owner, and ceases to be.
_THROUGH = """
SELECT r.rolname::text AS role FROM pg_roles r
 WHERE r.rolname <> %(login)s AND r.rolname <> 'pg_database_owner' AND pg_has_role(%(login)s, r.oid, 'USAGE')
   AND (EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema)')
        OR EXISTS (SELECT FROM pg_namespace n WHERE n.nspowner = r.oid AND n.nspname !~ '^(pg_|information_schema)')
        OR EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                    WHERE a.grantee = r.oid AND a.privilege_type = 'CREATE' AND n.nspname !~ '^(pg_|information_schema)'))
 ORDER BY 1
"""
# Whose objects this session may give over, and to whom: since PostgreSQL 16 that is the right to SET ROLE.
_NOT_OURS = """
SELECT rolname::text AS role, rolsuper AS superuser FROM pg_roles
 WHERE rolname = ANY(%s) AND NOT pg_has_role(oid, 'USAGE') ORDER BY 1
"""
_MAY_SET = "SELECT pg_has_role(%s, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END) AS yes"
_CLOSED = """
SELECT nspname::text AS name FROM pg_namespace
 WHERE nspname = ANY(%(schemas)s) AND nspowner <> (SELECT oid FROM pg_roles WHERE rolname = %(login)s)
   AND NOT has_schema_privilege(%(ours)s, oid, 'CREATE') ORDER BY 1
"""
_EVENT_TRIGGERS_NOT_OURS = """
SELECT evtname::text AS name, pg_get_userbyid(evtowner)::text AS owner FROM pg_event_trigger
 WHERE evtname = ANY(%s::text[]) AND NOT pg_has_role(evtowner, 'USAGE') ORDER BY 1
"""
_TABLE_NOT_OURS = """
SELECT pg_get_userbyid(relowner)::text AS owner FROM pg_class WHERE oid = to_regclass(%s) AND NOT pg_has_role(relowner, 'USAGE')
"""


def to_put_up(target: Target, ledgers: Sequence[LegacyLedger], login: str | None) -> str:
    """:return: the login of the tool before: as given, or the owner of its ledger.
    :raises PgopsError: there is no such ledger, no such role, the role is one of ours, or the fence would stop
    half-way, for want of rights."""
    database = target.database
    if not ledgers:
        raise PgopsError(
            f"There is no ledger of another tool in {database}, so there is nothing to fence. Nothing was written.",
            database=database,
            extra={"reason": "fence"},
        )
    role = login or ledgers[0].owner
    ours = {target.user, target.owner, target.backup_user, target.restore_user}
    if role in ours:
        raise PgopsError(
            f"The fence would shut out {role}, which this tool uses itself; name the other tool's login with "
            f"-e adopt_legacy_login=ROLE. Nothing was written.",
            database=database,
            extra={"reason": "fence"},
        )
    with closing(connect(target, application_name="pgops adopt")) as conn:
        if not fetch_one(conn, "SELECT 1 AS yes FROM pg_roles WHERE rolname = %s", (role,)):
            raise PgopsError(
                f"There is no role {role}; adopt_legacy_login names the login of the other tool. Nothing was written.",
                database=database,
                extra={"reason": "fence"},
            )
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        if not legacy_fence.is_superuser(conn):
            if any(found.tool == SEQUELIZE for found in ledgers):
                _refuse_rights_through_others(target, conn, role)
            _refuse_what_cannot_be_taken(target, conn, ledgers, role)
    return role


def to_take_away(target: Target, ledgers: Sequence[LegacyLedger]) -> None:
    """:raises PgopsError: a trigger of the fence stands that belongs to somebody else."""
    left: dict[str, str] = {}
    with closing(connect(target.as_restore(), application_name="pgops adopt")) as conn:
        there = legacy_fence.event_triggers(conn)
        for row in fetch_all(conn, _EVENT_TRIGGERS_NOT_OURS, (there,)):
            left[f"DROP EVENT TRIGGER {sql.Identifier(row['name']).as_string(conn)}"] = str(row["owner"])
    with legacy_fence.owner_session(target) as conn:
        for found in ledgers:
            table = _name(conn, found)
            theirs = fetch_one(conn, _TABLE_NOT_OURS, (table,))
            if theirs and legacy_fence.row_trigger(conn, found):
                left[f"DROP TRIGGER {legacy_fence.NAME} ON {table}"] = str(theirs["owner"])
    if left:
        statements = [f"{statement};" for statement in left]
        raise PgopsError(
            f"Neither {target.restore_user or target.user} nor {target.owner or target.user} may take the fence of {target.database} away: "
            f"its triggers stand, and they belong to {', '.join(sorted(set(left.values())))}. As that role or a superuser, in "
            f"{target.database}: {' '.join(statements)} Nothing was written.",
            sqlstate="42501",
            database=target.database,
            extra={"reason": "fence", "statements": statements},
        )


def _refuse_rights_through_others(target: Target, conn: Connection, login: str) -> None:
    through = [str(row["role"]) for row in fetch_all(conn, _THROUGH, {"login": login})]
    if through:
        roles = ", ".join(through)
        raise PgopsError(
            f"Role {target.restore_user or target.user} is no superuser, so the fence takes ownership and CREATE from {login}, "
            f"which would keep both as a member of {roles}: REVOKE {roles} FROM {login}. Nothing was written.",
            database=target.database,
            extra={"reason": "fence", "roles": through},
        )


def _refuse_what_cannot_be_taken(target: Target, conn: Connection, ledgers: Sequence[LegacyLedger], login: str) -> None:
    """Without a superuser each ledger goes to our owner, whoever has it; so does what Sequelize's login owns."""
    admin, ours = target.restore_user or target.user or "", target.owner or target.user or ""
    owners = {found.owner for found in ledgers} - {ours}
    schemas = {found.schema for found in ledgers if found.owner != ours}
    if any(found.tool == SEQUELIZE for found in ledgers):
        of_login = legacy_fence.owned(conn, login)
        owners |= {login} if of_login else set()
        schemas |= {schema for schema in of_login if schema is not None}
    if not owners:
        return
    others = fetch_all(conn, _NOT_OURS, (sorted(owners),))
    may_give = (fetch_one(conn, _MAY_SET, (ours,)) or {})["yes"]
    if others or not may_give:
        members = [str(row["role"]) for row in others if not row["superuser"]] + ([] if may_give else [ours])
        ways = [f"GRANT {', '.join(map(quoted, members))} TO {quoted(admin)}"] if members else []
        # Nobody is made a member of a superuser, whose rights it would have then.
        above = {str(row["role"]) for row in others if row["superuser"]}
        ways += [
            f"as {found.owner}, ALTER TABLE {_name(conn, found)} OWNER TO {quoted(ours)}"
            for found in ledgers
            if found.owner in above
        ]
        raise PgopsError(
            f"{legacy_fence.may_not_take(target, [str(row['role']) for row in others] or sorted(owners))}; {', and '.join(ways)}, or run "
            "it as the provider's admin role. Nothing was written.",
            sqlstate="42501",
            database=target.database,
            extra={"reason": "fence", "roles": sorted(owners)},
        )
    closed = [
        sql.Identifier(row["name"]).as_string(conn)
        for row in fetch_all(conn, _CLOSED, {"schemas": sorted(schemas), "login": login, "ours": ours})
    ]
    if closed:
        raise PgopsError(
            f"Role {admin} is no superuser, so the fence gives tables in {', '.join(closed)} of {target.database} to {ours}, which may "
            f"create none there: GRANT CREATE ON SCHEMA {', '.join(closed)} TO {quoted(ours)}. Nothing was written.",
            sqlstate="42501",
            database=target.database,
            extra={"reason": "fence", "schemas": closed},
        )


def _name(conn: Connection, found: LegacyLedger) -> str:
    return sql.Identifier(found.schema, found.table).as_string(conn)
