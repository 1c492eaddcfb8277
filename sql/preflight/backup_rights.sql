-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, %(backup)s::text AS role
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'S') AND {{USER_SCHEMA}}
   AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(backup)s)) IS NOT NULL
   AND NOT (pg_catalog.has_schema_privilege(%(backup)s, n.oid, 'USAGE')
            AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(%(backup)s, c.oid, 'SELECT')
                     ELSE pg_catalog.has_table_privilege(%(backup)s, c.oid, 'SELECT') END)
 ORDER BY 1
