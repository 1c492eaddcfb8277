-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT p.gid, p.owner::text AS role FROM pg_catalog.pg_prepared_xacts p
 WHERE p.database = pg_catalog.current_database() ORDER BY p.prepared
