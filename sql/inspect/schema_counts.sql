-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- How many tables, columns, enum types, constraints and indexes a schema has.
SELECT n.nspname AS schema,
       (SELECT count(*) FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p')) AS tables,
       (SELECT count(*) FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
         WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT count(*) FROM pg_catalog.pg_type AS t WHERE t.typnamespace = n.oid AND t.typtype = 'e') AS enums,
       (SELECT count(*) FROM pg_catalog.pg_constraint AS k WHERE k.connamespace = n.oid AND k.contype = 'f') AS foreign_keys,
       (SELECT count(*) FROM pg_catalog.pg_constraint AS k WHERE k.connamespace = n.oid AND k.contype = 'c') AS checks,
       (SELECT count(*) FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind IN ('i', 'I')) AS indexes
  FROM pg_catalog.pg_namespace AS n
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 1
