# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a database needs of its server and no dump of it holds: roles with their memberships, and the names of tablespaces.

Roles are those that the database refers to (owners, grantees, policies, default privileges, settings), their members, who use it
through them, and the groups of all of these. Everything but a password is read from views that every role may read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import backup_store
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import SUFFIX
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg

# PostgreSQL keeps this beginning of a name for the roles that every server of a major has.
PREDEFINED = "pg_"
# The role of initdb: it depends on nothing, so pg_shdepend does not name it.
BOOTSTRAP_OID = 10
# From here on a membership says whether it inherits and may be set, and counts by who granted it.
MEMBERSHIP_OPTIONS_SINCE = 16

ATTRIBUTES = ("superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls")
LIMITS = ("connection_limit", "valid_until")

_REFERRED = """
SELECT d.refobjid::bigint AS oid
FROM pg_catalog.pg_shdepend AS d JOIN pg_catalog.pg_database AS b ON b.datname = current_database()
WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass
  AND (d.dbid = b.oid OR (d.dbid = 0 AND d.classid = 'pg_catalog.pg_database'::regclass AND d.objid = b.oid))
UNION
SELECT s.setrole::bigint FROM pg_catalog.pg_db_role_setting AS s JOIN pg_catalog.pg_database AS b ON b.oid = s.setdatabase
WHERE b.datname = current_database() AND s.setrole <> 0
UNION
SELECT r.oid::bigint FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY (%(named)s::text[])
"""

_MEMBERSHIPS = """
SELECT m.roleid::bigint AS role, m.member::bigint AS member, m.grantor::bigint AS grantor, m.admin_option AS admin, {options}
FROM pg_catalog.pg_auth_members AS m
"""
_OPTIONS = 'm.inherit_option AS inherit, m.set_option AS "set"'
_NO_OPTIONS = 'NULL::boolean AS inherit, NULL::boolean AS "set"'

# Also of the server where they are missing; there by name.
ROLES = """
SELECT r.oid::bigint AS oid, r.rolname::text AS name, r.rolsuper AS superuser, r.rolinherit AS inherit, r.rolcreaterole AS createrole,
       r.rolcreatedb AS createdb, r.rolcanlogin AS login, r.rolreplication AS replication, r.rolbypassrls AS bypassrls,
       r.rolconnlimit AS connection_limit, r.rolvaliduntil::text AS valid_until, coalesce(s.setconfig, '{}') AS settings,
       pg_catalog.shobj_description(r.oid, 'pg_authid') AS comment
FROM pg_catalog.pg_roles AS r
LEFT JOIN pg_catalog.pg_db_role_setting AS s ON s.setrole = r.oid AND s.setdatabase = 0
WHERE r.oid = ANY (%(oids)s::oid[]) OR r.rolname = ANY (%(names)s::text[])
ORDER BY r.rolname
"""

_TABLESPACES = """
SELECT t.spcname::text AS name, pg_catalog.pg_get_userbyid(t.spcowner)::text AS owner,
       pg_catalog.pg_tablespace_location(t.oid) AS location, coalesce(t.spcoptions, '{}') AS options
FROM pg_catalog.pg_tablespace AS t
WHERE t.spcname NOT IN ('pg_default', 'pg_global')
  AND (t.oid IN (SELECT c.reltablespace FROM pg_catalog.pg_class AS c)
       OR t.oid IN (SELECT b.dattablespace FROM pg_catalog.pg_database AS b WHERE b.datname = current_database()))
ORDER BY t.spcname
"""

_MAY_READ_PASSWORDS = """
SELECT current_user::text AS role,
       has_column_privilege('pg_catalog.pg_authid', 'rolname', 'SELECT')
       AND has_column_privilege('pg_catalog.pg_authid', 'rolpassword', 'SELECT') AS able
"""
_PASSWORDS = """
SELECT rolname::text AS name, rolpassword AS hash FROM pg_catalog.pg_authid
WHERE rolname = ANY (%s::text[]) AND rolpassword IS NOT NULL
"""

