# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What belongs to the database itself, given to a new one: locale, owner, privileges, settings (``ALTER DATABASE``).

A restore into another database loses them, and PUBLIC regains CONNECT (fact 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_all
from psycopg2 import sql

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}

# Written out as grants; aclexplode leaves no room for an own parser of ACL text.
_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee) END AS grantee,
       a.privilege_type AS privilege, a.is_grantable AS grantable
FROM unnest(%(acl)s::text[]) AS item (text), aclexplode(ARRAY[item.text::aclitem]) AS a
ORDER BY 1 NULLS FIRST, 2
"""


def create_statement(
    name: str, properties: dict[str, Any], version: tuple[int, int], *, whole: bool = False
) -> sql.Composable:
    """:return: CREATE DATABASE from template0 with the encoding and the collation of ``properties``.

    :param properties: as ``catalog.database_properties`` returns them.
    :param version: of the server where the database is made.
    :param whole: with the owner and the tablespace of ``properties``, too; both must be there.
    """
    provider = _PROVIDERS[properties["locale_provider"]]
    parts: list[sql.Composable] = [
        sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)),
        sql.SQL("ENCODING {}").format(sql.Literal(properties["encoding"])),
        sql.SQL("LOCALE_PROVIDER " + provider),
        sql.SQL("LC_COLLATE {}").format(sql.Literal(properties["collate"])),
        sql.SQL("LC_CTYPE {}").format(sql.Literal(properties["ctype"])),
    ]
    if provider == "icu":
        parts.append(sql.SQL("ICU_LOCALE {}").format(sql.Literal(properties["locale"])))
        if properties.get("icu_rules") and version >= (16, 0):
            parts.append(sql.SQL("ICU_RULES {}").format(sql.Literal(properties["icu_rules"])))
    elif provider == "builtin":
        parts.append(sql.SQL("BUILTIN_LOCALE {}").format(sql.Literal(properties["locale"])))
    if whole:
        # From the start: who owns the database may create in its schema public, and so be given tables there.
        parts.append(sql.SQL("OWNER {}").format(sql.Identifier(properties["owner"])))
    # Naming the default tablespace needs a right that using it does not.
    if whole and properties["tablespace"] != "pg_default":
        parts.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(properties["tablespace"])))
    return sql.SQL(" ").join(parts)


def apply(conn: Connection, name: str, properties: dict[str, Any]) -> None:
    """Give a database owner, privileges, settings, role settings and limits. The comment is left to the caller.

    :param conn: on the maintenance database, as superuser or a member of the owner.
    """
    database = sql.Identifier(name)
    execute(conn, sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(properties["owner"])))
    _apply_acl(conn, name, properties)
    execute(
        conn,
        sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(database, sql.Literal(properties["connection_limit"])),
    )
    if properties["is_template"]:
        execute(conn, sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(database))
    for setting in properties["settings"]:
        _apply_setting(conn, sql.SQL("ALTER DATABASE {}").format(database), setting)
    for role, settings in properties["role_settings"].items():
        for setting in settings:
            _apply_setting(
                conn, sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), database), setting
            )


def _apply_acl(conn: Connection, name: str, properties: dict[str, Any]) -> None:
    database = sql.Identifier(name)
    execute(conn, sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    execute(
        conn,
        sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, sql.Identifier(properties["owner"])),
    )
    # Grants by others than the owner become the owner's: that is what a superuser's GRANT does, too.
    for grant in fetch_all(conn, _GRANTS, {"acl": properties["acl"]}):
        grantee = sql.Identifier(grant["grantee"]) if grant["grantee"] is not None else sql.SQL("PUBLIC")
        execute(
            conn,
            sql.SQL("GRANT " + grant["privilege"] + " ON DATABASE {} TO {}").format(database, grantee)
            + sql.SQL(" WITH GRANT OPTION" if grant["grantable"] else ""),
        )


def _apply_setting(conn: Connection, subject: sql.Composable, setting: str) -> None:
    """``name=value`` as pg_db_role_setting stores it.

    A list of names (search_path) is stored quoted and must not be quoted again: set in this session as it is and taken
    FROM CURRENT, it comes out the same. What a session may not set is no list of names and goes as a literal.
    """
    name, _, value = setting.partition("=")
    parameter = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
    execute(conn, "BEGIN")
    try:
        execute(conn, "SAVEPOINT setting")
        try:
            execute(conn, "SELECT set_config(%s, %s, true)", (name, value))
            execute(conn, subject + sql.SQL(" SET {} FROM CURRENT").format(parameter))
        except psycopg2.Error:
            execute(conn, "ROLLBACK TO SAVEPOINT setting")
            execute(conn, subject + sql.SQL(" SET {} TO {}").format(parameter, sql.Literal(value)))
        execute(conn, "COMMIT")
    except psycopg2.Error:
        execute(conn, "ROLLBACK")
        raise


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """:return: where the properties of a database are not those that it was to have. Of settings the names: a value may be a secret."""
    expected, found = (
        # Who granted is not carried: a superuser's GRANT is the owner's.
        {**properties, "acl": sorted(entry.rpartition("/")[0] for entry in properties["acl"])}
        for properties in (expected, found)
    )
    told = [
        {"object": "database", "attribute": name, "expected": expected.get(name), "found": found.get(name)}
        for name in sorted(set(expected) - {"comment", "allow_connections", "settings", "role_settings"})
        if expected.get(name) != found.get(name)
    ]
    wanted, there = _settings(expected), _settings(found)
    return told + [
        {"object": name, "kind": _KINDS[name in wanted, name in there]}
        for name in sorted(set(wanted) | set(there))
        if wanted.get(name) != there.get(name)
    ]


_KINDS = {(True, True): "changed", (True, False): "missing", (False, True): "unexpected"}


def _settings(properties: Mapping[str, Any]) -> dict[str, str]:
    """:return: the values by what a setting is called in a message."""
    lists = {"": properties["settings"], **properties["role_settings"]}
    return {
        f"setting {setting.partition('=')[0]} of "
        + (f"role {role} in the database" if role else "the database"): setting
        for role, settings in lists.items()
        for setting in settings
    }
