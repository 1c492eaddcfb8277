-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND {{USER_SCHEMA}} AND n.nspname <> 'pgops'
   AND {{RELATION_NOT_OF_EXTENSION}}
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
 ORDER BY 1
