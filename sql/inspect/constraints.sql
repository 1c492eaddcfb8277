-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Constraints, of one table or of all, with their definition.
SELECT n.nspname AS schema, c.relname AS "table", k.conname AS name, k.convalidated AS validated,
       pg_catalog.pg_get_constraintdef(k.oid) AS definition
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY 1, 2, 3
