-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Any index will do that begins with the columns of the key, in whatever order. A small table is read as a whole anyway.
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, k.conname AS name,
       (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY p.place)
          FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS p (number, place)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.number) AS columns
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND {{USER_SCHEMA}} AND n.nspname <> 'pgops'
   AND greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid)) >= %(small_table_rows)s
   AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_index i
         WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indnkeyatts >= cardinality(k.conkey)
           AND (i.indpred IS NULL OR cardinality(k.conkey) = 1)
           AND k.conkey <@ (SELECT pg_catalog.array_agg(key.number) FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY AS key (number, place)
                             WHERE key.place <= cardinality(k.conkey)))
 ORDER BY 1, 2
