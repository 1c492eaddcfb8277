# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""All that can be told of a restore before anything is written: whether it can be, into what, and what it cannot recreate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    backup_store,
    catalog,
    database_marks,
    disk_forecast,
    dump_source,
    encrypted_dump,
    masking,
    missing_roles,
    needed_roles,
    restore,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.backup_store import Backup
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    client_tool,
    connect,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.dump_source import Source
from ansible_collections.whitecross.pgops.plugins.module_utils.encryption import Identity
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import BACKUP, NEW_DATABASE, PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.missing_roles import RolesToMake
from ansible_collections.whitecross.pgops.plugins.module_utils.needed_roles import NeededRoles
from ansible_collections.whitecross.pgops.plugins.module_utils.plain_sql import Scan
from ansible_collections.whitecross.pgops.plugins.module_utils.restore import Restorer, Work

KEY_TABLES = ("users", "students")
# What to do about roles of the backup that the server lacks.
LEAVE, CREATE = "leave", "create"
_MAKE_THEM = "-e restore_roles=create makes them as the backup holds them"

# Those of template0 in the C locale, which fits every encoding.
_BARE: dict[str, Any] = {
    "locale_provider": "c", "collate": "C", "ctype": "C", "locale": None, "icu_rules": None, "tablespace": "pg_default",
    "acl": [], "comment": None, "settings": [], "role_settings": {}, "connection_limit": -1, "is_template": False,
}  # fmt: skip

_ROLES = """
SELECT wanted.name::text AS name, r.oid IS NOT NULL AS there,
       coalesce(pg_has_role(r.oid, 'USAGE'), false) AS member
FROM unnest(%s::text[]) AS wanted (name) LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = wanted.name
ORDER BY 1
"""
_GRANTEE = re.compile(r'^(?:"((?:[^"]|"")*)"|([^="]*))=')


@dataclass
class Decided(Restorer):
    """A restore that gives owners and privileges where every role that the dump names is there, and nowhere else."""

    give_owners: bool = False

    @property
    def owners(self) -> bool:
        return self.give_owners


@dataclass(frozen=True)
class Asked:
    """What was typed.

    :ivar path: a backup's folder, or a dump of pg_dump, on this host.
    :ivar into: the new database; ``<database>_restored_<time>`` where it is empty.
    :ivar replace: put it in the place of the target, which is kept under another name.
    :ivar confirm: the target's name, typed.
    :ivar key_tables: whose rows are counted one by one.
    :ivar identity: the private key, where it is an encrypted backup.
    :ivar roles: ``create`` makes the roles that the server lacks, ``leave`` makes none.
    :ivar masking: what is masked before anybody may connect to the new database, as :func:`masking.mask` takes it; nothing where empty.
    """

    path: str
    into: str = ""
    replace: bool = False
    confirm: str = ""
    key_tables: tuple[str, ...] = KEY_TABLES
    identity: Identity | None = None
    roles: str = LEAVE
    masking: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Plan:
    """A restore that nothing speaks against.

    :ivar name: of the new database; with ``replace`` of the one that takes the target's place afterwards.
    :ivar backup: where it is one of ours, else ``scan`` says what the dump holds.
    :ivar owners: whether owners, privileges and settings are restored; ``reservations`` says what is not, and why.
    :ivar properties: of the new database.
    :ivar roles: what the server lacks of the roles of a backup, and what makes them.
    :ivar disk: what it takes and what is free, as ``disk_forecast.refuse_full`` returns it.
    """

    source: Source
    name: str
    replace: bool
    able: Restorer
    owners: bool
    properties: dict[str, Any]
    backup: Backup | None = None
    scan: Scan = field(default_factory=Scan)
    reservations: list[str] = field(default_factory=list)
    roles: RolesToMake = field(default_factory=lambda: RolesToMake([]))
    disk: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """:return: the plan, for a result."""
        if self.backup:
            tables = [entry["rows"] for entry in self.backup.manifest["tables"].values() if entry["kind"] == "table"]
        else:
            tables = list(self.scan.rows.values())
        return {
            "source": self.source.path,
            "kind": self.source.kind,
            "into": self.name,
            "replace": self.replace,
            "owners": self.owners,
            "tables": len(tables),
            "rows": sum(tables),
            "reservations": self.reservations,
            "roles": self.roles.as_dict(),
            **self.disk,
        }


