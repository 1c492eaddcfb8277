-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
SELECT reset_val AS value FROM pg_catalog.pg_settings WHERE name = 'password_encryption' AND reset_val <> 'scram-sha-256'
