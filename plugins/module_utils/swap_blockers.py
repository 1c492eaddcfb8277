# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What would stop a restore or a swap of names, named before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils import (
    blue_green_state,
    disk_forecast,
    membership,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all, fetch_one
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from psycopg2 import errorcodes

# Sessions that a swap opens by itself, one after the other or two at once; a restore has its jobs besides.
SWAP_SESSIONS = 4
# A kind that does not go by itself, however long a swap waits.
PREPARED = "prepared transaction"
# A kind that a statement mends.
MISSING_RIGHT = "missing right"

SESSIONS = """
SELECT a.pid, coalesce(a.usename::text, a.backend_type, '') AS "user", coalesce(a.application_name, '') AS application,
       a.datname AS database, coalesce(a.backend_type, '') AS type,
       me.rolsuper OR (a.usesysid IS NOT NULL AND NOT coalesce(r.rolsuper, false)
           AND (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))) AS endable
FROM pg_catalog.pg_stat_activity AS a
JOIN pg_catalog.pg_roles AS me ON me.rolname = current_user
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.usesysid
WHERE a.datname = ANY (%(names)s) AND a.pid <> pg_backend_pid()
"""

_BLOCKERS = """
SELECT 'prepared transaction' AS kind, p.gid AS name, p.database::text AS database,
       'COMMIT PREPARED or ROLLBACK PREPARED in ' || p.database AS fix
FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = ANY (%(names)s)
UNION ALL
SELECT 'active logical replication slot', s.slot_name::text, s.database::text,
       'stop its consumer (server process ' || s.active_pid || ')'
FROM pg_catalog.pg_replication_slots AS s WHERE s.database = ANY (%(names)s) AND s.active
UNION ALL
SELECT 'subscription', s.subname::text, d.datname::text,
       'ALTER SUBSCRIPTION ' || quote_ident(s.subname) || ' DISABLE, SET (slot_name = NONE), then DROP it in ' || d.datname
FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = ANY (%(names)s)
ORDER BY 1, 2
"""

_RIGHTS = """
SELECT r.rolname::text AS role, r.rolsuper AS superuser, r.rolcreatedb AS createdb
FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
"""

_OF_OTHERS = """
SELECT d.datname::text AS name, o.rolname::text AS owner, o.rolsuper AS of_superuser
FROM pg_catalog.pg_database AS d JOIN pg_catalog.pg_roles AS o ON o.oid = d.datdba
WHERE d.datname = ANY (%(names)s) AND NOT pg_has_role(d.datdba, 'USAGE') ORDER BY 1
"""

_FREE_SESSIONS = """
SELECT current_setting('max_connections')::int AS most,
       CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) END AS reserved,
       CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS own_limit, r.rolname::text AS role,
       (SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.usesysid IS NOT NULL) AS taken,
       (SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) AS a WHERE a.usesysid = r.oid) AS own
FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
"""


def refuse_recovery(conn: Connection, database: str) -> None:
    """:raises PgopsError: the server is a standby, or is still recovering: nothing can be restored, renamed or reverted on it."""
    row = fetch_one(
        conn,
        "SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.pg_is_wal_replay_paused() AS paused "
        "WHERE pg_catalog.pg_is_in_recovery()",
    )
    if row is None:
        return
    state = "a standby whose replay is paused" if row["paused"] else "in recovery (a standby, or not yet promoted)"
    raise PgopsError(
        f"No rollback of {database} on {conn.info.host}:{conn.info.port}: that server is {state} and takes no writes; nothing was "
        "touched.",
        sqlstate="25006",
        database=database,
        hint="Point pgops_host at the primary. Promoting this server is no way back: it first replays all the WAL that it has received.",
        extra={"reason": "in_recovery"},
    )


def maintenance_itself(conn: Connection, names: Sequence[str]) -> list[dict[str, str]]:
    """Nobody renames the database that they are connected to.

    :param conn: on the maintenance database.
    :return: the blocker, where it is among the names, or none."""
    itself = str(conn.info.dbname)
    if itself not in names:
        return []
    fix = "set pgops_maintenance_database to another database"
    return [{"kind": "maintenance database", "name": itself, "database": "", "fix": fix}]


