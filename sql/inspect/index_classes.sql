-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- How much the fifty most used indexes are used, of one table or of all, and those never used after them: a class for each.
SELECT n.nspname AS schema, c.relname AS "table", x.relname AS name, coalesce(s.idx_scan, 0) AS scans,
       CASE WHEN coalesce(s.idx_scan, 0) = 0 THEN 'UNUSED' WHEN s.idx_scan < 100 THEN 'LOW'
            WHEN s.idx_scan < 1000 THEN 'MODERATE' ELSE 'HIGH' END AS use,
       x.relpages::bigint * pg_catalog.current_setting('block_size')::bigint AS bytes
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid AND x.relkind = 'i'
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_user_indexes AS s ON s.indexrelid = i.indexrelid
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY scans DESC, bytes DESC, 1, 2, 3
 LIMIT 50
