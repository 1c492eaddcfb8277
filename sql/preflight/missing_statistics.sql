-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.format('%%I.%%I', s.schemaname, s.relname) AS object, s.n_live_tup AS rows
  FROM pg_catalog.pg_stat_user_tables s
 WHERE s.last_analyze IS NULL AND s.last_autoanalyze IS NULL AND s.n_live_tup >= %(small_table_rows)s
 ORDER BY s.n_live_tup DESC, 1
