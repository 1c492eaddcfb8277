-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT slot_name AS slot, coalesce(database, '?') AS name,
       pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)) AS held
  FROM pg_catalog.pg_replication_slots
 WHERE NOT pg_catalog.pg_is_in_recovery() AND NOT active AND slot_name ~ '^pgops_bg_[0-9a-f]{16}$'
 ORDER BY slot_name
