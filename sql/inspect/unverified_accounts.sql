-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts whose address is not verified, by their age: by neither of the two fields, and by one of them only.
-- Reads rows
-- Made by: 20251105000000
SELECT s.age, count(*) FILTER (WHERE u.says = 'neither') AS neither_field,
       count(*) FILTER (WHERE u.says = 'newer') AS newer_field_only, count(*) FILTER (WHERE u.says = 'older') AS older_field_only
  FROM (VALUES (1, 'up to 7 days'), (2, '8 to 30 days'), (3, '31 to 90 days'), (4, 'older')) AS s (place, age)
  LEFT JOIN (SELECT v.says,
                    CASE WHEN v.created > pg_catalog.now() - interval '7 days' THEN 1
                         WHEN v.created > pg_catalog.now() - interval '30 days' THEN 2
                         WHEN v.created > pg_catalog.now() - interval '90 days' THEN 3 ELSE 4 END AS place
               FROM (SELECT CASE WHEN "isEmailVerified" THEN 'newer' ELSE 'neither' END AS says, "createdAt" AS created
                       FROM public.users
                      WHERE "emailVerified" = false AND "isActive" = true AND "deletedAt" IS NULL
                      UNION ALL
                     SELECT 'older', "createdAt"
                       FROM public.users
                      WHERE "isEmailVerified" = false AND "emailVerified" = true AND "isActive" = true AND "deletedAt" IS NULL
                    ) AS v
            ) AS u ON u.place = s.place
 GROUP BY s.place, s.age
 ORDER BY s.place
