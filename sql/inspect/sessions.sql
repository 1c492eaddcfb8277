-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Who is connected to this database and does what for how long; in a statement each value is a question mark.
-- Sees others
SELECT a.pid, a.usename AS role, a.application_name AS application, a.state,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::int AS transaction_s,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.query_start)::int AS statement_s,
       a.wait_event_type || ': ' || a.wait_event AS waits, pg_catalog.left(spaces.text, 200) AS statement
  FROM pg_catalog.pg_stat_activity AS a
 -- All that follows a dollar quote is hidden. A text that was cut off in the middle of a value has no closing quote.
 CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(a.query, '\$\w*\$.*', '?') AS text) AS dollars
 CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(dollars.text, 'e''(?:[^''\\]|''''|\\.)*(?:''|$)|''(?:[^'']|'''')*(?:''|$)', '?', 'gi') AS text) AS strings
 CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(strings.text, '\m\d[\w.]*', '?', 'g') AS text) AS numbers
 CROSS JOIN LATERAL (SELECT pg_catalog.regexp_replace(numbers.text, '\s+', ' ', 'g') AS text) AS spaces
 -- What is hidden from this role has no type either.
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND coalesce(a.backend_type, 'client backend') = 'client backend'
 ORDER BY a.xact_start NULLS LAST, a.pid
