-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Whatever is marked as PHI by its comment: tables, columns, indexes and views.
SELECT CASE WHEN d.objsubid > 0 THEN 'column' WHEN c.relkind IN ('i', 'I') THEN 'index' WHEN c.relkind IN ('v', 'm') THEN 'view'
            ELSE 'table' END AS kind,
       pg_catalog.format('%%I.%%I', n.nspname, c.relname) || coalesce('.' || pg_catalog.quote_ident(a.attname), '') AS name,
       d.description AS comment
  FROM pg_catalog.pg_description AS d
  JOIN pg_catalog.pg_class AS c ON c.oid = d.objoid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND a.attnum > 0
 WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.description ~ '^PHI\y'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
 ORDER BY 1, 2
