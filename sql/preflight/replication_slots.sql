-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT s.slot_name AS slot, pg_catalog.pg_size_pretty(s.held) AS held, coalesce(s.wal_status, '?') AS state
  FROM (SELECT slot_name, active, wal_status,
               pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn) AS held
          FROM pg_catalog.pg_replication_slots WHERE NOT pg_catalog.pg_is_in_recovery()) AS s
 WHERE s.held > %(slot_wal_bytes)s OR s.wal_status IN ('unreserved', 'lost')
 ORDER BY s.held DESC NULLS FIRST
