-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts of each role without a second factor, with the older one only, and with one; how old the oldest is that has none.
-- Reads rows
-- Made by: 20251105000000
SELECT u.role, count(*) FILTER (WHERE u.factor = 'off') AS "off", min(u.created)::date AS off_since,
       count(*) FILTER (WHERE u.factor = 'legacy') AS legacy_only, count(*) FILTER (WHERE u.factor = 'on') AS "on"
  FROM (SELECT role, 'off' AS factor, "createdAt" AS created
          FROM public.users
         WHERE "mfaEnabled" = false AND "twoFactorEnabled" = false AND "isActive" = true AND "deletedAt" IS NULL
         UNION ALL
        SELECT role, CASE WHEN "mfaEnabled" THEN 'on' ELSE 'legacy' END, NULL
          FROM public.users
         WHERE "twoFactorEnabled" = true AND "isActive" = true AND "deletedAt" IS NULL
         UNION ALL
        SELECT role, 'on', NULL
          FROM public.users
         WHERE "mfaEnabled" = true AND "twoFactorEnabled" = false AND "isActive" = true AND "deletedAt" IS NULL
       ) AS u
 GROUP BY u.role
 ORDER BY u.role
