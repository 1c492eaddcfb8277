# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Indexes that nobody uses, on no server of the cluster, and those that another one makes needless. Told, never dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    Target,
    connect,
    fetch_all,
    fetch_one,
    system_identifier,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.errors import PgopsError

# A leaf of a partitioned index cannot be dropped alone; a key's, an identity's or a constraint's does more than serve queries.
_INDEXES = """
SELECT i.indexrelid::bigint AS oid, n.nspname::text AS schema, x.relname::text AS name, i.indrelid::bigint AS table_oid,
       pg_catalog.format('%I.%I', tn.nspname, t.relname) AS table, am.amname::text AS method,
       i.indisunique AS is_unique, i.indkey::text AS keys, i.indclass::text AS classes, i.indcollation::text AS collations,
       i.indoption::text AS options, i.indnkeyatts::int AS key_columns, i.indimmediate AS at_once,
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS refuses_nulls,
       array(SELECT coalesce(a.attoptions::text, '') FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indexrelid
              ORDER BY a.attnum) AS parameters,
       coalesce(pg_catalog.pg_get_expr(i.indexprs, i.indrelid), '') AS expressions,
       coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), '') AS predicate,
       i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered
           OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
           OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid) AS needed,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.conrelid = i.indrelid
                  AND k.conkey[1] = i.indkey[0]) AS leads_with_foreign_key,
       pg_catalog.pg_relation_size(i.indexrelid) AS bytes, coalesce(pg_catalog.pg_stat_get_numscans(i.indexrelid), 0) AS scans,
       pg_catalog.pg_get_indexdef(i.indexrelid) AS definition
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_catalog.pg_am am ON am.oid = x.relam
 WHERE x.relkind = 'i' AND x.relpersistence <> 't' AND i.indisvalid AND i.indisready AND i.indislive
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 2, 3
"""
_SCANS = "SELECT s.indexrelid::bigint AS oid, s.idx_scan AS scans FROM pg_catalog.pg_stat_user_indexes s"
_SINCE = """
SELECT pg_catalog.to_char(d.stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
       extract(epoch FROM pg_catalog.clock_timestamp() - d.stats_reset)::float8 / 86400 AS days,
       pg_catalog.pg_is_in_recovery() AS standby
  FROM pg_catalog.pg_stat_database d WHERE d.datname = pg_catalog.current_database()
"""
_STANDBYS = """
SELECT count(*) AS connected FROM pg_catalog.pg_stat_replication WHERE application_name NOT LIKE 'pg\\_basebackup%'
"""


@dataclass(frozen=True)
class Evidence:
    """Who has counted, and since when.

    :ivar servers: each with ``server``, ``since`` (None: since the database was made) and ``days``.
    :ivar missing: what is not known, a sentence each; empty where every server was asked.
    :ivar scans: of all servers together, by the index's OID.
    """

    servers: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[str] = ()
    scans: Mapping[int, int] = field(default_factory=dict)

    @property
    def days(self) -> float | None:
        """For how long all of them have counted; None where that is since the beginning."""
        known = [float(one["days"]) for one in self.servers if one["days"] is not None]
        return min(known) if known else None


def indexes(conn: Connection) -> list[dict[str, Any]]:
    """:return: every valid index of the users' tables. Takes no lock but that of a look at each one's size."""
    return fetch_all(conn, _INDEXES)


def gather(conn: Connection, target: Target, standbys: Sequence[str], application_name: str) -> Evidence:
    """Ask the primary and each standby that is named how often each index was used.

    :param standbys: ``host`` or ``host:port``.
    """
    scans = {int(row["oid"]): int(row["scans"] or 0) for row in fetch_all(conn, _SCANS)}
    servers = [{"server": "primary", **_since(conn)}]
    missing = []
    identifier = system_identifier(conn)
    for standby in standbys:
        host, _, port = standby.partition(":")
        try:
            with closing(
                connect(target.with_(host=host, port=port or target.port), application_name=application_name)
            ) as other:
                since = _since(other)
                if not since.pop("standby") or system_identifier(other) != identifier:
                    missing.append(f"{standby} is no standby of this cluster")
                    continue
                for row in fetch_all(other, _SCANS):
                    scans[int(row["oid"])] = scans.get(int(row["oid"]), 0) + int(row["scans"] or 0)
                servers.append({"server": standby, **since})
        except (PgopsError, psycopg2.Error) as error:
            told = error.message.rstrip(".") if isinstance(error, PgopsError) else f"SQLSTATE {error.pgcode}"
            missing.append(f"standby {standby} was not asked: {told}")
    servers[0].pop("standby", None)
    connected = int((fetch_one(conn, _STANDBYS) or {"connected": 0})["connected"])
    if connected > len(servers) - 1:
        missing.append(
            f"{connected} standbys are connected and {len(servers) - 1} were asked: name them in maintenance_standbys"
        )
    return Evidence(servers, missing, scans)


