-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- How often each index was used since statistics began, of one table or of all; those never used and largest first.
SELECT n.nspname AS schema, c.relname AS "table", x.relname AS name, i.indisunique AS unique, i.indisvalid AS valid,
       s.idx_scan AS scans, s.idx_tup_read AS rows_read, s.idx_tup_fetch AS rows_fetched, pg_catalog.pg_relation_size(i.indexrelid) AS bytes
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_stat_user_indexes AS s ON s.indexrelid = i.indexrelid
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY s.idx_scan, bytes DESC, 1, 2, 3
