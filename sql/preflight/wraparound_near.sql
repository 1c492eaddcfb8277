-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT datname AS database, pg_catalog.age(datfrozenxid) AS age FROM pg_catalog.pg_database
 WHERE pg_catalog.age(datfrozenxid) > %(xid_age_stop)s ORDER BY 2 DESC
