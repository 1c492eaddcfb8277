-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT name FROM pg_catalog.pg_settings WHERE pending_restart ORDER BY 1
