-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT %(backup)s::text AS role, count(*) AS objects
   FROM pg_catalog.pg_largeobject_metadata m
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(backup)s AND r.rolsuper)
    AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(backup)s)) IS NOT NULL
    AND NOT pg_catalog.pg_has_role(%(backup)s, m.lomowner, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a
                     WHERE a.privilege_type = 'SELECT'
                       AND (a.grantee = 0 OR pg_catalog.pg_has_role(%(backup)s, a.grantee, 'USAGE')))
 HAVING count(*) > 0
