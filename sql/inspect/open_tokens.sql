-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- Accounts with a token that is still there, live or expired for how long, and how many of them are not active. Never a token.
-- Reads rows
-- Made by: 20250103000000
SELECT k.token, s.state, count(u.place) AS accounts, count(*) FILTER (WHERE u.active = false) AS not_active
  FROM (VALUES ('password reset'), ('e-mail verification')) AS k (token)
 CROSS JOIN (VALUES (1, 'live'), (2, 'expired in the last day'), (3, 'expired in the last 30 days'), (4, 'expired earlier'),
                    (5, 'never expires')) AS s (place, state)
  LEFT JOIN (SELECT t.token, t.active,
                    CASE WHEN t.expires IS NULL THEN 5
                         WHEN t.expires > pg_catalog.now() THEN 1
                         WHEN t.expires > pg_catalog.now() - interval '1 day' THEN 2
                         WHEN t.expires > pg_catalog.now() - interval '30 days' THEN 3 ELSE 4 END AS place
               FROM (SELECT 'password reset' AS token, "passwordResetExpires" AS expires, "isActive" AS active
                       FROM public.users
                      WHERE "passwordResetToken" IS NOT NULL AND "deletedAt" IS NULL
                      UNION ALL
                     SELECT 'e-mail verification', "emailVerificationExpires", "isActive"
                       FROM public.users
                      WHERE "emailVerificationToken" IS NOT NULL AND "deletedAt" IS NULL
                    ) AS t
            ) AS u ON u.token = k.token AND u.place = s.place
 GROUP BY k.token, s.place, s.state
 ORDER BY k.token DESC, s.place
