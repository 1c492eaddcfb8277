-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.current_setting('synchronous_standby_names') AS names
 WHERE pg_catalog.current_setting('synchronous_standby_names') <> ''
   AND pg_catalog.current_setting('synchronous_commit') NOT IN ('off', 'local')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
