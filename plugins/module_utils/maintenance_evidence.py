# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the server knows of its tables and indexes that tells which of them need work. Reads catalogs and statistics only."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import (
    Connection,
    fetch_all,
    fetch_one,
    server_version,
)
from ansible_collections.whitecross.pgops.plugins.module_utils.identifiers import quoted
from ansible_collections.whitecross.pgops.plugins.module_utils.maintenance_partitions import Below, below

# Of tables whose lock somebody has for himself the size of the last look counts: to ask the file would wait for him.
_HELD = """
held AS MATERIALIZED (
    SELECT DISTINCT l.relation AS oid FROM pg_catalog.pg_locks l
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
"""
_USER_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops') AND n.nspname !~ '^pg_(toast|temp)'"
# Owner of the table or of the database, a member of either, or whom MAINTAIN or pg_maintain lets.
_MAY_VACUUM = """
pg_catalog.pg_has_role(c.relowner, 'USAGE') OR (NOT c.relisshared AND pg_catalog.pg_has_role(
    (SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()), 'USAGE')){maintain}
"""
_MAY_REINDEX = "pg_catalog.pg_has_role(t.relowner, 'USAGE'){maintain}"
_MAINTAIN = " OR pg_catalog.has_table_privilege({oid}, 'MAINTAIN')"

_TABLES = f"""
WITH {_HELD}
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner, {{may}} AS may,
       n.nspname = 'pg_catalog' AS catalog,
       CASE WHEN c.relkind = 'p' THEN 0
            WHEN h.oid IS NULL THEN pg_catalog.pg_table_size(c.oid)
            ELSE c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint END AS bytes,
       CASE WHEN c.relkind <> 'p' AND h.oid IS NULL THEN pg_catalog.pg_indexes_size(c.oid) ELSE 0 END AS index_bytes,
       c.relpages::bigint AS pages, c.relallvisible::bigint AS visible_pages, c.reltuples::float8 AS reltuples,
       pg_catalog.pg_stat_get_live_tuples(c.oid) AS live, pg_catalog.pg_stat_get_dead_tuples(c.oid) AS dead,
       pg_catalog.pg_stat_get_mod_since_analyze(c.oid) AS modified,
       pg_catalog.pg_stat_get_ins_since_vacuum(c.oid) AS inserted,
       CASE WHEN c.relkind = 'p' THEN 0
            ELSE greatest(pg_catalog.age(c.relfrozenxid), pg_catalog.age(o.relfrozenxid)) END AS xid_age,
       CASE WHEN c.relkind = 'p' THEN 0
            ELSE greatest(pg_catalog.mxid_age(c.relminmxid), pg_catalog.mxid_age(o.relminmxid)) END AS multixact_age,
       extract(epoch FROM pg_catalog.clock_timestamp() - greatest(pg_catalog.pg_stat_get_last_vacuum_time(c.oid),
           pg_catalog.pg_stat_get_last_autovacuum_time(c.oid)))::float8 AS vacuumed_s,
       extract(epoch FROM pg_catalog.clock_timestamp() - greatest(pg_catalog.pg_stat_get_last_analyze_time(c.oid),
           pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid)))::float8 AS analyzed_s
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_class o ON o.oid = c.reltoastrelid
  LEFT JOIN held h ON h.oid = c.oid
 WHERE c.relpersistence <> 't' AND c.relispopulated
   AND (c.relkind IN ('r', 'm', 'p') AND {_USER_SCHEMA}
        OR c.relkind = 'r' AND n.nspname = 'pg_catalog' AND NOT c.relisshared
           AND (pg_catalog.age(c.relfrozenxid) >= %(xid_age)s OR pg_catalog.mxid_age(c.relminmxid) >= %(multixact_age)s))
 ORDER BY 2, 3
"""

