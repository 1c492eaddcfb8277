-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT a.pid, coalesce(a.usename::text, '?') AS role, coalesce(nullif(a.application_name, ''), '?') AS application,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.state_change)::int AS seconds
  FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.backend_type = 'client backend' AND a.state LIKE 'idle in transaction%%'
   AND a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(idle_in_transaction_s)s)
 ORDER BY a.state_change
