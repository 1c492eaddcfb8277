-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- An estimate from the width of the columns: 24 bytes before each row, 4 that point to it, 24 of each page. Only tables that are
-- large enough to matter are worked out.
SELECT pg_catalog.format('%%I.%%I', t.schema, t.name) AS object,
       pg_catalog.pg_size_pretty(t.bytes) AS size, (100 * (t.pages - t.needed) / t.pages)::int AS share
  FROM (SELECT n.nspname AS schema, c.relname AS name, c.relpages::float8 AS pages, c.relpages * b.size AS bytes,
               pg_catalog.ceil(greatest(c.reltuples, 0) * (28 + w.width) / ((b.size - 24) * coalesce(f.fillfactor, 100) / 100)) AS needed
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (SELECT pg_catalog.current_setting('block_size')::bigint AS size) AS b
         CROSS JOIN LATERAL (SELECT sum((1 - s.null_frac) * s.avg_width) AS width FROM pg_catalog.pg_stats s
                              WHERE s.schemaname = n.nspname AND s.tablename = c.relname) AS w
          LEFT JOIN LATERAL (SELECT o.option_value::int AS fillfactor FROM pg_catalog.pg_options_to_table(c.reloptions) o
                              WHERE o.option_name = 'fillfactor') AS f ON true
         WHERE c.relkind IN ('r', 'm') AND c.reltuples >= 0 AND {{USER_SCHEMA}}
           AND c.relpages > %(bloat_bytes)s / b.size AND w.width IS NOT NULL) AS t
 WHERE 100 * (t.pages - t.needed) > %(bloat_percent)s * t.pages AND (t.pages - t.needed) * t.bytes / t.pages > %(bloat_bytes)s
 ORDER BY t.pages - t.needed DESC
