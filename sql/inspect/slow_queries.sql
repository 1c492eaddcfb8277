-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- The twenty statements with the longest mean time, of one table or of all; values are not in them.
-- Extension: pg_stat_statements
-- Sees others
SELECT s.calls, s.mean_exec_time::numeric(12, 1) AS mean_ms, s.max_exec_time::numeric(12, 1) AS max_ms,
       (s.total_exec_time / 1000)::numeric(12, 1) AS total_s, s.rows, pg_catalog.pg_get_userbyid(s.userid) AS role,
       pg_catalog.left(pg_catalog.regexp_replace(s.query, '\s+', ' ', 'g'), 200) AS query
  FROM pg_stat_statements AS s
 WHERE s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
   -- Of another statement the text is kept as it was typed, values and all.
   AND (s.query ~* '^\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH)\y' OR s.query = '<insufficient privilege>')
   AND (%(table)s::text IS NULL OR pg_catalog.strpos(s.query, pg_catalog.split_part(%(table)s::text, '.', -1)) > 0)
 ORDER BY s.mean_exec_time DESC, s.calls DESC
 LIMIT 20
