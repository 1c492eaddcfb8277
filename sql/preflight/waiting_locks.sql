-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Behind whom a session waits, and who is first in that chain: ending anybody else of it helps nobody.
WITH RECURSIVE waiting AS (
    SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l WHERE NOT l.granted
), behind AS (
    SELECT w.pid, b.pid AS blocker FROM waiting w CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b (pid)
), chain AS (
    SELECT pid, blocker, 1 AS depth FROM behind
     UNION
    SELECT c.pid, b.blocker, c.depth + 1 FROM chain c JOIN behind b ON b.pid = c.blocker WHERE c.depth < 20
)
SELECT l.pid, l.mode, coalesce(l.relation::regclass::text, l.locktype) AS object,
       coalesce((SELECT pg_catalog.string_agg(DISTINCT b.blocker::text, ', ') FROM behind b WHERE b.pid = l.pid), '?')
       || coalesce((SELECT ' (first in the chain: session ' || pg_catalog.string_agg(DISTINCT c.blocker::text, ', ') || ')'
                      FROM chain c WHERE c.pid = l.pid AND c.depth > 1
                       AND NOT EXISTS (SELECT FROM waiting w WHERE w.pid = c.blocker)), '') AS blockers,
       coalesce((SELECT pg_catalog.string_agg(DISTINCT c.blocker::text, ', ') FROM chain c
                  WHERE c.pid = l.pid AND NOT EXISTS (SELECT FROM waiting w WHERE w.pid = c.blocker)), '?') AS first
  FROM pg_catalog.pg_locks l
 WHERE NOT l.granted AND (l.database IS NULL OR l.database =
       (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
 ORDER BY l.pid
