# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a blue-green change leaves in the live database while it lasts: its record, its marker, and a freeze of DDL.

All of it stands in one schema, so that one statement takes it away. PostgreSQL replicates no DDL, and a table that changes its shape ends
the replication or lets its rows fall: so an event trigger refuses it, with the words of what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, execute, fetch_one
from psycopg2 import sql

SCHEMA = "pgops_blue_green"
MARKER = "marker"
_TRIGGERS = ("pgops_blue_green_ddl", "pgops_blue_green_drop")

# Temporary tables are an application's daily bread, and a materialized view or an index that is made anew stays what it is.
_MAKE = """
CREATE SCHEMA pgops_blue_green;
REVOKE ALL ON SCHEMA pgops_blue_green FROM PUBLIC;
COMMENT ON SCHEMA pgops_blue_green IS 'A blue-green change of the Ansible collection whitecross.pgops; blue_green.yml takes it away';
CREATE TABLE pgops_blue_green.state (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), record jsonb NOT NULL);
CREATE TABLE pgops_blue_green.marker (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), beat text NOT NULL);
INSERT INTO pgops_blue_green.marker (beat) VALUES ('');
CREATE FUNCTION pgops_blue_green.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $refuse$
DECLARE
    changed text;
BEGIN
    IF current_setting('pgops.blue_green', true) = 'on' THEN
        RETURN;
    END IF;
    IF tg_event = 'sql_drop' THEN
        SELECT object_identity INTO changed FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary LIMIT 1;
    ELSE
        SELECT coalesce(object_identity, object_type, command_tag) INTO changed FROM pg_event_trigger_ddl_commands()
        WHERE schema_name IS DISTINCT FROM 'pg_temp' AND command_tag NOT IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') LIMIT 1;
    END IF;
    IF changed IS NOT NULL THEN
        RAISE EXCEPTION '%: the schema of % is frozen until its blue-green change has ended', tg_tag, current_database()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'blue_green.yml changes over or gives it up; until then nothing of the schema may change.';
    END IF;
END
$refuse$;
"""
_FREEZE = """
CREATE EVENT TRIGGER pgops_blue_green_ddl ON ddl_command_end EXECUTE FUNCTION pgops_blue_green.refuse_ddl();
ALTER EVENT TRIGGER pgops_blue_green_ddl ENABLE ALWAYS;
CREATE EVENT TRIGGER pgops_blue_green_drop ON sql_drop EXECUTE FUNCTION pgops_blue_green.refuse_ddl();
ALTER EVENT TRIGGER pgops_blue_green_drop ENABLE ALWAYS;
"""


def link_name(database: str) -> str:
    """:return: the name of slot, publication and subscription of a database: slots have lower case letters, digits and _ only."""
    return f"pgops_bg_{hashlib.sha256(database.encode()).hexdigest()[:16]}"


def freeze(conn: Connection, record: Mapping[str, Any]) -> None:
    """Make record and marker, and refuse DDL from here on, in one transaction. Needs a superuser, as every event trigger does."""
    execute(conn, "BEGIN")
    execute(conn, _MAKE)
    execute(conn, "INSERT INTO pgops_blue_green.state (record) VALUES (%s)", (json.dumps(dict(record)),))
    execute(conn, _FREEZE)
    execute(conn, "COMMIT")


@contextmanager
def own_change(conn: Connection) -> Iterator[None]:
    """Let this session past the freeze, for the length of the block."""
    execute(conn, "SET pgops.blue_green = 'on'")
    try:
        yield
    finally:
        if not conn.closed:
            execute(conn, "RESET pgops.blue_green")


def read(conn: Connection) -> dict[str, Any] | None:
    """:return: the record, None where no blue-green change is under way in this database."""
    there = fetch_one(conn, "SELECT to_regclass('pgops_blue_green.state') IS NOT NULL AS yes")
    if not there or not there["yes"]:
        return None
    row = fetch_one(conn, "SELECT record FROM pgops_blue_green.state")
    return dict(row["record"]) if row else {}


def has_marker(conn: Connection) -> bool:
    """:return: whether anything of a change is here: the new database has no record, only the marker."""
    row = fetch_one(conn, "SELECT to_regnamespace('pgops_blue_green') IS NOT NULL AS yes")
    return bool(row and row["yes"])


def is_frozen(conn: Connection) -> bool:
    """:return: whether both triggers stand and are not switched off."""
    row = fetch_one(
        conn,
        "SELECT count(*) = 2 AS yes FROM pg_catalog.pg_event_trigger WHERE evtname = ANY (%s) AND evtenabled = 'A'",
        (list(_TRIGGERS),),
    )
    return bool(row and row["yes"])


def write(conn: Connection, record: Mapping[str, Any]) -> None:
    """Keep the record. It is a row, so the freeze does not refuse it."""
    execute(conn, "UPDATE pgops_blue_green.state SET record = %s", (json.dumps(dict(record)),))


def remove(conn: Connection) -> None:
    """Take record, marker and freeze away, in one transaction; what is not there is fine."""
    parts = [sql.SQL("DROP EVENT TRIGGER IF EXISTS {}").format(sql.Identifier(name)) for name in _TRIGGERS]
    parts.append(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    execute(conn, sql.SQL("; ").join([sql.SQL("BEGIN"), *parts, sql.SQL("COMMIT")]))


def trace(conn: Connection, database: str) -> dict[str, Any] | None:
    """What anybody can see of a blue-green change, without a right in the databases: its slot.

    :return: ``slot``, ``active`` and ``held`` (bytes of WAL), None where there is none."""
    return fetch_one(
        conn,
        "SELECT slot_name::text AS slot, active, CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE coalesce(pg_catalog.pg_wal_lsn_diff("
        "pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::bigint END AS held FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
        (link_name(database),),
    )


def set_marker(conn: Connection, beat: str) -> None:
    """Write the marker and have it on the disk: what a client has committed without waiting for the disk goes with it, and only what is
    there is sent."""
    execute(
        conn,
        sql.SQL(
            "BEGIN; SET LOCAL synchronous_commit = on; UPDATE pgops_blue_green.marker SET beat = {}; COMMIT"
        ).format(sql.Literal(beat)),
    )


def marker(conn: Connection) -> str:
    """:return: the marker as it has arrived. Transactions are applied in the order of their commits: what was committed before it is there."""
    row = fetch_one(conn, "SELECT beat FROM pgops_blue_green.marker")
    return str(row["beat"]) if row else ""
