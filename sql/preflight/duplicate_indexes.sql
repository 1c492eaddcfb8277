-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Of those that are the same, that of a constraint stays, then a unique one, then the oldest.
WITH same AS (
    SELECT i.indexrelid, i.indrelid, i.indisunique, k.conname, x.relname,
           pg_catalog.first_value(x.relname) OVER w AS kept, pg_catalog.row_number() OVER w AS place
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
      LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
     WHERE i.indisvalid AND NOT x.relispartition
    WINDOW w AS (PARTITION BY i.indrelid, x.relam, i.indkey::text, i.indnkeyatts, i.indclass::text, i.indcollation::text,
                              i.indoption::text, pg_catalog.pg_get_expr(i.indexprs, i.indrelid),
                              pg_catalog.pg_get_expr(i.indpred, i.indrelid), k.contype = 'x'
                     ORDER BY k.oid IS NULL, NOT i.indisunique, i.indexrelid)
)
SELECT pg_catalog.format('%%I.%%I', n.nspname, s.relname) AS object, s.kept,
       CASE WHEN s.conname IS NULL THEN pg_catalog.format('DROP INDEX CONCURRENTLY %%I.%%I;', n.nspname, s.relname)
            ELSE pg_catalog.format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I;', n.nspname, c.relname, s.conname) END AS todo
  FROM same s
  JOIN pg_catalog.pg_class c ON c.oid = s.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE s.place > 1 AND {{USER_SCHEMA}}
 ORDER BY 1
