-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Rows of the main tables with the oldest and the newest creation time.
-- Reads rows
-- Made by: 20250103000002
SELECT 'students' AS "table", count(*) AS rows, min("createdAt") AS oldest, max("createdAt") AS newest FROM public.students
 UNION ALL
SELECT 'health_records', count(*), min("createdAt"), max("createdAt") FROM public.health_records
 UNION ALL
SELECT 'medications', count(*), min("createdAt"), max("createdAt") FROM public.medications
 ORDER BY 1
