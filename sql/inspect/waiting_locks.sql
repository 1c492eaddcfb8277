-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Locks that are asked for and not granted: who waits for what since when, and who holds it up.
SELECT l.pid, l.mode, coalesce(l.relation::pg_catalog.regclass::text, l.locktype) AS object,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - l.waitstart)::int AS seconds,
       pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ', ') AS held_up_by
  FROM pg_catalog.pg_locks AS l
 WHERE NOT l.granted AND (l.database IS NULL OR l.database =
       (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
 ORDER BY l.waitstart, l.pid
