-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT failed_count AS failed, last_failed_wal AS wal FROM pg_catalog.pg_stat_archiver
 WHERE pg_catalog.current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity')
