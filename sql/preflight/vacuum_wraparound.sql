-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT a.pid, coalesce(v.relid::regclass::text, '?') AS object
  FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_progress_vacuum v ON v.pid = a.pid
 WHERE a.backend_type = 'autovacuum worker' AND a.query LIKE '%%(to prevent wraparound)%%'
   AND a.datname = pg_catalog.current_database()
