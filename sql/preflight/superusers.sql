-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.string_agg(rolname, ', ' ORDER BY rolname) AS roles, count(*) AS number, %(superusers)s AS limit
  FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin
HAVING count(*) > %(superusers)s
