-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT 'the server (' || s.name || ' = off)' AS object, pg_catalog.format('ALTER SYSTEM RESET %%s; SELECT pg_reload_conf();', s.name) AS todo
  FROM pg_catalog.pg_settings s WHERE s.name IN ('autovacuum', 'track_counts') AND s.setting = 'off'
 UNION ALL
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.format('ALTER TABLE %%I.%%I RESET (autovacuum_enabled);', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL pg_catalog.pg_options_to_table(c.reloptions) AS o
 WHERE {{USER_SCHEMA}} AND o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean
 ORDER BY 1
