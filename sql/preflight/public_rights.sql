-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT g.object, pg_catalog.string_agg(DISTINCT g.privilege, ', ' ORDER BY g.privilege) AS privileges,
       pg_catalog.format('REVOKE %%s ON %%s FROM PUBLIC;', pg_catalog.string_agg(DISTINCT g.privilege, ', ' ORDER BY g.privilege), g.object) AS todo
  FROM (SELECT pg_catalog.format('DATABASE %%I', d.datname) AS object, a.privilege_type AS privilege
          FROM pg_catalog.pg_database d CROSS JOIN LATERAL pg_catalog.aclexplode(d.datacl) AS a
         WHERE d.datname = pg_catalog.current_database() AND a.grantee = 0 AND a.privilege_type = 'CREATE'
         UNION ALL
        SELECT pg_catalog.format('SCHEMA %%I', n.nspname), a.privilege_type
          FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) AS a
         WHERE {{USER_SCHEMA}} AND {{SCHEMA_NOT_OF_EXTENSION}} AND a.grantee = 0 AND a.privilege_type = 'CREATE'
         UNION ALL
        SELECT pg_catalog.format('%%s %%I.%%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname), a.privilege_type
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS a
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND {{USER_SCHEMA}} AND {{RELATION_NOT_OF_EXTENSION}} AND a.grantee = 0) AS g
 GROUP BY g.object ORDER BY 1
