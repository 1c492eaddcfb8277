-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- The values of one enum type, in their order.
-- Needs: enum
SELECT n.nspname AS schema, t.typname AS enum, e.enumlabel AS value
  FROM pg_catalog.pg_enum AS e
  JOIN pg_catalog.pg_type AS t ON t.oid = e.enumtypid JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND %(enum)s::text IN (t.typname, pg_catalog.format('%%s.%%s', n.nspname, t.typname))
 ORDER BY 1, 2, e.enumsortorder
