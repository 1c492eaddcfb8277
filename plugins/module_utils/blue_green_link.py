# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The replication between two databases of one server: publication, slot and subscription, from making them to taking them away.

The slot is the danger: as long as it is there and nobody reads it, the server keeps all WAL since, until its disk is full. Its name follows
from the database's, so whoever comes next finds it, whatever became of the run that made it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils import blue_green_state, disk_forecast
from ansible_collections.whitecross.pgops.plugins.module_utils.blue_green_tables import Carried
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    execute,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError, from_psycopg
from ansible_collections.whitecross.pgops.plugins.module_utils.progress import Control
from psycopg2 import sql

# PostgreSQL tells nobody when a table is copied or a slot is free: it is asked.
POLL_SECONDS = 0.2
_SLOT_ENDS_SECONDS = 10.0
# How the server reaches itself: none of these is a secret, and a secret in a subscription stays in its catalog.
_CONNECTION_KEYS = ("host", "hostaddr", "port", "user", "passfile", "sslmode", "sslrootcert", "connect_timeout")

_GROUND = """
SELECT current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS slots,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders()) AS senders,
       current_setting('max_logical_replication_workers')::int
           - (SELECT count(*) FROM pg_catalog.pg_stat_subscription WHERE pid IS NOT NULL) AS workers,
       current_setting('max_sync_workers_per_subscription')::int AS copies, current_setting('max_slot_wal_keep_size') AS bound, r.rolsuper AS superuser, r.rolname::text AS role,
       (SELECT split_part(s.setting, ',', 1) FROM pg_catalog.pg_settings AS s WHERE s.name = 'unix_socket_directories') AS socket,
       current_setting('port') AS port
FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user
"""
_STATE = """
SELECT s.subenabled AS enabled, s.oid::bigint AS oid,
       (SELECT t.apply_error_count + t.sync_error_count FROM pg_catalog.pg_stat_subscription_stats AS t WHERE t.subid = s.oid) AS errors,
       (SELECT count(*) FROM pg_catalog.pg_stat_subscription AS a WHERE a.subid = s.oid AND a.pid IS NOT NULL) AS workers
FROM pg_catalog.pg_subscription AS s WHERE s.subname = %(name)s AND s.subdbid = (SELECT oid FROM pg_catalog.pg_database
    WHERE datname = %(database)s)
"""
# The catalog of a subscription's tables is its database's own.
_COPIED = """
SELECT count(*) AS tables, count(*) FILTER (WHERE r.srsubstate = 'r') AS ready
FROM pg_catalog.pg_subscription_rel AS r JOIN pg_catalog.pg_subscription AS s ON s.oid = r.srsubid WHERE s.subname = %s
"""
_SLOT = """
SELECT active, active_pid, wal_status, coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::bigint AS held
FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
"""


@dataclass(frozen=True)
class Settings:
    """How the two are kept in step.

    :ivar connection: how the server reaches itself, libpq's keywords without a password; by default its own socket.
    :ivar wal_limit_mb: WAL that the slot may hold back before it is all given up.
    :ivar catch_up_seconds: how long a marker may take to come over.
    """

    connection: dict[str, str] = field(default_factory=dict)
    wal_limit_mb: int = 10_240
    catch_up_seconds: float = 60.0


def refuse_ground(conn: Connection, settings: Settings, database: str) -> tuple[str, list[str]]:
    """:return: the string by which the server reaches itself, and what should be known.
    :raises PgopsError: the server cannot replicate by logical decoding as it is set up, with the statement that mends it."""
    row = fetch_one(conn, _GROUND)
    assert row is not None
    found: list[tuple[str, str]] = []
    if row["wal_level"] != "logical":
        found.append(
            (f"wal_level is {row['wal_level']}", "ALTER SYSTEM SET wal_level = logical, and restart the server")
        )
    for name, setting, needed in (
        # One for what is written meanwhile, and for each copy of a table that runs at once; a copy without one would end it all.
        ("slots", "max_replication_slots", 1 + int(row["copies"])),
        ("senders", "max_wal_senders", 1 + int(row["copies"])),
        ("workers", "max_logical_replication_workers", 2),
    ):
        if row[name] < needed:
            found.append(
                (
                    f"{setting} leaves {max(row[name], 0)} free and {needed} are needed",
                    f"ALTER SYSTEM SET {setting} to {needed - row[name]} more, and restart the server",
                )
            )
    if not row["superuser"]:
        # A subscription of anybody else needs a password in its catalog, and the freeze of DDL an event trigger.
        found.append(
            (
                f"role {row['role']} is no superuser",
                "name a superuser in pgops_restore_user; without one there is no blue-green change",
            )
        )
    if found:
        raise PgopsError(
            f"No blue-green change of {database}: {'; '.join(what for what, _fix in found)}; nothing was touched.",
            database=database,
            hint=f"{'; '.join(fix for _what, fix in found)}.",
            extra={"reason": "ground", "ground": [{"what": what, "fix": fix} for what, fix in found]},
        )
    told = []
    if row["bound"] == "-1":
        told.append(
            "max_slot_wal_keep_size is -1: should this host be lost while the two are kept in step, nothing but the disk bounds the WAL "
            "that the slot holds back"
        )
    return _connection(row, settings, database), told