# A column's width and how many values it has, as ANALYZE found them; of an expression they are kept under the index's name. Those of
# columns that the role may not read are hidden.
_INDEXES = f"""
WITH {_HELD}
SELECT x.oid::bigint AS oid, n.nspname::text AS schema, x.relname::text AS name, t.oid::bigint AS table_oid,
       tn.nspname::text AS table_schema, t.relname::text AS table_name, a.amname::text AS method,
       pg_catalog.pg_get_userbyid(t.relowner)::text AS owner, {{may}} AS may,
       i.indisunique AS is_unique, i.indisexclusion AS exclusion,
       i.indisvalid AND i.indisready AND i.indislive AS valid,
       CASE WHEN h.oid IS NULL THEN pg_catalog.pg_relation_size(x.oid)
            ELSE x.relpages::bigint * pg_catalog.current_setting('block_size')::bigint END AS bytes,
       CASE WHEN h.oid IS NULL THEN pg_catalog.pg_relation_size(t.oid)
            ELSE t.relpages::bigint * pg_catalog.current_setting('block_size')::bigint END AS table_bytes,
       x.reltuples::float8 AS reltuples, pg_catalog.pg_stat_get_live_tuples(t.oid) AS live,
       pg_catalog.pg_stat_get_mod_since_analyze(t.oid) AS modified,
       coalesce((SELECT option_value::int FROM pg_catalog.pg_options_to_table(x.reloptions)
                  WHERE option_name = 'fillfactor'), 90) AS fillfactor,
       i.indnatts > i.indnkeyatts OR coalesce((SELECT option_value IN ('off', 'false', 'no', '0')
           FROM pg_catalog.pg_options_to_table(x.reloptions) WHERE option_name = 'deduplicate_items'), false)
           OR EXISTS (SELECT FROM pg_catalog.pg_attribute k JOIN pg_catalog.pg_type y ON y.oid = k.atttypid
                       WHERE k.attrelid = x.oid AND (y.typcategory IN ('A', 'C', 'R')
                             OR y.typname IN ('numeric', 'float4', 'float8', 'jsonb'))) AS never_deduplicates,
       i.indpred IS NOT NULL AS partial,
       widths.columns AS columns, widths.known AS known, widths.width::float8 AS width,
       widths.distinct_values::float8 AS distinct_values
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_catalog.pg_am a ON a.oid = x.relam
  LEFT JOIN held h ON h.oid = t.oid
 CROSS JOIN LATERAL (
       SELECT count(*) AS columns, count(s.avg_width) AS known, sum(s.avg_width * (1 - s.null_frac)) AS width,
              exp(least(sum(ln(greatest(1, CASE WHEN s.n_distinct >= 0 THEN s.n_distinct::float8
                  ELSE -s.n_distinct::float8 * greatest(t.reltuples, 1) END))), 50)) AS distinct_values
         FROM pg_catalog.pg_attribute k
         LEFT JOIN pg_catalog.pg_attribute b
                ON b.attrelid = t.oid AND b.attnum = i.indkey[k.attnum - 1] AND i.indkey[k.attnum - 1] <> 0
         LEFT JOIN pg_catalog.pg_stats s
                ON s.schemaname = CASE WHEN b.attname IS NULL THEN n.nspname ELSE tn.nspname END
               AND s.tablename = CASE WHEN b.attname IS NULL THEN x.relname ELSE t.relname END
               AND s.attname = coalesce(b.attname, k.attname) AND NOT s.inherited
        WHERE k.attrelid = x.oid AND k.attnum > 0) AS widths
 WHERE x.relkind = 'i' AND x.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgops')
   AND n.nspname !~ '^pg_(toast|temp)' AND x.relpages::bigint * pg_catalog.current_setting('block_size')::bigint >= %(least)s
 ORDER BY 2, 3
"""

_SERVER = """
SELECT pg_catalog.current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max_age,
       pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::bigint AS multixact_freeze_max_age,
       pg_catalog.current_setting('default_statistics_target')::int AS statistics_target,
       pg_catalog.current_setting('block_size')::int AS block_size,
       pg_catalog.current_setting('track_counts')::boolean AS counts,
       current_user::text AS role, pg_catalog.clock_timestamp()::text AS now,
       (SELECT pg_catalog.to_char(d.stats_reset AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
          FROM pg_catalog.pg_stat_database d WHERE d.datname = pg_catalog.current_database()) AS stats_reset
"""


_MAY_BECOME = "SELECT pg_catalog.pg_has_role(%s, %s, 'USAGE') AS yes"


@dataclass(frozen=True)
class Server:
    """What is the same for all tables.

    :ivar role: that maintains; ``migrates`` the one that owns what migrations make.
    :ivar counts: whether the server counts what happens to its tables; without that no work can be proved.
    """

    freeze_max_age: int
    multixact_freeze_max_age: int
    statistics_target: int
    block_size: int
    counts: bool
    role: str
    now: str
    stats_reset: str | None
    migrates: str | None = None


