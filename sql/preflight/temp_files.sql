-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT t.spcname AS place, count(*) AS files, pg_catalog.pg_size_pretty(sum(f.size)) AS size
  FROM pg_catalog.pg_tablespace t CROSS JOIN LATERAL pg_catalog.pg_ls_tmpdir(t.oid) AS f
 WHERE t.spcname <> 'pg_global'
 GROUP BY t.spcname HAVING sum(f.size) > %(temp_bytes)s
 ORDER BY sum(f.size) DESC
