-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT k.conname AS name, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS object
  FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT k.convalidated AND {{USER_SCHEMA}}
   AND coalesce((pg_catalog.to_jsonb(k) ->> 'conenforced')::boolean, true)  -- 18: NOT ENFORCED is not checked at all
 ORDER BY 2, 1
