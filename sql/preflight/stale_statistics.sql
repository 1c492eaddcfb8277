-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.format('%%I.%%I', s.schemaname, s.relname) AS object, s.n_mod_since_analyze AS changed,
       (100 * s.n_mod_since_analyze / greatest(s.n_live_tup, 1)) AS share
  FROM pg_catalog.pg_stat_user_tables s
 WHERE coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL AND s.n_mod_since_analyze >= %(small_table_rows)s
   AND 100 * s.n_mod_since_analyze > %(stale_percent)s * s.n_live_tup
 ORDER BY s.n_mod_since_analyze DESC, 1
