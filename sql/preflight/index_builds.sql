-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT b.pid, coalesce(a.usename::text, '?') AS role, coalesce(nullif(a.application_name, ''), '?') AS application,
       coalesce((SELECT pg_catalog.string_agg(DISTINCT l.relation::regclass::text, ', ')
                   FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
                  WHERE l.pid = b.pid AND l.database = b.datid AND c.relkind IN ('r', 'm', 'p')
                    AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock')), '?') AS object
  FROM pg_catalog.pg_stat_progress_create_index b LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
 WHERE b.datname = pg_catalog.current_database() ORDER BY b.pid
