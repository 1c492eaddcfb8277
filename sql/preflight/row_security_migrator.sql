-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT %(owner)s::text AS role, count(*) AS objects,
       pg_catalog.string_agg(pg_catalog.format('%%I.%%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname) AS named
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND {{USER_SCHEMA}}
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(owner)s AND (r.rolbypassrls OR r.rolsuper))
HAVING count(*) > 0
