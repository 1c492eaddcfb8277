-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Foreign keys, of one table or of all: columns, target, rules, whether validated.
SELECT n.nspname AS schema, c.relname AS "table", k.conname AS name,
       (SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY p.place)
          FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS p (number, place)
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = p.number) AS columns,
       k.confrelid::pg_catalog.regclass::text AS target,
       (SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY p.place)
          FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS p (number, place)
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = p.number) AS target_columns,
       CASE k.confupdtype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                          WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END AS on_update,
       CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                          WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END AS on_delete,
       k.convalidated AS validated
  FROM pg_catalog.pg_constraint AS k
  JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
   AND (%(table)s::text IS NULL OR %(table)s::text IN (c.relname, pg_catalog.format('%%s.%%s', n.nspname, c.relname)))
 ORDER BY 1, 2, 3
