-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.format('%%I.%%I', s.schemaname, s.relname) AS object, s.n_dead_tup AS dead,
       (100 * s.n_dead_tup / (s.n_live_tup + s.n_dead_tup)) AS share,
       coalesce(greatest(s.last_vacuum, s.last_autovacuum)::text, 'never') AS vacuumed
  FROM pg_catalog.pg_stat_user_tables s
 WHERE s.n_dead_tup >= %(dead_rows)s AND 100 * s.n_dead_tup > %(dead_percent)s * (s.n_live_tup + s.n_dead_tup)
 ORDER BY s.n_dead_tup DESC, 1
