-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Pupils whose prescription has no refill left, or nearly none, and whose prescription ends.
-- Reads rows
-- Made by: 20251105000000
-- A small cell identifies a child: fewer than five, none included, are told as < 5.
SELECT s.prescription, CASE WHEN count(DISTINCT m.pupil) < 5 THEN '< 5' ELSE count(DISTINCT m.pupil)::text END AS pupils
  FROM (VALUES (1, 'refill overdue: none left'), (2, 'refill due soon: 1 or 2 left'), (3, 'has ended, still marked active'),
               (4, 'ends within 30 days')) AS s (place, prescription)
  LEFT JOIN (SELECT r."studentId" AS pupil, r.place
               FROM (SELECT "studentId", CASE WHEN "refillsRemaining" <= 0 THEN 1 ELSE 2 END AS place
                       FROM public.student_medications
                      WHERE "refillsRemaining" <= 2 AND "isActive" = true AND "deletedAt" IS NULL
                        -- What has ended needs no refill.
                        AND ("endDate" IS NULL OR "endDate" >= pg_catalog.now())
                      UNION ALL
                     SELECT "studentId", CASE WHEN "endDate" < pg_catalog.now() THEN 3 ELSE 4 END
                       FROM public.student_medications
                      WHERE "endDate" < pg_catalog.now() + interval '30 days' AND "isActive" = true AND "deletedAt" IS NULL
                    ) AS r
               JOIN public.students AS p ON p.id = r."studentId" AND p."isActive" = true AND p."deletedAt" IS NULL
            ) AS m ON m.place = s.place
 GROUP BY s.place, s.prescription
 ORDER BY s.place
