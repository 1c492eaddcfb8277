-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Tables whose comment says that they hold PHI, or may, and which columns about a row's life they have.
SELECT n.nspname AS schema, c.relname AS name, d.comment !~ '^PHI: possible' AS certain,
       (SELECT count(*) FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = c.oid AND pg_catalog.col_description(c.oid, a.attnum) ~ '^PHI\y') AS phi_columns,
       (SELECT pg_catalog.string_agg(w.name, ', ' ORDER BY w.place)
          FROM pg_catalog.unnest(ARRAY['createdAt', 'updatedAt', 'createdBy', 'updatedBy', 'deletedAt'])
               WITH ORDINALITY AS w (name, place)
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = c.oid AND a.attname = w.name AND NOT a.attisdropped)) AS lacks
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT pg_catalog.obj_description(c.oid, 'pg_class') AS comment) AS d
 WHERE c.relkind IN ('r', 'p') AND d.comment ~ '^PHI\y' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 1, 2