# One side of an ACL's entry; names are quoted where they have to be.
_ACL_ITEM = re.compile(r'^(?:"((?:[^"]|"")*)"|([^="]*))=[^/]*/(?:"((?:[^"]|"")*)"|([^"]*))$')


@dataclass(frozen=True)
class NeededRoles:
    """What a backup keeps of the server.

    :ivar roles: by name; attributes, limits, ``settings`` (``ALTER ROLE … SET``) and ``comment``.
    :ivar memberships: role, member, admin, and from PostgreSQL 16 inherit, set and grantor, which are None before.
    :ivar bootstrap: the role of initdb, on whose behalf a superuser grants.
    :ivar tablespaces: name, owner, location and options of each that the database uses, beside the default one.
    :ivar passwords: hashes by role, where they were asked for.
    """

    roles: dict[str, dict[str, Any]]
    memberships: list[dict[str, Any]]
    bootstrap: str
    tablespaces: list[dict[str, Any]]
    passwords: dict[str, str] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """:return: what is kept; with the hashes."""
        return {
            "roles": self.roles,
            "memberships": self.memberships,
            "bootstrap": self.bootstrap,
            "tablespaces": self.tablespaces,
            "passwords": self.passwords,
        }

    def told(self) -> dict[str, Any]:
        """:return: what the manifest says of it, which everybody may read."""
        return {
            "roles": sorted(self.roles),
            "role_passwords": bool(self.passwords),
            "tablespaces": [entry["name"] for entry in self.tablespaces],
        }


# -- reading them at the backup -------------------------------------------------------------------------------------------


def read(conn: Connection, inventory: Mapping[str, Any], properties: Mapping[str, Any]) -> NeededRoles:
    """Read what the connected database needs, without its passwords.

    :param inventory: its catalog; owners and grantees that every server has are in no other list.
    :param properties: as ``catalog.database_properties`` returns them.

    Takes ACCESS SHARE on system catalogs.
    """
    major = server_version(conn)[0]
    by_grantor = major >= MEMBERSHIP_OPTIONS_SINCE
    named = sorted(_named(inventory, properties))
    referred = {int(row["oid"]) for row in fetch_all(conn, _REFERRED, {"named": named})}
    edges = fetch_all(conn, _MEMBERSHIPS.format(options=_OPTIONS if by_grantor else _NO_OPTIONS))
    names = {
        int(row["oid"]): str(row["name"])
        for row in fetch_all(conn, "SELECT oid::bigint AS oid, rolname::text AS name FROM pg_catalog.pg_roles")
    }
    predefined = {oid for oid, name in names.items() if name.startswith(PREDEFINED)}
    wanted = _with_members_and_groups(referred, edges, predefined, by_grantor=by_grantor)
    memberships = [
        {
            "role": names[edge["role"]],
            "member": names[edge["member"]],
            "admin": edge["admin"],
            "inherit": edge["inherit"],
            "set": edge["set"],
            "grantor": names.get(edge["grantor"]) if by_grantor else None,
        }
        for edge in edges
        if edge["role"] in wanted and edge["member"] in wanted and {edge["role"], edge["member"]} <= set(names)
    ]
    found = fetch_all(conn, ROLES, {"oids": sorted(wanted - predefined), "names": []})
    return NeededRoles(
        roles={row["name"]: described(row) for row in found},
        memberships=sorted(memberships, key=lambda entry: (entry["role"], entry["member"], entry["grantor"] or "")),
        bootstrap=names[BOOTSTRAP_OID],
        tablespaces=fetch_all(conn, _TABLESPACES),
    )


def described(row: Mapping[str, Any]) -> dict[str, Any]:
    """:param row: of :data:`ROLES`. :return: what makes the role, whatever its server calls it inside."""
    return {
        **{name: row[name] for name in (*ATTRIBUTES, *LIMITS, "comment")},
        "settings": sorted(row["settings"]),
    }


