# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is set on the live database itself, kept equal on the new one: no event trigger sees GRANT or ALTER on a database."""

from __future__ import annotations

from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import catalog, database_properties
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from psycopg2 import sql

_GRANTEES = """
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END AS grantee
FROM pg_catalog.pg_database AS d, pg_catalog.aclexplode(d.datacl) AS a WHERE d.datname = current_database()
"""

# It is only asked whether somebody has changed it: owner, privileges, limit, template, settings. A sum, since databases of two encodings
# tell the same name by other letters.
_FINGERPRINT = """
SELECT md5(concat_ws(' ', d.datdba, d.datacl::text, d.datconnlimit, d.datistemplate,
                     (SELECT string_agg(concat_ws(' ', s.setrole, s.setconfig::text), ' ' ORDER BY s.setrole)
                        FROM pg_catalog.pg_db_role_setting AS s WHERE s.setdatabase = d.oid)))
  FROM pg_catalog.pg_database AS d WHERE {which}
"""
_CHANGED = "P0BG1"
_REFUSE = """
DO $refuse$
BEGIN
    IF ({now}) IS DISTINCT FROM {then} THEN
        RAISE EXCEPTION 'the database was changed' USING ERRCODE = {code};
    END IF;
END
$refuse$
"""


def fingerprint(conn: Connection) -> str:
    """:return: what is set on the database of a session."""
    query = sql.SQL(_FINGERPRINT).format(which=sql.SQL("d.datname = current_database()"))
    row = fetch_one(conn, sql.SQL("SELECT ({}) AS text").format(query))
    return str(row["text"]) if row else ""


def refusal(oid: int, then: str) -> sql.Composable:
    """:param then: as :func:`fingerprint`.
    :return: a statement that fails where it is another by now: behind the lock of a rename nobody changes it any more."""
    now = sql.SQL(_FINGERPRINT).format(which=sql.SQL("d.oid = {}").format(sql.Literal(oid)))
    return sql.SQL(_REFUSE).format(now=now, then=sql.Literal(then), code=sql.Literal(_CHANGED))


def is_refusal(exc: psycopg2.Error) -> bool:
    """:return: whether it is the failure of :func:`refusal`."""
    return exc.pgcode == _CHANGED


def follow(live: Connection, green: Connection) -> list[str]:
    """Give the new database owner, privileges, settings, role settings and limits of the live one, and nothing besides.

    :param live: a session in the live database; :param green: one in the new one, as a superuser.
    :return: what was set, by name: a value may be a secret.
    :raises PgopsError: something of it cannot be set on a database that is there.
    """
    wanted = catalog.database_properties(live)
    found = catalog.database_properties(green)
    told = database_properties.differences(wanted, found)
    if not told:
        return []
    name = str(green.info.dbname)
    _strip(green, name, found)
    database_properties.apply(green, name, wanted)
    left = database_properties.differences(wanted, catalog.database_properties(green))
    if left:
        raise PgopsError(
            f"{', '.join(_names(left))} of {live.info.dbname} cannot be given to {name}, and stay another there.",
            database=str(live.info.dbname),
            object_name=name,
            hint="Give it up with -e blue_green_stage=give_up and prepare it again.",
            extra={"reason": "moved"},
        )
    return _names(told)


def _strip(green: Connection, name: str, found: dict[str, Any]) -> None:
    database = sql.Identifier(name)
    for row in fetch_all(green, _GRANTEES):
        grantee = sql.SQL("PUBLIC") if row["grantee"] is None else sql.Identifier(row["grantee"])
        execute(green, sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, grantee))
    if found["settings"]:
        execute(green, sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
    for role in found["role_settings"]:
        execute(green, sql.SQL("ALTER ROLE {} IN DATABASE {} RESET ALL").format(sql.Identifier(role), database))
    if found["is_template"]:
        execute(green, sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))


def _names(differences: list[dict[str, Any]]) -> list[str]:
    return [str(one.get("attribute") or one["object"]) for one in differences]
