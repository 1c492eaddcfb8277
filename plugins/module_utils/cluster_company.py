# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who lives with a cluster and does not go back with it: standbys, those that commits wait for, readers of its changes, its publishers."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# Subscriptions and pg_basebackup have walsenders too. pg_receivewal is told: what it collects is of the old timeline.
_STANDBYS = """
SELECT application_name || coalesce(' at ' || host(client_addr), '') AS name FROM pg_catalog.pg_stat_replication AS sender
WHERE state IS DISTINCT FROM 'backup'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE active_pid = sender.pid AND slot_type = 'logical') ORDER BY 1
"""
_SLOTS = """
SELECT slot_name::text AS name, plugin::text AS plugin, database::text AS database FROM pg_catalog.pg_replication_slots
WHERE slot_type = 'logical' AND NOT temporary ORDER BY 1
"""
# One catalog for all databases; where it connects to is a secret.
_SUBSCRIPTIONS = """
SELECT subname::text AS name, datname::text AS database, subenabled AS enabled FROM pg_catalog.pg_subscription
JOIN pg_catalog.pg_database AS home ON home.oid = subdbid ORDER BY 1, 2
"""


def of(conn: Connection) -> dict[str, Any]:
    """:param conn: on the live cluster, as a superuser.
    :return: ``standbys``; ``synchronous``, the setting that lets commits wait for them; ``slots`` of logical replication; ``subscriptions``."""
    return {
        "standbys": [row["name"] for row in fetch_all(conn, _STANDBYS)],
        "synchronous": _synchronous(conn),
        "slots": fetch_all(conn, _SLOTS),
        "subscriptions": fetch_all(conn, _SUBSCRIPTIONS),
    }


def awaited(target: Target, application_name: str) -> str:
    """:param target: a database of a cluster that has just taken the place of another.
    :return: the standbys that its commits wait for, as the server has them; empty where there are none or where it does not answer."""
    try:
        with contextlib.closing(connect(target.maintenance(), application_name=application_name)) as conn:
            return _synchronous(conn)
    except (PgopsError, psycopg2.Error):
        return ""


def _synchronous(conn: Connection) -> str:
    row = fetch_one(conn, "SELECT current_setting('synchronous_standby_names') AS names")
    return str(row["names"]) if row else ""
