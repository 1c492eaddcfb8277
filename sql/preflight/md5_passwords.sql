-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT rolname AS role FROM pg_catalog.pg_authid WHERE rolcanlogin AND rolpassword LIKE 'md5%%' ORDER BY 1
