-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Of the roles of a run, and of everybody in this database.
SELECT CASE WHEN r.rolname IS NULL THEN 'database ' || pg_catalog.current_database() ELSE 'role ' || r.rolname END AS whose,
       c.name, c.value,
       CASE WHEN r.rolname IS NULL THEN pg_catalog.format('ALTER DATABASE %%I RESET %%s;', pg_catalog.current_database(), c.name)
            WHEN s.setdatabase = 0 THEN pg_catalog.format('ALTER ROLE %%I RESET %%s;', r.rolname, c.name)
            ELSE pg_catalog.format('ALTER ROLE %%I IN DATABASE %%I RESET %%s;', r.rolname, pg_catalog.current_database(), c.name) END AS todo
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 CROSS JOIN LATERAL (SELECT pg_catalog.split_part(e, '=', 1) AS name, pg_catalog.substr(e, pg_catalog.strpos(e, '=') + 1) AS value
                       FROM pg_catalog.unnest(s.setconfig) AS e) AS c
 WHERE (s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
   AND (s.setrole = 0 OR r.rolname IN (%(user)s, %(owner)s, %(backup)s, %(restore)s))
   AND c.name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout',
                  'session_replication_role')
   AND c.value !~ '^0[a-z]*$' AND c.value <> 'origin'
 ORDER BY 1, 2
