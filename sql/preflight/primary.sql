-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'a standby or a server in recovery'
            ELSE 'read-only for this database or role (default_transaction_read_only)' END AS state
 WHERE pg_catalog.pg_is_in_recovery()
    OR (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only') = 'on'