def _since(conn: Connection) -> dict[str, Any]:
    row = dict(fetch_one(conn, _SINCE) or {"since": None, "days": None, "standby": False})
    if row["days"] is not None:
        row["days"] = round(float(row["days"]), 1)
    return row


def unused(found: Sequence[Mapping[str, Any]], evidence: Evidence, after_days: float) -> list[dict[str, Any]]:
    """:return: the indexes without a scan on any server, the largest first, each with what speaks against dropping it."""
    told = []
    for index in found:
        if index["needed"] or index["is_unique"] or evidence.scans.get(int(index["oid"]), 0):
            continue
        against = list(evidence.missing)
        if evidence.days is not None and evidence.days < after_days:
            against.append(
                f"counted for {evidence.days:g} days only, and {after_days:g} are asked for (maintenance_unused_after_days)"
            )
        if index["leads_with_foreign_key"]:
            against.append("it leads with a foreign key, whose parent's DELETE and UPDATE it serves")
        told.append(_told(index, evidence, why="no server has scanned it", against=against))
    return sorted(told, key=lambda one: -one["bytes"])


def duplicates(found: Sequence[Mapping[str, Any]], evidence: Evidence) -> list[dict[str, Any]]:
    """:return: the indexes that another one of their table does all the work of, each once, with that one's name."""
    told = []
    gone: set[int] = set()
    for index in sorted(found, key=_worth):
        if index["needed"]:
            continue
        for other in sorted(found, key=_worth, reverse=True):
            if other["oid"] == index["oid"] or int(other["oid"]) in gone or other["table_oid"] != index["table_oid"]:
                continue
            why = _serves(other, index)
            if why:
                gone.add(int(index["oid"]))
                told.append(
                    {**_told(index, evidence, why=why, against=[]), "other": f"{other['schema']}.{other['name']}"}
                )
                break
    return sorted(told, key=lambda one: -one["bytes"])


def _worth(index: Mapping[str, Any]) -> tuple[bool, bool, int, int]:
    """Of two that are the same, the one with the lesser worth goes: no key, not unique, fewer columns, the younger one."""
    return bool(index["needed"]), bool(index["is_unique"]), int(index["key_columns"]), -int(index["oid"])


def _serves(other: Mapping[str, Any], index: Mapping[str, Any]) -> str | None:
    """:return: why ``other`` makes ``index`` needless; None where it does not."""
    same = ("method", "expressions", "predicate")
    if any(other[part] != index[part] for part in same):
        return None
    # NULLs that are equal and a check at once refuse more than NULLs that differ and a check at the end of the transaction.
    refuses = ("is_unique", "at_once", "refuses_nulls")
    if index["is_unique"] and any(index[part] and not other[part] for part in refuses):
        return None
    mine, its = _columns(index), _columns(other)
    if mine == its and set(_included(index)) <= set(_included(other)):
        return f"{other['schema']}.{other['name']} has the same columns in the same way"
    if index["method"] != "btree" or index["is_unique"] or index["expressions"] or _included(index):
        return None
    if len(mine) < len(its) and its[: len(mine)] == mine:
        return f"its columns are the first of {other['schema']}.{other['name']}"
    return None


def _columns(index: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """:return: of each key column all that its entries are found by."""
    count = int(index["key_columns"])
    parts = [str(index[part]).split()[:count] for part in ("keys", "classes", "collations", "options")]
    return [tuple(column) for column in zip(*parts, list(index["parameters"])[:count])]


def _included(index: Mapping[str, Any]) -> list[str]:
    """:return: the columns that INCLUDE names."""
    return str(index["keys"]).split()[int(index["key_columns"]) :]


def _told(index: Mapping[str, Any], evidence: Evidence, *, why: str, against: Sequence[str]) -> dict[str, Any]:
    return {
        "index": f"{index['schema']}.{index['name']}",
        "schema": index["schema"],
        "name": index["name"],
        "table": index["table"],
        "bytes": int(index["bytes"]),
        "scans": evidence.scans.get(int(index["oid"]), 0),
        "why": why,
        "against": list(against),
        "definition": index["definition"],
    }
