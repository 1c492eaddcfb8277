-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- What the session would have without its own SET. Only what can break pages stops, and in production.
SELECT s.name, s.reset_val AS value, u.loses,
       CASE WHEN u.breaks AND %(production)s THEN 'stop' ELSE 'warn' END AS level
  FROM pg_catalog.pg_settings s
  JOIN (VALUES ('fsync', 'off', 'a crash of the machine may leave a database that cannot be read', true),
               ('full_page_writes', 'off', 'a page that was half written stays half written after a crash', true),
               ('zero_damaged_pages', 'on', 'damaged pages are emptied and their rows are gone', true),
               ('ignore_checksum_failure', 'on', 'damaged pages are read as if they were sound', true),
               ('synchronous_commit', 'off', 'the last commits before a crash are lost', false))
       AS u (name, value, loses, breaks) ON u.name = s.name AND u.value = s.reset_val
 ORDER BY 4, 1
