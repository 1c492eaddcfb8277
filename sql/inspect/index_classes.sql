-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- The fifty least used indexes in four classes of use since statistics began: UNUSED, LOW below 100 scans, MODERATE below 1000, HIGH.
SELECT n.nspname AS schema, c.relname AS "table", x.relname AS name,
       CASE WHEN s.idx_scan = 0 THEN 'UNUSED' WHEN s.idx_scan < 100 THEN 'LOW' WHEN s.idx_scan < 1000 THEN 'MODERATE' ELSE 'HIGH' END AS class,
       s.idx_scan AS scans, pg_catalog.pg_relation_size(s.indexrelid) AS bytes
  FROM pg_catalog.pg_stat_user_indexes AS s
  JOIN pg_catalog.pg_class AS x ON x.oid = s.indexrelid
  JOIN pg_catalog.pg_class AS c ON c.oid = s.relid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname <> 'pgops'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY s.idx_scan, bytes DESC, 1, 2, 3
 LIMIT 50
