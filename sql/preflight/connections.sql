-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT used, usable, usable - used AS free, %(connections_needed)s AS needed
  FROM (SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') AS used,
               pg_catalog.current_setting('max_connections')::int
               - pg_catalog.current_setting('superuser_reserved_connections')::int
               - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0) AS usable) AS c
 WHERE usable - used < %(connections_needed)s