def _with_members_and_groups(
    referred: set[int], edges: list[dict[str, Any]], predefined: set[int], *, by_grantor: bool
) -> set[int]:
    """Members of what the database refers to use it through that. Of their other groups nobody else is a member for this database's
    sake, and who is a member of a predefined role is the server's own business."""
    wanted = set(referred)
    grown = True
    while grown:
        more = {edge["member"] for edge in edges if edge["role"] in wanted - predefined} - wanted
        wanted |= more
        grown = bool(more)
    grown = True
    while grown:
        own = [edge for edge in edges if edge["member"] in wanted]
        more = {edge["role"] for edge in own} - wanted
        if by_grantor:
            more |= {edge["grantor"] for edge in own} - wanted - {BOOTSTRAP_OID}
        wanted |= more
        grown = bool(more)
    return wanted


def _named(inventory: Mapping[str, Any], properties: Mapping[str, Any]) -> set[str]:
    entries: Iterable[Mapping[str, Any]] = [*inventory.values(), properties]
    found = set()
    for entry in entries:
        if entry.get("owner"):
            found.add(str(entry["owner"]))
        for item in entry.get("acl") or []:
            parts = _ACL_ITEM.match(str(item))
            if parts:
                found.update((parts[quoted] or "").replace('""', '"') or parts[quoted + 1] or "" for quoted in (1, 3))
    return found - {"", "pg_database_owner"}


# -- passwords ------------------------------------------------------------------------------------------------------------


def refuse_unreadable_passwords(source: Target, application_name: str) -> None:
    """:param source: as the role that backs up. :raises PgopsError: it may not read the hashes."""
    elsewhere = source.with_(database=source.maintenance_database)
    with closing(connect(elsewhere, application_name=application_name)) as conn:
        row = fetch_one(conn, _MAY_READ_PASSWORDS) or {}
    if not row.get("able"):
        raise PgopsError(
            f"No backup of {source.database}: backup_role_passwords is set, and role {row.get('role')} may not read the password hashes "
            "(pg_authid); nothing was written.",
            sqlstate="42501",
            database=source.database,
            object_name="pg_authid",
            hint=f"As a superuser in the database {source.maintenance_database}: GRANT SELECT (rolname, rolpassword) ON pg_catalog.pg_authid "
            f'TO "{row.get("role")}", or GRANT pg_read_all_data; or leave backup_role_passwords out.',
        )


def read_passwords(source: Target, needed: NeededRoles, application_name: str) -> NeededRoles:
    """Read the password hashes of the roles.

    In the maintenance database: the right to read them is given in one database, and in the one that is backed up its dump would carry it.

    :return: the same with them; the role of initdb, which each server has, without.
    :raises PgopsError: the right is missing meanwhile.
    """
    elsewhere = source.with_(database=source.maintenance_database)
    names = sorted(set(needed.roles) - {needed.bootstrap})
    try:
        with closing(connect(elsewhere, application_name=application_name)) as conn:
            found = {str(row["name"]): str(row["hash"]) for row in fetch_all(conn, _PASSWORDS, (names,))}
    except psycopg2.Error as exc:
        raise from_psycopg(
            exc, f"No backup of {source.database}: the password hashes cannot be read", database=source.database
        ) from None
    return NeededRoles(needed.roles, needed.memberships, needed.bootstrap, needed.tablespaces, found)


# -- in the backup --------------------------------------------------------------------------------------------------------


def of_backup(backup: Backup) -> NeededRoles | None:
    """:param backup: with its key. :return: what it holds of its server, None where an earlier version made it.
    :raises PgopsError: it cannot be read."""
    name = backup_store.GLOBALS + (SUFFIX if backup.encrypted else "")
    if name not in backup.manifest["files"]:
        return None
    try:
        return NeededRoles(**backup_store.read_beside(backup, backup_store.GLOBALS))
    except TypeError:
        raise PgopsError(
            f"{backup.path}/{name} was written by a later version of whitecross.pgops; nothing was done.",
            hint="Use the version that made the backup, or leave restore_roles out.",
        ) from None
