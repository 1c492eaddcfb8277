-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT r.rolname AS role FROM pg_catalog.pg_roles r
 WHERE r.rolname = %(restore)s AND NOT (r.rolcreatedb OR r.rolsuper)