@dataclass(frozen=True)
class Table:
    """A table or a materialised view as the server sees it.

    :ivar kind: ``r``, ``m``, or ``p`` for a partitioned one, which has no rows of its own.
    :ivar may: whether this role may vacuum and analyze it.
    :ivar bytes: with TOAST, without indexes.
    :ivar reltuples: rows as the last VACUUM or ANALYZE found them, -1 where there was none.
    :ivar live: rows as the server counts them since.
    :ivar below: of a partitioned one, what is known of its partitions.
    :ivar vacuumed_s: seconds since the last VACUUM of anybody, None where there was none; ``analyzed_s`` the same.
    """

    oid: int
    schema: str
    name: str
    kind: str
    owner: str
    may: bool
    catalog: bool
    bytes: int
    index_bytes: int
    pages: int
    visible_pages: int
    reltuples: float
    live: int
    dead: int
    modified: int
    inserted: int
    xid_age: int
    multixact_age: int
    vacuumed_s: float | None
    analyzed_s: float | None
    below: Below | None = None

    @property
    def full_name(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"

    @property
    def rows(self) -> int:
        """As many as there most likely are."""
        if self.below is not None:
            return self.below.rows
        return self.live if self.live > 0 else max(int(self.reltuples), 0)


@dataclass(frozen=True)
class Index:
    """An index as the server sees it.

    :ivar columns: how many it has, ``known`` of how many the width is known, ``width`` the bytes of one entry's values.
    :ivar distinct_values: how many different keys there are at most.
    """

    oid: int
    schema: str
    name: str
    table_oid: int
    table_schema: str
    table_name: str
    method: str
    owner: str
    may: bool
    is_unique: bool
    exclusion: bool
    valid: bool
    bytes: int
    table_bytes: int
    reltuples: float
    live: int
    modified: int
    fillfactor: int
    never_deduplicates: bool
    partial: bool
    columns: int
    known: int
    width: float | None
    distinct_values: float | None

    @property
    def full_name(self) -> str:
        """``schema.name``."""
        return f"{self.schema}.{self.name}"

    @property
    def table(self) -> str:
        """``schema.name`` of its table."""
        return f"{self.table_schema}.{self.table_name}"


def server(conn: Connection) -> Server:
    """:return: settings and the role that asks."""
    row: dict[str, Any] = fetch_one(conn, _SERVER) or {}
    return Server(**row)


def tables(conn: Connection, *, xid_age: int, multixact_age: int) -> list[Table]:
    """:param xid_age: from which age on tables of the catalog are of interest.
    :return: every table of the users. Takes ACCESS SHARE for a moment, on none that somebody has for himself."""
    may = _MAY_VACUUM.format(maintain=_maintain(conn, "c.oid"))
    rows = fetch_all(conn, _TABLES.format(may=may), {"xid_age": xid_age, "multixact_age": multixact_age})
    partitions = below(conn) if any(row["kind"] == "p" for row in rows) else {}
    return [
        Table(**row, below=partitions.get(int(row["oid"]), Below()) if row["kind"] == "p" else None) for row in rows
    ]


def indexes(conn: Connection, *, least_bytes: int) -> list[Index]:
    """:param least_bytes: smaller ones are of no interest.
    :return: every index of the users' tables that has pages. The lock as with :func:`tables`."""
    may = _MAY_REINDEX.format(maintain=_maintain(conn, "t.oid"))
    return [Index(**row) for row in fetch_all(conn, _INDEXES.format(may=may), {"least": least_bytes})]


def _maintain(conn: Connection, oid: str) -> str:
    return _MAINTAIN.format(oid=oid) if server_version(conn) >= (17, 0) else ""


def right_wanted(conn: Connection, table: tuple[str, str], owner: str, server: Server) -> str:
    """Nobody is told to become a member of the owner: whoever owns a table may be a superuser, or own much else.

    :param table: its schema and name.
    :return: in words what the role lacks that may not maintain a table, with what to type."""
    role, name = server.role, ".".join(map(quoted, table))
    told = f"role {role} is not its owner {owner}"
    if server_version(conn) >= (17, 0):
        return f"{told}: GRANT MAINTAIN ON {name} TO {quoted(role)}, or GRANT pg_maintain TO {quoted(role)}"
    if table[0] == "pg_catalog":
        return f"{told}, nor of the database: a superuser does it: VACUUM (FREEZE) {name}"
    migrates = server.migrates or role
    told += ", and before 17 only its owner may"
    if migrates != role and (fetch_one(conn, _MAY_BECOME, (migrates, owner)) or {}).get("yes"):
        return f"{told}: leave maintenance_user out, and {migrates} does it"
    return f"{told}: ALTER TABLE {name} OWNER TO {quoted(migrates)}, or leave it out with maintenance_exclude"


def excluded(name: str, patterns: Sequence[str]) -> bool:
    """:param patterns: ``schema.table``, with ``*`` for anything.
    :return: whether the name is one of them."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
