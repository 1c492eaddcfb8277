-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT member, role, CASE WHEN asked THEN '' ELSE ', who does not own their schema' END AS why,
       CASE WHEN asked AND NOT super THEN pg_catalog.format('GRANT %%I TO %%I;', role, member)
            ELSE 'name a superuser in pgops_restore_user, or give what belongs to ' || role
                 || CASE WHEN super THEN ' to another owner' ELSE ' to the owner of its schema' END END AS todo
  FROM (SELECT %(restore)s::text AS member, o.rolname AS role, o.rolsuper AS super,
               pg_catalog.bool_and(o.rolsuper OR owners.holder IS NULL
                                   OR pg_catalog.pg_has_role(o.oid, owners.holder, 'USAGE')) AS asked,
               pg_catalog.pg_has_role(%(restore)s, o.oid, %(member_privilege)s) AS may
          FROM ({{ALL_OWNERS}}
                UNION SELECT oid, NULL FROM pg_catalog.pg_roles WHERE rolname = %(owner)s) AS owners
          JOIN pg_catalog.pg_roles o ON o.oid = owners.owner
         -- Whoever owns the database; that one is asked for by himself.
         WHERE o.rolname <> 'pg_database_owner'
           AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(restore)s)) IS NOT NULL
         GROUP BY o.oid, o.rolname, o.rolsuper) AS given
 WHERE NOT (may AND asked)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
 ORDER BY role
