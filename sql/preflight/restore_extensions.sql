-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT e.extname AS extension, %(restore)s::text AS role
  FROM pg_catalog.pg_extension e
  JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
 WHERE v.superuser AND NOT v.trusted
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = %(restore)s AND r.rolsuper)
 ORDER BY 1
