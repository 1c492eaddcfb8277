-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Pupils who need an EpiPen, by how long theirs is still good.
-- Reads rows
-- Made by: 20251010000000
-- A small cell identifies a child: fewer than five, none included, are told as < 5, and no cell holds another.
SELECT s.epipen, CASE WHEN count(DISTINCT a.pupil) < 5 THEN '< 5' ELSE count(DISTINCT a.pupil)::text END AS pupils
  FROM (VALUES (1, 'expired'), (2, 'expires within 30 days'), (3, 'expires in 31 to 60 days'), (4, 'expires in 61 to 90 days'),
               (5, 'expires later'), (6, 'no date')) AS s (place, epipen)
  LEFT JOIN (SELECT e."studentId" AS pupil,
                    CASE WHEN e."epiPenExpiration" IS NULL THEN 6
                         WHEN e."epiPenExpiration" < pg_catalog.now() THEN 1
                         WHEN e."epiPenExpiration" < pg_catalog.now() + interval '30 days' THEN 2
                         WHEN e."epiPenExpiration" < pg_catalog.now() + interval '60 days' THEN 3
                         WHEN e."epiPenExpiration" < pg_catalog.now() + interval '90 days' THEN 4 ELSE 5 END AS place
               FROM public.allergies AS e
               JOIN public.students AS p ON p.id = e."studentId" AND p."isActive" = true AND p."deletedAt" IS NULL
              WHERE e."epiPenRequired" = true AND e.active = true AND e."deletedAt" IS NULL
            ) AS a ON a.place = s.place
 GROUP BY s.place, s.epipen
 ORDER BY s.place
