-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Two are the same to queries when all of their definition is; one goes only where the other refuses all that it refuses, and where
-- nobody has chosen it: replication, CLUSTER, a foreign key, a constraint. Of two that could both go, that of a constraint stays, then
-- a unique one, then the oldest. What the ledger knows of them is looked up where there are any.
WITH looked AS (
    SELECT i.indexrelid AS oid, i.indrelid, n.nspname, c.relname AS of_table, x.relname, i.indisunique AS is_unique, i.indimmediate AS at_once, k.conname,
           -- Since 15; read so that an older server takes the query.
           coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS refuses_nulls,
           i.indisreplident OR i.indisclustered OR i.indisprimary OR i.indisexclusion
               OR EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.conindid = i.indexrelid) AS chosen,
           pg_catalog.row_number() OVER (ORDER BY k.oid IS NULL, NOT i.indisunique, i.indexrelid) AS place,
           pg_catalog.concat_ws(' / ', x.relam, i.indkey, i.indnkeyatts, i.indclass, i.indcollation, i.indoption,
               coalesce(pg_catalog.pg_get_expr(i.indexprs, i.indrelid), ''), coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), ''),
               (SELECT pg_catalog.string_agg(coalesce(a.attoptions::text, ''), ',' ORDER BY a.attnum)
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indexrelid)) AS definition,
           -- That of a partitioned table goes with all of its partitions', and not concurrently.
           CASE WHEN k.conname IS NULL THEN pg_catalog.format('DROP INDEX %%s%%I.%%I;',
                    CASE WHEN x.relkind = 'I' THEN '' ELSE 'CONCURRENTLY ' END, n.nspname, x.relname)
                ELSE pg_catalog.format('ALTER TABLE %%I.%%I DROP CONSTRAINT %%I;', n.nspname, c.relname, k.conname) END AS todo
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
      JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
     WHERE i.indisvalid AND NOT x.relispartition AND {{USER_SCHEMA}}
), replaced AS (
    SELECT o.*, s.oid AS kept_oid, s.relname AS kept, s.place AS kept_place, s.conname AS kept_conname,
           s.todo AS kept_todo
      FROM looked o
      JOIN looked s ON s.indrelid = o.indrelid AND s.definition = o.definition AND s.oid <> o.oid
     WHERE NOT o.chosen AND (o.conname IS NULL OR s.conname IS NOT NULL)
       AND (NOT o.is_unique OR s.is_unique AND s.at_once >= o.at_once AND s.refuses_nulls >= o.refuses_nulls)
), gone AS (
    -- Not both for each other's sake.
    SELECT r.* FROM replaced r
     WHERE r.kept_place < r.place OR NOT EXISTS (SELECT FROM replaced b WHERE b.oid = r.kept_oid AND b.kept_oid = r.oid)
)
SELECT DISTINCT ON (g.oid) pg_catalog.format('%%I.%%I', g.nspname, g.relname) AS object, g.kept, g.todo, g.nspname AS schema, g.of_table,
       g.relname AS name, g.conname IS NOT NULL AS of_constraint, g.kept_conname IS NOT NULL AS kept_of_constraint,
       CASE WHEN EXISTS (SELECT FROM replaced b WHERE b.oid = g.kept_oid AND b.kept_oid = g.oid) THEN g.kept_todo END AS kept_todo
  FROM gone g
 WHERE NOT EXISTS (SELECT FROM gone b WHERE b.oid = g.kept_oid)
 ORDER BY g.oid, g.kept_place