def look(target: Target, asked: Asked, work: Work, now: datetime) -> Plan:
    """Read the whole dump and ask the server; writes nothing.

    :raises PgopsError: the dump is cut off, altered, encrypted to another key or newer than the server, the database exists already, a policy names a role that
        is not there, or the target is to be replaced and that was not confirmed.
    """
    source = dump_source.identify(asked.path)
    conn = connect(target.maintenance(), application_name=work.application_name)
    try:
        name = _name(conn, target, asked, now)
        work.progress.emit("reading the whole dump", database=target.database)
        if source.kind == dump_source.BACKUP:
            plan = _of_backup(conn, target, source, name, asked, work)
        else:
            plan = _of_dump(conn, target, source, name, asked, work)
        if asked.masking:
            masking.refuse_role(target.as_restore(), superuser=plan.able.superuser)
        plan.disk = _refuse_full(conn, plan, target.database)
    finally:
        conn.close()
    return plan


def _refuse_full(conn: Connection, plan: Plan, database: str) -> dict[str, Any]:
    """:return: what it takes and what is free. :raises PgopsError: the server has no room for it."""
    whole = plan.owners and plan.properties["tablespace"]
    return disk_forecast.refuse_full(
        conn,
        int(plan.backup.manifest["database_bytes"]) if plan.backup else disk_forecast.of_dump(plan.source.path),
        f"The restore of {plan.source.path}" + ("" if plan.backup else " at the least"),
        database=database,
        tablespace=str(whole or disk_forecast.DEFAULT_TABLESPACE),
        hint="Free space there, then type the command again, or restore it on another server with -e pgops_host=HOST.",
    )


def refuse_two_ways(asked: Asked, database: str) -> None:
    """:raises PgopsError: it is to be restored into a new database and to take the place of the old one, or to be masked and to do so"""
    if asked.replace and asked.masking:
        raise PgopsError(
            "restore_mask goes with a new database, and restore_replace would put masked rows in the place of the real ones; nothing was done.",
            database=database,
            hint="Leave one of them out.",
        )
    if asked.replace and asked.into:
        raise PgopsError(
            "restore_into and restore_replace are two ways, and both are given; nothing was done.",
            database=database,
            # Not unusable: the command without the name would be the one that replaces, as if it had been chosen.
            hint="Leave restore_into out to replace, or restore_replace to restore into a new database.",
        )


def _name(conn: Connection, target: Target, asked: Asked, now: datetime) -> str:
    live = database_marks.database(conn, target.database)
    refuse_two_ways(asked, target.database)
    if asked.replace and live is None:
        raise PgopsError(
            f"There is no database {target.database} on {target.host} to be replaced.",
            database=target.database,
            hint=f"Restore it as a new one with -e restore_into={target.database}.",
        )
    suffix = f"{'restore' if asked.replace else 'restored'}_{now.strftime('%Y%m%d_%H%M%S')}"
    name = asked.into or database_marks.free_name(conn, target.database, suffix)
    if len(name.encode()) > database_marks.NAME_LIMIT:
        raise PgopsError(
            f"restore_into={name} has {len(name.encode())} bytes; a name has at most {database_marks.NAME_LIMIT}.",
            database=target.database,
            unusable=NEW_DATABASE,
        )
    if database_marks.database(conn, name) is not None:
        hint = "Name one that does not exist with -e restore_into=NAME"
        if name == target.database:
            hint += ", or put the restored one in its place with -e restore_replace=true"
        raise PgopsError(
            f"There is a database {name} on {target.host} already; it was not touched.",
            database=target.database,
            object_name=name,
            hint=f"{hint}.",
            unusable=NEW_DATABASE,
        )
    return name


# -- a backup of ours ----------------------------------------------------------------------------------------------------


