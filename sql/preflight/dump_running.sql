-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT a.pid, a.application_name AS application FROM pg_catalog.pg_stat_activity a
 WHERE (a.application_name IN ('pg_dump', 'pg_dumpall') AND a.datname = pg_catalog.current_database())
    OR a.pid IN (SELECT pid FROM pg_catalog.pg_stat_progress_basebackup)
 ORDER BY 1
