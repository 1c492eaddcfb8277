-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT datname AS database, checksum_failures AS failures FROM pg_catalog.pg_stat_database
 WHERE checksum_failures > 0 AND datname = pg_catalog.current_database()
