-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts by the age of their password, for a policy of 90 days, and those that must change it.
-- Reads rows
-- Made by: 20250103000000
SELECT s.state, count(u.place) AS accounts, min(u.changed)::date AS oldest
  FROM (VALUES (1, 'must change it at the next sign-in'), (2, 'never changed'), (3, 'overdue, older than 90 days'),
               (4, 'due within 14 days')) AS s (place, state)
  -- Whoever must change it stands by the age of the password too.
  LEFT JOIN (SELECT 1 AS place, "lastPasswordChange" AS changed
               FROM public.users
              WHERE "mustChangePassword" = true AND "isActive" = true AND "deletedAt" IS NULL
              UNION ALL
             SELECT 2, NULL
               FROM public.users
              WHERE "lastPasswordChange" IS NULL AND "isActive" = true AND "deletedAt" IS NULL
              UNION ALL
             SELECT CASE WHEN "lastPasswordChange" < pg_catalog.now() - interval '90 days' THEN 3 ELSE 4 END,
                    "lastPasswordChange"
               FROM public.users
              WHERE "lastPasswordChange" < pg_catalog.now() - interval '76 days' AND "isActive" = true AND "deletedAt" IS NULL
            ) AS u ON u.place = s.place
 GROUP BY s.place, s.state
 ORDER BY s.place
