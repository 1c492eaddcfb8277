-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT count(*) AS sessions, %(restore)s::text AS role
   FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles s ON s.oid = a.usesysid
  WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
    AND pg_catalog.to_regrole(pg_catalog.quote_ident(%(restore)s)) IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
    AND (s.rolsuper OR NOT (pg_catalog.pg_has_role(%(restore)s, s.oid, 'USAGE')
                            OR pg_catalog.pg_has_role(%(restore)s, 'pg_signal_backend', 'USAGE')))
 HAVING count(*) > 0
