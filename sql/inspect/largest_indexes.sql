-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- The twenty largest indexes, of one table or of all, with their size and that of their table's rows.
SELECT n.nspname AS schema, c.relname AS "table", x.relname AS name, m.amname AS method, i.indisvalid AS valid,
       pg_catalog.pg_relation_size(i.indexrelid) AS bytes, pg_catalog.pg_relation_size(i.indrelid) AS table_bytes
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am AS m ON m.oid = x.relam
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY bytes DESC, 1, 2, 3
 LIMIT 20