def _connection(row: dict[str, Any], settings: Settings, database: str) -> str:
    unknown = sorted(set(settings.connection) - set(_CONNECTION_KEYS))
    if unknown:
        raise PgopsError(
            f"blue_green_connection has {unknown[0]}, which does not belong there; it may have {', '.join(_CONNECTION_KEYS)}.",
            database=database,
            hint="A password would stay in the catalog of the server: name a password file of the server's own user by passfile.",
        )
    values = {
        "host": row["socket"],
        "port": row["port"],
        "user": row["role"],
        **settings.connection,
        "dbname": database,
    }
    quoted = {name: str(value).replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


class Link:
    """The replication from a database into its successor."""

    def __init__(self, target: Target, green: str, *, application_name: str) -> None:
        self.target = target
        self.green = green
        self.name = blue_green_state.link_name(target.database)
        self._application_name = application_name

    def make(
        self, live: Connection, green: Connection, tables: Sequence[Carried], connection: str, control: Control
    ) -> None:
        """Publish, make the slot, subscribe. The copy of the tables begins by itself.

        The slot is made first and by hand: a subscription to its own server that made it would wait for its own transaction.

        :raises PgopsError: the server does not reach itself by that connection, or a transaction that does not end keeps the slot waiting.
        """
        with blue_green_state.own_change(live):
            execute(live, self._publication(tables))
        forget = control.on_interrupt(live.cancel)
        try:
            # Waits for the end of every transaction that writes now, on the whole server.
            fetch_one(live, "SELECT slot_name FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (self.name,))
        except psycopg2.errors.QueryCanceled:
            control.check()
            raise
        finally:
            forget()
        control.check()
        statement = sql.SQL(
            "CREATE SUBSCRIPTION {0} CONNECTION {1} PUBLICATION {0} WITH (create_slot = false, slot_name = {2}, "
            "disable_on_error = true, streaming = on, synchronous_commit = off)"
        ).format(sql.Identifier(self.name), sql.Literal(connection), sql.Literal(self.name))
        try:
            execute(green, statement)
        except psycopg2.Error as exc:
            raise from_psycopg(
                exc, "The server cannot subscribe to its own database", database=self.target.database
            ) from None

    def _publication(self, tables: Sequence[Carried]) -> sql.Composable:
        listed = [sql.SQL("ONLY {}").format(sql.Identifier(blue_green_state.SCHEMA, blue_green_state.MARKER))]
        for table in tables:
            # Of a partitioned table the rows stand in its partitions.
            only = sql.SQL("" if table.live.partitioned else "ONLY ")
            columns: sql.Composable = sql.SQL("")
            if table.narrowed:
                columns = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, table.columns)))
            listed.append(sql.SQL("{}{}{}").format(only, sql.Identifier(table.live.schema, table.live.table), columns))
        return sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)").format(
            sql.Identifier(self.name), sql.SQL(", ").join(listed)
        )

    def look(self, conn: Connection) -> dict[str, Any]:
        """:param conn: to any database of the server.
        :return: ``there`` (slot, subscription), enabled, errors, workers, and of the slot active, wal_status and held (bytes)."""
        subscription = fetch_one(conn, _STATE, {"name": self.name, "database": self.green}) or {}
        slot = fetch_one(conn, _SLOT, (self.name,)) or {}
        there = {"slot": bool(slot), "subscription": bool(subscription)}
        return {**subscription, **{k: v for k, v in slot.items() if k != "active_pid"}, "there": there}

    def copied(self, green: Connection) -> tuple[int, int]:
        """:param green: a session in the new database.
        :return: how many of its tables are copied, and how many there are."""
        row = fetch_one(green, _COPIED, (self.name,))
        return (int(row["ready"]), int(row["tables"])) if row else (0, 0)

    def refuse_broken(self, conn: Connection, settings: Settings) -> dict[str, Any]:
        """:return: as :meth:`look`.
        :raises PgopsError: it has stopped, or holds back more WAL than it may."""
        found = self.look(conn)
        database = self.target.database
        why = None
        if not all(found["there"].values()):
            why = "its slot or its subscription is gone"
        elif not found["enabled"]:
            why = "a row could not be written into the new database, and it stopped; the server's log names table and cause"
        elif found["wal_status"] == "lost":
            why = "the server has thrown away WAL that it needs (max_slot_wal_keep_size)"
        elif found["held"] > settings.wal_limit_mb * disk_forecast.MB:
            why = f"its slot holds back {disk_forecast.mb(found['held'])} of WAL, and blue_green_wal_limit_mb is {settings.wal_limit_mb}"
        if why:
            raise PgopsError(
                f"The replication of {database} into {self.green} is broken: {why}.",
                database=database,
                object_name=self.name,
                extra={"reason": "broken", "link": found},
            )
        return found

    def enable(self, green: Connection) -> None:
        """Let it go on after a change-over that led to nothing."""
        execute(green, sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(self.name)))

    def pids(self, conn: Connection) -> set[int]:
        """:return: the server processes of it, which the fence leaves alone until the last row is over."""
        rows = fetch_all(
            conn,
            "SELECT active_pid AS pid FROM pg_catalog.pg_replication_slots WHERE slot_name = %(name)s AND active_pid IS NOT NULL "
            "UNION SELECT pid FROM pg_catalog.pg_stat_subscription WHERE subname = %(name)s AND pid IS NOT NULL",
            {"name": self.name},
        )
        return {int(row["pid"]) for row in rows}

    # -- taking it away ---------------------------------------------------------------------------------------------------

    def drop(self, databases: Sequence[str]) -> None:
        """Take subscription, slot and publication away, as far as they are there. The slot goes even where nothing else can.

        :param databases: those that may have a part of it, open to the restore role.
        :raises PgopsError: one of them cannot be reached; the slot is gone then all the same.
        """
        numbers: set[int] = set()
        failure: Exception | None = None
        for database in databases:
            try:
                with closing(self._connect(database)) as conn:
                    numbers |= self._drop_in(conn)
            except (PgopsError, psycopg2.Error) as exc:
                failure = exc
        with closing(self._connect(self.target.maintenance_database)) as conn:
            self._drop_slots(conn, numbers)
        if isinstance(failure, psycopg2.Error):
            raise from_psycopg(failure, "The replication cannot be taken away", database=self.target.database) from None
        if failure is not None:
            raise failure

    def _drop_in(self, conn: Connection) -> set[int]:
        name = sql.Identifier(self.name)
        row = fetch_one(
            conn,
            "SELECT oid::bigint AS oid FROM pg_catalog.pg_subscription WHERE subname = %s AND subdbid = "
            "(SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
            (self.name,),
        )
        if row:
            # Its slot is dropped by us: PostgreSQL would connect to a database that may be fenced.
            execute(conn, sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name))
            execute(conn, sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name))
            execute(conn, sql.SQL("DROP SUBSCRIPTION {}").format(name))
        there = fetch_one(conn, "SELECT 1 AS yes FROM pg_catalog.pg_publication WHERE pubname = %s", (self.name,))
        if there:
            # It would refuse this too.
            blue_green_state.remove(conn)
            execute(conn, sql.SQL("DROP PUBLICATION IF EXISTS {}").format(name))
        return {int(row["oid"])} if row else set()

    def _drop_slots(self, conn: Connection, subscriptions: set[int]) -> None:
        """Its own, and those of copies of single tables that were cut off, whose names begin with the number of the subscription."""
        deadline = time.monotonic() + _SLOT_ENDS_SECONDS
        own = "|".join([re.escape(self.name), *(f"pg_{number}_sync_.*" for number in sorted(subscriptions))])
        while True:
            rows = fetch_all(
                conn,
                "SELECT slot_name::text AS name, active_pid AS pid FROM pg_catalog.pg_replication_slots WHERE slot_name ~ %s",
                (f"^({own})$",),
            )
            if not rows:
                return
            for row in rows:
                with suppress(psycopg2.errors.ObjectInUse, psycopg2.errors.UndefinedObject):
                    if row["pid"]:
                        fetch_one(conn, "SELECT pg_terminate_backend(%s) AS told", (row["pid"],))
                    fetch_one(conn, "SELECT pg_drop_replication_slot(%s) AS gone", (row["name"],))
            if time.monotonic() > deadline:
                raise PgopsError(
                    f"The replication slot {rows[0]['name']} of {self.target.database} is still used and could not be dropped: it holds back WAL.",
                    database=self.target.database,
                    object_name=str(rows[0]["name"]),
                    hint=f"SELECT pg_drop_replication_slot('{rows[0]['name']}') as soon as its process has ended.",
                )
            time.sleep(POLL_SECONDS)

    def _connect(self, database: str) -> Connection:
        return connect(self.target.as_restore().with_(database=database), application_name=self._application_name)
