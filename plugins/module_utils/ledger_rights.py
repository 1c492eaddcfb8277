# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of the ledger's own schema belongs to somebody else than the role that writes it, and the statement that mends it."""

from __future__ import annotations

from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import membership
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.owned_objects import (
    NOT_OF_COLUMN,
    RELATION_NOT_OF_EXTENSION,
    USER_SCHEMA,
)

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
                    SELECT 'TABLE', pg_catalog.format('pgops.%%I', c.relname), c.relowner, may
                      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
                           LATERAL (SELECT CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(o.oid, c.oid, 'USAGE')
                                                ELSE pg_catalog.has_table_privilege(o.oid, c.oid, 'SELECT')
                                                     AND pg_catalog.has_table_privilege(o.oid, c.oid, 'INSERT') END AS may) AS p
                     WHERE n.nspname = 'pgops' AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {NOT_OF_COLUMN}
                       AND NOT (may AND c.relname IN ('audit', 'audit_checkpoint'))) AS f
      JOIN pg_catalog.pg_roles r ON r.oid = f.holder
     WHERE o.rolname = %(owner)s AND NOT pg_catalog.pg_has_role(o.oid, f.holder, 'USAGE')
     ORDER BY f.kind, f.object
"""

_ROLE = """
SELECT r.rolname::text AS role, pg_catalog.quote_ident(r.rolname) AS quoted,
       pg_catalog.quote_ident(pg_catalog.current_database()) AS database,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create,
       -- Who only looks makes no databases.
       r.rolcreatedb AS restores
  FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""
# Who should own the ledger, as the database shows it: the role of the session only where it is an owner here, or was taken up to be
# one. The restore role, the monitor and the auditor read a ledger that stays with its writer. Nobody is made a superuser's member.
_KEEPER = f"""
WITH owned AS (
    SELECT c.relowner AS owner, count(*) AS relations
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {USER_SCHEMA} AND n.nspname <> 'pgops' AND {RELATION_NOT_OF_EXTENSION}
     GROUP BY 1
     UNION ALL
    SELECT d.datdba, 0 FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
), candidate AS (
    SELECT r.rolname, CASE WHEN r.rolname = current_user AND max(w.relations) > 0 THEN 0 ELSE 2 END AS rank, max(w.relations) AS relations
      FROM owned w JOIN pg_catalog.pg_roles r ON r.oid = w.owner
     WHERE NOT r.rolsuper GROUP BY 1
     UNION ALL
    SELECT r.rolname, 0, 0 FROM pg_catalog.pg_roles r
     WHERE r.rolname = current_user AND current_user <> session_user
       AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CREATE')
     UNION ALL
    SELECT r.rolname, 1, 0
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
     WHERE n.nspname = 'pgops' AND c.relname = 'meta' AND NOT r.rolsuper
       AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CREATE')
)
SELECT rolname::text AS role, pg_catalog.pg_has_role(rolname, 'USAGE') AS acts_for
  FROM candidate ORDER BY rank, relations DESC, rolname LIMIT 1
"""
# What its readers are shown: rows that a version has put aside lie in the same schema, and they are the application's.
_READ_BY_OTHERS = """
SELECT pg_catalog.format('pgops.%%I', c.relname) AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgops' AND c.relname = ANY (%(tables)s) ORDER BY 1
"""
_TABLES = ["adoption", "audit", "audit_checkpoint", "baseline", "meta", "migration", "run", "step", "step_transaction"]


def check(conn: Connection) -> None:
    """:raises PgopsError: a table of the ledger cannot be written by the role of this session."""
    foreign = [row for row in _foreign(conn) if not row["usable"]]
    if foreign:
        raise _refusal(conn, "write the ledger", foreign, _role(conn))


def unreadable(conn: Connection) -> PgopsError:
    """:return: why the ledger cannot be read, and what to type: it stays with the role that writes it."""
    who, keeper = _role(conn), fetch_one(conn, _KEEPER)
    foreign = _foreign(conn)
    if keeper and keeper["role"] == who["role"]:
        return _refusal(conn, "read the ledger", foreign, who)
    fixes = _given_to(str(keeper["role"]), _foreign(conn, str(keeper["role"]))) if keeper else []
    if keeper and not keeper["acts_for"] and who["restores"]:
        fixes.append(f"{membership.grant(conn, str(keeper['role']), str(who['role']))};")
    elif not (keeper and keeper["acts_for"] and fixes):
        tables = ", ".join(row["name"] for row in fetch_all(conn, _READ_BY_OTHERS, {"tables": _TABLES}))
        fixes += [f"GRANT USAGE ON SCHEMA pgops TO {who['quoted']};", f"GRANT SELECT ON {tables} TO {who['quoted']};"]
    return _refusal(conn, "read the ledger", foreign, who, fixes)


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
            extra={"statements": [f"{grant};"]},
        )
    return _refusal(conn, "create or upgrade the ledger", _foreign(conn), who)


def _role(conn: Connection) -> dict[str, Any]:
    return fetch_one(conn, _ROLE) or {}


def _foreign(conn: Connection, owner: str | None = None) -> list[dict[str, Any]]:
    return fetch_all(conn, FOREIGN, {"owner": owner or _role(conn)["role"]})


def _given_to(owner: str, foreign: list[dict[str, Any]]) -> list[str]:
    return [f"ALTER {row['kind']} {row['object']} OWNER TO {quoted(owner)};" for row in foreign]


def _refusal(
    conn: Connection, doing: str, foreign: list[dict[str, Any]], who: dict[str, Any], fixes: list[str] | None = None
) -> PgopsError:
    """:param fixes: what to type where the ledger is not to be given to the role of the session."""
    named = [f"schema {row['object']}" if row["kind"] == "SCHEMA" else str(row["object"]) for row in foreign]
    if not foreign:
        # All of it is its own, or lent to it, and a right on it was taken away.
        told = "it lacks a right in schema pgops"
        fixes = fixes or [
            f"GRANT ALL ON SCHEMA pgops TO {who['quoted']}; GRANT ALL ON ALL TABLES IN SCHEMA pgops TO {who['quoted']};"
        ]
    else:
        fixes = fixes or _given_to(str(who["role"]), foreign)
        holders = ", ".join(sorted({str(row["holder"]) for row in foreign}))
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        told = f"{', '.join(named[:3])}{more} {'belongs' if len(named) == 1 else 'belong'} to {holders}"
    return PgopsError(
        f"Role {who['role']} may not {doing} of database {conn.info.dbname}: {told}; type {' '.join(fixes)}",
        sqlstate=PRIVILEGE_MISSING,
        database=conn.info.dbname,
        object_name=str(foreign[0]["object"]) if foreign else "pgops",
        hint=" ".join(fixes),
        extra={"statements": fixes},
    )
