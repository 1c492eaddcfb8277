# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of the ledger's own schema belongs to somebody else than the role that writes it, and the statement that mends it."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.owned_objects import NOT_OF_COLUMN

PRIVILEGE_MISSING = "42501"

# A schema that somebody else made is enough as long as tables can be made there. An empty one is commented when the ledger
# is made, which only its owner may. The order: without its schema a table's owner can do nothing.
FOREIGN = f"""
    SELECT f.kind, f.object, r.rolname AS holder, o.rolname AS role, f.usable
      FROM pg_catalog.pg_roles o,
           LATERAL (SELECT 'SCHEMA' AS kind, 'pgops' AS object, n.nspowner AS holder, may AS usable
                      FROM pg_catalog.pg_namespace n,
                           LATERAL (SELECT pg_catalog.has_schema_privilege(o.oid, n.oid, 'USAGE')
                                           AND pg_catalog.has_schema_privilege(o.oid, n.oid, 'CREATE') AS may) AS p
                     WHERE n.nspname = 'pgops'
                       AND NOT (may AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'meta'))
                     UNION ALL
                    SELECT 'TABLE', pg_catalog.format('pgops.%%I', c.relname), c.relowner,
                           CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(o.oid, c.oid, 'USAGE')
                                ELSE pg_catalog.has_table_privilege(o.oid, c.oid, 'SELECT')
                                     AND pg_catalog.has_table_privilege(o.oid, c.oid, 'INSERT') END
                      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'pgops' AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {NOT_OF_COLUMN}) AS f
      JOIN pg_catalog.pg_roles r ON r.oid = f.holder
     WHERE o.rolname = %(owner)s AND NOT pg_catalog.pg_has_role(o.oid, f.holder, 'USAGE')
     ORDER BY f.kind, f.object
"""

_ROLE = """
SELECT current_user::text AS role, pg_catalog.quote_ident(current_user) AS quoted,
       pg_catalog.quote_ident(pg_catalog.current_database()) AS database,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create
"""


def check(conn: Connection) -> None:
    """:raises PgopsError: a table of the ledger cannot be written by the role of this session."""
    foreign = [row for row in _foreign(conn) if not row["usable"]]
    if foreign:
        raise _refusal(conn, "write the ledger", foreign, _role(conn))


def unreadable(conn: Connection) -> PgopsError:
    """:return: why the ledger cannot be read, and what to type."""
    return _refusal(conn, "read the ledger", _foreign(conn), _role(conn))


def not_made(conn: Connection, upgraded: bool) -> PgopsError:
    """:param upgraded: an older one is there, and no schema has to be made.
    :return: why the ledger cannot be made or brought up to date, and what to type."""
    who = _role(conn)
    if not who["may_create"] and not upgraded:
        grant = f"GRANT CREATE ON DATABASE {who['database']} TO {who['quoted']}"
        return PgopsError(
            f"Role {who['role']} may not create the ledger's schema pgops in database {conn.info.dbname}; {grant}.",
            sqlstate=PRIVILEGE_MISSING,
            database=conn.info.dbname,
            hint=f"{grant};",
        )
    return _refusal(conn, "create or upgrade the ledger", _foreign(conn), who)


def _role(conn: Connection) -> dict[str, Any]:
    return fetch_one(conn, _ROLE) or {}


def _foreign(conn: Connection) -> list[dict[str, Any]]:
    return fetch_all(conn, FOREIGN, {"owner": _role(conn)["role"]})


def _refusal(conn: Connection, doing: str, foreign: list[dict[str, Any]], who: dict[str, Any]) -> PgopsError:
    named = [f"schema {row['object']}" if row["kind"] == "SCHEMA" else str(row["object"]) for row in foreign]
    fixes = [f"ALTER {row['kind']} {row['object']} OWNER TO {who['quoted']};" for row in foreign]
    if not foreign:
        # All of it is its own, or lent to it, and a right on it was taken away.
        told = "it lacks a right in schema pgops"
        fixes = [
            f"GRANT ALL ON SCHEMA pgops TO {who['quoted']}; GRANT ALL ON ALL TABLES IN SCHEMA pgops TO {who['quoted']};"
        ]
    else:
        holders = ", ".join(sorted({str(row["holder"]) for row in foreign}))
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        told = f"{', '.join(named[:3])}{more} {'belongs' if len(named) == 1 else 'belong'} to {holders}"
    return PgopsError(
        f"Role {who['role']} may not {doing} of database {conn.info.dbname}: {told}; type {' '.join(fixes)}",
        sqlstate=PRIVILEGE_MISSING,
        database=conn.info.dbname,
        object_name=str(foreign[0]["object"]) if foreign else "pgops",
        hint=" ".join(fixes),
    )
