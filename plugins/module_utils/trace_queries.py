# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 White Cross pgops contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a trace asks the server: the session about its own transaction, and another session how it looks from outside."""

from __future__ import annotations

# The session about itself, in its own transaction and with its own view of the catalog. Its plan is kept.
HELD = """
PREPARE pgops_trace AS
SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::bigint AS wal, held.*
  FROM (VALUES (1)) AS one (n) LEFT JOIN LATERAL (
       SELECT l.relation::bigint AS oid, array_agg(l.mode) AS modes, c.relfilenode::bigint AS file, c.relkind::text AS kind,
              n.nspname::text AS schema, n.nspname || '.' || c.relname AS name,
              pg_catalog.pg_stat_get_xact_numscans(l.relation) AS scans,
              pg_catalog.pg_stat_get_xact_tuples_inserted(l.relation) + pg_catalog.pg_stat_get_xact_tuples_updated(l.relation)
              + pg_catalog.pg_stat_get_xact_tuples_deleted(l.relation) AS rows
         FROM pg_catalog.pg_locks AS l
         LEFT JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
         LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.relation >= 16384
          AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
        GROUP BY l.relation, c.relfilenode, c.relkind, n.nspname, c.relname) AS held ON true
"""
# As everybody else sees them until the transaction commits: what it makes itself is not there, and stands in nobody's way.
OUTSIDE = """
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, n.nspname || '.' || c.relname AS name, c.relkind::text AS kind,
       c.relfilenode::bigint AS file
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::oid[])
"""
INDEXES = """
SELECT c.oid::bigint AS oid, n.nspname || '.' || c.relname AS name, c.relfilenode::bigint AS file
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'i' AND c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'pgops'
"""
SIZES = "SELECT i.oid::bigint AS oid, pg_catalog.pg_relation_size(i.oid) AS bytes FROM unnest(%s::oid[]) AS i (oid)"
TEMPORARY = (
    "SELECT temp_bytes::bigint AS bytes FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()"
)
