-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- An anti-wraparound vacuum and the build of an index have checks of their own.
SELECT p.pid, p.what, coalesce(p.relid::regclass::text, '?') AS object,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - coalesce(a.query_start, a.xact_start))::int / 60 AS minutes
  FROM (SELECT pid, relid, datname, 'VACUUM' AS what FROM pg_catalog.pg_stat_progress_vacuum
         UNION ALL SELECT pid, relid, datname, command FROM pg_catalog.pg_stat_progress_cluster
         UNION ALL SELECT pid, relid, datname, 'ANALYZE' FROM pg_catalog.pg_stat_progress_analyze) AS p
  JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid
 WHERE p.datname = pg_catalog.current_database() AND a.query NOT LIKE '%%(to prevent wraparound)%%'
   AND coalesce(a.query_start, a.xact_start) < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(maintenance_s)s)
 ORDER BY 4 DESC, 1
