-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Pupils with an individualized education program or a 504 plan, by grade and by whether its review is due.
-- Reads rows
-- Made by: 20251105000000
-- A small cell identifies a child: fewer than five, none included, are told as < 5; a grade that has fewer than five pupils
-- is one of the others; and no sum is shown, from which a small cell could be worked out.
WITH grades AS (
  SELECT grade
    FROM public.students
   WHERE "isActive" = true AND "deletedAt" IS NULL
   GROUP BY grade
  HAVING count(*) >= 5
), plans AS (
  SELECT 'IEP' AS plan, "studentId", "nextReviewDate" AS review
    FROM public.chronic_conditions
   WHERE "requiresIEP" = true AND "isActive" = true AND "deletedAt" IS NULL
   UNION ALL
  SELECT '504', "studentId", "nextReviewDate"
    FROM public.chronic_conditions
   WHERE requires504 = true AND "isActive" = true AND "deletedAt" IS NULL
), pupils AS (
  SELECT p.plan, coalesce(g.grade, 'other') AS grade, p."studentId" AS pupil,
         CASE WHEN p.review IS NULL THEN 'none' WHEN p.review < pg_catalog.now() THEN 'overdue' ELSE 'planned' END AS review
    FROM plans AS p
    JOIN public.students AS s ON s.id = p."studentId" AND s."isActive" = true AND s."deletedAt" IS NULL
    LEFT JOIN grades AS g ON g.grade = s.grade
)
SELECT k.plan, w.grade,
       CASE WHEN count(DISTINCT p.pupil) FILTER (WHERE p.review = 'overdue') < 5 THEN '< 5'
            ELSE count(DISTINCT p.pupil) FILTER (WHERE p.review = 'overdue')::text END AS review_overdue,
       CASE WHEN count(DISTINCT p.pupil) FILTER (WHERE p.review = 'planned') < 5 THEN '< 5'
            ELSE count(DISTINCT p.pupil) FILTER (WHERE p.review = 'planned')::text END AS review_planned,
       CASE WHEN count(DISTINCT p.pupil) FILTER (WHERE p.review = 'none') < 5 THEN '< 5'
            ELSE count(DISTINCT p.pupil) FILTER (WHERE p.review = 'none')::text END AS no_review_planned
  FROM (VALUES ('IEP'), ('504')) AS k (plan)
 CROSS JOIN (SELECT grade FROM grades UNION SELECT 'other') AS w
  LEFT JOIN pupils AS p ON p.plan = k.plan AND p.grade = w.grade
 GROUP BY k.plan, w.grade
 ORDER BY k.plan DESC, w.grade = 'other', pg_catalog.length(w.grade), w.grade
