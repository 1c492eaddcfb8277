-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT %(user)s::text AS member, %(owner)s::text AS role,
       CASE WHEN pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)) IS NULL
            THEN 'does not exist' ELSE 'may not be taken by ' || %(user)s END AS why
 WHERE %(owner)s <> %(user)s
   AND NOT coalesce(pg_catalog.pg_has_role(%(user)s, pg_catalog.to_regrole(pg_catalog.quote_ident(%(owner)s)),
                                           %(member_privilege)s), false)
