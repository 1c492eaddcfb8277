-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT %(owner)s::text AS role, pg_catalog.current_database() AS database
 WHERE pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NOT NULL
   AND NOT pg_catalog.has_database_privilege(%(owner)s, pg_catalog.current_database(), 'CREATE')
