-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Enum types with the number of their values and of the columns that use them.
SELECT n.nspname AS schema, t.typname AS name,
       (SELECT count(*) FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid) AS values,
       (SELECT count(*) FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
         WHERE a.atttypid = t.oid AND NOT a.attisdropped AND c.relkind IN ('r', 'p')) AS columns
  FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
 WHERE t.typtype = 'e' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 1, 2
