-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT name, run, CASE WHEN whole THEN 'restored and never swapped in' ELSE 'half restored' END AS state,
       CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT')
                 OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_size_pretty(pg_catalog.pg_database_size(oid)) ELSE 'of unknown size' END AS size,
       coalesce(pg_catalog.round(pg_catalog.date_part('epoch', clock_timestamp() - since)::numeric / 3600, 1)::text, '?') AS hours,
       %(limit)s::text AS limit_to, pg_catalog.current_database() AS database,
       CASE WHEN whole THEN ', so it goes once it is rollback_keep_days old; rollback_strategy=swap with rollback_swap_to=' || name
                            || ' swaps it in' ELSE '' END AS otherwise
  FROM (SELECT d.oid, d.datname::text AS name, substring(m.text FROM '"run_id": "([^"]*)"') AS run,
               m.text ~ '"state": "verified"' AS whole,
               substring(m.text FROM '"since": "([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z)"')::timestamptz AS since
          FROM pg_catalog.pg_database AS d
         CROSS JOIN LATERAL pg_catalog.shobj_description(d.oid, 'pg_database') AS m (text)
         -- Within a value of the mark a quote has a backslash before it.
         WHERE m.text LIKE 'whitecross.pgops {%%' AND m.text ~ '"role": "restored"' AND m.text !~ '"state": "fenced"'
           AND pg_catalog.strpos(m.text, '"database": ' || pg_catalog.to_json(pg_catalog.current_database()::text)::text || ',') > 0
           -- The run that restores holds it until it has ended.
           AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_locks AS l
                WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
                  AND (l.classid::bigint << 32 | l.objid::bigint)
                      = pg_catalog.hashtextextended('whitecross.pgops restore ' || d.datname, 0))) AS copies
 ORDER BY name
