-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT %(owner)s::text AS role, p AS privilege
  FROM pg_catalog.unnest(ARRAY['USAGE', 'CREATE']) AS p
 WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
   AND pg_catalog.to_regnamespace('public') IS NOT NULL
   AND NOT pg_catalog.has_schema_privilege(%(owner)s, 'public', p)
