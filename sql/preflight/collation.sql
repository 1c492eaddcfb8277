-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT datname AS database, datcollversion AS made,
       pg_catalog.pg_database_collation_actual_version(oid) AS found
  FROM pg_catalog.pg_database
 WHERE datname = pg_catalog.current_database()
   AND datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid)
