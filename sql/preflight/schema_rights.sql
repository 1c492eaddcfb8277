-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT n.nspname AS schema, r.rolname AS holder, %(owner)s::text AS role
  FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
 WHERE {{USER_SCHEMA}} AND n.nspname NOT IN ('public', 'pgops') AND {{SCHEMA_NOT_OF_EXTENSION}}
   AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
   AND NOT (pg_catalog.has_schema_privilege(%(owner)s, n.oid, 'USAGE')
            AND pg_catalog.has_schema_privilege(%(owner)s, n.oid, 'CREATE'))
   AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                     WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid)
        OR EXISTS (SELECT FROM (SELECT relnamespace, relowner FROM pg_catalog.pg_class
                                 UNION ALL SELECT typnamespace, typowner FROM pg_catalog.pg_type
                                 UNION ALL SELECT pronamespace, proowner FROM pg_catalog.pg_proc) AS o (schema, owner)
                    WHERE o.schema = n.oid AND pg_catalog.pg_has_role(%(owner)s, o.owner, 'USAGE')))
 ORDER BY 1
