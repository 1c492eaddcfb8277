-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
-- A base backup is dump_running's.
SELECT pid, coalesce(nullif(application_name, ''), '?') AS standby, coalesce(client_addr::text, 'this machine') AS address, state
  FROM pg_catalog.pg_stat_replication WHERE state NOT IN ('streaming', 'backup')
 ORDER BY 1
