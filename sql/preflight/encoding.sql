-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT pg_catalog.getdatabaseencoding() AS encoding, pg_catalog.current_database() AS database
 WHERE pg_catalog.getdatabaseencoding() <> 'UTF8'