def blockers(conn: Connection, names: Sequence[str], *, sessions: int = SWAP_SESSIONS) -> list[dict[str, str]]:
    """What would stop the renames or survive the fence, looked for before anything is touched.

    A prepared transaction blocks RENAME, an idle logical slot does not (fact 9); a subscription's worker comes back.

    :param conn: on the maintenance database, as the restore role.
    :param sessions: how many more sessions the work needs.
    :return: kind, name, database and fix of each.
    """
    found = maintenance_itself(conn, names) + [
        _blocker(row) for row in fetch_all(conn, _BLOCKERS, {"names": list(names)})
    ]
    rights = fetch_one(conn, _RIGHTS) or {}
    role = str(rights.get("role"))
    if not rights.get("superuser"):
        if not rights.get("createdb"):
            found.append(_missing(role, "", f"ALTER ROLE {quoted(role)} CREATEDB"))
        for row in fetch_all(conn, _OF_OTHERS, {"names": list(names)}):
            # To make somebody a member of a superuser is no way to let him rename one database.
            fix = (
                f"name a superuser in pgops_restore_user, or give {row['name']} an owner that {role} is a member of"
                if row["of_superuser"]
                else membership.grant(conn, row["owner"], role)
            )
            found.append(_missing(role, row["name"], fix))
    for session in fetch_all(conn, SESSIONS, {"names": list(names)}):
        # Autovacuum gives way to RENAME by itself, whoever asks.
        if not session["endable"] and session["type"] != "autovacuum worker":
            found.append(
                {
                    "kind": "session that may not be ended",
                    "name": f"server process {session['pid']} of {session['user']}",
                    "database": session["database"],
                    "fix": f"end it as a superuser, or name a superuser in pgops_restore_user ({role} is none)",
                }
            )
    return found + _connection_limits(conn, sessions)


def _missing(role: str, database: str, fix: str) -> dict[str, str]:
    return {"kind": MISSING_RIGHT, "name": role, "database": database, "fix": fix}


def _blocker(row: Mapping[str, Any]) -> dict[str, str]:
    """:return: a blocker. Of a blue-green change the process comes back when it is ended: only its end helps."""
    if row["name"] == blue_green_state.link_name(row["database"]):
        row = {
            **row,
            "kind": "prepared blue-green change",
            "fix": "give it up by blue_green.yml with -e blue_green_stage=give_up",
        }
    return {key: str(row[key]) for key in ("kind", "name", "database", "fix")}


def _connection_limits(conn: Connection, wanted: int) -> list[dict[str, str]]:
    row = fetch_one(conn, _FREE_SESSIONS)
    assert row is not None
    found = []
    free = int(row["most"]) - int(row["reserved"]) - int(row["taken"])
    if free < wanted:
        found.append(
            {
                "kind": "connection limit",
                "name": f"max_connections {row['most']}, of which {max(free, 0)} are free for {row['role']} and {wanted} are needed",
                "database": "",
                "fix": "end idle sessions, or stop a part of the application",
            }
        )
    own = int(row["own_limit"]) - int(row["own"])
    if 0 <= int(row["own_limit"]) and own < wanted:
        found.append(
            {
                "kind": "connection limit",
                "name": f"{row['own_limit']} of role {row['role']}, of which {max(own, 0)} are free and {wanted} are needed",
                "database": "",
                "fix": f"ALTER ROLE {quoted(row['role'])} CONNECTION LIMIT -1",
            }
        )
    return found


def low_disk(database: str, needed: int, free: int | None) -> list[dict[str, str]]:
    """:param needed: bytes that a second copy of the database takes.
    :param free: what there is, None where that is not known.
    :return: the blocker, or none."""
    if free is None or free >= needed:
        return []
    return [
        {
            "kind": "low disk",
            "name": f"the restore takes {disk_forecast.mb(needed)} beside the database, and {disk_forecast.mb(free)} are free on the server",
            "database": database,
            "fix": "free space there",
        }
    ]


def refuse(found: Sequence[dict[str, str]], database: str) -> None:
    """:raises PgopsError: there is a blocker; nothing has been touched then."""
    if not found:
        return
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    where = f" in {first['database']}" if first["database"] else ""
    lacking = list(dict.fromkeys(entry["fix"] for entry in found if entry["kind"] == MISSING_RIGHT))
    told = f" ({first['fix']})" if first["kind"] == MISSING_RIGHT else ""
    fixes = list(dict.fromkeys([first["fix"], *lacking]))
    raise PgopsError(
        f"No swap of {database}: {first['kind']} {first['name']}{where}{told} stands in the way{more}; nothing was touched and clients "
        "work on.",
        sqlstate=errorcodes.DISK_FULL if first["kind"] == "low disk" else None,
        database=database,
        object_name=first["name"],
        hint=f"{'; '.join(fixes)}, then run the same command again.",
        extra={
            "reason": "blocked",
            "blockers": [dict(entry) for entry in found],
            "statements": [f"{fix};" for fix in lacking if fix.startswith(("ALTER ", "GRANT "))],
        },
    )


def refuse_blockers(conn: Connection, names: Sequence[str], database: str) -> None:
    """:raises PgopsError: something in :func:`blockers`, or the server takes no writes; nothing has been touched then."""
    refuse_recovery(conn, database)
    refuse(blockers(conn, names), database)


def prepared_under_the_fence(conn: Connection, names: Sequence[str]) -> list[dict[str, Any]]:
    """:return: prepared transactions that came between the look and the fence: no wait ends them."""
    return [row for row in fetch_all(conn, _BLOCKERS, {"names": list(names)}) if row["kind"] == PREPARED]
