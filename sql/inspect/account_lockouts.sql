-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts that are locked, whose lock is over, and that failed three times or more and are not locked.
-- Reads rows
-- Made by: 20251105000000
SELECT s.state, count(u.place) AS accounts, max(u.failures) AS most_failures, max(u.until) AS last_until
  FROM (VALUES (1, 'locked now'), (2, 'lock is over'), (3, 'three failures or more, never locked')) AS s (place, state)
  LEFT JOIN (SELECT CASE WHEN "lockoutUntil" > pg_catalog.now() THEN 1 ELSE 2 END AS place,
                    "failedLoginAttempts" AS failures, "lockoutUntil" AS until
               FROM public.users
              WHERE "lockoutUntil" IS NOT NULL AND "isActive" = true AND "deletedAt" IS NULL
              UNION ALL
             SELECT 3, "failedLoginAttempts", NULL
               FROM public.users
              WHERE "failedLoginAttempts" >= 3 AND "lockoutUntil" IS NULL AND "isActive" = true AND "deletedAt" IS NULL
            ) AS u ON u.place = s.place
 GROUP BY s.place, s.state
 ORDER BY s.place