def _of_backup(conn: Connection, target: Target, source: Source, name: str, asked: Asked, work: Work) -> Plan:
    backup = backup_store.read_backup(source.path)
    restore.refuse_altered(backup, None)
    backup = encrypted_dump.unlock(backup, asked.identity)
    if asked.replace and backup.manifest["database"] != target.database:
        raise PgopsError(
            f"{source.path} is a backup of {backup.manifest['database']}, and {target.database} is to be replaced; nothing was done.",
            database=target.database,
            hint="Restore it into a new database: leave restore_replace out.",
        )
    major = server_version(conn)[0]
    refuse_newer(source.path, int(backup.manifest["server_version"][0]), major)
    backup_store.verify_files(backup, work.control.check)
    able = restore.restorer(conn, backup)
    inventory = backup_store.read_catalog(backup)
    properties = dict(backup.manifest["properties"])
    needed = needed_roles.of_backup(backup)
    roles = _roles_to_make(conn, source.path, needed, asked)
    hint = _MAKE_THEM if needed and asked.roles == LEAVE else None
    _refuse_policy_roles(conn, source.path, _policy_roles(inventory) - set(roles.made), hint)
    kept = [text for text in able.reservations if not text.startswith("owners and privileges")]
    needs = _roles_of(inventory, properties) - set(roles.made)
    why = _why_without_owners(conn, able, needs, () if roles.made else roles.missing, hint)
    if why is None and roles.missing and not roles.made:
        kept.append(
            f"the server has no role {', '.join(roles.missing)}, which use the database through others; {_MAKE_THEM}"
        )
    if not able.same_cluster and properties["tablespace"] != "pg_default":
        kept.append(f"the tablespace {properties['tablespace']} is the other cluster's: everything lies in pg_default")
        properties["tablespace"] = "pg_default"
    tablespaces = [entry["name"] for entry in needed.tablespaces] if needed else []
    if not able.same_cluster and tablespaces:
        kept.append(
            f"what lay in the tablespaces {', '.join(tablespaces)} lies in pg_default: they are the other cluster's"
        )
    if int(backup.manifest["server_version"][0]) != major:
        kept.append(
            f"the backup is of PostgreSQL {backup.manifest['server_version'][0]} and this server is {major}: rows are compared by number, "
            "their contents are not"
        )
    if asked.replace and why:
        raise _cannot_replace(source.path, target.database, why)
    kept += [*roles.not_made, *roles.differences]
    decided = Decided(able.role, able.superuser, able.same_cluster, able.server, kept, able.left_out, why is None)
    return Plan(
        source, name, asked.replace, decided, why is None, properties, backup=backup,
        reservations=[*kept, *([why] if why else [])], roles=roles,
    )  # fmt: skip


def _roles_to_make(conn: Connection, path: str, needed: NeededRoles | None, asked: Asked) -> RolesToMake:
    if needed is not None:
        return missing_roles.look(conn, needed, create=asked.roles == CREATE)
    if asked.roles == CREATE:
        raise _no_roles(path, "it was made by an earlier version of whitecross.pgops")
    return RolesToMake([])


def _no_roles(path: str, why: str) -> PgopsError:
    return PgopsError(
        f"restore_roles is create, and {path} holds no roles: {why}; nothing was done.",
        object_name=path,
        hint="Make the roles with CREATE ROLE, and leave restore_roles out.",
        extra={"file": path},
    )


def _policy_roles(inventory: dict[str, Any]) -> set[str]:
    entries = (entry for key, entry in inventory.items() if catalog.kind_of(key) == "policy")
    return {str(role) for entry in entries for role in entry.get("roles") or []} - {"public"}


def _roles_of(inventory: dict[str, Any], properties: dict[str, Any]) -> set[str]:
    """:return: whoever owns something or may do something in the dump."""
    entries = [*inventory.values(), properties]
    found = {str(entry["owner"]) for entry in entries if entry.get("owner")}
    for entry in entries:
        for item in entry.get("acl") or []:
            grantee = _GRANTEE.match(str(item))
            if grantee:
                found.add((grantee[1] or "").replace('""', '"') or grantee[2])
    found.update(properties["role_settings"])
    return found - {"", "pg_database_owner"}


# -- a dump of somebody --------------------------------------------------------------------------------------------------


