-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- An estimate of B-trees alone: 12 bytes an entry and its columns, pages filled to nine tenths. Entries that are stored once for
-- many rows make an index smaller than that, so it says nothing about those; pgstatindex does.
SELECT pg_catalog.format('%%I.%%I', t.schema, t.name) AS object,
       pg_catalog.pg_size_pretty(t.bytes) AS size, (100 * (t.pages - t.needed) / t.pages)::int AS share
  FROM (SELECT n.nspname AS schema, x.relname AS name, x.relpages::float8 AS pages, x.relpages * b.size AS bytes,
               pg_catalog.ceil(greatest(x.reltuples, 0) * (12 + w.width) / ((b.size - 40) * coalesce(f.fillfactor, 90) / 100)) + 1 AS needed
          FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
          JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (SELECT pg_catalog.current_setting('block_size')::bigint AS size) AS b
         CROSS JOIN LATERAL (
               SELECT CASE WHEN count(s.avg_width) = i.indnatts THEN pg_catalog.ceil(sum(s.avg_width) / 8.0) * 8 END AS width
                 FROM pg_catalog.unnest(i.indkey) AS key (number)
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.number AND key.number > 0
                 LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname) AS w
          LEFT JOIN LATERAL (SELECT o.option_value::int AS fillfactor FROM pg_catalog.pg_options_to_table(x.reloptions) o
                              WHERE o.option_name = 'fillfactor') AS f ON true
         WHERE x.relkind = 'i' AND i.indisvalid AND x.reltuples >= 0 AND {{USER_SCHEMA}}
           AND x.relpages > %(bloat_bytes)s / b.size AND w.width IS NOT NULL) AS t
 WHERE 100 * (t.pages - t.needed) > %(bloat_percent)s * t.pages AND (t.pages - t.needed) * t.bytes / t.pages > %(bloat_bytes)s
 ORDER BY t.pages - t.needed DESC
