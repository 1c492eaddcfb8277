-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT datname AS database, pg_catalog.mxid_age(datminmxid) AS age,
       CASE WHEN pg_catalog.mxid_age(datminmxid) > %(multixact_age_stop)s THEN 'stop' ELSE 'warn' END AS level
  FROM pg_catalog.pg_database WHERE pg_catalog.mxid_age(datminmxid) > %(multixact_age_warn)s
 ORDER BY 2 DESC
