-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright (c) 2026 White Cross pgops contributors
--
-- What the roles of roles.sql may do in the database white_cross; run in that database. May run again.

REVOKE ALL ON DATABASE white_cross FROM PUBLIC;
GRANT CONNECT ON DATABASE white_cross TO white_cross_migrator, white_cross_backup, white_cross_app;
GRANT TEMPORARY ON DATABASE white_cross TO white_cross_app;

-- What the migrations create later is the application's to use, without a GRANT in each of them.
ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO white_cross_app;
ALTER DEFAULT PRIVILEGES FOR ROLE white_cross_owner IN SCHEMA public
    GRANT USAGE ON SEQUENCES TO white_cross_app;
