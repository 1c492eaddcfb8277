-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts that sign in at another provider, by provider, and how many of them have not for 90 days.
-- Reads rows
-- Made by: 20251105000000
-- The field takes any text. What has a blank or an @ in it may be a name or an address, and is not shown.
SELECT CASE WHEN "oauthProvider" ~ '^[[:alnum:]._:/-]+$' THEN "oauthProvider" ELSE '(no name of a provider)' END AS provider,
       count(*) AS accounts,
       count(*) FILTER (WHERE "lastLogin" IS NULL OR "lastLogin" < pg_catalog.now() - interval '90 days') AS unused_for_90_days
  FROM public.users
 WHERE "oauthProvider" IS NOT NULL AND "oauthProviderId" IS NOT NULL AND "isActive" = true AND "deletedAt" IS NULL
 GROUP BY 1
 ORDER BY 2 DESC, 1
