-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT o.told || o.object AS object, o.kind, o.object AS name, r.rolname AS holder, %(owner)s::text AS role FROM (
 SELECT '' AS told, 'TABLE' AS kind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, c.relowner AS holder
   FROM pg_catalog.pg_class c
   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {{USER_SCHEMA}}
    -- What a blue-green change keeps here is the restore role's, and goes with it.
    AND n.nspname NOT IN ('pgops', 'pgops_blue_green')
    AND {{RELATION_NOT_OF_EXTENSION}} AND {{NOT_OF_COLUMN}}
    -- The ledger of the tool before this one stays with its login.
    AND c.relname NOT IN ('SequelizeMeta', '_prisma_migrations')
  UNION ALL
 SELECT 'type ', CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END,
        pg_catalog.format('%%I.%%I', n.nspname, t.typname), t.typowner {{TYPES}}
  UNION ALL
 SELECT 'function ', 'ROUTINE', pg_catalog.format('%%I.%%I(%%s)', n.nspname, p.proname,
        pg_catalog.pg_get_function_identity_arguments(p.oid)), p.proowner {{ROUTINES}}
    -- Those that act with their owner's rights, or for the whole database, have him on purpose.
    AND NOT p.prosecdef AND p.prorettype <> 'pg_catalog.event_trigger'::regtype AND n.nspname <> 'pgops') AS o
   JOIN pg_catalog.pg_roles r ON r.oid = o.holder
  WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
    AND NOT pg_catalog.pg_has_role(%(owner)s, o.holder, 'USAGE')
  ORDER BY o.told, o.object
