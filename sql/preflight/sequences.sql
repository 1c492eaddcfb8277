-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- A sequence ends where its column ends, whatever its own type would hold. One that may not be read is no good news.
SELECT s.object, s.level,
       CASE s.level WHEN 'unknown' THEN 'sequence ' || s.object || ' may not be read'
            ELSE pg_catalog.format('sequence %%s has given out %%s of %%s numbers (%%s percent)', s.object, s.used, s.all_of_them, s.share) END AS told,
       CASE s.level WHEN 'unknown' THEN pg_catalog.format('GRANT SELECT ON SEQUENCE %%s TO %%I;', s.object, current_user)
            ELSE 'give the column of ' || s.object || ' the type bigint, then ALTER SEQUENCE ' || s.object || ' AS bigint;' END AS todo
  FROM (SELECT q.object, q.used, q.all_of_them, (100 * q.used / q.all_of_them)::int AS share,
               CASE WHEN NOT q.seen THEN 'unknown'
                    WHEN 100 * q.used >= %(sequence_stop_percent)s * q.all_of_them THEN 'stop' ELSE 'warn' END AS level
          FROM (SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object, r.seen,
                       CASE WHEN p.seqincrement > 0 THEN r.value::numeric - p.seqmin ELSE p.seqmax - r.value::numeric END AS used,
                       CASE WHEN p.seqincrement > 0 THEN least(p.seqmax, l.largest)::numeric - p.seqmin
                            ELSE p.seqmax::numeric - p.seqmin END AS all_of_them
                  FROM pg_catalog.pg_sequence p
                  JOIN pg_catalog.pg_class c ON c.oid = p.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
                  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                 CROSS JOIN LATERAL (SELECT CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                                                 ELSE 9223372036854775807 END AS largest) AS l
                 CROSS JOIN LATERAL (SELECT pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE') AS seen) AS may
                 CROSS JOIN LATERAL (SELECT may.seen, CASE WHEN may.seen THEN pg_catalog.pg_sequence_last_value(c.oid) END AS value) AS r
                 WHERE NOT p.seqcycle AND {{USER_SCHEMA}}) AS q
         WHERE NOT q.seen OR 100 * q.used >= %(sequence_warn_percent)s * q.all_of_them) AS s
 ORDER BY s.level, s.share DESC, 1