def _of_dump(conn: Connection, target: Target, source: Source, name: str, asked: Asked, work: Work) -> Plan:
    if asked.roles == CREATE:
        raise _no_roles(source.path, "only a backup of backup.yml does")
    tool = client_tool(target.as_restore(), conn, "pg_restore")
    scan = dump_source.examine(source, tool, work.control.check)
    refuse_newer(source.path, max(scan.server or 0, scan.client or 0), server_version(conn)[0])
    row = fetch_one(
        conn,
        "SELECT current_user::text AS role, rolsuper AS superuser FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    assert row is not None
    able = Restorer(row["role"], row["superuser"], False, server_version(conn))
    _refuse_policy_roles(conn, source.path, scan.policy_roles)
    if scan.inserts:
        uncompared = "nothing of its rows could be compared: they stand in INSERT statements, which nobody has counted"
        if asked.replace:
            raise PgopsError(
                f"{source.path} cannot take the place of {target.database}: {uncompared}; nothing was done.",
                database=target.database,
                hint="Make the dump without --inserts, or restore it into a new database: leave restore_replace out.",
                extra={"file": source.path},
            )
        told = [uncompared]
    else:
        told = ["what its rows hold cannot be compared: the dump has no manifest; their numbers are"]
    why = _why_without_owners(conn, able, scan.owners)
    if why is None and not scan.owners:
        why = f"owners and privileges are not restored, the dump names none: everything will belong to {able.role}"
    properties, reservation = _like_live(target, scan, able.role, work)
    told += [text for text in (reservation, why) if text]
    if asked.replace and why:
        raise _cannot_replace(source.path, target.database, why)
    return Plan(source, name, asked.replace, able, why is None, properties, scan=scan, reservations=told)


def _like_live(target: Target, scan: Scan, role: str, work: Work) -> tuple[dict[str, Any], str | None]:
    """:return: the properties of the database that the new one stands beside, where there is one of that encoding."""
    encoding = scan.encoding or "UTF8"
    bare = {**_BARE, "encoding": encoding, "owner": role}
    try:
        conn = connect(target.as_restore(), application_name=work.application_name)
    except PgopsError:
        return bare, f"{target.database} cannot be reached to take its locale from: the new database has C"
    try:
        properties = catalog.database_properties(conn)
    finally:
        conn.close()
    mark = database_marks.read_mark(properties["comment"])
    if mark is not None:
        properties["comment"] = mark.comment
    if properties["encoding"] == encoding:
        return properties, None
    return (
        bare,
        f"the dump is encoded in {encoding} and {target.database} in {properties['encoding']}: the new database has the locale C",
    )


# -- of both -------------------------------------------------------------------------------------------------------------


def refuse_newer(path: str, made_for: int, server: int) -> None:
    """:raises PgopsError: the dump comes from a server or a pg_dump of a newer major than the server."""
    if made_for > server:
        raise PgopsError(
            f"{path} comes from PostgreSQL {made_for} and this server is {server}: a newer dump does not restore into an older server; "
            "nothing was done.",
            object_name=path,
            hint=f"Restore it on a PostgreSQL {made_for} or later.",
            unusable=BACKUP,
            extra={"file": path},
        )


def _cannot_replace(path: str, database: str, why: str) -> PgopsError:
    # The application would come back to tables that it may not read.
    return PgopsError(
        f"{path} cannot take the place of {database}: {why}; nothing was done.",
        database=database,
        hint="Make these roles with CREATE ROLE, or restore it into a new database: leave restore_replace out.",
        extra={"file": path},
    )


def _refuse_policy_roles(conn: Connection, path: str, roles: set[str], instead: str | None = None) -> None:
    missing = [row["name"] for row in fetch_all(conn, _ROLES, (sorted(roles),)) if not row["there"]]
    if missing:
        raise PgopsError(
            f"{path} has policies for roles that are not on this server: {', '.join(missing)}; nothing was done.",
            object_name=missing[0],
            hint="; ".join(f'CREATE ROLE "{name}" NOLOGIN' for name in missing)
            + (f"; or {instead}." if instead else "."),
            extra={"file": path, "missing_roles": missing},
        )


def _why_without_owners(
    conn: Connection, able: Restorer, roles: set[str], beside: Iterable[str] = (), instead: str | None = None
) -> str | None:
    """:param beside: further roles that are missing, told in the same sentence.
    :param instead: what to type about it.
    :return: why owners and privileges are left out, all of them: half of them would look like all; None where they are restored."""
    found = fetch_all(conn, _ROLES, (sorted(roles),))
    missing = [row["name"] for row in found if not row["there"]]
    if missing:
        return (
            f"owners, privileges and settings of roles are not restored, everything will belong to {able.role}: "
            f"the server has no role {', '.join(sorted({*missing, *beside}))}"
        ) + (f"; {instead}" if instead else "")
    foreign = [row["name"] for row in found if not row["member"]]
    if foreign and not able.superuser:
        return (
            f"owners, privileges and settings of roles are not restored, everything will belong to {able.role}: "
            f"it is no superuser and no member of {', '.join(foreign)}"
        )
    return None
