# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What was written below a partitioned table, which the server counts for none but its partitions, and autovacuum analyzes for none.

The partitions' own counts begin anew whenever autovacuum analyzes one. So a maintenance that analyzes the table keeps what had been
written below it in all until then, and the next one takes the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.whitecross.pgops.plugins.module_utils.connection import Connection, fetch_all

# ANALYZE of a partitioned table does its partitions too, and those end later: so much later somebody has analyzed one by itself.
RECURSION_S = 3600.0

# Reads catalogs only: pg_partition_tree() locks each partition.
_BELOW = """
WITH RECURSIVE below AS (
    SELECT i.inhparent AS root, i.inhrelid AS oid
      FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
     WHERE p.relkind = 'p'
    UNION ALL
    SELECT b.root, i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid
)
SELECT b.root::bigint AS root, sum(CASE WHEN pg_catalog.pg_stat_get_live_tuples(c.oid) > 0
           THEN pg_catalog.pg_stat_get_live_tuples(c.oid) ELSE greatest(c.reltuples, 0)::bigint END)::bigint AS rows,
       sum(pg_catalog.pg_stat_get_mod_since_analyze(c.oid))::bigint AS modified,
       sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid)
           + pg_catalog.pg_stat_get_tuples_deleted(c.oid))::bigint AS written,
       sum(s.bytes)::bigint AS bytes, sum(least(s.bytes, 300 * pg_catalog.current_setting('default_statistics_target')::bigint
           * pg_catalog.current_setting('block_size')::bigint))::bigint AS sampled,
       extract(epoch FROM pg_catalog.clock_timestamp() - max(greatest(pg_catalog.pg_stat_get_last_analyze_time(c.oid),
           pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid))))::float8 AS analyzed_s
  FROM below b JOIN pg_catalog.pg_class c ON c.oid = b.oid AND c.relkind = 'r'
 CROSS JOIN LATERAL (SELECT c.relpages::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes) AS s
 GROUP BY b.root
"""
_PARTITIONED = """
WITH RECURSIVE tree AS (
    SELECT %s::oid AS oid
    UNION ALL
    SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
)
SELECT t.oid::bigint AS oid, n.nspname || '.' || c.relname AS name
  FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind = 'p' JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""


@dataclass(frozen=True)
class Below:
    """All partitions below a partitioned table, at any depth.

    :ivar rows: as the server counts them.
    :ivar modified: since each of them was analyzed.
    :ivar written: rows inserted, updated and deleted since the server began to count.
    :ivar bytes: of all, ``sampled`` those that ANALYZE reads of them.
    :ivar analyzed_s: seconds since any of them was analyzed; None where none was.
    """

    rows: int = 0
    modified: int = 0
    written: int = 0
    bytes: int = 0
    sampled: int = 0
    analyzed_s: float | None = None

    def since(self, written: int | None, reltuples: float) -> int:
        """:param written: as many as were written in all when the table above was analyzed; None where nobody has kept it.
        :param reltuples: rows that were found then.
        :return: the rows that were modified since, or as many as can be seen to have been."""
        if written is not None:
            # A server that crashed, or was told to, counts from nothing.
            return self.written - written if self.written >= written else self.written
        return max(self.modified, abs(self.rows - int(max(reltuples, 0))))

    def any_since(self, modified: int, analyzed_s: float) -> bool:
        """:param modified: see :meth:`since`.
        :param analyzed_s: seconds since the table above was analyzed.
        :return: whether anything was written since: a partition that was analyzed much later by itself had a reason."""
        return modified > 0 or (self.analyzed_s is not None and self.analyzed_s < analyzed_s - RECURSION_S)


def below(conn: Connection) -> Mapping[int, Below]:
    """:return: by the oid of each partitioned table. Takes no lock on any of them."""
    return {int(row.pop("root")): Below(**row) for row in fetch_all(conn, _BELOW)}


def written(conn: Connection, root: int) -> dict[str, int]:
    """:param root: a partitioned table, of which ANALYZE does those below it too.
    :return: by the name of each partitioned table of them, the rows that were written below it in all."""
    known = below(conn)
    return {
        str(row["name"]): known.get(int(row["oid"]), Below()).written for row in fetch_all(conn, _PARTITIONED, (root,))
    }
